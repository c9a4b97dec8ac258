//! HTTP/2 inside a Noise session: one task per connection serves all its requests.
//!
//! The task drives the connection and every request on it, so that a lost connection ends them all
//! at once: a map stream, a waiting login, an update that came too late to matter.

mod body;
mod keep_alive;
mod misc;
mod reply;
mod route;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::Request;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use h2::RecvStream;
use h2::server::{self, SendResponse};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

pub(super) use self::keep_alive::Progress;
pub(super) use self::reply::Reply;
pub(super) use self::route::{Answer, Route};
use super::Control;
use super::limits::{
    BODIES_PER_SESSION_MAX, DRAIN_GRACE, DRAIN_SPREAD, HANDSHAKE_TIMEOUT, IDLE_TIMEOUT,
    INNER_HEAD_BYTES_MAX, REQUESTS_PER_SESSION_MAX,
};
use super::metrics::{Handshake, Limit, SessionEnd};
use super::register::LoginLimiter;
use super::source::Source;
use crate::noise::NoiseStream;
use crate::types::MachineKey;

/// Compression table for request headers, in bytes: requests of one client hardly differ.
const HEADER_TABLE_BYTES: u32 = 1024;
/// What a client may send on all requests before it is read, in bytes.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What a client may send on one request before it is read, in bytes.
const REQUEST_WINDOW: u32 = 256 * 1024;
/// What may wait to be sent on one request, in bytes: bounds what a slow reader holds.
const SEND_BUFFER: usize = 128 * 1024;

/// Who is at the other end of a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// Proved by the handshake.
    pub(super) machine_key: MachineKey,
    /// Capability version, authenticated by the handshake.
    pub(super) capver: u16,
    /// Where the connection comes from, if it is a network connection.
    pub(super) remote: Option<SocketAddr>,
    /// Where the client is, as far as that is known.
    pub(super) source: Option<Source>,
}

/// One Noise connection, as its requests see it.
pub(super) struct Session {
    pub(super) control: Control,
    pub(super) peer: Peer,
    /// What large frames have made of their way.
    pub(super) progress: Progress,
    /// Places for bodies that are being read.
    bodies: Semaphore,
    /// What it asks about SSH logins.
    ssh_asks: LoginLimiter,
    /// A client that updates by separate requests repeats stale values in its streaming request.
    updated_separately: AtomicBool,
    /// The client shall find another replica.
    handed_off: CancellationToken,
}

impl Session {
    /// Asks the client to leave.
    pub(super) fn hand_off(&self) {
        self.handed_off.cancel();
    }

    /// Notes that the client sends its state in requests of its own.
    pub(super) fn note_separate_update(&self) {
        self.updated_separately.store(true, Ordering::Relaxed);
    }

    /// Takes one question about an SSH login; else the seconds after which one is free.
    pub(super) fn check_ssh_asks(&self) -> Result<(), u32> {
        self.ssh_asks.check()
    }

    /// Whether the client has sent its state in a request of its own.
    pub(super) fn has_updated_separately(&self) -> bool {
        self.updated_separately.load(Ordering::Relaxed)
    }
}

/// Serves a connection to its end. `permit` is the place among the handshakes under way, given back
/// once the client speaks HTTP/2.
pub(super) async fn serve<T: AsyncRead + AsyncWrite + Unpin>(
    control: Control,
    io: NoiseStream<T>,
    peer: Peer,
    permit: OwnedSemaphorePermit,
) {
    let mut builder = server::Builder::new();
    builder
        .header_table_size(HEADER_TABLE_BYTES)
        .max_concurrent_streams(REQUESTS_PER_SESSION_MAX)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_window_size(REQUEST_WINDOW)
        .max_header_list_size(INNER_HEAD_BYTES_MAX)
        .max_send_buffer_size(SEND_BUFFER);
    let connection = match timeout(HANDSHAKE_TIMEOUT, builder.handshake(io)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%error, "session ended before http/2");
            return control.metrics().handshake(Handshake::Broken);
        }
        Err(_) => {
            control.metrics().handshake(Handshake::Broken);
            return control.metrics().limit_hit(Limit::HandshakeTime);
        }
    };
    drop(permit);
    control.metrics().handshake(Handshake::Done);
    let span = tracing::debug_span!(
        "session",
        machine.key = %peer.machine_key.short(),
        capver = peer.capver,
        remote.addr = peer.remote.map(tracing::field::display),
    );
    let session = Arc::new(Session {
        control,
        peer,
        progress: Progress::default(),
        bodies: Semaphore::new(BODIES_PER_SESSION_MAX),
        ssh_asks: LoginLimiter::of_session(),
        updated_separately: AtomicBool::new(false),
        handed_off: CancellationToken::new(),
    });
    run(session, connection).instrument(span).await;
}

type Connection<T> = server::Connection<NoiseStream<T>, Bytes>;
type Requests = FuturesUnordered<BoxFuture<'static, ()>>;

async fn run<T: AsyncRead + AsyncWrite + Unpin>(session: Arc<Session>, connection: Connection<T>) {
    let metrics = session.control.metrics().clone();
    metrics.sessions.inc();
    tracing::debug!("session opened");
    let end = drive(session, connection).await;
    metrics.sessions.dec();
    metrics.session_end(end);
    if end == SessionEnd::Idle {
        metrics.limit_hit(Limit::Idle);
    }
    tracing::debug!(reason = ?end, "session closed");
}

async fn drive<T: AsyncRead + AsyncWrite + Unpin>(
    session: Arc<Session>,
    mut connection: Connection<T>,
) -> SessionEnd {
    let drain = session.control.drain().clone();
    let progress = session.progress.clone();
    let keep_alive = keep_alive::until_silent(connection.ping_pong(), &progress);
    let handed_off = session.handed_off.clone();
    let leave = async {
        let drained = async {
            drain.cancelled().await;
            sleep(DRAIN_SPREAD.mul_f64(rand::random())).await;
        };
        tokio::select! {
            () = drained => {}
            () = handed_off.cancelled() => {}
        }
    };
    let (mut keep_alive, mut leave) = (std::pin::pin!(keep_alive), std::pin::pin!(leave));
    let mut requests = Requests::new();
    let mut idle_since = Instant::now();
    loop {
        tokio::select! {
            biased;
            Some(()) = requests.next() => idle_since = Instant::now(),
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let handling = handle(Arc::clone(&session), request, respond);
                    requests.push(Box::pin(handling.in_current_span()));
                    if requests.len() >= REQUESTS_PER_SESSION_MAX as usize {
                        // HTTP/2 refuses the next one.
                        session.control.metrics().limit_hit(Limit::RequestsPerSession);
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "session failed");
                    return SessionEnd::Error;
                }
                None => return SessionEnd::Closed,
            },
            () = &mut leave => {
                finish(connection, requests).await;
                return SessionEnd::Drained;
            }
            () = &mut keep_alive => return SessionEnd::Silent,
            () = sleep_until(idle_since + IDLE_TIMEOUT), if requests.is_empty() => {
                finish(connection, requests).await;
                return SessionEnd::Idle;
            }
        }
    }
}

/// Asks the client to leave, lets short requests finish, and ends the others.
async fn finish<T: AsyncRead + AsyncWrite + Unpin>(
    mut connection: Connection<T>,
    mut requests: Requests,
) {
    connection.graceful_shutdown();
    let closing = async {
        loop {
            tokio::select! {
                biased;
                Some(()) = requests.next() => {}
                // Requests that crossed the GOAWAY are dropped unanswered: the client repeats them
                // on its next connection.
                accepted = connection.accept() => match accepted {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return,
                },
            }
        }
    };
    if timeout(DRAIN_GRACE, closing).await.is_err() {
        // Map streams never finish by themselves: end them, and give the end a moment to leave.
        drop(requests);
        let closing = std::future::poll_fn(|cx| connection.poll_closed(cx));
        let _ = timeout(DRAIN_GRACE, closing).await;
    }
}

async fn handle(session: Arc<Session>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let (head, body) = request.into_parts();
    let route = Route::find(&head.method, head.uri.path());
    let metrics = session.control.metrics().clone();
    let status = route.serve(&session, &head, body, respond).await;
    if let Some(status) = status {
        metrics.request(route.name(), status.as_u16());
    }
}
