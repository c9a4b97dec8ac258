//! Drives one map stream: one task, one `select!`, effects only here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::encoding::EncodeLabelValue;
use rand::Rng;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::feed::Item;
use super::metrics::{Bound, MapMetrics};
use super::service::Service;
use super::shared::SharedDelta;
use super::stream::{MapKind, MapStream, Step, StreamRequest};
use super::whole_maps::{PLACE_TIME, Place};
use super::{FrameSink, Inner, SinkError};
use crate::state::State;

/// Shortest silence before a keep-alive: clients give up after 120 s.
const KEEP_ALIVE_MIN: Duration = Duration::from_secs(50);
/// Spread of the keep-alives, so that streams opened together do not stay together.
const KEEP_ALIVE_SPREAD: Duration = Duration::from_secs(10);
/// Streams leave a cut-off or drained replica at random moments of this time.
const HAND_OFF_SPREAD: Duration = Duration::from_secs(15);

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum StreamEnd {
    /// The client left.
    Closed,
    /// The node was deleted, or has taken another key.
    Gone,
    /// This replica is cut off or drained; the client finds another.
    HandedOff,
    /// A newer stream of the same node came.
    Replaced,
    /// The one message that was asked for is sent.
    Sent,
    /// The client took its netmap too slowly, or too many clients were slow.
    Slow,
    /// The client took nothing for a long time.
    Stalled,
    /// This replica stops.
    Stopped,
}

/// Runs a stream to its end.
pub(super) async fn run(
    inner: &Arc<Inner>,
    request: StreamRequest,
    found: Arc<State>,
    sink: &mut impl FrameSink,
) -> StreamEnd {
    let (node, kind) = (request.node_id, request.kind);
    let mut driver = Driver {
        inner,
        // Before the state is read: nothing that changes it later is missed.
        items: inner.feed.subscribe(),
        service: inner.feed.service(),
        kind,
        assume_degraded: request.stale,
        stream: MapStream::new(request, found),
        keep_alive_at: Instant::now() + KEEP_ALIVE_MIN,
        leave_at: None,
    };
    // A lost connection drops this future, and nothing else ends a stream without a reason.
    let mut counted = Counted {
        metrics: &inner.metrics,
        end: StreamEnd::Closed,
    };
    let end = match kind {
        MapKind::Once => {
            let place = inner.one_shots.enter(node);
            tokio::select! {
                biased;
                () = place.replaced() => StreamEnd::Replaced,
                sent = driver.send_full(sink) => sent.err().unwrap_or(StreamEnd::Sent),
            }
        }
        MapKind::Stream => {
            let known = inner.cluster.newest_session(node);
            let place = inner.registry.enter(node, known);
            let _here = inner.cluster.begin_stream(node);
            tokio::select! {
                biased;
                // Also in the middle of a frame: nothing more is sent behind it.
                () = place.replaced() => StreamEnd::Replaced,
                end = driver.stream(sink) => end,
            }
        }
    };
    counted.end = end;
    tracing::debug!(reason = ?end, "map ended");
    end
}

/// Counts the end of a stream, however it comes.
struct Counted<'a> {
    metrics: &'a MapMetrics,
    end: StreamEnd,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.metrics.ended(self.end);
    }
}

struct Driver<'a> {
    inner: &'a Arc<Inner>,
    stream: MapStream,
    items: broadcast::Receiver<Item>,
    service: watch::Receiver<Service>,
    kind: MapKind,
    /// The first map could not be confirmed as current, whatever this replica thinks of itself.
    assume_degraded: bool,
    keep_alive_at: Instant,
    leave_at: Option<Instant>,
}

impl Driver<'_> {
    async fn stream(&mut self, sink: &mut impl FrameSink) -> StreamEnd {
        if let Err(end) = self.send_full(sink).await {
            return end;
        }
        // A stream that comes to a cut-off replica had nowhere else to go.
        let drained = *self.service.borrow() == Service::Drained;
        self.plan_leave(drained);
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
                () = sleep_until(self.keep_alive_at) => Event::KeepAlive,
            };
            if let Err(end) = self.handle(event, sink).await {
                return end;
            }
        }
    }

    async fn handle(&mut self, event: Event, sink: &mut impl FrameSink) -> Result<(), StreamEnd> {
        let step = match event {
            Event::Item(Ok(Item::Delta(_, delta))) if self.stream.has_told(delta.basis().index) => {
                Step::Idle
            }
            Event::Item(Ok(Item::Delta(since, delta))) if self.stream.has_told(since) => {
                self.tell(delta, sink).await?
            }
            Event::Item(Ok(Item::Reset(index))) if self.stream.has_told(index) => Step::Idle,
            Event::Item(Ok(Item::Delta(..) | Item::Reset(_))) => {
                self.inner.metrics.resent_whole();
                return self.send_full(sink).await;
            }
            // Whether anything is missing shows in the next item.
            Event::Item(Err(RecvError::Lagged(_))) => {
                self.inner.metrics.bound_hit(Bound::Deltas);
                Step::Idle
            }
            Event::Item(Err(RecvError::Closed)) => return Err(StreamEnd::Stopped),
            Event::Service => {
                let service = *self.service.borrow_and_update();
                self.plan_leave(service.sends_away());
                self.stream.service(service)
            }
            Event::KeepAlive => Step::Send(self.inner.keep_alive.frame(self.stream.wire())),
        };
        if let Step::SendWhole(first) = step {
            if let Some(frame) = first {
                self.send(frame, sink).await?;
            }
            return self.send_full(sink).await;
        }
        self.take(step, sink).await
    }

    /// What a delta means for the stream. A heavy one is worked out off the reactor.
    async fn tell(
        &mut self,
        delta: Arc<SharedDelta>,
        sink: &mut impl FrameSink,
    ) -> Result<Step, StreamEnd> {
        let inner = self.inner;
        if !self.stream.is_heavy(&delta) {
            let now = (inner.clock)();
            return Ok(self.stream.delta(&inner.config, &delta, now));
        }
        let (shared, mut stream) = (Arc::clone(inner), self.stream.clone());
        let work = move || {
            let step = stream.delta(&shared.config, &delta, (shared.clock)());
            (stream, step)
        };
        let told = self.wait(inner.tellers.run(work), sink).await?;
        let ((stream, step), _turn) = told.ok_or(StreamEnd::Stopped)?;
        self.stream = stream;
        Ok(step)
    }

    /// Draws the moment at which the stream leaves this replica, if it must. Once drawn, it stays.
    fn plan_leave(&mut self, must: bool) {
        let drawn = || Instant::now() + HAND_OFF_SPREAD.mul_f64(rand::rng().random());
        self.leave_at = must.then(|| self.leave_at.unwrap_or_else(drawn));
    }

    async fn send_full(&mut self, sink: &mut impl FrameSink) -> Result<(), StreamEnd> {
        // What is applied after this reaches the stream as an item.
        let (needed, _) = self.inner.cluster.changed();
        let inner = self.inner;
        let mut place = self.wait(inner.whole_maps.place(), sink).await?;
        let mut service = *self.service.borrow_and_update();
        if std::mem::take(&mut self.assume_degraded) && service == Service::Normal {
            service = Service::Degraded;
            // The next judgement, whatever it is, corrects this one.
            self.service.mark_changed();
        }
        let building = build_full(inner, self.stream.clone(), needed, service, &mut place);
        let built = self.wait(building, sink).await?;
        let (stream, step) = built.ok_or(StreamEnd::Stopped)?;
        self.stream = stream;
        let mut sending = std::pin::pin!(self.take(step, sink));
        if let Ok(sent) = timeout(PLACE_TIME, &mut sending).await {
            return sent;
        }
        let slow = place.give_up().ok_or(StreamEnd::Slow)?;
        timeout(slow.time(), sending).await.unwrap_or_else(|_| {
            inner.metrics.bound_hit(Bound::Rate);
            Err(StreamEnd::Slow)
        })
    }

    /// Waits for what comes before a whole netmap, and meanwhile keeps the client, unless it takes
    /// the first message for all of its answer.
    async fn wait<T>(
        &mut self,
        coming: impl Future<Output = T>,
        sink: &mut impl FrameSink,
    ) -> Result<T, StreamEnd> {
        let mut coming = std::pin::pin!(coming);
        loop {
            tokio::select! {
                biased;
                come = &mut coming => return Ok(come),
                () = sink.closed() => return Err(StreamEnd::Closed),
                () = sleep_until(self.keep_alive_at), if self.kind == MapKind::Stream => {
                    let frame = self.inner.keep_alive.frame(self.stream.wire());
                    self.send(frame, sink).await?;
                }
            }
        }
    }

    async fn take(&mut self, step: Step, sink: &mut impl FrameSink) -> Result<(), StreamEnd> {
        match step {
            Step::Idle | Step::SendWhole(_) => Ok(()),
            Step::Send(frame) => self.send(frame, sink).await,
            Step::SendLast(frame) => {
                self.send(frame, sink).await?;
                Err(StreamEnd::Gone)
            }
            Step::End => Err(StreamEnd::Gone),
        }
    }

    async fn send(&mut self, frame: Bytes, sink: &mut impl FrameSink) -> Result<(), StreamEnd> {
        sink.send(frame).await.map_err(|error| match error {
            SinkError::Closed => StreamEnd::Closed,
            SinkError::Stalled => StreamEnd::Stalled,
        })?;
        let spread = KEEP_ALIVE_SPREAD.mul_f64(rand::rng().random());
        self.keep_alive_at = Instant::now() + KEEP_ALIVE_MIN + spread;
        Ok(())
    }
}

/// Makes the whole netmap of a stream, and holds `place` for as many bytes.
async fn build_full(
    inner: &Arc<Inner>,
    mut stream: MapStream,
    needed: u64,
    service: Service,
    place: &mut Place<'_>,
) -> Option<(MapStream, Step)> {
    inner.feed.basis_at(needed).await?;
    let shared = Arc::clone(inner);
    let build = move || {
        let now = (shared.clock)();
        let basis = shared.feed.basis();
        let whole = shared.whole_maps.newest(basis, needed, now);
        let step = stream.full(&shared.config, &whole, service);
        shared.whole_maps.note(&whole);
        shared.whole_maps.let_go();
        (stream, step)
    };
    let (built, turn) = inner.whole_maps.build(build).await?;
    // The turn is kept: what waits for room stays as little as builders there are.
    place.hold(built.1.len()).await;
    drop(turn);
    Some(built)
}

enum Event {
    Item(Result<Item, RecvError>),
    Service,
    KeepAlive,
}
