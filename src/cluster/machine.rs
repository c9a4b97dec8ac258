//! Binds [`crate::state`] to the log: decodes commands, collects changes, publishes states.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use hydrascale_proto::state::v1 as pb;
use hydrascale_raft::{ApplyContext, Effects, MachineError, Row, StateMachine};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{broadcast, watch};

use crate::state::{self, Change, Loader, State};
use crate::types::Timestamp;

/// How many applied batches a slow follower of changes may lag before it must start over from the
/// whole state: a few seconds of a registration storm.
const CHANGES_KEPT: usize = 1024;

/// What became visible to readers.
#[derive(Debug)]
pub struct Applied {
    /// Log index up to which [`Self::state`] is applied.
    pub index: u64,
    /// What differs from the state published before.
    pub what: What,
    /// The state as of `index`.
    pub state: Arc<State>,
}

/// The difference between two published states.
#[derive(Debug)]
pub enum What {
    /// These parts changed.
    Change(Change),
    /// Anything may have changed: a snapshot was installed.
    Reset,
}

/// The tailnet's state as the replicated state machine drives it.
pub struct Machine {
    working: Mutex<Working>,
    published: ArcSwap<Published>,
    changes: broadcast::Sender<Arc<Applied>>,
    /// Index of what is published; also of entries that changed nothing.
    applied: watch::Sender<u64>,
}

struct Published {
    index: u64,
    /// The index at which the state differed last.
    changed: u64,
    state: Arc<State>,
}

struct Working {
    state: State,
    change: Change,
    reset: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine {
    /// An empty machine; the log or a snapshot fills it.
    pub fn new() -> Self {
        let state = State::default();
        Self {
            published: ArcSwap::from_pointee(Published {
                index: 0,
                changed: 0,
                state: Arc::new(state.clone()),
            }),
            working: Mutex::new(Working {
                state,
                change: Change::default(),
                reset: false,
            }),
            changes: broadcast::channel(CHANGES_KEPT).0,
            applied: watch::Sender::new(0),
        }
    }

    /// The newest published state.
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.published.load().state)
    }

    /// Log index of the newest published state.
    pub fn applied_index(&self) -> u64 {
        self.published.load().index
    }

    /// The index at which the newest published state differed from the one before, and that state:
    /// whoever follows what is published sees this index, too.
    pub fn changed(&self) -> (u64, Arc<State>) {
        let published = self.published.load();
        (published.changed, Arc::clone(&published.state))
    }

    /// Follows [`Self::applied_index`].
    pub(super) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Follows what is published from here on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Applied>> {
        self.changes.subscribe()
    }
}

impl StateMachine for Machine {
    fn load(
        &self,
        applied: u64,
        rows: &mut dyn Iterator<Item = Result<Row, MachineError>>,
    ) -> Result<(), MachineError> {
        let mut loader = Loader::default();
        for row in rows {
            loader.push(&row?)?;
        }
        let state = loader.finish();
        let mut working = self.working.lock();
        *working = Working {
            state,
            change: Change::default(),
            reset: true,
        };
        drop(working);
        self.publish(applied);
        Ok(())
    }

    fn apply(&self, ctx: &ApplyContext, command: &[u8]) -> Result<Effects, MachineError> {
        let span = tracing::debug_span!("apply", raft.index = ctx.index);
        let _entered = span.entered();
        let command =
            pb::Command::decode(command).map_err(|error| halt("command does not decode", error))?;
        let ctx = state::ApplyContext {
            index: ctx.index,
            now: Timestamp::from_unix_ms(ctx.now_ms),
        };
        let mut working = self.working.lock();
        let applied = working
            .state
            .apply(&ctx, &command)
            .map_err(|error| halt("command cannot be applied by this version", error))?;
        working.change.merge(applied.change);
        Ok(Effects {
            writes: applied.writes,
            outcome: Bytes::from(applied.outcome.encode_to_vec()),
        })
    }

    fn publish(&self, applied: u64) {
        let mut working = self.working.lock();
        let change = std::mem::take(&mut working.change);
        let what = if std::mem::take(&mut working.reset) {
            What::Reset
        } else {
            What::Change(change)
        };
        let quiet = matches!(&what, What::Change(change) if change.is_empty());
        let before = self.published.load().changed;
        let state = Arc::new(working.state.clone());
        self.published.store(Arc::new(Published {
            index: applied,
            changed: if quiet { before } else { applied },
            state: Arc::clone(&state),
        }));
        self.applied.send_replace(applied);
        drop(working);
        if !quiet {
            // No receiver is fine: nobody streams yet.
            let _ = self.changes.send(Arc::new(Applied {
                index: applied,
                what,
                state,
            }));
        }
    }
}

fn halt(message: &str, source: impl std::error::Error + Send + Sync + 'static) -> MachineError {
    MachineError {
        message: message.to_owned(),
        source: Some(Box::new(source)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hydrascale_proto::state::v1::command::Op;
    use tokio::time::timeout;

    use super::super::{Cluster, plain_tailnet};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn an_index_is_reached_although_its_entry_changes_nothing() {
        let (cluster, _control) = Cluster::local(plain_tailnet(), Timestamp::default())
            .await
            .unwrap();
        let mut changes = cluster.subscribe();
        let index = cluster.applied_index() + 1;
        let reached = timeout(PATIENCE, cluster.wait_applied(index));
        let (reached, _) = tokio::join!(reached, cluster.propose(Op::Tick(pb::Tick {})));
        assert!(reached.is_ok(), "stopped at {}", cluster.applied_index());
        assert!(changes.try_recv().is_err(), "nobody is told of nothing");
    }
}
