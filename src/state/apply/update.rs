//! What a client reports about itself in map requests. Equal values are skipped: no row is
//! written, and nobody is told.

use hydrascale_proto::state::v1::{Refusal, RefusalCode, UpdateNode};

use super::super::convert::endpoints_from_proto;
use super::super::{Node, hostinfo, names};
use super::{Txn, Verdict, done, invalid, refuse};
use crate::types::{DiscoKey, NodeId, RegionId, ReplicaId};

impl Txn<'_> {
    pub(super) fn update_node(&mut self, op: &UpdateNode) -> Verdict {
        let mut node = self.existing_node(NodeId(op.node_id))?;
        let replica = ReplicaId(op.replica_id);
        if self
            .newer_session_elsewhere(node.id, replica, op.known_session)
            .is_some()
        {
            return Err(refuse(
                RefusalCode::Precondition,
                format!("node {} has moved on since it reported this", node.id),
            ));
        }
        if !op.disco_key.is_empty() {
            let key = DiscoKey::from_slice(&op.disco_key);
            let key = key.ok_or_else(|| invalid("disco key is not 32 bytes"))?;
            node.disco_key = Some(key).filter(|key| !key.is_zero());
        }
        if let Some(endpoints) = &op.endpoints {
            node.endpoints = endpoints_from_proto(endpoints)?;
        }
        if !op.hostinfo_json.is_empty() {
            self.take_hostinfo(&mut node, &op.hostinfo_json)?;
        }
        if let Some(home) = op.home_derp {
            let home = u16::try_from(home)
                .map_err(|_| invalid(format!("home_derp {home} is above 65535")))?;
            node.home_derp = (home != 0).then_some(RegionId(home));
        }
        if let Some(capver) = op.capver {
            node.capver = u16::try_from(capver)
                .map_err(|_| invalid(format!("capver {capver} is above 65535")))?;
        }
        self.put_node(node);
        Ok(done(op.node_id))
    }

    /// Replaces a node's Hostinfo and what follows from it: host name, DNS label (unless an
    /// administrator chose one) and home relay.
    pub(super) fn take_hostinfo(&self, node: &mut Node, json: &[u8]) -> Result<(), Refusal> {
        let known = hostinfo::read_successor(json, node)?;
        if known.json == node.hostinfo_json {
            return Ok(());
        }
        let hostname = names::stored_hostname(&known.decoded.hostname);
        if !hostname.is_empty() && hostname != node.hostname {
            if names::is_derived(&node.given_name, &node.hostname) {
                node.given_name = self.free_label(&hostname, Some(node));
            }
            node.hostname = hostname;
        }
        let home = known
            .decoded
            .net_info
            .as_ref()
            .and_then(|net_info| net_info.home_derp());
        node.home_derp = home.or(node.home_derp);
        node.hostinfo_json = known.json;
        node.hostinfo = known.decoded;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hydrascale_proto::state::v1::{Endpoints, RenameNode};

    use super::*;
    use crate::state::testing::{World, refusal};
    use crate::state::{Applied, NodeChange, SessionNo};

    fn update(world: &mut World, id: NodeId, change: UpdateNode) -> Applied {
        world.apply(UpdateNode {
            node_id: id.0,
            ..change
        })
    }

    fn hostinfo(json: &str) -> UpdateNode {
        UpdateNode {
            hostinfo_json: json.as_bytes().to_vec().into(),
            ..Default::default()
        }
    }

    fn endpoints(address: &str) -> UpdateNode {
        let endpoints = Endpoints {
            addresses: vec![address.into()],
            types: vec![2],
        };
        UpdateNode {
            endpoints: Some(endpoints),
            ..Default::default()
        }
    }

    #[test]
    fn each_part_sets_its_flag_and_an_equal_value_is_skipped() {
        let mut world = World::new();
        let id = world.add_node(1);
        let none = NodeChange::default();
        let cases = [
            (
                UpdateNode {
                    disco_key: vec![5; 32].into(),
                    ..Default::default()
                },
                NodeChange {
                    disco_key: true,
                    ..none
                },
            ),
            (
                endpoints("192.0.2.1:41641"),
                NodeChange {
                    endpoints: true,
                    ..none
                },
            ),
            (
                UpdateNode {
                    home_derp: Some(900),
                    ..Default::default()
                },
                NodeChange {
                    home_derp: true,
                    ..none
                },
            ),
            (
                UpdateNode {
                    capver: Some(131),
                    ..Default::default()
                },
                NodeChange {
                    capver: true,
                    ..none
                },
            ),
            (
                hostinfo(r#"{"Hostname":"host1"}"#),
                NodeChange {
                    hostinfo: true,
                    ..none
                },
            ),
            (
                hostinfo(r#"{"Hostname":"host1","RoutableIPs":["10.0.0.0/8"]}"#),
                NodeChange {
                    hostinfo: true,
                    routes: true,
                    ..none
                },
            ),
            (
                hostinfo(r#"{"Hostname":"new","RoutableIPs":["10.0.0.0/8"]}"#),
                NodeChange {
                    hostinfo: true,
                    full: true,
                    ..none
                },
            ),
            (
                hostinfo(
                    r#"{"Hostname":"new","RoutableIPs":["10.0.0.0/8"],"NetInfo":{"PreferredDERP":901}}"#,
                ),
                NodeChange {
                    net_info: true,
                    home_derp: true,
                    ..none
                },
            ),
            (
                hostinfo(
                    r#"{"Hostname":"new","RoutableIPs":["10.0.0.0/8"],"NetInfo":{"PreferredDERP":901,"DERPLatency":{"901-v4":0.5}}}"#,
                ),
                NodeChange {
                    net_info: true,
                    ..none
                },
            ),
        ];
        for (command, expected) in cases {
            let applied = update(&mut world, id, command.clone());
            assert_eq!(
                applied.change.nodes.get(&id),
                Some(&expected),
                "{command:?}"
            );
            let again = update(&mut world, id, command);
            assert!(again.writes.is_empty() && again.change.is_empty());
        }
    }

    #[test]
    fn a_report_that_waited_at_one_replica_does_not_undo_what_the_node_said_at_another() {
        let mut world = World::new();
        world.replica_up(1, 1);
        world.replica_up(2, 1);
        let id = world.add_node(1);
        let at = |address, replica_id, known: SessionNo| UpdateNode {
            replica_id,
            known_session: Some(known.into()),
            ..endpoints(address)
        };
        let first = world.open(id, 1, 1);
        let moved = world.open(id, 2, 1);
        update(&mut world, id, at("192.0.2.2:2", 2, first));
        let late = update(&mut world, id, at("192.0.2.1:1", 1, first));
        assert_eq!(refusal(&late).0, RefusalCode::Precondition);
        world.close(id, moved);
        let later = update(&mut world, id, at("192.0.2.1:1", 1, first));
        assert_eq!(refusal(&later).0, RefusalCode::Precondition);
        let kept = world.state.node(id).unwrap().endpoints[0].addr;
        assert_eq!(kept.to_string(), "192.0.2.2:2");
        let back = update(&mut world, id, at("192.0.2.3:3", 1, moved));
        assert!(back.change.nodes[&id].endpoints);
    }

    #[test]
    fn a_client_cannot_take_another_nodes_label() {
        let mut world = World::new();
        let (one, two) = (world.add_node(1), world.add_node(2));
        update(&mut world, two, hostinfo(r#"{"Hostname":"host1"}"#));
        assert_eq!(world.state.node_by_given_name("host1").unwrap().id, one);
        assert_eq!(world.state.node(two).unwrap().given_name, "host1-1");
        update(&mut world, two, hostinfo(r#"{"Hostname":"HOST1.local"}"#));
        assert_eq!(world.state.node(two).unwrap().given_name, "host1-1");
        update(&mut world, two, hostinfo(r#"{"Hostname":"host2"}"#));
        assert_eq!(world.state.node(two).unwrap().given_name, "host2");
    }

    #[test]
    fn a_label_that_an_administrator_chose_stays() {
        let mut world = World::new();
        let id = world.add_node(1);
        world.ok(RenameNode {
            node_id: id.0,
            given_name: "mine".into(),
        });
        let applied = update(&mut world, id, hostinfo(r#"{"Hostname":"other"}"#));
        assert!(!applied.change.nodes[&id].full);
        assert_eq!(world.state.node(id).unwrap().given_name, "mine");
    }

    #[test]
    fn an_empty_host_name_keeps_the_old_one() {
        let mut world = World::new();
        let id = world.add_node(1);
        update(&mut world, id, hostinfo(r#"{"OS":"linux"}"#));
        assert_eq!(world.state.node(id).unwrap().hostname, "host1");
    }

    #[test]
    fn malformed_reports_are_refused_and_named() {
        let mut world = World::new();
        let id = world.add_node(1);
        let cases = [
            (
                UpdateNode {
                    disco_key: vec![1; 5].into(),
                    ..Default::default()
                },
                "disco key",
            ),
            (endpoints("192.0.2.1"), "192.0.2.1"),
            (hostinfo("[1]"), "Hostinfo"),
            (
                UpdateNode {
                    home_derp: Some(70_000),
                    ..Default::default()
                },
                "home_derp 70000",
            ),
            (
                UpdateNode {
                    capver: Some(70_000),
                    ..Default::default()
                },
                "capver 70000",
            ),
        ];
        for (command, text) in cases {
            let (code, message) = refusal(&update(&mut world, id, command));
            assert_eq!(code, RefusalCode::Invalid);
            assert!(message.contains(text), "{message}");
        }
        let gone = update(&mut world, NodeId(9), UpdateNode::default());
        assert_eq!(refusal(&gone).0, RefusalCode::NotFound);
    }
}
