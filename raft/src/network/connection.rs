//! Serving calls on the connections of other replicas and of joiners: HTTP/2, and which of the two
//! services a call is for. What a connection runs on, and who is at its other end, is settled before.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use hydrascale_proto::raft::v1::join_server::JoinServer;
use hydrascale_proto::raft::v1::peer_server::PeerServer;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderValue, Request, Response};

use super::envelope::INCARNATION;
use super::{JOIN_BYTES_MAX, MESSAGE_BYTES_MAX, PeerService, Refusal};
use crate::core::IN_FLIGHT_MAX;
use crate::counters::Counters;
use crate::invite::JoinService;
use crate::timing::Timing;
use crate::tls::PeerName;

/// Calls of one connection at once: a replica's full window and some control traffic.
const STREAMS_MAX: u32 = IN_FLIGHT_MAX as u32 + 128;

/// Calls of a stranger's connection at once: a joiner makes one.
const UNCERTIFIED_STREAMS_MAX: u32 = 4;

/// Room for a log batch or a snapshot chunk under way; votes and heartbeats have their own
/// connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// When to stop.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    /// Nothing new is accepted, what is under way may finish.
    pub(crate) drain: CancellationToken,
    /// Connections break.
    pub(crate) close: CancellationToken,
}

/// Serves connections that were accepted, as tasks of the replica, which end with it.
#[derive(Clone)]
pub(crate) struct Connections {
    services: Services,
    timing: Timing,
    tasks: Tasks,
    drain: CancellationToken,
}

impl Connections {
    /// Connections to `services`, whose tasks are in `tasks`, until they are drained or closed.
    pub(crate) fn new(
        services: Services,
        timing: Timing,
        tasks: &TaskTracker,
        ends: &Ends,
    ) -> Self {
        Self {
            services,
            timing,
            tasks: Tasks {
                tasks: tasks.clone(),
                close: ends.close.clone(),
            },
            drain: ends.drain.clone(),
        }
    }

    /// Runs `accepting`, which waits for connections, until nothing new is accepted.
    pub(crate) fn accept_with(&self, accepting: impl Future<Output = ()> + Send + 'static) {
        let drain = self.drain.clone();
        self.tasks.tasks.spawn(async move {
            drain.run_until_cancelled_owned(accepting).await;
        });
    }

    /// Runs what concerns one connection, until connections are closed.
    pub(crate) fn spawn(&self, task: impl Future<Output: Send> + Send + 'static) {
        self.tasks.execute(task);
    }

    /// Serves one connection of `info` until it ends.
    pub(crate) async fn serve<S>(&self, stream: S, info: PeerInfo)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
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
        let connection = http2::Builder::new(self.tasks.clone())
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
            () = self.drain.cancelled() => {
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
    async fn call(
        mut self,
        request: Request<Incoming>,
        certified: bool,
    ) -> Result<Response<Body>, Infallible> {
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

    /// Whom this certificate is for, if there is one.
    pub(crate) fn of(certificate: Option<&CertificateDer<'_>>) -> Self {
        Self {
            name: certificate
                .and_then(|certificate| PeerName::of(certificate).ok())
                .map(Arc::new),
        }
    }

    /// The replica in the certificate; `None` without one.
    pub(crate) fn name(&self) -> Option<&PeerName> {
        self.name.as_deref()
    }
}
