//! A joined replica's first steps: asking to be let into the membership until it is in.

use std::collections::BTreeSet;
use std::sync::Arc;

use hydrascale_proto::raft::v1::manage_request::Op;
use hydrascale_proto::raft::v1::{AddLearner, ManageRequest};
use tokio::time::sleep;

use super::{Core, Managed};

/// Asks until this replica is a member; the cluster's first replica is one from the start.
pub(crate) async fn seek_admission(core: Arc<Core>) {
    let mut reported = String::new();
    let mut waited = false;
    while !core.is_admitted() {
        // The entry that lets it in is committed soon, or lost with the leader that made it.
        let waits = core.member(core.id()).is_some() && !std::mem::replace(&mut waited, true);
        if !waits
            && let Err(reason) = core.ask_for_admission().await
            && reason != reported
        {
            tracing::warn!(reason, "not a member of the cluster yet");
            reported = reason;
        }
        sleep(core.timing.probe()).await;
    }
}

impl Core {
    /// Whether the membership that nothing can undo lists this replica.
    fn is_admitted(&self) -> bool {
        let metrics = self.metrics();
        let committed = metrics.committed_membership_config.membership();
        committed.get_node(&self.id()).is_some()
    }

    fn is_alone(&self) -> bool {
        let stored = self.effective_membership();
        let mut members = stored.membership().nodes().map(|(id, _)| *id);
        members.all(|id| id == self.id()) && self.member(self.id()).is_some()
    }

    /// Asks everybody known, following hints to the leader.
    async fn ask_for_admission(&self) -> Result<(), String> {
        let mut asked = BTreeSet::new();
        let mut queue = self.others();
        if self.is_alone() {
            // The first replica lets itself in.
            return Ok(());
        }
        let mut last = "no other replica is known".to_owned();
        while let Some(target) = queue.pop() {
            if target == self.id() || !asked.insert(target) {
                continue;
            }
            let learner = AddLearner {
                replica_id: self.id(),
                name: self.config.name.clone(),
                addr: self.config.advertise_addr.clone(),
            };
            let patience = self.timing.connect().saturating_mul(3);
            let deadline_ms = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
            let message = ManageRequest {
                op: Some(Op::AddLearner(learner)),
                deadline_ms,
                expected_membership: None,
            };
            match self.ask_to(target, message, patience).await {
                Managed::Done { .. } => return Ok(()),
                Managed::NotLeader {
                    leader: Some(leader),
                } => queue.push(leader),
                Managed::NotLeader { leader: None } => {
                    last = "the cluster has no leader".to_owned()
                }
                Managed::Refused(reason) | Managed::Unavailable(reason) => last = reason,
            }
        }
        Err(last)
    }
}
