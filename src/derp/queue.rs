//! What waits to be written to one client.
//!
//! Two bounded queues of packets, disco and data, that drop their oldest when full, so that a slow
//! client gets fresh packets rather than stale ones and never holds up a sender. Beside them the
//! few small things that a client may be owed: a pong, a keep-alive, `PeerGone` notices.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::batch::Batch;
use super::client::CloseReason;
use super::frame::{PING_DATA_BYTES, PacketKind, PeerGone, RecvPacket};
use super::limits::{
    DATA_QUEUE_BYTES_MAX, DISCO_QUEUE_BYTES_MAX, PEER_GONE_QUEUE_MAX, PINNED_SLABS_MAX,
    QUEUE_PACKETS_MAX,
};
use super::metrics::{DropReason, RelayMetrics};

/// The queue of one connection: many readers push, one writer takes.
#[derive(Debug)]
pub(crate) struct SendQueue {
    inner: Mutex<Inner>,
    wake: Notify,
    cut: Notify,
}

/// A packet on its way into a queue.
#[derive(Debug)]
pub(crate) struct Packet {
    /// The frame to write.
    pub(crate) frame: RecvPacket,
    /// Number of the read buffer that the frame is a part of; `None` when it has its own memory.
    pub(crate) slab: Option<u64>,
}

#[derive(Debug)]
struct Inner {
    disco: PacketQueue,
    data: PacketQueue,
    pong: Option<[u8; PING_DATA_BYTES]>,
    keep_alive: bool,
    gone: Vec<PeerGone>,
    closing: Option<CloseReason>,
}

impl SendQueue {
    /// An empty queue.
    pub(crate) fn new() -> Self {
        let inner = Inner {
            disco: PacketQueue::new(DISCO_QUEUE_BYTES_MAX),
            data: PacketQueue::new(DATA_QUEUE_BYTES_MAX),
            pong: None,
            keep_alive: false,
            gone: Vec::new(),
            closing: None,
        };
        Self {
            inner: Mutex::new(inner),
            wake: Notify::new(),
            cut: Notify::new(),
        }
    }

    /// Adds a packet; the oldest of its kind make room.
    pub(crate) fn push(&self, packet: Packet, now: Instant, metrics: &RelayMetrics) {
        self.add(|inner| {
            let kind = packet.frame.kind;
            if inner.closing.is_some() {
                let bytes = packet.frame.packet_len();
                metrics.drop_packet(DropReason::GoneDisconnected, kind, bytes);
                return;
            }
            let queue = match kind {
                PacketKind::Data => &mut inner.data,
                PacketKind::Disco => &mut inner.disco,
            };
            queue.push(packet, now, metrics);
        });
    }

    /// Owes the client a pong. One is owed at a time: more pings than that get no answer.
    pub(crate) fn push_pong(&self, data: [u8; PING_DATA_BYTES]) {
        self.add(|inner| {
            inner.pong.get_or_insert(data);
        });
    }

    /// Owes the client a keep-alive now, whatever its timer says.
    pub(crate) fn push_keep_alive(&self) {
        self.add(|inner| inner.keep_alive = true);
    }

    /// Owes the client a notice; false when too many wait.
    pub(crate) fn push_gone(&self, notice: PeerGone) -> bool {
        let mut accepted = true;
        self.add(|inner| {
            accepted = inner.gone.len() < PEER_GONE_QUEUE_MAX;
            if accepted && inner.closing.is_none() {
                inner.gone.push(notice);
            }
        });
        accepted
    }

    /// Asks for the end of the connection: after what waits when the reason is a drain, else at
    /// once. The first reason counts.
    pub(crate) fn close(&self, reason: CloseReason) {
        let mut inner = self.inner.lock();
        let first = *inner.closing.get_or_insert(reason);
        drop(inner);
        if first == CloseReason::Draining && reason == first {
            self.wake.notify_one();
        } else {
            self.cut.notify_one();
        }
    }

    /// Waits until the connection is to end at once, whatever is being written. Cancel-safe.
    pub(crate) async fn cut(&self) -> CloseReason {
        self.cut.notified().await;
        self.inner
            .lock()
            .closing
            .unwrap_or(CloseReason::ShuttingDown)
    }

    /// Ends the queue: what still waits is counted as dropped for `reason`.
    pub(crate) fn discard(&self, reason: DropReason, metrics: &RelayMetrics) {
        let mut inner = self.inner.lock();
        inner.closing.get_or_insert(CloseReason::PeerClosed);
        let Inner {
            disco, data, gone, ..
        } = &mut *inner;
        for Queued { frame, .. } in disco.frames.drain(..).chain(data.frames.drain(..)) {
            metrics.drop_packet(reason, frame.kind, frame.packet_len());
        }
        gone.clear();
    }

    /// Whether nothing more is accepted.
    pub(crate) fn is_closing(&self) -> bool {
        self.inner.lock().closing.is_some()
    }

    /// Moves everything that waits into `batch`, in the order in which it should go out: pong,
    /// disco, keep-alive, data, notices. A notice comes last because packets of the peer that left
    /// may wait in front of it, and a client that got them afterwards would trust the route again.
    pub(crate) fn take(&self, batch: &mut Batch, now: Instant) {
        let mut inner = self.inner.lock();
        if let Some(data) = inner.pong.take() {
            batch.push_pong(data);
        }
        inner.disco.take(batch, now);
        if std::mem::take(&mut inner.keep_alive) {
            batch.push_keep_alive();
        }
        inner.data.take(batch, now);
        for notice in inner.gone.drain(..) {
            batch.push_gone(&notice);
        }
        batch.set_closing(inner.closing);
    }

    /// Waits until something may have been added since the last call. Cancel-safe.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Gives memory back that an idle connection does not need.
    pub(crate) fn shrink(&self) {
        let mut inner = self.inner.lock();
        inner.disco.frames.shrink_to_fit();
        inner.data.frames.shrink_to_fit();
        inner.gone.shrink_to_fit();
    }

    /// Changes the queue and wakes the writer if it may be asleep.
    fn add(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.inner.lock();
        let was_empty = inner.is_empty();
        change(&mut inner);
        drop(inner);
        if was_empty {
            self.wake.notify_one();
        }
    }
}

impl Inner {
    fn is_empty(&self) -> bool {
        self.pong.is_none()
            && !self.keep_alive
            && self.disco.frames.is_empty()
            && self.data.frames.is_empty()
            && self.gone.is_empty()
    }
}

/// One bounded queue of packets.
#[derive(Debug)]
struct PacketQueue {
    frames: VecDeque<Queued>,
    bytes: usize,
    bytes_max: usize,
    /// Read buffers that frames may keep alive since the queue was last empty, counted from above.
    pinned: usize,
    last_slab: Option<u64>,
}

#[derive(Debug)]
struct Queued {
    frame: RecvPacket,
    since: Instant,
}

impl PacketQueue {
    fn new(bytes_max: usize) -> Self {
        Self {
            frames: VecDeque::new(),
            bytes: 0,
            bytes_max,
            pinned: 0,
            last_slab: None,
        }
    }

    fn push(&mut self, packet: Packet, now: Instant, metrics: &RelayMetrics) {
        let len = packet.frame.wire.len();
        while self.frames.len() >= QUEUE_PACKETS_MAX || self.bytes + len > self.bytes_max {
            let Some(Queued { frame, .. }) = self.frames.pop_front() else {
                break;
            };
            self.bytes -= frame.wire.len();
            metrics.drop_packet(DropReason::QueueHead, frame.kind, frame.packet_len());
        }
        let frame = self.pin(packet);
        self.bytes += len;
        self.frames.push_back(Queued { frame, since: now });
    }

    /// Lets the frame keep its read buffer alive, or copies it out when too many are.
    fn pin(&mut self, Packet { frame, slab }: Packet) -> RecvPacket {
        if slab.is_none() || slab == self.last_slab {
            return frame;
        }
        if self.pinned >= PINNED_SLABS_MAX {
            return frame.detached();
        }
        self.pinned += 1;
        self.last_slab = slab;
        frame
    }

    fn take(&mut self, batch: &mut Batch, now: Instant) {
        for Queued { frame, since } in self.frames.drain(..) {
            batch.push_packet(frame, now.saturating_duration_since(since));
        }
        self.bytes = 0;
        self.pinned = 0;
        self.last_slab = None;
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, Bytes, BytesMut};

    use super::*;
    use crate::derp::frame::PeerGoneReason;
    use crate::types::NodeKey;

    /// A `RecvPacket` frame with `len` bytes of packet, all `fill`.
    fn packet(kind: PacketKind, fill: u8, len: usize) -> Packet {
        let mut wire = BytesMut::from(&[5, 0, 0, 0, 0][..]);
        wire.put_bytes(0xaa, 32);
        wire.put_bytes(fill, len);
        Packet {
            frame: RecvPacket {
                kind,
                wire: wire.freeze(),
            },
            slab: None,
        }
    }

    fn take(queue: &SendQueue) -> Batch {
        let mut batch = Batch::default();
        queue.take(&mut batch, Instant::now());
        batch
    }

    /// The last byte of each frame.
    fn tails(batch: &Batch) -> Vec<u8> {
        batch.frames().map(|frame| *frame.last().unwrap()).collect()
    }

    #[tokio::test]
    async fn the_oldest_packets_make_room() {
        let (queue, metrics) = (SendQueue::new(), RelayMetrics::default());
        for fill in 0..40 {
            queue.push(
                packet(PacketKind::Data, fill, 100),
                Instant::now(),
                &metrics,
            );
        }
        assert_eq!(tails(&take(&queue)), (8..40).collect::<Vec<_>>());
        assert_eq!(metrics.dropped_queue_head.data.value(), 8);
        assert_eq!(metrics.dropped_queue_head.bytes.value(), 800);
    }

    #[tokio::test]
    async fn bytes_are_bounded_as_well() {
        let (queue, metrics) = (SendQueue::new(), RelayMetrics::default());
        for fill in 0..5 {
            queue.push(
                packet(PacketKind::Data, fill, 65_536),
                Instant::now(),
                &metrics,
            );
        }
        assert_eq!(tails(&take(&queue)), [2, 3, 4]);
        queue.push(
            packet(PacketKind::Data, 9, 65_536),
            Instant::now(),
            &metrics,
        );
        assert_eq!(tails(&take(&queue)), [9], "a taken queue has room again");
    }

    #[tokio::test]
    async fn batch_goes_out_in_order_of_worth() {
        let (queue, metrics) = (SendQueue::new(), RelayMetrics::default());
        let key = NodeKey::from_bytes([1; 32]);
        assert!(queue.push_gone(PeerGone {
            key,
            reason: PeerGoneReason::NotHere
        }));
        queue.push(packet(PacketKind::Data, 0xda, 10), Instant::now(), &metrics);
        queue.push_keep_alive();
        queue.push(
            packet(PacketKind::Disco, 0xd1, 10),
            Instant::now(),
            &metrics,
        );
        queue.push_pong([0x99; 8]);
        queue.push_pong([0x11; 8]);
        assert_eq!(tails(&take(&queue)), [0x99, 0xd1, 0x00, 0xda, 0x01]);
        assert_eq!(take(&queue).frames().count(), 0);
    }

    #[tokio::test]
    async fn notices_are_bounded() {
        let queue = SendQueue::new();
        let key = NodeKey::from_bytes([1; 32]);
        let notice = PeerGone {
            key,
            reason: PeerGoneReason::Disconnected,
        };
        let accepted = (0..2000).filter(|_| queue.push_gone(notice)).count();
        assert_eq!(accepted, PEER_GONE_QUEUE_MAX);
    }

    #[tokio::test]
    async fn a_closed_queue_counts_what_it_refuses() {
        let (queue, metrics) = (SendQueue::new(), RelayMetrics::default());
        queue.push(packet(PacketKind::Data, 1, 10), Instant::now(), &metrics);
        queue.close(CloseReason::Removed);
        queue.close(CloseReason::ShuttingDown);
        queue.push(packet(PacketKind::Data, 2, 10), Instant::now(), &metrics);
        queue.discard(DropReason::WriteError, &metrics);
        assert_eq!(take(&queue).closing(), Some(CloseReason::Removed));
        assert_eq!(metrics.dropped_gone.data.value(), 1);
        assert_eq!(metrics.dropped_write_error.data.value(), 1);
    }

    #[tokio::test]
    async fn a_backlog_keeps_few_read_buffers_alive() {
        let (queue, metrics) = (SendQueue::new(), RelayMetrics::default());
        let slabs = (0..10)
            .map(|_| BytesMut::from(&[7; 1000][..]).freeze())
            .collect::<Vec<_>>();
        for (number, slab) in (0..).zip(&slabs) {
            let frame = RecvPacket {
                kind: PacketKind::Data,
                wire: slab.slice(..500),
            };
            queue.push(
                Packet {
                    frame,
                    slab: Some(number),
                },
                Instant::now(),
                &metrics,
            );
        }
        let shared = slabs.iter().filter(|slab| !slab.is_unique()).count();
        assert_eq!(shared, PINNED_SLABS_MAX);
    }

    #[tokio::test]
    async fn the_writer_wakes_for_the_first_thing_added() {
        let queue = SendQueue::new();
        queue.push_keep_alive();
        queue.changed().await;
        assert_eq!(take(&queue).frames().map(Bytes::len).sum::<usize>(), 5);
    }
}
