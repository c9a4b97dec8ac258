//! Soft state: what nodes report about themselves and ended map streams. The newest report of a
//! node wins; it is sent at once when nothing is under way, else together with what gathers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use hydrascale_proto::state::v1::{self as pb, command::Op};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::proposals::Proposals;
use crate::state::SessionNo;
use crate::types::NodeId;

/// Reports sent in one round.
const ROUND_MAX: usize = 256;
/// Pause after a round that the cluster did not take.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Reports that wait to be proposed: at most one of each kind per node.
#[derive(Default)]
pub(super) struct SoftState {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    updates: BTreeMap<u64, pb::UpdateNode>,
    closes: BTreeMap<u64, SessionNo>,
}

impl SoftState {
    pub(super) fn spawn(proposals: Proposals, tasks: &mut JoinSet<()>) -> Arc<Self> {
        let soft = Arc::new(Self::default());
        tasks.spawn(Arc::clone(&soft).run(proposals));
        soft
    }

    pub(super) fn update(&self, update: pb::UpdateNode) {
        let mut waiting = self.waiting.lock();
        match waiting.updates.get_mut(&update.node_id) {
            Some(older) => merge(older, update),
            None => {
                waiting.updates.insert(update.node_id, update);
            }
        }
        drop(waiting);
        self.wake.notify_one();
    }

    pub(super) fn close(&self, node: NodeId, no: SessionNo) {
        let mut waiting = self.waiting.lock();
        let newest = waiting.closes.entry(node.0).or_insert(no);
        *newest = (*newest).max(no);
        drop(waiting);
        self.wake.notify_one();
    }

    async fn run(self: Arc<Self>, proposals: Proposals) {
        loop {
            let round = self.take_round();
            if round.is_empty() {
                self.wake.notified().await;
                continue;
            }
            let results = join_all(round.iter().map(|op| proposals.propose(op.clone()))).await;
            let mut failed = false;
            for (op, result) in round.into_iter().zip(results) {
                match result {
                    Err(super::ProposeError::Refused(refusal)) => {
                        tracing::debug!(error = %refusal.message, "report of a node refused");
                    }
                    Err(_) => {
                        failed = true;
                        self.put_back(op);
                    }
                    Ok(_) => {}
                }
            }
            if failed {
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }

    fn take_round(&self) -> Vec<Op> {
        let mut waiting = self.waiting.lock();
        let mut round = Vec::new();
        while round.len() < ROUND_MAX
            && let Some((_, update)) = waiting.updates.pop_first()
        {
            round.push(Op::UpdateNode(update));
        }
        while round.len() < ROUND_MAX
            && let Some((node_id, no)) = waiting.closes.pop_first()
        {
            let session_no = Some(no.into());
            round.push(Op::CloseSession(pb::CloseSession {
                node_id,
                session_no,
            }));
        }
        round
    }

    /// Keeps a report for the next round, behind whatever came since.
    fn put_back(&self, op: Op) {
        if let Op::UpdateNode(mut older) = op {
            let mut waiting = self.waiting.lock();
            if let Some(newer) = waiting.updates.remove(&older.node_id) {
                merge(&mut older, newer);
            }
            waiting.updates.insert(older.node_id, older);
        } else if let Op::CloseSession(close) = op {
            let no = SessionNo::from(close.session_no.unwrap_or_default());
            let mut waiting = self.waiting.lock();
            let newest = waiting.closes.entry(close.node_id).or_insert(no);
            *newest = (*newest).max(no);
        }
    }
}

/// Lays the fields that `newer` carries over `older`.
fn merge(older: &mut pb::UpdateNode, newer: pb::UpdateNode) {
    if !newer.disco_key.is_empty() {
        older.disco_key = newer.disco_key;
    }
    if newer.endpoints.is_some() {
        older.endpoints = newer.endpoints;
    }
    if !newer.hostinfo_json.is_empty() {
        older.hostinfo_json = newer.hostinfo_json;
    }
    older.home_derp = newer.home_derp.or(older.home_derp);
    older.capver = newer.capver.or(older.capver);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_report_wins_field_by_field() {
        let soft = SoftState::default();
        soft.update(pb::UpdateNode {
            node_id: 1,
            home_derp: Some(900),
            ..Default::default()
        });
        soft.update(pb::UpdateNode {
            node_id: 1,
            capver: Some(130),
            ..Default::default()
        });
        soft.update(pb::UpdateNode {
            node_id: 1,
            home_derp: Some(901),
            ..Default::default()
        });
        let round = soft.take_round();
        let expected = pb::UpdateNode {
            node_id: 1,
            home_derp: Some(901),
            capver: Some(130),
            ..Default::default()
        };
        assert_eq!(round, vec![Op::UpdateNode(expected)]);
        assert!(soft.take_round().is_empty());
    }

    #[test]
    fn a_report_put_back_does_not_hide_what_came_since() {
        let soft = SoftState::default();
        soft.update(pb::UpdateNode {
            node_id: 1,
            home_derp: Some(902),
            ..Default::default()
        });
        let old = pb::UpdateNode {
            node_id: 1,
            home_derp: Some(900),
            capver: Some(122),
            ..Default::default()
        };
        soft.put_back(Op::UpdateNode(old));
        let expected = pb::UpdateNode {
            node_id: 1,
            home_derp: Some(902),
            capver: Some(122),
            ..Default::default()
        };
        assert_eq!(soft.take_round(), vec![Op::UpdateNode(expected)]);
    }
}
