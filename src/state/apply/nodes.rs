//! What administrators do to nodes: delete, rename, expire, tag.

use hydrascale_proto::state::v1::{
    DeleteNode, Refusal, RefusalCode, RenameNode, SetNodeExpiry, SetNodeTags,
};

use super::super::convert::timestamp;
use super::super::{Node, names};
use super::{Txn, Verdict, done, invalid, refuse};
use crate::types::NodeId;

impl Txn<'_> {
    pub(super) fn existing_node(&self, id: NodeId) -> Result<Node, Refusal> {
        let missing = || refuse(RefusalCode::NotFound, format!("node not found: no id {id}"));
        self.state
            .node(id)
            .map(|node| (**node).clone())
            .ok_or_else(missing)
    }

    pub(super) fn delete_node(&mut self, op: &DeleteNode) -> Verdict {
        let node = self.existing_node(NodeId(op.node_id))?;
        self.delete_node_row(&node);
        Ok(done(op.node_id))
    }

    pub(super) fn rename_node(&mut self, op: &RenameNode) -> Verdict {
        let node = self.existing_node(NodeId(op.node_id))?;
        let given_name = names::chosen_label(&op.given_name)?;
        let holder = self.state.node_by_given_name(&given_name);
        if let Some(holder) = holder.filter(|holder| holder.id != node.id) {
            return Err(refuse(
                RefusalCode::Precondition,
                format!(
                    "node name is not unique: {given_name:?} is in use by node {}; choose another",
                    holder.id
                ),
            ));
        }
        self.put_node(Node { given_name, ..node });
        Ok(done(op.node_id))
    }

    pub(super) fn set_node_expiry(&mut self, op: &SetNodeExpiry) -> Verdict {
        let node = self.existing_node(NodeId(op.node_id))?;
        let now = self.now();
        let expires_at = match timestamp(op.expires_at_ms) {
            Some(at) if at <= now && node.is_expired(now) => node.expires_at,
            at => at.map(|at| at.max(now)),
        };
        self.put_node(Node { expires_at, ..node });
        Ok(done(op.node_id))
    }

    /// Gives the node to its tags. Tagged nodes do not expire, but one that did must log in again.
    pub(super) fn set_node_tags(&mut self, op: &SetNodeTags) -> Verdict {
        let node = self.existing_node(NodeId(op.node_id))?;
        let tags = names::checked_tags(&op.tags)?;
        if tags.is_empty() {
            return Err(invalid(
                "cannot remove all tags from node: name at least one",
            ));
        }
        let expires_at = node.expires_at.filter(|_| node.is_expired(self.now()));
        self.put_node(Node {
            tags,
            user_id: None,
            expires_at,
            ..node
        });
        Ok(done(op.node_id))
    }
}

#[cfg(test)]
mod tests {
    use hydrascale_proto::state::v1::{ApproveRoutes, SetApprovedRoutes};

    use super::*;
    use crate::state::testing::{World, refusal};
    use crate::types::Timestamp;

    fn node(world: &World, id: NodeId) -> Node {
        (**world.state.node(id).unwrap()).clone()
    }

    #[test]
    fn every_command_refuses_an_unknown_node() {
        let mut world = World::new();
        for applied in [
            world.apply(DeleteNode { node_id: 7 }),
            world.apply(RenameNode {
                node_id: 7,
                given_name: "a".into(),
            }),
            world.apply(SetNodeExpiry {
                node_id: 7,
                expires_at_ms: None,
            }),
            world.apply(SetNodeTags {
                node_id: 7,
                tags: vec!["tag:a".into()],
            }),
            world.apply(SetApprovedRoutes {
                node_id: 7,
                routes: vec![],
            }),
            world.apply(ApproveRoutes {
                node_id: 7,
                ..Default::default()
            }),
        ] {
            assert_eq!(refusal(&applied).0, RefusalCode::NotFound);
            assert!(refusal(&applied).1.contains("no id 7"));
        }
    }

    #[test]
    fn a_deleted_node_leaves_no_trace() {
        let mut world = World::new();
        world.replica_up(1, 1);
        let id = world.add_node(1);
        let gone = node(&world, id);
        world.open(id, 1, 1);
        let applied = world.delete_node(id);
        assert!(applied.change.nodes[&id].removed);
        assert!(applied.change.retired_node_keys.contains(&gone.node_key));
        assert!(world.state.session(id).is_none());
        assert!(world.state.node_by_given_name(&gone.given_name).is_none());
        assert!(world.state.node_by_ip(gone.ipv4.unwrap().into()).is_none());
    }

    #[test]
    fn rename_takes_a_free_label_in_lower_case() {
        let mut world = World::new();
        let (one, two) = (world.add_node(1), world.add_node(2));
        assert!(
            world
                .ok(RenameNode {
                    node_id: one.0,
                    given_name: "Web".into()
                })
                .change
                .nodes[&one]
                .full
        );
        assert_eq!(world.state.node_by_given_name("web").unwrap().id, one);
        let same = world.ok(RenameNode {
            node_id: one.0,
            given_name: "web".into(),
        });
        assert!(same.writes.is_empty());
        let taken = world.apply(RenameNode {
            node_id: two.0,
            given_name: "WEB".into(),
        });
        assert_eq!(refusal(&taken).0, RefusalCode::Precondition);
        for name in ["", "a b", "-a", "a\"", "a\\b", "a\u{0}"] {
            let bad = world.apply(RenameNode {
                node_id: two.0,
                given_name: name.into(),
            });
            let (code, message) = refusal(&bad);
            assert_eq!(code, RefusalCode::Invalid);
            assert!(message.contains("not a valid DNS label"), "{message}");
        }
    }

    #[test]
    fn expiry_is_set_clamped_to_now_and_lifted() {
        let mut world = World::new();
        let id = world.add_node(1);
        let set = |world: &mut World, at| {
            world.ok(SetNodeExpiry {
                node_id: id.0,
                expires_at_ms: at,
            })
        };
        let later = world.now.unix_ms() + 5_000;
        set(&mut world, Some(later));
        assert_eq!(
            node(&world, id).expires_at,
            Some(Timestamp::from_unix_ms(later))
        );
        assert_eq!(
            world.state.next_deadline(),
            Some(Timestamp::from_unix_ms(later))
        );
        set(&mut world, Some(123_000));
        assert_eq!(node(&world, id).expires_at, Some(world.now));
        world.pass(10);
        assert!(
            set(&mut world, Some(123_000)).writes.is_empty(),
            "expired already"
        );
        set(&mut world, None);
        assert_eq!(node(&world, id).expires_at, None);
    }

    #[test]
    fn tags_replace_the_owner_and_lift_the_expiry_of_a_valid_node() {
        let mut world = World::new();
        let id = world.add_node(1);
        let at = Some(world.now.unix_ms() + 5_000);
        world.ok(SetNodeExpiry {
            node_id: id.0,
            expires_at_ms: at,
        });
        world.ok(SetNodeTags {
            node_id: id.0,
            tags: vec!["tag:b".into(), "tag:a".into()],
        });
        let tagged = node(&world, id);
        assert_eq!((tagged.user_id, tagged.expires_at), (None, None));
        assert_eq!(tagged.tags, ["tag:a", "tag:b"]);
        let none = world.apply(SetNodeTags {
            node_id: id.0,
            tags: vec![],
        });
        assert!(refusal(&none).1.contains("cannot remove all tags"));
        let bad = world.apply(SetNodeTags {
            node_id: id.0,
            tags: vec!["web".into()],
        });
        assert_eq!(refusal(&bad).0, RefusalCode::Invalid);
    }

    #[test]
    fn tags_do_not_bring_an_expired_node_back() {
        let mut world = World::new();
        let id = world.add_node(1);
        let now = Some(world.now.unix_ms());
        world.ok(SetNodeExpiry {
            node_id: id.0,
            expires_at_ms: now,
        });
        world.ok(SetNodeTags {
            node_id: id.0,
            tags: vec!["tag:a".into()],
        });
        assert!(node(&world, id).is_expired(world.now));
    }
}
