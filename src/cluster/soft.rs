//! Soft state: what nodes report about themselves and ended map streams. The newest report of a
//! node wins; it is sent at once when nothing is under way, else together with what gathers, each
//! when its turn comes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use hydrascale_proto::state::v1::{self as pb, command::Op};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::disputed::Disputed;
use super::machine::Machine;
use super::proposals::Proposals;
use crate::state::SessionNo;
use crate::types::{NodeId, ReplicaId};

/// Reports sent in one round.
const ROUND_MAX: usize = 256;
/// Pause after a round that the cluster did not take.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// How often it is looked into where the nodes are of which refused reports are kept.
const SETTLE_EVERY: Duration = Duration::from_secs(1);

/// Reports that wait to be proposed: at most one of each kind per node.
#[derive(Default)]
pub(super) struct SoftState {
    waiting: Mutex<Waiting>,
    disputed: Mutex<Disputed>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    /// Whose turn it is: what has waited longest. Each once, as the maps have them.
    turns: VecDeque<Turn>,
    updates: BTreeMap<u64, pb::UpdateNode>,
    closes: BTreeMap<u64, SessionNo>,
}

/// A node of which something waits.
#[derive(Clone, Copy)]
enum Turn {
    Update(u64),
    Close(u64),
}

impl Waiting {
    /// Adds a report; what it says goes before what waits already.
    fn add_newer(&mut self, update: pb::UpdateNode) {
        match self.updates.get_mut(&update.node_id) {
            Some(older) => merge(older, update),
            None => self.add_update(update),
        }
    }

    /// Adds a report; what waits already goes before what it says.
    fn add_older(&mut self, mut update: pb::UpdateNode) {
        match self.updates.get_mut(&update.node_id) {
            Some(waiting) => {
                let newer = std::mem::take(waiting);
                merge(&mut update, newer);
                *waiting = update;
            }
            None => self.add_update(update),
        }
    }

    fn add_update(&mut self, update: pb::UpdateNode) {
        self.turns.push_back(Turn::Update(update.node_id));
        self.updates.insert(update.node_id, update);
    }

    /// Adds an end; of two of one node the later one says it all.
    fn add_close(&mut self, node_id: u64, no: SessionNo) {
        match self.closes.get_mut(&node_id) {
            Some(newest) => *newest = no.max(*newest),
            None => {
                self.turns.push_back(Turn::Close(node_id));
                self.closes.insert(node_id, no);
            }
        }
    }

    fn take_first(&mut self) -> Option<Op> {
        match self.turns.pop_front()? {
            Turn::Update(node_id) => self.updates.remove(&node_id).map(Op::UpdateNode),
            Turn::Close(node_id) => self.closes.remove(&node_id).map(|no| {
                Op::CloseSession(pb::CloseSession {
                    node_id,
                    session_no: Some(no.into()),
                })
            }),
        }
    }
}

impl SoftState {
    pub(super) fn spawn(
        proposals: Proposals,
        machine: Arc<Machine>,
        here: ReplicaId,
        tasks: &mut JoinSet<()>,
    ) -> Arc<Self> {
        let soft = Arc::new(Self::default());
        tasks.spawn(Arc::clone(&soft).run(proposals, machine, here));
        soft
    }

    pub(super) fn update(&self, update: pb::UpdateNode) {
        let kept = self.disputed.lock().take(update.node_id);
        let mut waiting = self.waiting.lock();
        waiting.add_newer(update);
        if let Some(kept) = kept {
            waiting.add_older(kept);
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// A map stream of the node begins here.
    pub(super) fn begin_stream(&self, node: NodeId) {
        self.disputed.lock().begin(node.0);
    }

    /// A map stream of the node has ended here.
    pub(super) fn end_stream(&self, node: NodeId) {
        self.disputed.lock().end(node.0);
    }

    pub(super) fn close(&self, node: NodeId, no: SessionNo) {
        self.waiting.lock().add_close(node.0, no);
        self.wake.notify_one();
    }

    async fn run(self: Arc<Self>, proposals: Proposals, machine: Arc<Machine>, here: ReplicaId) {
        loop {
            self.settle(&machine, here);
            let round = self.take_round();
            if round.is_empty() {
                self.rest().await;
                continue;
            }
            let results = join_all(round.iter().map(|op| proposals.propose(op.clone()))).await;
            let mut failed = false;
            for (op, result) in round.into_iter().zip(results) {
                match result {
                    Err(super::ProposeError::Refused(refusal)) => {
                        self.refused(op, &refusal, &machine);
                    }
                    Err(_) => {
                        failed = true;
                        proposals.metrics().soft_retry();
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

    /// Waits until there may be something to do.
    async fn rest(&self) {
        let woken = self.wake.notified();
        if self.disputed.lock().is_empty() {
            woken.await;
        } else {
            // Whether it woke or not, all is looked into.
            let _ = tokio::time::timeout(SETTLE_EVERY, woken).await;
        }
    }

    /// Asking again would not help, unless the node turns out to be here after all.
    fn refused(&self, op: Op, refusal: &pb::Refusal, machine: &Machine) {
        let mut kept = false;
        if let Op::UpdateNode(update) = op
            && refusal.code() == pb::RefusalCode::Precondition
        {
            let session = machine.state().session(NodeId(update.node_id)).copied();
            let no = session.map(|session| session.no).unwrap_or_default();
            kept = self.disputed.lock().keep(update, no);
        }
        tracing::debug!(error = %refusal.message, kept, "report of a node refused");
    }

    /// Sends again what was refused for a reason that no longer holds.
    fn settle(&self, machine: &Machine, here: ReplicaId) {
        let settled = self.disputed.lock().settle(&machine.state(), here);
        let mut waiting = self.waiting.lock();
        for update in settled {
            waiting.add_older(update);
        }
    }

    fn take_round(&self) -> Vec<Op> {
        let mut waiting = self.waiting.lock();
        std::iter::from_fn(|| waiting.take_first())
            .take(ROUND_MAX)
            .collect()
    }

    /// Keeps a report for a later round, behind whatever came since.
    fn put_back(&self, op: Op) {
        let mut waiting = self.waiting.lock();
        if let Op::UpdateNode(update) = op {
            waiting.add_older(update);
        } else if let Op::CloseSession(close) = op {
            let no = close.session_no.unwrap_or_default();
            waiting.add_close(close.node_id, no.into());
        }
    }
}

/// Lays the fields that `newer` carries over `older`.
pub(super) fn merge(older: &mut pb::UpdateNode, newer: pb::UpdateNode) {
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
    older.replica_id = newer.replica_id;
    older.known_session = newer.known_session;
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

    #[test]
    fn ends_and_high_numbers_have_their_turn_while_others_report_without_pause() {
        let soft = SoftState::default();
        let report = |node_id| pb::UpdateNode {
            node_id,
            ..Default::default()
        };
        let storm = |soft: &SoftState| (1..=1000).for_each(|node_id| soft.update(report(node_id)));
        storm(&soft);
        soft.close(NodeId(5), SessionNo::default());
        soft.update(report(5000));
        let mut seen = Vec::new();
        for _ in 0..4 {
            for op in soft.take_round() {
                // The cluster takes nothing at the moment.
                seen.push(op.clone());
                soft.put_back(op);
            }
            storm(&soft);
        }
        assert!(seen.iter().any(|op| matches!(op, Op::CloseSession(_))));
        assert!(seen.contains(&Op::UpdateNode(report(5000))));
        assert_eq!(soft.waiting.lock().turns.len(), 1002);
    }
}
