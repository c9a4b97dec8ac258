//! Snapshot files on the way from one replica to another.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use hydrascale_proto::raft::v1 as pb;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Request, Status, Streaming};

use super::SNAPSHOT_CHUNK_BYTES;
use super::lanes::{CallError, Lane, Lanes};
use super::message::offer_from_proto;
use crate::codec::{Vote, log_id_to_proto, vote_to_proto};
use crate::fatal::chain;
use crate::snapshot::{SnapshotFile, SnapshotReceiver, SnapshotStore};

/// Chunks read from the network ahead of the disk.
const CHUNKS_AHEAD: usize = 4;

/// Sends a snapshot on the bulk lane and waits until it is installed or refused.
///
/// HTTP/2 flow control is the backpressure; dropping the call cancels the transfer.
pub(super) async fn send(
    lanes: &Lanes,
    target: u64,
    vote: Vote,
    snapshot: &SnapshotFile,
) -> Result<pb::SnapshotReply, CallError> {
    let unreadable = |error: std::io::Error| CallError::Failed {
        reason: format!("snapshot {} cannot be read: {error}", snapshot.name()),
    };
    let file = File::open(snapshot.path()).await.map_err(unreadable)?;
    let size_bytes = file.metadata().await.map_err(unreadable)?.len();
    let offer = pb::SnapshotOffer {
        vote: Some(vote_to_proto(&vote)),
        last_log_id: snapshot.meta().last_log_id.as_ref().map(log_id_to_proto),
        size_bytes,
    };
    let first = pb::SnapshotChunk {
        part: Some(pb::snapshot_chunk::Part::Offer(offer)),
    };
    let chunks = stream::iter([first]).chain(chunks(file));
    let request: Request<_> = lanes.request(target, chunks);
    let mut client = lanes.client(target, Lane::Bulk);
    match client.install_snapshot(request).await {
        Ok(reply) => lanes.answer(target, reply),
        Err(status) => Err(lanes.judge(&status)),
    }
}

/// The file in chunks. A read error ends it early, and the receiver, who knows the size, refuses.
fn chunks(file: File) -> impl Stream<Item = pb::SnapshotChunk> {
    stream::unfold(file, |mut file| async move {
        let mut chunk = vec![0; SNAPSHOT_CHUNK_BYTES];
        let read = file.read(&mut chunk).await;
        let read = read.inspect_err(|error| tracing::warn!(%error, "snapshot cannot be read"));
        let length = read.ok().filter(|length| *length > 0)?;
        chunk.truncate(length);
        let part = Some(pb::snapshot_chunk::Part::Data(chunk.into()));
        Some((pb::SnapshotChunk { part }, file))
    })
}

/// Receives a snapshot into a checked, durable file. `patience` bounds the wait for each chunk.
///
/// # Errors
/// INVALID_ARGUMENT for a stream that makes no sense, ABORTED for one that breaks off, INTERNAL
/// when the disk fails. Nothing of it is kept.
pub(super) async fn receive(
    snapshots: &Arc<SnapshotStore>,
    mut stream: Streaming<pb::SnapshotChunk>,
    patience: Duration,
) -> Result<(Vote, SnapshotFile), Status> {
    let Some(pb::snapshot_chunk::Part::Offer(offer)) = next(&mut stream, patience).await? else {
        return Err(Status::invalid_argument("a snapshot starts with its offer"));
    };
    let (vote, last_log_id, size) =
        offer_from_proto(offer).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let (chunks, queue) = mpsc::channel(CHUNKS_AHEAD);
    let store = Arc::clone(snapshots);
    let writing = tokio::task::spawn_blocking(move || write(&store, queue, size));
    let mut left = size;
    while left > 0 {
        let Some(pb::snapshot_chunk::Part::Data(chunk)) = next(&mut stream, patience).await? else {
            return Err(Status::aborted("the snapshot broke off"));
        };
        let length = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        left = left
            .checked_sub(length)
            .ok_or_else(|| Status::invalid_argument("the snapshot is longer than offered"))?;
        if chunks.send(chunk).await.is_err() {
            break;
        }
    }
    drop(chunks);
    let written = writing
        .await
        .map_err(|error| Status::internal(error.to_string()))?;
    let file = written.map_err(Status::internal)?;
    if file.meta().last_log_id != last_log_id {
        return Err(Status::invalid_argument(
            "the snapshot is not the one offered",
        ));
    }
    Ok((vote, file))
}

async fn next(
    stream: &mut Streaming<pb::SnapshotChunk>,
    patience: Duration,
) -> Result<Option<pb::snapshot_chunk::Part>, Status> {
    match timeout(patience, stream.message()).await {
        Ok(chunk) => Ok(chunk?.and_then(|chunk| chunk.part)),
        Err(_) => Err(Status::aborted("the snapshot stopped coming")),
    }
}

/// Writes until the queue ends; only a complete file is kept.
fn write(
    store: &Arc<SnapshotStore>,
    mut queue: mpsc::Receiver<Bytes>,
    size: u64,
) -> Result<SnapshotFile, String> {
    let failed = |error| chain(&error);
    let mut receiver: SnapshotReceiver = store.receive().map_err(failed)?;
    while let Some(chunk) = queue.blocking_recv() {
        receiver.write(&chunk).map_err(failed)?;
    }
    if receiver.bytes() != size {
        return Err("the snapshot broke off".to_owned());
    }
    receiver.finish().map_err(failed)
}
