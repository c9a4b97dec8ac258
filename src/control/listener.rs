//! The client port: TCP, optional TLS, HTTP/1.1.
//!
//! HTTP/1.1 alone, because the Noise upgrade exists only there and clients therefore negotiate
//! nothing else.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tower::util::ServiceExt;

use super::Control;
use super::limits::{CONNECTIONS_MAX, HANDSHAKE_TIMEOUT, HEAD_BYTES_MAX, HEAD_TIMEOUT};
use super::metrics::Limit;

/// Pause after the system refused to accept, for example for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a request knows of the connection that it came on; an extension of the request.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The peer, which may be a load balancer.
    pub remote: SocketAddr,
    /// Given back when the last user of the connection is gone.
    _slot: Option<Arc<OwnedSemaphorePermit>>,
}

impl Connection {
    /// A connection that counts against no limit.
    pub const fn unlimited(remote: SocketAddr) -> Self {
        Self {
            remote,
            _slot: None,
        }
    }
}

/// Accepts connections until the replica drains; connections go on in tasks of their own.
///
/// `router` is [`super::router`], merged with whatever else the client port serves.
pub async fn serve(
    control: Control,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = control.drain().cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (tcp, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            control.metrics().limit_hit(Limit::Connections);
            continue;
        };
        let connection = Connection {
            remote,
            _slot: Some(Arc::new(slot)),
        };
        let task = serve_tcp(
            control.clone(),
            tcp,
            tls.clone(),
            connection,
            router.clone(),
        );
        control.tasks().spawn(task);
    }
}

async fn serve_tcp(
    control: Control,
    tcp: TcpStream,
    tls: Option<TlsAcceptor>,
    connection: Connection,
    router: Router,
) {
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%error, "set nodelay failed");
    }
    let Some(tls) = tls else {
        return serve_connection(&control, tcp, connection, router).await;
    };
    match timeout(HANDSHAKE_TIMEOUT, tls.accept(tcp)).await {
        Ok(Ok(stream)) => serve_connection(&control, stream, connection, router).await,
        Ok(Err(error)) => {
            tracing::debug!(remote.addr = %connection.remote, %error, "tls handshake failed");
        }
        Err(_) => control.metrics().limit_hit(Limit::HandshakeTime),
    }
}

/// Serves HTTP/1.1 on one connection until it ends, is upgraded, or the replica drains.
pub async fn serve_connection<T>(control: &Control, io: T, connection: Connection, router: Router)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let remote = connection.remote;
    let service = hyper::service::service_fn(move |request: hyper::Request<_>| {
        let mut request: Request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(connection.clone());
        let router = router.clone();
        async move { Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(never)) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = control.drain().cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        if error.is_timeout() || error.is_parse_too_large() {
            control.metrics().limit_hit(Limit::Http1);
        }
        tracing::debug!(remote.addr = %remote, %error, "client connection ended with an error");
    }
}

fn never<T>(impossible: Infallible) -> T {
    match impossible {}
}
