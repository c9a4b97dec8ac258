//! How many SSH logins may wait for approval at one time. Who waits is never pushed out: the newcomer
//! of a crowd is refused.

use super::State;
use super::query::MAX_SSH_CHECKS;
use crate::types::{NodeId, UserId};

/// Logins that wait from one party at another: a person waits in a few windows, and a malicious
/// device that invents logins of others takes this much of their number.
pub(super) const CHECKS_PER_PAIR_MAX: usize = 16;
/// Logins that wait from one party, or at one.
pub(super) const CHECKS_PER_PARTY_MAX: usize = 64;

/// Why one more SSH login cannot wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SshCrowd {
    /// `CHECKS_PER_PAIR_MAX`
    #[error("too many SSH logins wait for approval there: have them decided, or try again later")]
    Pair,
    /// `CHECKS_PER_PARTY_MAX` of those who log in.
    #[error("too many of your SSH logins wait for approval: have them decided, or try again later")]
    Source,
    /// `CHECKS_PER_PARTY_MAX` of those whose nodes are logged in at.
    #[error("too many SSH logins wait for approval at nodes of this owner: try again later")]
    Destination,
    /// `MAX_SSH_CHECKS`
    #[error("too many SSH logins wait for approval in this network: try again later")]
    Tailnet,
}

/// Who answers for a node: its owner with all nodes, or a tagged node for itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Party {
    User(UserId),
    Node(NodeId),
}

impl State {
    /// Why one more SSH login from one node at another cannot wait, if it cannot.
    pub fn ssh_crowd(&self, src: NodeId, dst: NodeId) -> Option<SshCrowd> {
        let (from, at) = (self.party(src), self.party(dst));
        let (mut all, mut same_source, mut same_destination, mut same_pair) = (0, 0, 0, 0);
        for check in self.ssh_checks().filter(|check| check.approved.is_none()) {
            let is_from = self.party(check.src) == from;
            let is_at = self.party(check.dst) == at;
            all += 1;
            same_source += usize::from(is_from);
            same_destination += usize::from(is_at);
            same_pair += usize::from(is_from && is_at);
        }
        if same_pair >= CHECKS_PER_PAIR_MAX {
            Some(SshCrowd::Pair)
        } else if same_source >= CHECKS_PER_PARTY_MAX {
            Some(SshCrowd::Source)
        } else if same_destination >= CHECKS_PER_PARTY_MAX {
            Some(SshCrowd::Destination)
        } else {
            (all >= MAX_SSH_CHECKS).then_some(SshCrowd::Tailnet)
        }
    }

    fn party(&self, id: NodeId) -> Party {
        let owner = self.node(id).and_then(|node| node.user_id);
        owner.map_or(Party::Node(id), Party::User)
    }
}
