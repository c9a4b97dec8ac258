//! One connection of an admitted client: a reader that routes packets to other clients' queues and
//! a writer that drains its own.
//!
//! Reader and writer share a task. They share the TLS state in any case, so two tasks would run in
//! turns, at the price of a lock, a second stack and wake-ups between threads. Each gives way after
//! a bounded amount of work.

mod reader;
mod routes;
mod slab;
mod token_bucket;
mod writer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use self::reader::Reader;
use self::writer::Writer;
use super::clients::Clients;
use super::frame::FrameError;
use super::limits::CLOSE_TIMEOUT;
use super::metrics::{DropReason, RelayMetrics};
use super::progress::Progress;
use super::queue::SendQueue;
use crate::types::NodeKey;

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The relay drains.
    Draining,
    /// The key opened too many connections.
    Evicted,
    /// The client broke the protocol.
    Frame(FrameError),
    /// The transport failed.
    Io(std::io::ErrorKind),
    /// The client closed it.
    PeerClosed,
    /// The node lost its right to be here.
    Removed,
    /// The relay stops.
    ShuttingDown,
    /// The client did not read for too long.
    WriteStalled,
}

impl CloseReason {
    /// The label of logs.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Evicted => "evicted",
            Self::Frame(_) => "frame_error",
            Self::Io(_) => "io_error",
            Self::PeerClosed => "peer_closed",
            Self::Removed => "removed",
            Self::ShuttingDown => "shutting_down",
            Self::WriteStalled => "write_stalled",
        }
    }

    /// Whether the client may still listen to a farewell.
    const fn is_orderly(self) -> bool {
        !matches!(self, Self::Io(_) | Self::WriteStalled)
    }

    /// Why packets that still wait for this connection are lost.
    const fn drop_reason(self) -> DropReason {
        match self {
            Self::Io(_) | Self::WriteStalled => DropReason::WriteError,
            Self::Draining
            | Self::Evicted
            | Self::Frame(_)
            | Self::PeerClosed
            | Self::Removed
            | Self::ShuttingDown => DropReason::GoneDisconnected,
        }
    }
}

/// Number of a connection, unique in the life of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// What others know of a connection.
#[derive(Debug)]
pub(crate) struct Client {
    /// Which connection this is.
    pub(crate) id: ConnectionId,
    /// The key that its owner proved.
    pub(crate) key: NodeKey,
    /// Where it comes from.
    pub(crate) remote: SocketAddr,
    /// When it was admitted.
    pub(crate) since: Instant,
    /// What waits to be written to it.
    pub(crate) queue: SendQueue,
    /// It gets the packets for its key; of several connections one does.
    pub(crate) active: AtomicBool,
    /// Its key has several connections.
    pub(crate) duplicate: AtomicBool,
    /// Its owner calls this relay home.
    pub(crate) home: AtomicBool,
}

impl Client {
    /// A connection that is about to be registered.
    pub(crate) fn new(id: ConnectionId, key: NodeKey, remote: SocketAddr, now: Instant) -> Self {
        Self {
            id,
            key,
            remote,
            since: now,
            queue: SendQueue::new(),
            active: AtomicBool::new(false),
            duplicate: AtomicBool::new(false),
            home: AtomicBool::new(false),
        }
    }

    /// Whether packets for its key go to this connection.
    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }
}

/// What a connection needs of the relay.
pub(crate) struct Surroundings<'a> {
    /// The registry, in which the connection is.
    pub(crate) clients: &'a Clients,
    /// Where it counts.
    pub(crate) metrics: &'a Arc<RelayMetrics>,
}

/// Serves a registered connection until it ends. `read_ahead` holds what was received behind the
/// handshake; `progress` counts bytes that the transport below `io` took.
pub(crate) async fn serve<S>(
    io: S,
    read_ahead: BytesMut,
    progress: Progress,
    client: &Arc<Client>,
    around: &Surroundings<'_>,
) -> CloseReason
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut read_half, mut write_half) = tokio::io::split(io);
    let reader = Reader::new(&mut read_half, read_ahead, client, around);
    let writer = Writer::new(&mut write_half, progress, client, around.metrics);
    let reason = tokio::select! {
        biased;
        reason = client.queue.cut() => reason,
        reason = writer.run() => reason,
        reason = reader.run() => reason,
    };
    client.queue.discard(reason.drop_reason(), around.metrics);
    if client.home.swap(false, Ordering::Relaxed) {
        around.metrics.current_home_connections.decrement();
    }
    if reason.is_orderly() {
        // close_notify and FIN; a client that is gone already makes this fail, which is fine
        let _ = timeout(CLOSE_TIMEOUT, write_half.shutdown()).await;
    }
    reason
}

#[cfg(test)]
mod tests;
