//! Linearizable reads on any replica: one question to the leader serves all that wait for one.

use std::sync::Arc;
use std::time::Duration;

use hydrascale_proto::raft::v1::{ReadIndexRequest, read_index_reply};
use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::Core;
use crate::ReadError;
use crate::network::Lane;
use crate::planted::{Bug, is_planted};

/// Reads that may wait for the same answer; beyond, the queue holds the rest.
const BATCH_MAX: usize = 4096;

/// Reads that may wait for the next question.
pub(crate) const QUEUE: usize = 4096;

/// A read that waits for an index.
#[derive(Debug)]
pub(crate) struct ReadRequest {
    answer: oneshot::Sender<Result<u64, ReadError>>,
    deadline: Instant,
}

/// What this replica, asked as the leader, says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadHere {
    /// A quorum confirmed the leadership; reads must wait for this index.
    Index(u64),
    /// Another replica leads, or none.
    NotLeader {
        /// Who leads, if known.
        leader: Option<u64>,
    },
    /// The leadership could not be confirmed.
    Unavailable(String),
}

impl Core {
    /// An index that covers everything acknowledged before this call, once it is applied here.
    pub(crate) async fn read_index(&self) -> Result<u64, ReadError> {
        self.counters.reads.add_one();
        let read = self.confirmed_and_applied().await;
        if read.is_err() {
            self.counters.reads_failed.add_one();
        }
        read
    }

    async fn confirmed_and_applied(&self) -> Result<u64, ReadError> {
        if let Some(reason) = self.no_leader() {
            return Err(ReadError::Unavailable { reason });
        }
        let deadline = Instant::now() + self.config.request_timeout;
        let (answer, answered) = oneshot::channel();
        let queued = self.reads.try_send(ReadRequest { answer, deadline });
        queued.map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ReadError::Unavailable {
                reason: "too many reads are waiting".to_owned(),
            },
            mpsc::error::TrySendError::Closed(_) => ReadError::Stopped,
        })?;
        let index = match timeout_at(deadline, answered).await {
            Ok(Ok(index)) => index?,
            Ok(Err(_)) => return Err(ReadError::Stopped),
            Err(_) => {
                return Err(ReadError::Unavailable {
                    reason: "no answer in time".to_owned(),
                });
            }
        };
        self.wait_applied(index, deadline.saturating_duration_since(Instant::now()))
            .await?;
        Ok(index)
    }

    /// Confirms the own leadership with a quorum.
    pub(crate) async fn read_index_here(&self, patience: Duration) -> ReadHere {
        if is_planted(Bug::StaleLease) && self.leader() == Some(self.id()) {
            return ReadHere::Index(*self.applied.borrow());
        }
        let confirming = self.raft.get_read_linearizer(ReadPolicy::ReadIndex);
        match timeout(patience, confirming).await {
            Ok(Ok(confirmed)) => ReadHere::Index(confirmed.read_log_id().index()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                ReadHere::NotLeader {
                    leader: forward.leader_id.filter(|id| *id != self.id()),
                }
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(missing)))) => {
                ReadHere::Unavailable(missing.to_string())
            }
            Ok(Err(RaftError::Fatal(fatal))) => ReadHere::Unavailable(fatal.to_string()),
            Err(_) => ReadHere::Unavailable(format!("no quorum within {patience:?}")),
        }
    }

    async fn confirm(&self) -> ReadHere {
        self.counters.read_rounds.add_one();
        let patience = self.timing.election().saturating_mul(2);
        match self.leader() {
            None => ReadHere::Unavailable("no leader is known".to_owned()),
            Some(leader) if leader == self.id() => self.read_index_here(patience).await,
            Some(leader) => tokio::select! {
                biased;
                answered = self.ask_leader(leader, patience) => answered,
                () = self.leader_replaced(leader) => ReadHere::NotLeader { leader: None },
            },
        }
    }

    async fn ask_leader(&self, leader: u64, patience: Duration) -> ReadHere {
        let deadline_ms = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
        let message = ReadIndexRequest { deadline_ms };
        let reply = self
            .lanes
            .call(
                leader,
                Lane::Control,
                patience,
                message,
                |mut client, request| async move { client.read_index(request).await },
            )
            .await;
        match reply.map(|reply| reply.result) {
            Ok(Some(read_index_reply::Result::Index(index))) => ReadHere::Index(index),
            Ok(Some(read_index_reply::Result::NotLeader(other))) => {
                self.lanes.list(other.leader, &other.leader_addr);
                ReadHere::NotLeader {
                    leader: Some(other.leader).filter(|id| *id != 0),
                }
            }
            Ok(Some(read_index_reply::Result::Unavailable(reason))) => {
                ReadHere::Unavailable(reason)
            }
            Ok(None) => ReadHere::Unavailable("the answer cannot be understood".to_owned()),
            Err(error) => ReadHere::Unavailable(error.to_string()),
        }
    }
}

/// Answers reads until the replica stops. A question asked after a read came covers it, so that
/// each round serves everybody who came before it.
pub(crate) async fn serve_reads(core: Arc<Core>, mut requests: mpsc::Receiver<ReadRequest>) {
    let mut waiting: Vec<ReadRequest> = Vec::new();
    loop {
        if waiting.is_empty() {
            let Some(request) = requests.recv().await else {
                return;
            };
            waiting.push(request);
        }
        while waiting.len() < BATCH_MAX {
            let Ok(request) = requests.try_recv() else {
                break;
            };
            waiting.push(request);
        }
        let leader = core.leader();
        let reason = match core.confirm().await {
            ReadHere::Index(index) => {
                for request in waiting.drain(..) {
                    // Nobody waits any more when this fails.
                    let _ = request.answer.send(Ok(index));
                }
                continue;
            }
            ReadHere::NotLeader { .. } => "the asked replica does not lead".to_owned(),
            ReadHere::Unavailable(reason) => reason,
        };
        let now = Instant::now();
        for request in std::mem::take(&mut waiting) {
            if request.deadline > now && !request.answer.is_closed() {
                waiting.push(request);
            } else {
                let _ = request.answer.send(Err(ReadError::Unavailable {
                    reason: reason.clone(),
                }));
            }
        }
        core.await_other_leader(leader, core.timing.retry()).await;
    }
}
