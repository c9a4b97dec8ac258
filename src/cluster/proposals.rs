//! Gathers proposals into batches: while some are in flight, the next ones wait together and share
//! one log entry. A lone proposal is sent at once.

use std::sync::Arc;

use bytes::Bytes;
use hydrascale_proto::state::v1::{self as pb, command::Op, outcome};
use prost::Message;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{Instrument, Span};

use super::{Consensus, ProposeError};

/// Proposals that may wait: more than a herd of clients makes in a second; the rest is told to
/// come back.
const QUEUE_DEPTH: usize = 4096;
/// Operations in one entry: keeps an apply step short.
const BATCH_OPS_MAX: usize = 64;
/// Bytes of one entry: several fit into one append message.
const BATCH_BYTES_MAX: usize = 128 * 1024;
/// Entries under way at once: enough to keep replication busy while the next batch gathers.
const IN_FLIGHT_MAX: usize = 4;

struct Waiting {
    op: Op,
    /// Where it was proposed.
    span: Span,
    done: oneshot::Sender<Result<pb::Done, ProposeError>>,
}

/// Queue of proposals of this replica.
#[derive(Clone)]
pub(super) struct Proposals {
    queue: mpsc::Sender<Waiting>,
}

impl Proposals {
    /// Starts the gathering task in `tasks`.
    pub(super) fn spawn(consensus: Arc<dyn Consensus>, tasks: &mut JoinSet<()>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_DEPTH);
        tasks.spawn(gather(consensus, waiting));
        Self { queue }
    }

    pub(super) async fn propose(&self, op: Op) -> Result<pb::Done, ProposeError> {
        let (done, answer) = oneshot::channel();
        self.queue
            .try_send(Waiting {
                op,
                span: Span::current(),
                done,
            })
            .map_err(|_| ProposeError::Unavailable {
                reason: format!("{QUEUE_DEPTH} changes are waiting already"),
            })?;
        answer.await.unwrap_or_else(|_| {
            Err(ProposeError::Unknown {
                reason: "this replica is shutting down".to_owned(),
            })
        })
    }
}

async fn gather(consensus: Arc<dyn Consensus>, mut waiting: mpsc::Receiver<Waiting>) {
    let slots = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut flights = JoinSet::new();
    while let Some(first) = waiting.recv().await {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        while flights.try_join_next().is_some() {}
        let batch = fill(first, &mut waiting);
        let consensus = Arc::clone(&consensus);
        let span = span_of(&batch);
        let flight = async move {
            send(&*consensus, batch).await;
            drop(slot);
        };
        flights.spawn(flight.instrument(span));
    }
}

fn fill(first: Waiting, waiting: &mut mpsc::Receiver<Waiting>) -> Vec<Waiting> {
    let mut bytes = op_len(&first.op);
    let mut batch = vec![first];
    while batch.len() < BATCH_OPS_MAX && bytes < BATCH_BYTES_MAX {
        let Ok(next) = waiting.try_recv() else { break };
        bytes += op_len(&next.op);
        batch.push(next);
    }
    batch
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

fn op_len(op: &Op) -> usize {
    op.encoded_len()
}

async fn send(consensus: &dyn Consensus, batch: Vec<Waiting>) {
    let (ops, answers): (Vec<Op>, Vec<_>) = batch
        .into_iter()
        .map(|waiting| (waiting.op, waiting.done))
        .unzip();
    let command = into_command(ops);
    let outcome = match consensus
        .propose(Bytes::from(command.encode_to_vec()))
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
