//! Drives one map stream: one task, one `select!`, effects only here.

use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::feed::Item;
use super::service::Service;
use super::stream::{MapKind, MapStream, Step, StreamRequest};
use super::{FrameSink, Inner, SinkClosed};
use crate::cluster::{Cluster, ProposeError};
use crate::netmap::View;
use crate::state::SessionNo;
use crate::types::NodeId;

/// Shortest silence before a keep-alive: clients give up after 120 s.
const KEEP_ALIVE_MIN: Duration = Duration::from_secs(50);
/// Spread of the keep-alives, so that streams opened together do not stay together.
const KEEP_ALIVE_SPREAD: Duration = Duration::from_secs(10);
/// A client that takes no frame for this long is gone or hopeless; it reconnects with a fresh map.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Streams leave a cut-off replica at random moments of this time.
const HAND_OFF_SPREAD: Duration = Duration::from_secs(15);
/// Pause before a session that the cluster did not take is recorded again.
const RECORD_RETRY: Duration = Duration::from_secs(1);

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The client left.
    Closed,
    /// The node was deleted, or has taken another key.
    Gone,
    /// This replica is cut off or about to stop; the client finds another.
    HandedOff,
    /// A newer stream of the same node came.
    Replaced,
    /// The one message that was asked for is sent.
    Sent,
    /// The client took no frame for a long time.
    Slow,
    /// This replica stops.
    Stopped,
}

/// Runs a stream to its end.
pub(super) async fn run(
    inner: &Inner,
    request: StreamRequest,
    sink: &mut impl FrameSink,
) -> StreamEnd {
    let (node, kind) = (request.node_id, request.kind);
    let mut driver = Driver {
        inner,
        // Before the state is read: nothing that changes it later is missed.
        items: inner.feed.subscribe(),
        service: inner.feed.service(),
        leaving: inner.leaving.subscribe(),
        assume_degraded: request.stale,
        stream: MapStream::new(request, &inner.cluster.state()),
        keep_alive_at: Instant::now(),
        leave_at: None,
    };
    let end = match kind {
        MapKind::Once => driver
            .send_full(sink)
            .await
            .err()
            .unwrap_or(StreamEnd::Sent),
        MapKind::Stream => {
            let place = inner.registry.enter(node);
            let _session = RecordedSession::spawn(inner.cluster.clone(), node);
            tokio::select! {
                biased;
                // Also in the middle of a frame: nothing more is sent behind it.
                () = place.replaced() => StreamEnd::Replaced,
                end = driver.stream(sink) => end,
            }
        }
    };
    tracing::debug!(reason = ?end, "map ended");
    end
}

struct Driver<'a> {
    inner: &'a Inner,
    stream: MapStream,
    items: broadcast::Receiver<Item>,
    service: watch::Receiver<Service>,
    leaving: watch::Receiver<Option<Duration>>,
    /// The first map could not be confirmed as current, whatever this replica thinks of itself.
    assume_degraded: bool,
    keep_alive_at: Instant,
    leave_at: Option<Instant>,
}

impl Driver<'_> {
    async fn stream(&mut self, sink: &mut impl FrameSink) -> StreamEnd {
        if self.leaving.borrow().is_some() {
            self.leaving.mark_changed();
        }
        if let Err(end) = self.send_full(sink).await {
            return end;
        }
        loop {
            let leave_at = self.leave_at;
            let event = tokio::select! {
                biased;
                () = sink.closed() => return StreamEnd::Closed,
                () = sleep_until(leave_at.unwrap_or_else(Instant::now)), if leave_at.is_some() => {
                    return StreamEnd::HandedOff;
                }
                item = self.items.recv() => Event::Item(item),
                Ok(()) = self.service.changed() => Event::Service,
                Ok(()) = self.leaving.changed() => Event::Leave,
                () = sleep_until(self.keep_alive_at) => Event::KeepAlive,
            };
            if let Err(end) = self.handle(event, sink).await {
                return end;
            }
        }
    }

    async fn handle(&mut self, event: Event, sink: &mut impl FrameSink) -> Result<(), StreamEnd> {
        let step = match event {
            Event::Item(Ok(Item::Delta(delta))) => {
                self.stream.delta(self.view(), &delta, (self.inner.clock)())
            }
            Event::Item(Ok(Item::Reset) | Err(RecvError::Lagged(_))) => {
                return self.send_full(sink).await;
            }
            Event::Item(Err(RecvError::Closed)) => return Err(StreamEnd::Stopped),
            Event::Service => {
                let service = *self.service.borrow_and_update();
                self.plan_leave((service == Service::CutOff).then_some(HAND_OFF_SPREAD));
                self.stream.service(service)
            }
            Event::Leave => {
                self.plan_leave(None);
                Step::Idle
            }
            Event::KeepAlive => Step::Send(self.inner.keep_alive.frame(self.stream.wire())),
        };
        self.take(step, sink).await
    }

    /// Draws the moment at which the stream leaves this replica, if it must: some time within
    /// `spread`, or within the spread that all streams were given. Once drawn, it stays.
    fn plan_leave(&mut self, spread: Option<Duration>) {
        let told = *self.leaving.borrow_and_update();
        self.leave_at = spread.or(told).map(|spread| {
            let drawn = Instant::now() + spread.mul_f64(rand::rng().random());
            self.leave_at.map_or(drawn, |earlier| earlier.min(drawn))
        });
    }

    async fn send_full(&mut self, sink: &mut impl FrameSink) -> Result<(), StreamEnd> {
        let cluster = &self.inner.cluster;
        // The index is read first: the state may be newer than it says, never older.
        let index = cluster.applied_index();
        let state = cluster.state();
        let mut service = *self.service.borrow_and_update();
        if std::mem::take(&mut self.assume_degraded) && service == Service::Normal {
            service = Service::Degraded;
            // The next judgement, whatever it is, corrects this one.
            self.service.mark_changed();
        }
        let now = (self.inner.clock)();
        let step = self.stream.full(self.view(), &state, index, service, now);
        drop(state);
        self.take(step, sink).await
    }

    async fn take(&mut self, step: Step, sink: &mut impl FrameSink) -> Result<(), StreamEnd> {
        match step {
            Step::Idle => Ok(()),
            Step::Send(frame) => self.send(frame, sink).await,
            Step::SendLast(frame) => {
                self.send(frame, sink).await?;
                Err(StreamEnd::Gone)
            }
            Step::End => Err(StreamEnd::Gone),
        }
    }

    async fn send(&mut self, frame: Bytes, sink: &mut impl FrameSink) -> Result<(), StreamEnd> {
        match timeout(SEND_TIMEOUT, sink.send(frame)).await {
            Ok(Ok(())) => {
                let spread = KEEP_ALIVE_SPREAD.mul_f64(rand::rng().random());
                self.keep_alive_at = Instant::now() + KEEP_ALIVE_MIN + spread;
                Ok(())
            }
            Ok(Err(SinkClosed)) => Err(StreamEnd::Closed),
            Err(_) => Err(StreamEnd::Slow),
        }
    }

    fn view<'v>(&self) -> View<'v>
    where
        Self: 'v,
    {
        View {
            config: &self.inner.config,
            policy: &*self.inner.policy,
        }
    }
}

enum Event {
    Item(Result<Item, RecvError>),
    Service,
    Leave,
    KeepAlive,
}

/// The cluster's record that the node streams here. It is made in the background, so that a client
/// gets its map also while there is no leader, and closed when dropped.
struct RecordedSession(CancellationToken);

impl RecordedSession {
    fn spawn(cluster: Cluster, node: NodeId) -> Self {
        let ended = CancellationToken::new();
        let stream_ended = ended.clone();
        // Not owned by the stream: the task outlives it, to record its end.
        tokio::spawn(async move {
            if let Some(no) = record(&cluster, node, &stream_ended).await {
                stream_ended.cancelled().await;
                cluster.close_session(node, no);
            }
        });
        Self(ended)
    }
}

impl Drop for RecordedSession {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Records the session; gives up when the stream has ended before any attempt can have succeeded.
/// One that may have must be found out, or the node would count as online for ever.
async fn record(cluster: &Cluster, node: NodeId, ended: &CancellationToken) -> Option<SessionNo> {
    let mut may_be_open = false;
    loop {
        match cluster.open_session(node).await {
            Ok(no) => return Some(no),
            Err(ProposeError::Refused(refusal)) => {
                tracing::debug!(error = %refusal.message, "session refused");
                return None;
            }
            Err(error) => {
                tracing::debug!(%error, "session not recorded yet");
                may_be_open |= matches!(error, ProposeError::Unknown { .. });
            }
        }
        if ended.is_cancelled() && !may_be_open {
            return None;
        }
        tokio::time::sleep(RECORD_RETRY).await;
    }
}
