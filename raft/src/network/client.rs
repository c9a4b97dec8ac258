//! What consensus sends to another replica.

mod append;
mod standstill;

use std::future::Future;
use std::sync::Arc;

use futures::Stream;
use hydrascale_proto::raft::v1::peer_client::PeerClient;
use openraft::RPCTypes;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tonic::{Request, Response, Status};

use super::lanes::{CallError, Lane, Lanes, PeerChannel};
use super::message::{
    append_reply_from_proto, append_to_proto, transfer_reply_from_proto, transfer_to_proto,
    vote_reply_from_proto, vote_request_to_proto,
};
use super::snapshot;
use crate::codec::{CodecError, Vote, vote_from_proto};
use crate::counters::Counters;
use crate::snapshot::SnapshotFile;
use crate::timing::Timing;
use crate::type_config::{Member, TypeConfig};

type C = TypeConfig;

/// Makes the clients that consensus asks for.
#[derive(Clone)]
pub(crate) struct NetworkFactory {
    lanes: Lanes,
    timing: Timing,
    counters: Arc<Counters>,
}

impl NetworkFactory {
    /// A factory of clients on `lanes`.
    pub(crate) fn new(lanes: Lanes, timing: Timing, counters: Arc<Counters>) -> Self {
        Self {
            lanes,
            timing,
            counters,
        }
    }

    fn client(&self, target: u64, member: &Member, pipelined: bool) -> PeerNetwork {
        self.lanes.list(target, &member.addr);
        PeerNetwork {
            factory: self.clone(),
            target,
            pipelined,
        }
    }
}

impl RaftNetworkFactory<C> for NetworkFactory {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: u64, node: &Member) -> PeerNetwork {
        self.client(target, node, true)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> PeerNetwork {
        self.client(target, node, false)
    }
}

/// One replica as consensus sees it. Each kind of message takes its own lane.
pub(crate) struct PeerNetwork {
    factory: NetworkFactory,
    target: u64,
    pipelined: bool,
}

impl RaftNetworkV2<C> for PeerNetwork {
    type SnapshotData = SnapshotFile;

    /// Heartbeats: single, small, on the control lane.
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<C>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<C>, RPCError<C>> {
        let message = append_to_proto(&rpc);
        let reply = self
            .ask(
                RPCTypes::AppendEntries,
                &option,
                message,
                |mut client, request| async move { client.heartbeat(request).await },
            )
            .await?;
        Ok(
            match append_reply_from_proto(reply).map_err(|error| malformed(&error))? {
                Ok(matched) => AppendEntriesResponse::PartialSuccess(matched),
                Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
                Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
            },
        )
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<C>, RPCError<C>>>, RPCError<C>>>
    where
        S: Stream<Item = AppendEntriesRequest<C>> + Send + Unpin + 'static,
    {
        if self.pipelined {
            Box::pin(self.pipeline(input))
        } else {
            stream_append_sequential(self, input, option)
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<C>,
        option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        let message = vote_request_to_proto(&rpc);
        let reply = self
            .ask(
                RPCTypes::Vote,
                &option,
                message,
                |mut client, request| async move { client.vote(request).await },
            )
            .await?;
        vote_reply_from_proto(reply).map_err(|error| malformed(&error))
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<C>,
        option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        let message = vote_request_to_proto(&rpc);
        let reply = self
            .ask(
                RPCTypes::Vote,
                &option,
                message,
                |mut client, request| async move { client.pre_vote(request).await },
            )
            .await?;
        vote_reply_from_proto(reply).map_err(|error| malformed(&error))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<C, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let (file, patience) = (&snapshot.snapshot, option.soft_ttl());
        let sending = snapshot::send(self.lanes(), self.target, vote, file, patience);
        let sent = tokio::select! {
            biased;
            closed = cancel => return Err(closed.into()),
            sent = sending => sent,
        };
        let reply = sent.map_err(|error| self.rpc_error(&error, RPCTypes::InstallSnapshot))?;
        let vote = reply.vote.ok_or(CodecError::Missing("snapshot_reply.vote"));
        let vote = vote.map_err(|error| StreamingError::from(malformed(&error)))?;
        self.factory.counters.snapshots_sent.add_one();
        Ok(SnapshotResponse::new(vote_from_proto(vote)))
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<C>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<C>, RPCError<C>> {
        let message = transfer_to_proto(&req);
        let reply = self
            .ask(
                RPCTypes::TransferLeader,
                &option,
                message,
                |mut client, request| async move { client.transfer_leader(request).await },
            )
            .await?;
        transfer_reply_from_proto(reply).map_err(|error| malformed(&error))
    }
}

impl PeerNetwork {
    fn lanes(&self) -> &Lanes {
        &self.factory.lanes
    }

    /// One call on the control lane.
    async fn ask<Q, R, F>(
        &self,
        kind: RPCTypes,
        option: &RPCOption,
        message: Q,
        method: impl FnOnce(PeerClient<PeerChannel>, Request<Q>) -> F,
    ) -> Result<R, RPCError<C>>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let patience = option.soft_ttl();
        self.lanes()
            .call(self.target, Lane::Control, patience, message, method)
            .await
            .map_err(|error| self.rpc_error(&error, kind))
    }

    /// A peer that cannot be reached is left alone for a while, one that is only slow is not.
    fn rpc_error(&self, error: &CallError, action: RPCTypes) -> RPCError<C> {
        match error {
            CallError::TimedOut { patience } => RPCError::Timeout(Timeout {
                action,
                id: self.lanes().own_id(),
                target: self.target,
                timeout: *patience,
            }),
            CallError::Busy { .. } => RPCError::Network(NetworkError::new(error)),
            CallError::NotConnected { .. }
            | CallError::Refused { .. }
            | CallError::Failed { .. } => RPCError::Unreachable(Unreachable::new(error)),
        }
    }
}

fn malformed(error: &CodecError) -> RPCError<C> {
    RPCError::Network(NetworkError::new(error))
}
