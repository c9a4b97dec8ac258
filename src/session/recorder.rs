//! Keeps the cluster's record of who streams from this replica true: one task compares what runs
//! here with what the state says, and proposes the difference.
//!
//! It goes by what is, not by what happened: an answer that was lost, a replica that counted as dead
//! for a while, and a proposal that is applied after its stream has ended all show as a difference.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::metrics::{Bound, MapMetrics};
use super::registry::{Live, Registry};
use crate::cluster::{Cluster, ProposeError};
use crate::state::{Session, SessionNo, State};
use crate::tasks::joined;
use crate::types::{NodeId, ReplicaId};

/// How often everything is compared. Beginnings and ends are looked at when they come.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// Records under way at once: part of what may wait to be proposed, so that a herd of clients leaves
/// room for its registrations. The others follow as these are made.
const OPENINGS_MAX: usize = 1024;

/// What must be done about the record of one node.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// The record is true, or cannot be made so now.
    Nothing,
    /// Record the stream; this is the newest session known.
    Open(SessionNo),
    /// Record that this session has ended.
    Close(SessionNo),
}

/// Which replica this is.
#[derive(Clone, Copy)]
struct Me {
    replica: ReplicaId,
    incarnation: u64,
}

impl Me {
    fn holds(self, session: &Session) -> bool {
        session.replica == self.replica && session.incarnation == self.incarnation
    }

    /// Whether the cluster takes sessions of this replica: not before it was announced, and not
    /// while it counts as dead.
    fn is_up(self, state: &State) -> bool {
        state.replica(self.replica).is_some_and(|replica| {
            replica.incarnation == self.incarnation && replica.down_since.is_none()
        })
    }

    /// What follows from the stream that the node has here, if any, and the state.
    fn decide(self, state: &State, node: NodeId, live: Option<&Live>) -> Step {
        let recorded = state.session(node);
        let Some(live) = live else {
            let left = recorded.filter(|left| self.holds(left) && left.closed_at.is_none());
            return left.map_or(Step::Nothing, |left| Step::Close(left.no));
        };
        if live.opening || !self.is_up(state) || state.node(node).is_none() {
            return Step::Nothing;
        }
        match recorded {
            // This stream's, or a later one's on another replica.
            Some(newer) if newer.no > live.known && state.session_runs(newer) => Step::Nothing,
            Some(older) => Step::Open(live.known.max(older.no)),
            None => Step::Open(live.known),
        }
    }
}

/// An attempt that came to its end.
struct Opened {
    node: NodeId,
    stream: u64,
    result: Result<SessionNo, ProposeError>,
}

pub(super) struct Recorder {
    cluster: Cluster,
    registry: Arc<Registry>,
    metrics: MapMetrics,
    me: Me,
    /// Nodes to look at.
    due: BTreeSet<NodeId>,
    openings: JoinSet<Opened>,
    /// The state that everything was compared with last; `None` when it must be done again.
    compared: Option<Arc<State>>,
}

impl Recorder {
    pub(super) fn new(cluster: Cluster, registry: Arc<Registry>, metrics: MapMetrics) -> Self {
        let me = Me {
            replica: cluster.replica_id(),
            incarnation: cluster.incarnation(),
        };
        Self {
            cluster,
            registry,
            metrics,
            me,
            due: BTreeSet::new(),
            openings: JoinSet::new(),
            compared: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut ticks = interval(COMPARE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                touched = self.registry.touched() => self.due.extend(touched),
                Some(opened) = self.openings.join_next() => {
                    if let Some(opened) = joined(opened) {
                        self.take(opened);
                    }
                }
                _ = ticks.tick() => self.compare_all(),
            }
            self.act();
        }
    }

    /// Looks at every node that streams here or is recorded to, unless nothing has changed.
    fn compare_all(&mut self) {
        let state = self.cluster.state();
        if self
            .compared
            .as_ref()
            .is_some_and(|compared| Arc::ptr_eq(compared, &state))
        {
            return;
        }
        self.due.extend(self.registry.nodes());
        self.due.extend(state.nodes_on(self.me.replica));
        self.compared = Some(state);
    }

    fn take(&mut self, opened: Opened) {
        let Opened {
            node,
            stream,
            result,
        } = opened;
        self.registry.set_opening(node, stream, false);
        match result {
            // Its stream may have ended meanwhile.
            Ok(_) => {
                self.due.insert(node);
            }
            // The next comparison tells what is left to do.
            Err(error) => {
                tracing::debug!(node.id = node.0, %error, "session not recorded yet");
                self.compared = None;
            }
        }
    }

    fn act(&mut self) {
        let state = self.cluster.state();
        while self.openings.len() < OPENINGS_MAX
            && let Some(node) = self.due.pop_first()
        {
            let live = self.registry.live(node);
            match self.me.decide(&state, node, live.as_ref()) {
                Step::Nothing => {}
                Step::Open(known) => {
                    if let Some(live) = live {
                        self.open(node, live.number, known);
                    }
                }
                Step::Close(no) => self.cluster.close_session(node, no),
            }
        }
        if !self.due.is_empty() {
            self.metrics.bound_hit(Bound::Openings);
        }
    }

    fn open(&mut self, node: NodeId, stream: u64, known: SessionNo) {
        self.registry.set_opening(node, stream, true);
        let cluster = self.cluster.clone();
        self.openings.spawn(async move {
            let result = cluster.open_session(node, known).await;
            Opened {
                node,
                stream,
                result,
            }
        });
    }
}
