//! What other replicas may ask of this one.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt, stream};
use hydrascale_proto::raft::v1 as pb;
use hydrascale_proto::raft::v1::peer_server::Peer;
use openraft::alias::LogIdOf;
use openraft::errors::Fatal;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use super::message::{
    append_from_proto, append_reply_to_proto, transfer_from_proto, transfer_reply_to_proto,
    vote_reply_to_proto, vote_request_from_proto,
};
use super::snapshot;
use super::{Caller, Refusal};
use crate::codec::{CodecError, vote_to_proto};
use crate::core::{Appended, Core, IN_FLIGHT_MAX, Managed, ReadHere};
use crate::type_config::TypeConfig;
use crate::{CertificateState, ReplicaId};

/// Forwarded commands under way here at once: a few replicas' full windows.
const FORWARDS_MAX: usize = 4 * IN_FLIGHT_MAX;

/// A sender of a snapshot must send something this often.
const CHUNK_PATIENCE: Duration = Duration::from_secs(10);

/// Serves the RPCs of the log and its replicas. Everything is checked by the guard first.
pub(crate) struct PeerService {
    core: Arc<Core>,
    forwards: Semaphore,
    snapshots: Semaphore,
}

impl PeerService {
    /// Serves on behalf of `core`.
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let forwards = Semaphore::new(FORWARDS_MAX);
        // One at a time: a second one would only compete for the disk.
        let snapshots = Semaphore::new(1);
        Self {
            core,
            forwards,
            snapshots,
        }
    }

    /// Checks the sender and decodes the message.
    fn open<M, T>(
        &self,
        request: Request<M>,
        decode: impl FnOnce(M) -> Result<T, CodecError>,
    ) -> Result<T, Status> {
        self.core.guard.admit(&request)?;
        decode(request.into_inner()).map_err(|error| self.malformed(&error))
    }

    fn malformed(&self, error: &CodecError) -> Status {
        self.core.counters.requests_malformed.add_one();
        Status::invalid_argument(error.to_string())
    }

    fn not_leader(&self, leader: Option<u64>) -> pb::NotLeader {
        let addr = leader
            .and_then(|id| self.core.member(id))
            .map(|member| member.addr);
        pb::NotLeader {
            leader: leader.unwrap_or(0),
            leader_addr: addr.unwrap_or_default(),
        }
    }

    async fn append_forwarded(&self, request: pb::ForwardRequest) -> Appended {
        let patience = Duration::from_millis(request.deadline_ms.into());
        let Some(proposal) = request.proposal else {
            return Appended::Refused("the proposal is missing".to_owned());
        };
        let (true, true) = (
            proposal.body.is_some(),
            proposal.client_id.len() == CLIENT_ID_BYTES,
        ) else {
            return Appended::Refused("the proposal is incomplete".to_owned());
        };
        let span = tracing::debug_span!("propose", traceparent = request.traceparent);
        (self.core.config.continue_trace)(&span, &request.traceparent);
        self.core
            .append_here(proposal, patience)
            .instrument(span)
            .await
    }
}

type AppendReplies = Pin<Box<dyn Stream<Item = Result<pb::AppendReply, Status>> + Send>>;

#[tonic::async_trait]
impl Peer for PeerService {
    type AppendStream = AppendReplies;

    async fn append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<AppendReplies>, Status> {
        self.core.guard.admit(&request)?;
        let broken = Arc::new(Mutex::new(None));
        let requests = decoded(
            request.into_inner(),
            Arc::clone(&broken),
            Arc::clone(&self.core),
        );
        let core = Arc::clone(&self.core);
        let answers = self.core.raft.stream_append(requests).map(move |answer| {
            let answer = answer.map_err(|fatal| unavailable(&fatal))?;
            note_contact(&core, &answer);
            Ok(append_reply_to_proto(&answer))
        });
        // What ended the requests is said after the answers to those before it.
        let rest = stream::once(async move { broken.lock().take() })
            .filter_map(|end| async { end.map(Err) });
        Ok(Response::new(Box::pin(answers.chain(rest))))
    }

    async fn heartbeat(
        &self,
        request: Request<pb::AppendRequest>,
    ) -> Result<Response<pb::AppendReply>, Status> {
        let append = self.open(request, append_from_proto)?;
        let (previous, last) = ends(&append);
        let answer = self.core.raft.append_entries(append).await;
        let answer = answer.map_err(|error| Status::unavailable(error.to_string()))?;
        let answer = answer.into_stream_result(previous, last);
        note_contact(&self.core, &answer);
        Ok(Response::new(append_reply_to_proto(&answer)))
    }

    async fn vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteReply>, Status> {
        let vote = self.open(request, vote_request_from_proto)?;
        let answer = self.core.raft.vote(vote).await;
        let answer = answer.map_err(|error| Status::unavailable(error.to_string()))?;
        #[cfg(test)]
        if answer.vote_granted {
            crate::simulation::promised(self.core.id(), answer.vote);
        }
        Ok(Response::new(vote_reply_to_proto(&answer)))
    }

    async fn pre_vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteReply>, Status> {
        let vote = self.open(request, vote_request_from_proto)?;
        let answer = self.core.raft.pre_vote(vote).await;
        let answer = answer.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(vote_reply_to_proto(&answer)))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderReply>, Status> {
        let transfer = self.open(request, transfer_from_proto)?;
        let answer = self.core.raft.handle_transfer_leader(transfer).await;
        let answer = answer.map_err(|fatal| unavailable(&fatal))?;
        Ok(Response::new(transfer_reply_to_proto(&answer)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Result<Response<pb::SnapshotReply>, Status> {
        let Caller { replica_id } = self.core.guard.admit(&request)?;
        let Ok(_turn) = self.snapshots.try_acquire() else {
            self.core.counters.snapshots_refused.add_one();
            return Err(Status::resource_exhausted(
                "another snapshot is being received",
            ));
        };
        let store = self.core.snapshots.load_full();
        let store = store.ok_or_else(|| Status::unavailable("the replica is stopping"))?;
        let began = Instant::now();
        let received = snapshot::receive(&store, request.into_inner(), CHUNK_PATIENCE);
        let (vote, file) = received.await.inspect_err(|status| {
            self.core.counters.snapshots_refused.add_one();
            tracing::warn!(
                replica.id = replica_id,
                error = status.message(),
                "snapshot refused"
            );
        })?;
        file.note("received", began);
        self.core.contact.renew();
        let installed = self
            .core
            .raft
            .install_full_snapshot(vote, file.into_raft())
            .await;
        let installed = installed.map_err(|fatal| unavailable(&fatal))?;
        self.core.counters.snapshots_received.add_one();
        Ok(Response::new(pb::SnapshotReply {
            vote: Some(vote_to_proto(&installed.vote)),
        }))
    }

    async fn forward(
        &self,
        request: Request<pb::ForwardRequest>,
    ) -> Result<Response<pb::ForwardReply>, Status> {
        self.core.guard.admit(&request)?;
        self.core.counters.forwards_received.add_one();
        let Ok(_slot) = self.forwards.try_acquire() else {
            self.core.counters.forwards_refused.add_one();
            return Err(Status::resource_exhausted(
                "too many forwarded commands are under way",
            ));
        };
        let appended = self.append_forwarded(request.into_inner()).await;
        let result = match appended {
            Appended::Applied { index, outcome } => {
                pb::forward_reply::Result::Applied(pb::Applied { index, outcome })
            }
            Appended::NotLeader { leader } => {
                pb::forward_reply::Result::NotLeader(self.not_leader(leader))
            }
            Appended::Stale => pb::forward_reply::Result::Stale(pb::Stale {}),
            Appended::NotTaken(reason) => return Err(Status::resource_exhausted(reason)),
            Appended::Refused(reason) => pb::forward_reply::Result::Refused(reason),
            Appended::Unknown(reason) => pb::forward_reply::Result::Unknown(reason),
        };
        Ok(Response::new(pb::ForwardReply {
            result: Some(result),
        }))
    }

    async fn read_index(
        &self,
        request: Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexReply>, Status> {
        let request = self.open(request, Ok)?;
        let patience = Duration::from_millis(request.deadline_ms.into());
        let result = match self.core.read_index_here(patience).await {
            ReadHere::Index(index) => pb::read_index_reply::Result::Index(index),
            ReadHere::NotLeader { leader } => {
                pb::read_index_reply::Result::NotLeader(self.not_leader(leader))
            }
            ReadHere::Unavailable(reason) => pb::read_index_reply::Result::Unavailable(reason),
        };
        Ok(Response::new(pb::ReadIndexReply {
            result: Some(result),
        }))
    }

    async fn manage(
        &self,
        request: Request<pb::ManageRequest>,
    ) -> Result<Response<pb::ManageReply>, Status> {
        let caller = self.core.guard.admit(&request)?;
        let request = request.into_inner();
        let patience = Duration::from_millis(request.deadline_ms.into());
        let managed = match request.op {
            Some(op) => {
                let (asker, expected) = (caller.replica_id, request.expected_membership);
                self.core.manage_for(asker, op, expected, patience).await
            }
            None => Managed::Refused("this build does not know the request".to_owned()),
        };
        let result = match managed {
            Managed::Done { leader } => pb::manage_reply::Result::Done(pb::ManageDone { leader }),
            Managed::NotLeader { leader } => {
                pb::manage_reply::Result::NotLeader(self.not_leader(leader))
            }
            Managed::Refused(reason) => pb::manage_reply::Result::Refused(reason),
            Managed::Unavailable(reason) => pb::manage_reply::Result::Unavailable(reason),
        };
        Ok(Response::new(pb::ManageReply {
            result: Some(result),
        }))
    }

    async fn carry(
        &self,
        request: Request<Streaming<pb::Parcel>>,
    ) -> Result<Response<pb::CarryEnd>, Status> {
        let Caller { replica_id } = self.core.guard.admit(&request)?;
        unload(&self.core, replica_id, request.into_inner()).await?;
        Ok(Response::new(pb::CarryEnd {}))
    }

    async fn identify(
        &self,
        request: Request<pb::IdentifyRequest>,
    ) -> Result<Response<pb::IdentifyReply>, Status> {
        self.core.guard.admit(&request)?;
        let suspect = request.get_ref().suspect;
        let suspect_is_gone = suspect != 0 && self.core.misses(suspect).await;
        let metrics = self.core.metrics();
        Ok(Response::new(pb::IdentifyReply {
            cluster_id: self.core.identity.cluster_id.clone(),
            replica_id: self.core.id(),
            incarnation: self.core.incarnation,
            name: self.core.config.name.clone(),
            addr: self.core.config.advertise_addr.clone(),
            level_min: self.core.config.levels.min,
            level_max: self.core.config.levels.max,
            clock_ms: self.core.config.clock.now_ms(),
            term: metrics.current_term,
            leader: metrics.current_leader.unwrap_or(0),
            last_log_index: metrics.last_log_index.unwrap_or(0),
            committed_index: metrics.local_committed.map_or(0, |log| log.index()),
            applied_index: *self.core.applied.borrow(),
            certificate: Some(certificate_to_proto(self.core.certificate_state())),
            sealing_key_ids: self.core.config.keyring.keys().wire_ids(),
            level: self.core.level().unwrap_or(0),
            holds_level: !self.core.config.auto_upgrade,
            suspect_is_gone,
        }))
    }
}

fn certificate_to_proto(state: CertificateState) -> pb::CertificateState {
    pb::CertificateState {
        expires_ms: state.expires_ms,
        issuer_sha256: state.issuer_sha256.into(),
        trusted_sha256: state.trusted_sha256.into_iter().map(Into::into).collect(),
        renewed_at: state.renewed_at,
    }
}

/// Hands on what comes until the stream ends, its sender is removed, or this replica stops.
async fn unload(core: &Core, from: u64, mut parcels: Streaming<pb::Parcel>) -> Result<(), Status> {
    let hold = core.hold.get();
    let hold = hold.ok_or_else(|| Status::unavailable("nothing takes what is carried here yet"))?;
    let mut taker = hold.open(ReplicaId(from));
    let mut status = core.status.subscribe();
    let removed = async {
        drop(
            status
                .wait_for(|now| now.removed.contains(&ReplicaId(from)))
                .await,
        )
    };
    let mut removed = pin!(removed);
    loop {
        let next = tokio::select! {
            biased;
            () = core.stopping.cancelled() => {
                return Err(Status::unavailable("the replica is stopping"));
            }
            () = &mut removed => return Err(Refusal::Removed { replica: from }.into_status()),
            next = parcels.message() => next?,
        };
        match next {
            Some(parcel) => taker.take(parcel.body),
            None => return Ok(()),
        }
    }
}

/// The requests of an append stream until it ends or makes no sense; why goes to `broken`.
fn decoded(
    requests: Streaming<pb::AppendRequest>,
    broken: Arc<Mutex<Option<Status>>>,
    core: Arc<Core>,
) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> {
    stream::unfold(
        (requests, broken, core),
        |(mut requests, broken, core)| async move {
            let request = requests.message().await.and_then(|request| {
                let Some(request) = request else {
                    return Ok(None);
                };
                append_from_proto(request).map(Some).map_err(|error| {
                    core.counters.requests_malformed.add_one();
                    Status::invalid_argument(error.to_string())
                })
            });
            match request {
                Ok(request) => request.map(|request| (request, (requests, broken, core))),
                Err(status) => {
                    *broken.lock() = Some(status);
                    None
                }
            }
        },
    )
}

/// A leader whose vote is accepted is alive, whether the logs fit yet or not.
fn note_contact(core: &Core, answer: &StreamAppendResult<TypeConfig>) {
    match answer {
        Ok(_) | Err(openraft::raft::StreamAppendError::Conflict(_)) => core.contact.renew(),
        Err(openraft::raft::StreamAppendError::HigherVote(_)) => {}
    }
}

type Ends = (Option<LogIdOf<TypeConfig>>, Option<LogIdOf<TypeConfig>>);

fn ends(append: &AppendEntriesRequest<TypeConfig>) -> Ends {
    let last = append.entries.last().map(|entry| entry.log_id);
    (append.prev_log_id, last.or(append.prev_log_id))
}

fn unavailable(fatal: &Fatal<TypeConfig>) -> Status {
    Status::unavailable(fatal.to_string())
}

/// As the log's records of answered commands expect.
const CLIENT_ID_BYTES: usize = 16;
