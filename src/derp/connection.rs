//! From a TCP connection to an admitted client: TLS, HTTP upgrade, introduction, admission.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};
use tracing::Instrument;

use super::admission::{DenyReason, Verdict};
use super::client::{self, Client, CloseReason, ConnectionId, Surroundings};
use super::doorkeeper::Place;
use super::frame::{self, ClientInfoFrame, FrameError};
use super::handshake::{HandshakeError, Introduction};
use super::http::{self, HttpError, Outcome};
use super::limits::{
    ADMISSION_TIMEOUT, CLIENT_INFO_BUDGET_BYTES, CLIENT_INFO_TIMEOUT, CLOSE_TIMEOUT,
    TLS_HANDSHAKE_TIMEOUT, WRITE_STALL_TIMEOUT,
};
use super::metrics::DropReason;
use super::progress::{Counted, Progress};
use super::server::Relay;
use super::websocket;
use crate::types::NodeKey;

/// Room for a read: an introduction as clients send it, in one piece.
const READ_BYTES: usize = 1024;

/// Why a connection did not become a client's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("client kept out: {}", .0.as_str())]
    Denied(DenyReason),
    #[error("broken client info frame")]
    Frame(#[from] FrameError),
    #[error("client info refused")]
    Handshake(#[from] HandshakeError),
    #[error("connection ended or stalled before the client introduced itself")]
    HandshakeIo(#[source] io::Error),
    #[error("request refused")]
    Http(#[from] HttpError),
    #[error("tls handshake failed")]
    Tls(#[source] io::Error),
}

/// Serves one accepted connection to its end. `place` is given back then.
pub(crate) async fn serve(
    relay: Arc<Relay>,
    stream: TcpStream,
    remote: SocketAddr,
    mut place: Place,
) {
    let (counted, progress) = Counted::new(stream);
    let tls = async {
        let accept = relay.tls_acceptor().accept(counted);
        let io = timeout(TLS_HANDSHAKE_TIMEOUT, accept).await;
        io.unwrap_or_else(|elapsed| Err(elapsed.into()))
            .map_err(ConnectError::Tls)
    };
    let served = async {
        let mut io = tls.await?;
        let visit = Visit {
            relay: &relay,
            remote,
            place: &mut place,
            progress,
            pending: None,
        };
        match http::serve(&mut io, &relay.site()).await? {
            Outcome::Done => {
                let _ = timeout(CLOSE_TIMEOUT, io.shutdown()).await;
                Ok(())
            }
            Outcome::Upgraded(read_ahead) => visit.carry(io, read_ahead).await,
            Outcome::WebSocket(read_ahead) => {
                let Ok(pending) = Arc::clone(&relay.pending_websockets).try_acquire_owned() else {
                    relay.metrics.connections_refused.increment();
                    return Ok(());
                };
                let visit = Visit {
                    pending: Some(pending),
                    ..visit
                };
                let io = websocket::over(io, read_ahead).await;
                visit.carry(io, BytesMut::new()).await
            }
        }
    };
    let span = tracing::debug_span!("derp_client", remote.addr = %remote);
    if let Err(error) = served.instrument(span.clone()).await {
        let _entered = span.enter();
        report(&relay, &error);
    }
}

/// A connection in the registry. Leaves it on drop, in whatever way its task ends.
struct Registered {
    relay: Arc<Relay>,
    client: Arc<Client>,
}

impl Registered {
    /// Carries packets until the connection ends. `read_ahead` came behind the introduction.
    async fn run<S>(self, io: S, read_ahead: BytesMut, progress: Progress)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Self { relay, client } = &self;
        let around = Surroundings {
            clients: &relay.clients,
            metrics: &relay.metrics,
        };
        let reason = client::serve(io, read_ahead, progress, client, &around).await;
        tracing::debug!(
            node.key = %client.key.short(),
            reason = reason.as_str(),
            "relay client left"
        );
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.client
            .queue
            .discard(DropReason::GoneDisconnected, &self.relay.metrics);
        self.relay.clients.remove(&self.client);
    }
}

/// A connection that has become a client's.
struct Visit<'a> {
    relay: &'a Arc<Relay>,
    remote: SocketAddr,
    place: &'a mut Place,
    progress: Progress,
    /// A place among the WebSockets of strangers, given back once the client is admitted.
    pending: Option<OwnedSemaphorePermit>,
}

impl Visit<'_> {
    /// Introduction, admission, registration, and then packets until the end. `read_ahead` came
    /// behind the request.
    async fn carry<S>(self, mut io: S, mut read_ahead: BytesMut) -> Result<(), ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Self { relay, remote, .. } = self;
        let introduction = introduce(relay, &mut io, &mut read_ahead).await?;
        let closings = relay.clients.closings();
        admit(relay, introduction.key(), remote).await?;
        let registered = register(relay, &introduction, remote);
        settle(relay, &mut io, &registered.client, &introduction, closings).await?;
        self.place.admitted();
        drop(self.pending);
        registered.run(io, read_ahead, self.progress).await;
        Ok(())
    }
}

/// Sends our key and takes the client's.
async fn introduce<S>(
    relay: &Relay,
    io: &mut S,
    read_ahead: &mut BytesMut,
) -> Result<Introduction, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let exchange = async {
        write(io, &frame::server_key(&relay.key.public())).await?;
        loop {
            if let Some(frame) = ClientInfoFrame::take(read_ahead, CLIENT_INFO_BUDGET_BYTES)? {
                return Ok(frame);
            }
            read_ahead.reserve(READ_BYTES);
            if io
                .read_buf(read_ahead)
                .await
                .map_err(ConnectError::HandshakeIo)?
                == 0
            {
                return Err(ConnectError::HandshakeIo(
                    io::ErrorKind::UnexpectedEof.into(),
                ));
            }
        }
    };
    let timed_out = |_| Err(ConnectError::HandshakeIo(io::ErrorKind::TimedOut.into()));
    let frame = timeout(CLIENT_INFO_TIMEOUT, exchange)
        .await
        .unwrap_or_else(timed_out)?;
    Ok(Introduction::open(&relay.key, &frame)?)
}

/// Asks whether the client may come in.
async fn admit(relay: &Relay, key: NodeKey, remote: SocketAddr) -> Result<(), ConnectError> {
    let verdict = timeout(ADMISSION_TIMEOUT, relay.admission.admit(key, remote.ip())).await;
    match verdict.unwrap_or(Verdict::Deny(DenyReason::Unavailable)) {
        Verdict::Allow => Ok(()),
        Verdict::Deny(reason) => Err(ConnectError::Denied(reason)),
    }
}

/// Puts the client into the registry.
fn register(relay: &Arc<Relay>, introduction: &Introduction, remote: SocketAddr) -> Registered {
    let id = ConnectionId(relay.next_connection.fetch_add(1, Ordering::Relaxed));
    let client = Arc::new(Client::new(id, introduction.key(), remote, Instant::now()));
    relay.clients.insert(&client);
    let registered = Registered {
        relay: Arc::clone(relay),
        client: Arc::clone(&client),
    };
    if relay.is_draining() {
        client.queue.close(CloseReason::Draining);
    }
    let info = introduction.info();
    tracing::debug!(
        node.key = %client.key.short(),
        version = info.version,
        can_ack_pings = info.can_ack_pings,
        is_prober = info.is_prober,
        "relay client joined"
    );
    registered
}

/// Asks again if a node lost its right while this one was between admission and registry, where
/// [`super::clients::Clients::close_where`] does not see it; then welcomes the client.
async fn settle<S>(
    relay: &Relay,
    io: &mut S,
    client: &Client,
    introduction: &Introduction,
    closings_before: u64,
) -> Result<(), ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if relay.clients.closings() != closings_before {
        admit(relay, client.key, client.remote).await?;
    }
    let welcome = introduction.answer(rand::random())?;
    let written = timeout(WRITE_STALL_TIMEOUT, write(io, &welcome)).await;
    written.unwrap_or_else(|_| Err(ConnectError::HandshakeIo(io::ErrorKind::TimedOut.into())))
}

async fn write<S>(io: &mut S, wire: &[u8]) -> Result<(), ConnectError>
where
    S: AsyncWrite + Unpin,
{
    io.write_all(wire)
        .await
        .map_err(ConnectError::HandshakeIo)?;
    io.flush().await.map_err(ConnectError::HandshakeIo)
}

/// Counts and logs why a connection failed. Anybody can cause these: no louder than debug.
fn report(relay: &Relay, error: &ConnectError) {
    let metrics = &relay.metrics;
    match error {
        ConnectError::Denied(reason) => metrics.deny(*reason),
        ConnectError::Frame(_) | ConnectError::Handshake(_) | ConnectError::HandshakeIo(_) => {
            metrics.handshake_errors.increment();
        }
        ConnectError::Http(_) => metrics.http_errors.increment(),
        ConnectError::Tls(_) => metrics.tls_handshake_errors.increment(),
    }
    let cause = std::error::Error::source(error)
        .map(ToString::to_string)
        .unwrap_or_default();
    tracing::debug!(%error, cause, "relay connection failed");
}
