//! Which routes a node may serve: as an administrator says, or as the policy approves by itself.

use hydrascale_proto::state::v1::{ApproveRoutes, Refusal, RefusalCode, SetApprovedRoutes};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::super::Node;
use super::{Txn, Verdict, done, invalid, refuse};
use crate::types::NodeId;

/// Routes that one node may have approved: each is an entry in every peer's netmap.
const MAX_ROUTES: usize = 1024;

impl Txn<'_> {
    pub(super) fn set_approved_routes(&mut self, op: &SetApprovedRoutes) -> Verdict {
        let node = self.existing_node(NodeId(op.node_id))?;
        let mut routes = parse_routes(&op.routes)?;
        let exits = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
        if routes.iter().any(|route| exits.contains(route)) {
            routes.extend(exits);
        }
        self.put_node(Node {
            approved_routes: normal(routes)?,
            routes_set_under: self.state.version_in_force(),
            ..node
        });
        Ok(done(op.node_id))
    }

    /// Only ever adds. A proposer that went by what is no longer so is refused: it looks again.
    pub(super) fn approve_routes(&mut self, op: &ApproveRoutes) -> Verdict {
        let node = self.existing_node(NodeId(op.node_id))?;
        let outdated = |what: &str| {
            refuse(
                RefusalCode::Precondition,
                format!("{what} in the meantime: look at node {} again", node.id),
            )
        };
        if op.policy_version != self.state.version_in_force() {
            return Err(outdated("the policy was changed"));
        }
        if node.routes_set_under == op.policy_version {
            return Err(outdated("an administrator has set the routes"));
        }
        if (node.user_id.map(|id| id.0), &node.tags) != (op.user_id, &op.tags) {
            return Err(outdated("the owner was changed"));
        }
        let mut routes = parse_routes(&op.routes)?;
        routes.retain(|route| node.hostinfo.routable_ips.contains(route));
        routes.extend(&node.approved_routes);
        self.put_node(Node {
            approved_routes: normal(routes)?,
            ..node
        });
        Ok(done(op.node_id))
    }
}

/// Sorted, each once, and not too many.
fn normal(mut routes: Vec<IpNet>) -> Result<Vec<IpNet>, Refusal> {
    routes.sort();
    routes.dedup();
    check_count(routes.len())?;
    Ok(routes)
}

fn parse_routes(texts: &[String]) -> Result<Vec<IpNet>, Refusal> {
    check_count(texts.len())?;
    texts.iter().map(|text| parse_route(text)).collect()
}

fn check_count(routes: usize) -> Result<(), Refusal> {
    if routes > MAX_ROUTES {
        return Err(invalid(format!(
            "{routes} routes are more than {MAX_ROUTES}"
        )));
    }
    Ok(())
}

fn parse_route(text: &str) -> Result<IpNet, Refusal> {
    let route: IpNet = text
        .parse()
        .map_err(|_| invalid(format!("route {text:?} is no prefix like 10.0.0.0/24")))?;
    Ok(route.trunc())
}

#[cfg(test)]
mod tests {
    use hydrascale_proto::state::v1::{SetNodeTags, SetPolicy, UpdateNode};

    use super::*;
    use crate::state::Applied;
    use crate::state::testing::{World, done_id, refusal};

    /// A node that advertises two routes, under a policy.
    fn router() -> (World, NodeId) {
        let mut world = World::new();
        let id = world.add_node(1);
        advertise(&mut world, id, r#"["10.0.0.0/8","192.168.0.0/24"]"#);
        set_policy(&mut world, "{}");
        (world, id)
    }

    fn advertise(world: &mut World, id: NodeId, routes: &str) {
        let json = format!(r#"{{"Hostname":"host1","RoutableIPs":{routes}}}"#);
        world.ok(UpdateNode {
            node_id: id.0,
            hostinfo_json: json.into_bytes().into(),
            ..Default::default()
        });
    }

    fn set_policy(world: &mut World, text: &str) {
        world.ok(SetPolicy {
            text: text.into(),
            ..Default::default()
        });
    }

    fn set(world: &mut World, id: NodeId, routes: &[&str]) -> Applied {
        let routes = routes.iter().map(|route| (*route).to_owned()).collect();
        world.apply(SetApprovedRoutes {
            node_id: id.0,
            routes,
        })
    }

    /// What a proposer says that looks now.
    fn by_policy(world: &World, id: NodeId, routes: &[&str]) -> ApproveRoutes {
        let node = world.state.node(id).unwrap();
        ApproveRoutes {
            node_id: id.0,
            routes: routes.iter().map(|route| (*route).to_owned()).collect(),
            policy_version: world.state.version_in_force(),
            user_id: node.user_id.map(|id| id.0),
            tags: node.tags.clone(),
        }
    }

    fn approved(world: &World, id: NodeId) -> Vec<String> {
        let routes = world.state.node(id).unwrap().approved_routes.iter();
        routes.map(ToString::to_string).collect()
    }

    #[test]
    fn routes_are_sorted_unique_and_exit_routes_come_together() {
        let mut world = World::new();
        let id = world.add_node(1);
        let first = set(
            &mut world,
            id,
            &["10.1.0.7/16", "10.0.0.0/8", "10.1.0.0/16"],
        );
        assert!(first.change.nodes[&id].routes);
        let again = set(&mut world, id, &["10.1.0.0/16", "10.0.0.0/8"]);
        assert!(again.writes.is_empty());
        set(&mut world, id, &["::/0", "10.0.0.0/8"]);
        let (code, message) = refusal(&set(&mut world, id, &["10.0.0.0/33"]));
        assert_eq!(code, RefusalCode::Invalid);
        assert!(message.contains("10.0.0.0/33"), "{message}");
        assert_eq!(approved(&world, id), ["0.0.0.0/0", "10.0.0.0/8", "::/0"]);
    }

    #[test]
    fn a_policy_adds_advertised_routes_and_takes_none_away() {
        let (mut world, id) = router();
        let old = by_policy(&world, id, &["192.168.0.0/24"]);
        set(&mut world, id, &["172.16.0.0/12"]);
        set_policy(&mut world, "{ }");
        assert!(refusal(&world.apply(old)).1.contains("policy was changed"));
        let op = by_policy(&world, id, &["10.0.0.0/8", "10.9.0.0/16"]);
        let applied = world.ok(op.clone());
        assert!(applied.change.nodes[&id].routes);
        assert_eq!(approved(&world, id), ["10.0.0.0/8", "172.16.0.0/12"]);
        assert!(world.ok(op).writes.is_empty());
    }

    #[test]
    fn what_an_administrator_set_stands_until_policy_routes_or_owner_change() {
        let (mut world, id) = router();
        let op = by_policy(&world, id, &["10.0.0.0/8"]);
        world.ok(op.clone());
        set(&mut world, id, &[]);
        let (code, message) = refusal(&world.apply(op));
        assert_eq!(code, RefusalCode::Precondition);
        assert!(message.contains("administrator"), "{message}");
        for round in 0..3 {
            match round {
                0 => advertise(&mut world, id, r#"["10.0.0.0/8"]"#),
                1 => set_policy(&mut world, "{ }"),
                _ => {
                    let tags = vec!["tag:a".into()];
                    let node_id = id.0;
                    assert_eq!(done_id(&world.ok(SetNodeTags { node_id, tags })), id.0);
                }
            }
            let op = by_policy(&world, id, &["10.0.0.0/8"]);
            world.ok(op);
            assert_eq!(approved(&world, id), ["10.0.0.0/8"], "{round}");
            set(&mut world, id, &[]);
        }
    }

    #[test]
    fn routes_are_not_approved_for_an_owner_that_the_proposer_has_not_seen() {
        let (mut world, id) = router();
        let op = by_policy(&world, id, &["10.0.0.0/8"]);
        world.ok(SetNodeTags {
            node_id: id.0,
            tags: vec!["tag:a".into()],
        });
        let (_, message) = refusal(&world.apply(op));
        assert!(message.contains("owner was changed"), "{message}");
        assert!(approved(&world, id).is_empty());
    }

    #[test]
    fn without_a_policy_nothing_is_approved_by_one() {
        let mut world = World::new();
        let id = world.add_node(1);
        advertise(&mut world, id, r#"["10.0.0.0/8"]"#);
        let op = by_policy(&world, id, &["10.0.0.0/8"]);
        assert_eq!(refusal(&world.apply(op)).0, RefusalCode::Precondition);
    }
}
