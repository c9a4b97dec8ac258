//! Gathers proposals into batches: while some are in flight, the next ones wait together and share
//! one log entry. A lone proposal is sent at once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hydrascale_proto::state::v1::{self as pb, command::Op, outcome};
use hydrascale_raft::COMMAND_BYTES_MAX;
use prost::Message;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, Span};

use super::metrics::{Bound, ClusterMetrics};
use super::{Consensus, ProposeError};
use crate::state::level_of;
use crate::tasks::joined;

/// Proposals that may wait: more than a herd of clients makes in a second; the rest is told to
/// come back.
const QUEUE_DEPTH: usize = 4096;
/// How long a change may wait for its turn: longer than elections take, and shorter than the
/// patience of whoever waits. What is under way has the log's own deadline.
const QUEUE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Operations in one entry: keeps an apply step short.
const BATCH_OPS_MAX: usize = 64;
/// Bytes of an entry with more than one operation: several fit into one append message.
const BATCH_BYTES_MAX: usize = 128 * 1024;
/// What an operation costs besides its own bytes: tags and lengths of the batch around it.
const OP_OVERHEAD_BYTES: usize = 16;
/// Entries under way at once: enough to keep replication busy while the next batch gathers.
const IN_FLIGHT_MAX: usize = 4;

struct Waiting {
    op: Op,
    /// What it adds to an entry.
    bytes: usize,
    /// Feature level that it needs.
    level: u32,
    /// When it is refused unless its turn has come.
    deadline: Instant,
    /// Where it was proposed.
    span: Span,
    done: oneshot::Sender<Result<pb::Done, ProposeError>>,
}

/// Queue of proposals of this replica.
#[derive(Clone)]
pub(super) struct Proposals {
    queue: mpsc::Sender<Waiting>,
    metrics: ClusterMetrics,
}

impl Proposals {
    /// Starts the gathering task in `tasks`.
    pub(super) fn spawn(
        consensus: Arc<dyn Consensus>,
        metrics: ClusterMetrics,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let (queue, incoming) = mpsc::channel(QUEUE_DEPTH);
        let gatherer = Gatherer {
            incoming,
            next: None,
            metrics: metrics.clone(),
        };
        tasks.spawn(gatherer.run(consensus));
        Self { queue, metrics }
    }

    pub(super) fn metrics(&self) -> &ClusterMetrics {
        &self.metrics
    }

    pub(super) async fn propose(&self, op: Op) -> Result<pb::Done, ProposeError> {
        let bytes = self.check_size(&op)?;
        let (done, answer) = oneshot::channel();
        let waiting = Waiting {
            level: level_of(&op),
            op,
            bytes,
            deadline: Instant::now() + QUEUE_WAIT_MAX,
            span: Span::current(),
            done,
        };
        self.queue
            .try_send(waiting)
            .map_err(|error| self.not_queued(&error))?;
        answer.await.unwrap_or_else(|_| {
            Err(ProposeError::Unknown {
                reason: STOPPING.to_owned(),
            })
        })
    }

    /// What the operation adds to an entry; refuses one that no entry can hold.
    fn check_size(&self, op: &Op) -> Result<usize, ProposeError> {
        let bytes = op.encoded_len() + OP_OVERHEAD_BYTES;
        if bytes <= COMMAND_BYTES_MAX {
            return Ok(bytes);
        }
        self.metrics.bound_hit(Bound::CommandBytes);
        let message =
            format!("the change has {bytes} bytes, more than the {COMMAND_BYTES_MAX} of an entry");
        Err(ProposeError::Refused(pb::Refusal {
            code: pb::RefusalCode::Invalid.into(),
            message,
        }))
    }

    fn not_queued(&self, error: &mpsc::error::TrySendError<Waiting>) -> ProposeError {
        let reason = match error {
            mpsc::error::TrySendError::Full(_) => {
                self.metrics.bound_hit(Bound::Queue);
                format!("{QUEUE_DEPTH} changes are waiting already")
            }
            mpsc::error::TrySendError::Closed(_) => STOPPING.to_owned(),
        };
        ProposeError::Unavailable { reason }
    }
}

const STOPPING: &str = "this replica is shutting down";

/// Takes what waits, in order, and sends it in batches.
struct Gatherer {
    incoming: mpsc::Receiver<Waiting>,
    /// Did not fit into the last batch.
    next: Option<Waiting>,
    metrics: ClusterMetrics,
}

impl Gatherer {
    async fn run(mut self, consensus: Arc<dyn Consensus>) {
        let slots = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let mut flights = JoinSet::new();
        loop {
            let first = tokio::select! {
                biased;
                Some(landed) = flights.join_next() => {
                    joined(landed);
                    continue;
                }
                first = self.first() => first,
            };
            let Some(first) = first else {
                return;
            };
            let acquiring = Arc::clone(&slots).acquire_owned();
            let slot = match timeout_at(first.deadline, acquiring).await {
                Ok(Ok(slot)) => slot,
                Ok(Err(_)) => return,
                Err(_) => {
                    self.refuse_late(first);
                    continue;
                }
            };
            if first.done.is_closed() {
                continue;
            }
            let batch = self.fill(first);
            let consensus = Arc::clone(&consensus);
            let span = span_of(&batch);
            let flight = async move {
                send(&*consensus, batch).await;
                drop(slot);
            };
            flights.spawn(flight.instrument(span));
        }
    }

    /// The next change that somebody still waits for; `None` when there will be no more.
    ///
    /// # Cancel safety
    /// Nothing is lost that somebody waits for.
    async fn first(&mut self) -> Option<Waiting> {
        loop {
            let waiting = match self.next.take() {
                Some(next) => next,
                None => self.incoming.recv().await?,
            };
            if !waiting.done.is_closed() {
                return Some(waiting);
            }
        }
    }

    /// `first`, and of what else waits as much as one entry takes.
    fn fill(&mut self, first: Waiting) -> Vec<Waiting> {
        let (mut bytes, level) = (first.bytes, first.level);
        let mut batch = vec![first];
        while batch.len() < BATCH_OPS_MAX
            && let Ok(next) = self.incoming.try_recv()
        {
            if next.done.is_closed() {
                continue;
            }
            // What is refused for its feature level takes no other change with it.
            if bytes + next.bytes > BATCH_BYTES_MAX || next.level != level {
                self.next = Some(next);
                break;
            }
            bytes += next.bytes;
            batch.push(next);
        }
        batch
    }

    fn refuse_late(&self, late: Waiting) {
        self.metrics.bound_hit(Bound::QueueWait);
        // A proposer that stopped waiting is fine.
        let _ = late.done.send(Err(ProposeError::Unavailable {
            reason: format!(
                "its turn did not come within {} s",
                QUEUE_WAIT_MAX.as_secs()
            ),
        }));
    }
}

/// One span for all, below that of the first.
fn span_of(batch: &[Waiting]) -> Span {
    let parent = batch.first().and_then(|first| first.span.id());
    let span = tracing::debug_span!(parent: parent, "propose", ops = batch.len());
    for other in batch.iter().skip(1) {
        span.follows_from(&other.span);
    }
    span
}

async fn send(consensus: &dyn Consensus, batch: Vec<Waiting>) {
    let (ops, answers): (Vec<Op>, Vec<_>) = batch
        .into_iter()
        .map(|waiting| (waiting.op, waiting.done))
        .unzip();
    let command = into_command(ops);
    let level = command.op.as_ref().map_or(1, level_of);
    let outcome = match consensus
        .propose(Bytes::from(command.encode_to_vec()), level)
        .await
    {
        Ok(bytes) => pb::Outcome::decode(bytes).map_err(|error| ProposeError::Unknown {
            reason: format!("the outcome does not decode: {error}"),
        }),
        Err(error) => Err(error),
    };
    let mut outcomes = split(outcome, answers.len()).into_iter();
    for answer in answers {
        let result = outcomes.next().unwrap_or_else(no_result);
        // A proposer that stopped waiting is fine.
        let _ = answer.send(result);
    }
}

/// One command of one or more operations.
fn into_command(mut ops: Vec<Op>) -> pb::Command {
    if ops.len() == 1 {
        return pb::Command { op: ops.pop() };
    }
    let commands = ops
        .into_iter()
        .map(|op| pb::Command { op: Some(op) })
        .collect();
    pb::Command {
        op: Some(Op::Batch(pb::Batch { commands })),
    }
}

/// One result per proposer.
fn split(
    outcome: Result<pb::Outcome, ProposeError>,
    proposers: usize,
) -> Vec<Result<pb::Done, ProposeError>> {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => return vec![Err(error); proposers],
    };
    match outcome.result {
        Some(outcome::Result::Batch(batch)) => batch
            .outcomes
            .into_iter()
            .map(|outcome| single(outcome.result))
            .collect(),
        other => vec![single(other); 1],
    }
}

fn single(result: Option<outcome::Result>) -> Result<pb::Done, ProposeError> {
    match result {
        Some(outcome::Result::Done(done)) => Ok(done),
        Some(outcome::Result::Refusal(refusal)) => Err(ProposeError::Refused(refusal)),
        Some(outcome::Result::Batch(_)) | None => no_result(),
    }
}

fn no_result() -> Result<pb::Done, ProposeError> {
    Err(ProposeError::Unknown {
        reason: "the outcome has no result".to_owned(),
    })
}

#[cfg(test)]
mod tests;
