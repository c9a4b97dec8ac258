//! Serving connections of other replicas and of joiners: TCP, TLS, HTTP/2, and which of the two
//! services a call is for.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hydrascale_proto::raft::v1::join_server::JoinServer;
use hydrascale_proto::raft::v1::peer_server::PeerServer;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tonic::codegen::{Body, Service, StdError};

use super::envelope::INCARNATION;
use super::{JOIN_BYTES_MAX, MESSAGE_BYTES_MAX, PeerService, Refusal};
use crate::core::IN_FLIGHT_MAX;
use crate::counters::Counters;
use crate::invite::JoinService;
use crate::timing::Timing;
use crate::tls::{PeerName, Tls};

/// Connections open at once: four lanes of each other replica, and some reserve.
const CONNECTIONS_MAX: usize = 256;

/// Connections without a certificate at once: joins are rare and short.
const UNCERTIFIED_MAX: usize = 16;

/// Handshakes at once: each costs a signature, and strangers can start them.
const HANDSHAKES_MAX: usize = 64;

/// Long enough for a join; a stranger must not hold a connection for longer.
const UNCERTIFIED_LIFETIME: Duration = Duration::from_secs(30);

/// Rest after a failed `accept`, which fails in a loop when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Calls of one connection at once: a replica's full window and some control traffic.
const STREAMS_MAX: u32 = IN_FLIGHT_MAX as u32 + 128;

/// Calls of a stranger's connection at once: a joiner makes one.
const UNCERTIFIED_STREAMS_MAX: u32 = 4;

/// Room for a log batch or a snapshot chunk under way; votes and heartbeats have their own
/// connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Accepts, shakes hands, and serves.
pub(crate) struct Listener {
    tls: Tls,
    services: Services,
    timing: Timing,
    connections: Arc<Semaphore>,
    uncertified: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    counters: Arc<Counters>,
}

/// When to stop.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    /// Nothing new is accepted, what is under way may finish.
    pub(crate) drain: CancellationToken,
    /// Connections break.
    pub(crate) close: CancellationToken,
}

impl Listener {
    /// A listener that shakes hands as `tls` says.
    pub(crate) fn new(
        tls: Tls,
        services: Services,
        timing: Timing,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            tls,
            services,
            timing,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            uncertified: Arc::new(Semaphore::new(UNCERTIFIED_MAX)),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            counters,
        }
    }

    /// Serves until it is drained or closed; all its tasks are in `tasks`.
    pub(crate) fn spawn(self, tcp: TcpListener, tasks: &TaskTracker, ends: Ends) {
        let executor = Tasks {
            tasks: tasks.clone(),
            close: ends.close.clone(),
        };
        tasks.spawn(async move {
            let drain = ends.drain.clone();
            let accepting = Arc::new(self).accept(tcp, executor, ends.drain);
            drain.run_until_cancelled_owned(accepting).await;
        });
    }

    async fn accept(self: Arc<Self>, tcp: TcpListener, tasks: Tasks, drain: CancellationToken) {
        loop {
            let stream = match tcp.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "peer listener cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let slots = (
                Arc::clone(&self.connections).try_acquire_owned(),
                Arc::clone(&self.handshakes).try_acquire_owned(),
            );
            let (Ok(connection), Ok(shaking)) = slots else {
                self.counters.connections_refused.add_one();
                continue;
            };
            let listener = Arc::clone(&self);
            let serving = listener.shake_hands_and_serve(
                stream,
                (connection, shaking),
                tasks.clone(),
                drain.clone(),
            );
            tasks.execute(serving);
        }
    }

    async fn shake_hands_and_serve(
        self: Arc<Self>,
        stream: TcpStream,
        (_connection, shaking): (OwnedSemaphorePermit, OwnedSemaphorePermit),
        tasks: Tasks,
        drain: CancellationToken,
    ) {
        // Heartbeats are small and urgent.
        let _ = stream.set_nodelay(true);
        let acceptor = TlsAcceptor::from(self.tls.server());
        let accepted = timeout(self.timing.handshake(), acceptor.accept(stream)).await;
        let Ok(Ok(stream)) = accepted else {
            self.counters.handshakes_failed.add_one();
            tracing::debug!("peer handshake failed");
            return;
        };
        drop(shaking);
        let info = PeerInfo::of(&stream);
        let serving = self.serve(stream, info.clone(), tasks, drain);
        if info.name.is_some() {
            self.counters.connections_accepted.add_one();
            serving.await;
        } else if let Ok(_stranger) = self.uncertified.try_acquire() {
            self.counters.connections_accepted.add_one();
            if timeout(UNCERTIFIED_LIFETIME, serving).await.is_err() {
                tracing::debug!("connection without a certificate ended");
            }
        } else {
            self.counters.connections_refused.add_one();
        }
    }

    async fn serve(
        &self,
        stream: TlsStream<TcpStream>,
        info: PeerInfo,
        tasks: Tasks,
        drain: CancellationToken,
    ) {
        let services = self.services.clone();
        let certified = info.name.is_some();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(info.clone());
            services.clone().call(request, certified)
        });
        let silence = self.timing.reachable_within();
        let streams = if certified {
            STREAMS_MAX
        } else {
            UNCERTIFIED_STREAMS_MAX
        };
        let connection = http2::Builder::new(tasks)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(streams)
            .keep_alive_interval(silence)
            .keep_alive_timeout(silence)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = drain.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "peer connection broke");
        }
    }
}

/// Runs connections and their calls as tasks of the replica, which end with it.
#[derive(Clone)]
struct Tasks {
    tasks: TaskTracker,
    close: CancellationToken,
}

impl<F> Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        let close = self.close.clone();
        self.tasks.spawn(async move {
            close.run_until_cancelled_owned(task).await;
        });
    }
}

/// The two services behind the listener.
#[derive(Clone)]
pub(crate) struct Services {
    peer: PeerServer<PeerService>,
    join: JoinServer<JoinService>,
    incarnation: u64,
    counters: Arc<Counters>,
}

impl Services {
    /// The services of the start `incarnation`.
    pub(crate) fn new(
        peer: PeerService,
        join: JoinService,
        incarnation: u64,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            peer: PeerServer::new(peer)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            join: JoinServer::new(join).max_decoding_message_size(JOIN_BYTES_MAX),
            incarnation,
            counters,
        }
    }

    /// Strangers reach nothing but the join service, whose messages are short: the peer service
    /// reads a message of megabytes before it can ask whose it is.
    pub(crate) async fn call<B>(
        mut self,
        request: Request<B>,
        certified: bool,
    ) -> Result<Response<tonic::body::Body>, Infallible>
    where
        B: Body + Send + 'static,
        B::Error: Into<StdError> + Send + 'static,
    {
        // What neither knows, the peer service answers with UNIMPLEMENTED.
        if request.uri().path().starts_with(JOIN_PATH) {
            return self.join.call(request).await;
        }
        if !certified {
            self.counters.requests_refused.add_one();
            return Ok(Refusal::NoCertificate.into_status().into_http());
        }
        let mut response = self.peer.call(request).await?;
        response
            .headers_mut()
            .insert(INCARNATION, HeaderValue::from(self.incarnation));
        Ok(response)
    }
}

const JOIN_PATH: &str = "/hydrascale.raft.v1.Join/";

/// Whom a connection belongs to, as its certificate says.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerInfo {
    name: Option<Arc<PeerName>>,
}

impl PeerInfo {
    /// What a certificate for `name` would say.
    #[cfg(test)]
    pub(crate) fn certified(name: PeerName) -> Self {
        Self {
            name: Some(Arc::new(name)),
        }
    }

    fn of(stream: &TlsStream<TcpStream>) -> Self {
        let (_, session) = stream.get_ref();
        // The chain was verified in the handshake: what is absent here is a certificate.
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        Self {
            name: certificate
                .and_then(|first| PeerName::of(first).ok())
                .map(Arc::new),
        }
    }

    /// The replica in the certificate; `None` without one.
    pub(crate) fn name(&self) -> Option<&PeerName> {
        self.name.as_deref()
    }
}
