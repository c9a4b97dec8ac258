//! A backup on its way out of a running replica: rows are read from one view of the engine no faster
//! than somebody takes them.

use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::BackupError;
use crate::fatal::chain;
use crate::snapshot::SnapshotStore;

/// Bytes that go out together.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that wait for who takes them.
const CHUNKS_WAITING: usize = 4;
/// Who takes nothing for this long gets nothing more: the view keeps old rows on the disk.
const STALL: Duration = Duration::from_secs(60);

/// The bytes of a backup. It is whole when the stream ends without an error; dropping it stops the
/// backup.
#[derive(Debug)]
pub struct BackupStream {
    parts: mpsc::Receiver<Part>,
    ended: bool,
}

#[derive(Debug)]
enum Part {
    Chunk(Bytes),
    End(Result<(), BackupError>),
}

impl BackupStream {
    /// Starts to write what `store`'s engine holds at this moment. The second part does the work and
    /// blocks; it ends early when `stopping` is cancelled.
    pub(crate) fn prepare(
        store: Arc<SnapshotStore>,
        taken_at_ms: i64,
        stopping: CancellationToken,
    ) -> Result<(Self, impl FnOnce() + Send + 'static), BackupError> {
        let turn = store
            .backup_turn()
            .ok_or_else(|| failed("others are being made; try again later"))?;
        // One place is kept for the end: who reads slowly must hear of it, too.
        let (out, parts) = mpsc::channel(CHUNKS_WAITING + 1);
        let end = out
            .clone()
            .try_reserve_owned()
            .map_err(|error| failed(error.to_string()))?;
        let mut chunks = Chunks {
            waiting: Vec::with_capacity(CHUNK_BYTES),
            out,
            stopping,
            runtime: Handle::current(),
        };
        let work = move || {
            let view = store.engine().view();
            let written = super::write(&*view, &mut chunks, taken_at_ms)
                .map_err(|error| failed(chain(&error)))
                .and_then(|out| out.flush().map_err(|error| failed(error.to_string())));
            end.send(Part::End(written));
            drop(turn);
        };
        let stream = Self {
            parts,
            ended: false,
        };
        Ok((stream, work))
    }
}

impl Stream for BackupStream {
    type Item = Result<Bytes, BackupError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let part = std::task::ready!(self.parts.poll_recv(context));
        let end = match part {
            Some(Part::Chunk(chunk)) => return Poll::Ready(Some(Ok(chunk))),
            Some(Part::End(end)) => end,
            None => Err(failed("it was broken off")),
        };
        self.ended = true;
        Poll::Ready(end.err().map(Err))
    }
}

fn failed(reason: impl Into<String>) -> BackupError {
    BackupError::Failed {
        reason: reason.into(),
    }
}

/// Gathers bytes and waits until somebody takes them.
struct Chunks {
    waiting: Vec<u8>,
    out: mpsc::Sender<Part>,
    stopping: CancellationToken,
    runtime: Handle,
}

impl Chunks {
    fn send(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.waiting, Vec::with_capacity(CHUNK_BYTES));
        let sending = timeout(STALL, self.out.send(Part::Chunk(chunk.into())));
        let stopping = self.stopping.clone();
        let sent = self
            .runtime
            .block_on(stopping.run_until_cancelled_owned(sending));
        match sent {
            None => Err(io::Error::other("the replica stops")),
            Some(Err(_)) => Err(io::Error::other("nobody takes it any more")),
            Some(Ok(Err(_))) => Err(io::ErrorKind::BrokenPipe.into()),
            Some(Ok(Ok(()))) => Ok(()),
        }
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= CHUNK_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.waiting.is_empty() {
            true => Ok(()),
            false => self.send(),
        }
    }
}
