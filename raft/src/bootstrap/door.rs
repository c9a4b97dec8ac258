//! Answering greetings while there is no cluster: on the listener that the replica gets afterwards.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hydrascale_proto::raft::v1 as pb;
use hydrascale_proto::raft::v1::greeting_answer::State;
use hydrascale_proto::raft::v1::join_server::{Join, JoinServer};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tonic::codegen::Service;
use tonic::codegen::http;
use tonic::{Request, Response, Status};

use super::decide::Yielding;
use super::greeting::{WordError, open_greeting, random, seal_answer};
use crate::SealingKeys;
use crate::network::JOIN_BYTES_MAX;

/// Connections at once: each other replica opens one at a time.
const CONNECTIONS_MAX: usize = 64;
/// Handshake, greeting and answer.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(5);
/// Between two complaints about words that cannot be opened: anybody may send them.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Rest after a failed `accept`, which fails in a loop when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a replica without a cluster answers with.
#[derive(Clone)]
pub(super) struct Waiting {
    pub(super) own: pb::Newcomer,
    pub(super) secret: Arc<SealingKeys>,
    pub(super) yielding: Arc<Mutex<Yielding>>,
    pub(super) told: Arc<Mutex<Option<Instant>>>,
}

impl Waiting {
    fn refuse(&self, error: WordError) -> Status {
        let mut told = self.told.lock();
        if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            *told = Some(Instant::now());
            tracing::warn!(%error, "somebody greets who cannot be understood");
        }
        Status::permission_denied(error.to_string())
    }

    fn state(&self, greeting: &pb::Greeting) -> State {
        let now = Instant::now();
        let mut yielding = self.yielding.lock();
        let claimant = greeting
            .from
            .as_ref()
            .filter(|_| !greeting.claim.is_empty());
        let yields = claimant.is_some_and(|claimant| {
            yielding.yield_to(&self.own, (claimant, &greeting.claim), random(), now)
        });
        if yielding.is_settled() {
            return State::Unavailable(format!("{} is joining a cluster", self.own.name));
        }
        State::Waiting(pb::WaitingReplica {
            who: Some(self.own.clone()),
            yields,
            challenge: yielding.challenge(),
        })
    }
}

/// Serves until it is dropped.
pub(super) async fn serve(
    listener: &TcpListener,
    tls: Arc<ServerConfig>,
    waiting: Waiting,
) -> Infallible {
    let acceptor = TlsAcceptor::from(tls);
    let mut connections = FuturesUnordered::new();
    loop {
        let has_room = connections.len() < CONNECTIONS_MAX;
        tokio::select! {
            accepted = listener.accept(), if has_room => match accepted {
                Ok((stream, _)) => {
                    let serving = one(acceptor.clone(), stream, waiting.clone());
                    connections.push(timeout(CONNECTION_LIFETIME, serving));
                }
                Err(error) => {
                    tracing::warn!(%error, "peer listener cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = connections.next() => {
                if let Ok(Err(error)) = ended {
                    tracing::debug!(%error, "a greeting broke off");
                }
            }
        }
    }
}

async fn one(acceptor: TlsAcceptor, stream: TcpStream, waiting: Waiting) -> io::Result<()> {
    let stream = acceptor.accept(stream).await?;
    let join = JoinServer::new(waiting).max_decoding_message_size(JOIN_BYTES_MAX);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let mut join = join.clone();
        async move { join.call(request).await }
    });
    http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(1)
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(io::Error::other)
}

#[tonic::async_trait]
impl Join for Waiting {
    async fn join(
        &self,
        _request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinReply>, Status> {
        Err(Status::unavailable("this replica has no cluster yet"))
    }

    async fn greet(
        &self,
        request: Request<pb::SealedWord>,
    ) -> Result<Response<pb::SealedWord>, Status> {
        let greeting = open_greeting(&self.secret, &request.into_inner());
        let greeting = greeting.map_err(|error| self.refuse(error))?;
        let word = seal_answer(&self.secret, &greeting, self.state(&greeting));
        let word = word.map_err(|error| self.refuse(error))?;
        Ok(Response::new(word))
    }
}
