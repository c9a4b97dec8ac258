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

    fn announce_expiry(&mut self, id: NodeId) {
        let now = self.now();
        self.expiry_came(id);
        self.announced_until(now);
        self.state.refresh_node_dues(id);
    }
}
