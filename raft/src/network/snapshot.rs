//! Snapshot files on the way from one replica to another.

use std::fs::File;
use std::future::Future;
use std::io::{self, Read};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use hydrascale_proto::raft::v1 as pb;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Request, Status, Streaming};

use super::SNAPSHOT_CHUNK_BYTES;
use super::lanes::{CallError, Lane, Lanes};
use super::message::offer_from_proto;
use crate::blocking;
use crate::codec::{Vote, log_id_to_proto, vote_to_proto};
use crate::fatal::chain;
use crate::snapshot::{SnapshotError, SnapshotFile, SnapshotStore};

/// A replica that installs fewer bytes in a second hangs.
const INSTALL_BYTES_PER_SECOND: u64 = 1 << 20;

/// Sends a snapshot on the bulk lane and waits until it is installed or refused. `patience` bounds
/// the wait for each chunk to go out: how long the whole takes depends on its size.
///
/// HTTP/2 flow control is the backpressure; dropping the call cancels the transfer.
pub(super) async fn send(
    lanes: &Lanes,
    target: u64,
    vote: Vote,
    snapshot: &SnapshotFile,
    patience: Duration,
) -> Result<pb::SnapshotReply, CallError> {
    let unreadable = |error: io::Error| CallError::Failed {
        reason: format!("snapshot {} cannot be read: {error}", snapshot.name()),
    };
    let path = snapshot.path().to_owned();
    let opened = blocking::run(move || {
        let file = File::open(path)?;
        let size_bytes = file.metadata()?.len();
        Ok((file, size_bytes))
    });
    let (file, size_bytes) = opened
        .await
        .map_err(io::Error::other)
        .flatten()
        .map_err(unreadable)?;
    let offer = pb::SnapshotOffer {
        vote: Some(vote_to_proto(&vote)),
        last_log_id: snapshot.meta().last_log_id.as_ref().map(log_id_to_proto),
        size_bytes,
    };
    let first = pb::SnapshotChunk {
        part: Some(pb::snapshot_chunk::Part::Offer(offer)),
    };
    let progress = Arc::new(Progress::new(size_bytes, patience));
    let chunks = stream::iter([first]).chain(chunks(file, Arc::clone(&progress)));
    let request: Request<_> = lanes.request(target, chunks);
    let mut client = lanes.client(target, Lane::Bulk);
    match progress.watch(client.install_snapshot(request)).await? {
        Ok(reply) => lanes.answer(target, reply),
        Err(status) => Err(lanes.judge(&status)),
    }
}

/// By when something must happen to a snapshot that is being sent.
#[derive(Debug)]
struct Progress {
    size_bytes: u64,
    patience: Duration,
    deadline: Mutex<Instant>,
}

impl Progress {
    fn new(size_bytes: u64, patience: Duration) -> Self {
        Self {
            size_bytes,
            patience,
            deadline: Mutex::new(Instant::now() + patience),
        }
    }

    /// A chunk goes out.
    fn moved(&self) {
        *self.deadline.lock() = Instant::now() + self.patience;
    }

    /// All chunks are out: the other side installs them.
    fn sent(&self) {
        let installing = Duration::from_secs(self.size_bytes / INSTALL_BYTES_PER_SECOND);
        *self.deadline.lock() = Instant::now() + self.patience + installing;
    }

    /// Waits for the answer until a deadline passes.
    async fn watch<T>(&self, sending: impl Future<Output = T>) -> Result<T, CallError> {
        let mut sending = pin!(sending);
        loop {
            let deadline = *self.deadline.lock();
            if let Ok(answer) = timeout_at(deadline, sending.as_mut()).await {
                return Ok(answer);
            }
            if *self.deadline.lock() <= Instant::now() {
                let patience = self.patience;
                return Err(CallError::TimedOut { patience });
            }
        }
    }
}

/// The file in chunks. A read error ends it early, and the receiver, who knows the size, refuses.
fn chunks(file: File, progress: Arc<Progress>) -> impl Stream<Item = pb::SnapshotChunk> {
    stream::unfold(
        (file, progress),
        |(mut file, progress): (File, _)| async move {
            let read = blocking::run(move || {
                let mut chunk = vec![0; SNAPSHOT_CHUNK_BYTES];
                let length = file.read(&mut chunk)?;
                chunk.truncate(length);
                Ok((chunk, file))
            });
            let read = read.await.map_err(io::Error::other).flatten();
            let read = read.inspect_err(|error| tracing::warn!(%error, "snapshot cannot be read"));
            let Some((chunk, file)) = read.ok().filter(|(chunk, _)| !chunk.is_empty()) else {
                progress.sent();
                return None;
            };
            progress.moved();
            let part = Some(pb::snapshot_chunk::Part::Data(chunk.into()));
            Some((pb::SnapshotChunk { part }, (file, progress)))
        },
    )
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
    let store = Arc::clone(snapshots);
    let mut receiver = on_disk(move || store.receive()).await?;
    let mut left = size;
    while left > 0 {
        let Some(pb::snapshot_chunk::Part::Data(chunk)) = next(&mut stream, patience).await? else {
            return Err(Status::aborted("the snapshot broke off"));
        };
        let length = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        left = left
            .checked_sub(length)
            .ok_or_else(|| Status::invalid_argument("the snapshot is longer than offered"))?;
        receiver = on_disk(move || receiver.write(&chunk).map(|()| receiver)).await?;
    }
    let file = on_disk(move || receiver.finish()).await?;
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

/// One step of writing what is received.
async fn on_disk<T: Send + 'static>(
    step: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, Status> {
    let done = blocking::run(step).await;
    let done = done.map_err(|error| Status::internal(error.to_string()))?;
    done.map_err(|error| Status::internal(chain(&error)))
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(45);

    #[tokio::test(start_paused = true)]
    async fn a_large_snapshot_is_not_cut_off_while_it_moves() {
        let size = 300 << 20;
        let progress = Progress::new(size, PATIENCE);
        let slow = async {
            for _ in 0..size / SNAPSHOT_CHUNK_BYTES as u64 {
                sleep(Duration::from_secs(1)).await;
                progress.moved();
            }
            progress.sent();
            sleep(Duration::from_secs(300)).await;
        };
        assert!(progress.watch(slow).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_that_stands_still_is_given_up() {
        let progress = Progress::new(1, PATIENCE);
        let began = Instant::now();
        let stuck = async {
            sleep(PATIENCE / 2).await;
            progress.moved();
            sleep(PATIENCE * 100).await;
        };
        let given_up = progress.watch(stuck).await;
        assert!(
            matches!(given_up, Err(CallError::TimedOut { .. })),
            "{given_up:?}"
        );
        assert_eq!(began.elapsed(), PATIENCE * 3 / 2);
    }
}
