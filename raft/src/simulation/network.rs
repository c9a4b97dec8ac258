//! The network between simulated replicas: calls and their streams take as long as the seed says,
//! wait while a link is cut, and break when a connection does.
//!
//! It carries the requests and answers of the generated services, so that everything above HTTP/2
//! is the real thing: envelopes, guard, encodings, streams, deadlines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::{ConnectError, Status};
use tower::service_fn;

use super::{chance, note, random};
use crate::network::{ChannelError, Lane, PeerChannel, PeerInfo, Reach, Services};
use crate::tls::PeerName;

/// A frame of HTTP/2 and when it arrives.
type Arrival = (Instant, Result<Frame<Bytes>, Status>);

/// All links between replicas.
#[derive(Clone, Default)]
pub(crate) struct Hub(Arc<Links>);

#[derive(Default)]
struct Links {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    listening: BTreeMap<u64, Services>,
    /// From whom to whom nothing passes.
    cut: BTreeSet<(u64, u64)>,
    /// Longest extra delay from a replica.
    slow: BTreeMap<u64, Duration>,
    /// Connections by their ends, the smaller first; what is cancelled is broken.
    connections: BTreeMap<(u64, u64), CancellationToken>,
}

impl Hub {
    /// Lets nothing pass from one replica to another, or everything again.
    pub(super) fn cut(&self, from: u64, to: u64) {
        self.0.state.lock().cut.insert((from, to));
    }

    /// Parts a replica from all others.
    pub(super) fn cut_off(&self, replica: Option<u64>, all: &[u64]) {
        let Some(replica) = replica else { return };
        for other in all.iter().filter(|other| **other != replica) {
            self.cut(replica, *other);
            self.cut(*other, replica);
        }
    }

    /// Delays whatever a replica sends.
    pub(super) fn slow(&self, from: u64, by: Duration) {
        self.0.state.lock().slow.insert(from, by);
    }

    /// Ends cuts and delays.
    pub(super) fn heal(&self) {
        let mut state = self.0.state.lock();
        state.cut.clear();
        state.slow.clear();
        drop(state);
        self.0.changed.notify_waiters();
    }

    /// Breaks all connections of a replica.
    pub(super) fn reset(&self, replica: u64) {
        let mut state = self.0.state.lock();
        state.connections.retain(|(one, two), connection| {
            let ends = *one == replica || *two == replica;
            if ends {
                connection.cancel();
            }
            !ends
        });
    }

    fn connection(&self, from: u64, to: u64) -> CancellationToken {
        let ends = (from.min(to), from.max(to));
        self.0
            .state
            .lock()
            .connections
            .entry(ends)
            .or_default()
            .clone()
    }

    fn arrival(&self, from: u64) -> Instant {
        let slow = self.0.state.lock().slow.get(&from).copied();
        let mut micros = random(100..2_000);
        if chance(3) {
            micros += random(0..100_000);
        }
        if let Some(slow) = slow {
            micros += random(0..u64::try_from(slow.as_micros()).unwrap_or(u64::MAX));
        }
        Instant::now() + Duration::from_micros(micros)
    }

    /// Waits for the moment and until the link is open; false if it stays cut for too long.
    async fn pass(&self, from: u64, to: u64, at: Instant) -> bool {
        sleep_until(at).await;
        let opened = async {
            loop {
                let changed = self.0.changed.notified();
                if !self.0.state.lock().cut.contains(&(from, to)) {
                    return;
                }
                changed.await;
            }
        };
        timeout(PATIENCE, opened).await.is_ok()
    }
}

/// One start of a replica in the network.
#[derive(Clone)]
pub(crate) struct Host {
    pub(super) hub: Hub,
    pub(super) name: PeerName,
    /// Cancelled when the process is gone.
    pub(super) gone: CancellationToken,
}

impl Host {
    /// Listens from now on.
    pub(crate) fn serve(&self, services: Services) {
        let mut state = self.hub.0.state.lock();
        state.listening.insert(self.name.replica_id, services);
    }

    /// Is gone from now on.
    pub(super) fn vanish(&self) {
        self.gone.cancel();
        let id = self.name.replica_id;
        self.hub.0.state.lock().listening.remove(&id);
        self.hub.reset(id);
    }

    /// What was sent arrives even when the caller has stopped waiting.
    async fn call(
        self,
        target: u64,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, ChannelError> {
        if self.gone.is_cancelled() {
            return Err(ChannelError(broken().into()));
        }
        let connection = self.hub.connection(self.name.replica_id, target);
        let (answer, answered) = oneshot::channel();
        tokio::spawn(async move {
            let carried = self.carry(target, request, connection.clone());
            let result = connection.run_until_cancelled_owned(carried).await;
            // A caller that went away needs no answer.
            let _ = answer.send(result.unwrap_or_else(|| Err(ChannelError(broken().into()))));
        });
        answered
            .await
            .unwrap_or_else(|_| Err(ChannelError(broken().into())))
    }

    async fn carry(
        self,
        target: u64,
        request: http::Request<Body>,
        connection: CancellationToken,
    ) -> Result<http::Response<Body>, ChannelError> {
        let own = self.name.replica_id;
        let (head, body) = request.into_parts();
        let body = self.pipe(own, target, body, connection.clone());
        let mut request = http::Request::from_parts(head, body);
        if !self.hub.pass(own, target, self.hub.arrival(own)).await {
            return Err(unconnected("no answer"));
        }
        let listening = self.hub.0.state.lock().listening.get(&target).cloned();
        let Some(services) = listening else {
            return Err(unconnected("connection refused"));
        };
        note(&[own, target, request.uri().path().len() as u64]);
        let certified = PeerInfo::certified(self.name.clone());
        request.extensions_mut().insert(certified);
        let response = match services.call(request, true).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        if !self.hub.pass(target, own, self.hub.arrival(target)).await {
            return Err(ChannelError(broken().into()));
        }
        let (head, body) = response.into_parts();
        let body = self.pipe(target, own, body, connection);
        Ok(http::Response::from_parts(head, body))
    }

    /// The frames of `body` as they arrive, in order.
    fn pipe(&self, from: u64, to: u64, mut body: Body, connection: CancellationToken) -> Body {
        let (frames, arriving) = mpsc::channel::<Arrival>(FRAMES_UNDER_WAY);
        let hub = self.hub.clone();
        let ended = connection.clone();
        tokio::spawn(async move {
            let mut at = Instant::now();
            loop {
                let frame = tokio::select! {
                    biased;
                    () = ended.cancelled() => Some(Err(broken())),
                    () = frames.closed() => None,
                    frame = body.frame() => frame,
                };
                let Some(frame) = frame else { return };
                at = at.max(hub.arrival(from));
                let last = frame.is_err();
                if frames.send((at, frame)).await.is_err() || last {
                    return;
                }
            }
        });
        let hub = self.hub.clone();
        let arrived = stream::unfold(Some(arriving), move |arriving| {
            let (hub, connection) = (hub.clone(), connection.clone());
            async move {
                let mut arriving = arriving?;
                let passing = async {
                    let (at, frame) = arriving.recv().await?;
                    let passed = hub.pass(from, to, at).await;
                    Some(if passed { frame } else { Err(broken()) })
                };
                let frame = connection.run_until_cancelled(passing).await;
                let frame = frame.unwrap_or_else(|| Some(Err(broken())))?;
                let rest = frame.is_ok().then_some(arriving);
                Some((frame, rest))
            }
        });
        Body::new(StreamBody::new(arrived))
    }
}

impl Reach for Host {
    fn open(&self, target: u64, _lane: Lane) -> PeerChannel {
        let host = self.clone();
        PeerChannel::new(service_fn(move |request| {
            host.clone().call(target, request)
        }))
    }

    fn is_refused(&self, target: u64) -> BoxFuture<'_, bool> {
        let own = self.name.replica_id;
        Box::pin(async move {
            let hub = &self.hub;
            hub.pass(own, target, hub.arrival(own)).await
                && !hub.0.state.lock().listening.contains_key(&target)
                && hub.pass(target, own, hub.arrival(target)).await
        })
    }
}

fn unconnected(why: &str) -> ChannelError {
    ChannelError(Box::new(ConnectError(why.into())))
}

fn broken() -> Status {
    Status::unavailable("the connection broke")
}

/// A connection that carries nothing for this long breaks.
const PATIENCE: Duration = Duration::from_secs(3);
/// Frames sent ahead of the receiver.
const FRAMES_UNDER_WAY: usize = 32;
