//! What happens by time alone: streams' grace ends, logins run out, ephemeral nodes go, keys
//! expire. Every command does it before its own work, so that the state is the same function of
//! time whatever comes; `Tick` is the command that does nothing else.

use super::super::Node;
use super::super::due::Due;
use super::Txn;
use crate::types::NodeId;

/// Things done by one sweep: a dead replica can take thousands of nodes offline at once, each a row
/// of some KiB. The next command, a `Tick` for the deadline that is still past, goes on.
const MAX_SWEPT: usize = 1000;

impl Txn<'_> {
    /// Does what is due, in order of time.
    pub(super) fn sweep(&mut self) {
        for _ in 0..MAX_SWEPT {
            let Some(due) = self.state.index.dues.first(self.now()) else {
                return;
            };
            match due {
                Due::Login(auth_id) => self.delete_login(&auth_id),
                Due::Session(id) => self.go_offline(id),
                Due::Ephemeral(id) => self.delete_inactive(id),
                Due::SshCheck(auth_id) => self.delete_ssh_check(&auth_id),
                Due::SshApproval(login) => self.delete_ssh_approval(&login),
                Due::Expiry(id) => self.announce_expiry(id),
            }
        }
    }

    fn go_offline(&mut self, id: NodeId) {
        let session = self.state.session(id).copied();
        let ended = session
            .and_then(|session| self.state.session_end(&session))
            .map(|end| end.at);
        self.delete_session(id);
        if let Some(node) = self.state.node(id).cloned() {
            let last_seen = node.last_seen.max(ended);
            self.put_node(Node {
                last_seen,
                ..(*node).clone()
            });
        }
    }

    fn delete_inactive(&mut self, id: NodeId) {
        if let Some(node) = self.state.node(id).cloned() {
            self.delete_node_row(&node);
        }
    }

    /// Announces this expiry and those of the same time. Only up to that time, not up to now: what
    /// else is due in this sweep may touch a node whose turn is yet to come.
    fn announce_expiry(&mut self, id: NodeId) {
        let Some(at) = self.state.node(id).and_then(|node| node.expires_at) else {
            return;
        };
        let expired: Vec<NodeId> = self.state.index.dues.expiries_at(at).collect();
        for id in &expired {
            self.expiry_came(*id);
        }
        self.announced_until(at);
        for id in expired {
            self.state.refresh_node_dues(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use hydrascale_proto::state::v1::{RegisterNode, SetNodeExpiry, Tick, UpdateSettings};

    use super::*;
    use crate::state::testing::{World, done_id, registration, settings};

    #[test]
    fn an_expiry_is_announced_once_when_its_time_comes() {
        let mut world = World::new();
        let id = world.add_node(1);
        let at = world.now.unix_ms() + 1_000;
        world.ok(SetNodeExpiry {
            node_id: id.0,
            expires_at_ms: Some(at),
        });
        assert!(world.tick_after(999).change.is_empty());
        let applied = world.tick_after(1);
        assert!(applied.change.nodes[&id].expiry);
        assert!(world.state.node(id).unwrap().is_expired(world.now));
        assert_eq!(world.state.next_deadline(), None);
        assert!(world.tick_after(1_000).change.is_empty());
    }

    #[test]
    fn expiries_are_announced_even_if_more_happens_at_the_same_time() {
        let mut world = World::new();
        world.replica_up(1, 1);
        let nodes: Vec<NodeId> = (1..=3).map(|device| world.add_node(device)).collect();
        let no = world.open(nodes[2], 1, 1);
        world.close(nodes[2], no);
        let start = world.now.unix_ms();
        for (node, ms) in nodes.iter().zip([5_000, 5_000, 20_000]) {
            let expires_at_ms = Some(start + ms);
            world.ok(SetNodeExpiry {
                node_id: node.0,
                expires_at_ms,
            });
        }
        let applied = world.tick_after(30_000);
        for node in &nodes {
            assert!(applied.change.nodes[node].expiry);
        }
        assert!(applied.change.nodes[&nodes[2]].online);
    }

    #[test]
    fn an_ephemeral_node_goes_after_its_inactivity() {
        let mut world = World::new();
        world.replica_up(1, 1);
        let user = world.create_user("alice");
        let key = world.auth_key(user);
        let ephemeral = |device| RegisterNode {
            ephemeral: true,
            ..registration(device, device, &key)
        };
        let never_seen = NodeId(done_id(&world.ok(ephemeral(1))));
        let seen = NodeId(done_id(&world.ok(ephemeral(2))));
        let no = world.open(seen, 1, 1);
        world.pass(60_000);
        world.close(seen, no);
        assert!(world.tick_after(60_000).change.nodes[&never_seen].removed);
        world.tick_after(59_999);
        assert!(world.state.node(seen).is_some());
        assert!(world.tick_after(1).change.nodes[&seen].removed);
        assert_eq!(world.state.next_deadline(), None);
    }

    #[test]
    fn new_settings_move_the_deadlines() {
        let mut world = World::new();
        world.start_login(1, 1);
        let mut shorter = settings();
        shorter.login_ttl_ms = 1_000;
        world.pass(2_000);
        world.ok(UpdateSettings {
            settings: Some(shorter),
        });
        assert_eq!(world.state.pending_logins().count(), 0);
    }

    #[test]
    fn a_tick_before_the_tailnet_exists_does_nothing() {
        let mut world = World::empty();
        assert!(world.ok(Tick {}).writes.is_empty());
    }

    #[test]
    fn a_sweep_is_bounded_and_goes_on_with_the_next_command() {
        let mut world = World::new();
        let users = MAX_SWEPT + 10;
        let user = world.create_user("alice");
        let key = world.auth_key(user);
        let commands = (0..users as u64).map(|number| {
            let mut machine = [1; 32];
            machine[..8].copy_from_slice(&number.to_be_bytes());
            hydrascale_proto::state::v1::Command {
                op: Some(hydrascale_proto::state::v1::command::Op::RegisterNode(
                    RegisterNode {
                        machine_key: machine.to_vec().into(),
                        node_key: machine.to_vec().into(),
                        ephemeral: true,
                        ..registration(1, 1, &key)
                    },
                )),
            }
        });
        world.ok(hydrascale_proto::state::v1::Batch {
            commands: commands.collect(),
        });
        assert_eq!(world.state.node_count(), users);
        world.pass(120_000);
        let swept = world.ok(Tick {});
        assert!(swept.change.nodes.len() >= MAX_SWEPT);
        world.ok(Tick {});
        assert_eq!(world.state.node_count(), 0);
    }
}
