//! What a writer sends in one go: whole frames, written with few calls.

use std::io::IoSlice;
use std::time::Duration;

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use super::client::CloseReason;
use super::frame::{
    KEEP_ALIVE, PING_DATA_BYTES, PacketKind, PeerGone, Pong, RecvPacket, Restarting,
};
use super::limits::SLICES_PER_WRITE;
use super::metrics::{DropReason, RelayMetrics};

/// Slices that need no allocation; most batches are short, and idle connections pay for these.
const SLICES_INLINE: usize = 8;

/// Frames in order, and how far they are written.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    frames: Vec<Bytes>,
    /// Frames at the front that are written.
    written: usize,
    tally: Tally,
    closing: Option<CloseReason>,
}

/// What the frames of a batch are, for the counters.
#[derive(Debug, Default)]
struct Tally {
    data: Sum,
    disco: Sum,
    waited: Duration,
    pongs: u64,
    keep_alives: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    packets: u64,
    bytes: usize,
}

impl Batch {
    /// Adds a packet that waited this long.
    pub(crate) fn push_packet(&mut self, frame: RecvPacket, waited: Duration) {
        let sum = match frame.kind {
            PacketKind::Data => &mut self.tally.data,
            PacketKind::Disco => &mut self.tally.disco,
        };
        sum.packets += 1;
        sum.bytes += frame.packet_len();
        self.tally.waited += waited;
        self.frames.push(frame.wire);
    }

    /// Adds the answer to a ping.
    pub(crate) fn push_pong(&mut self, data: [u8; PING_DATA_BYTES]) {
        self.tally.pongs += 1;
        self.frames.push(Pong(data).encode());
    }

    /// Adds a keep-alive.
    pub(crate) fn push_keep_alive(&mut self) {
        self.tally.keep_alives += 1;
        self.frames.push(Bytes::from_static(KEEP_ALIVE));
    }

    /// Adds a notice.
    pub(crate) fn push_gone(&mut self, notice: &PeerGone) {
        self.frames.push(notice.encode());
    }

    /// Adds the notice of a restart.
    pub(crate) fn push_restarting(&mut self, notice: Restarting) {
        self.frames.push(notice.encode());
    }

    /// Notes whether the connection is to end after this batch.
    pub(crate) fn set_closing(&mut self, closing: Option<CloseReason>) {
        self.closing = closing;
    }

    /// Whether the connection is to end after this batch.
    pub(crate) fn closing(&self) -> Option<CloseReason> {
        self.closing
    }

    /// Whether every frame is written.
    pub(crate) fn is_written(&self) -> bool {
        self.written == self.frames.len()
    }

    /// The frames that are not written yet.
    pub(crate) fn frames(&self) -> impl Iterator<Item = &Bytes> {
        self.frames.iter().skip(self.written)
    }

    /// The start of what is not written yet.
    pub(crate) fn slices(&self) -> SmallVec<[IoSlice<'_>; SLICES_INLINE]> {
        self.frames()
            .take(SLICES_PER_WRITE)
            .map(|frame| IoSlice::new(frame))
            .collect()
    }

    /// Notes that `bytes` more are written.
    pub(crate) fn advance(&mut self, mut bytes: usize) {
        while let Some(frame) = self.frames.get_mut(self.written) {
            if bytes < frame.len() {
                frame.advance(bytes);
                return;
            }
            bytes -= frame.len();
            self.written += 1;
        }
    }

    /// Counts the frames as sent and empties the batch; its memory is kept.
    pub(crate) fn finish(&mut self, metrics: &RelayMetrics) {
        let tally = std::mem::take(&mut self.tally);
        for (sum, kind) in [
            (tally.data, PacketKind::Data),
            (tally.disco, PacketKind::Disco),
        ] {
            if sum.packets > 0 {
                metrics.sent.add(kind, sum.packets, sum.bytes);
            }
        }
        if !tally.waited.is_zero() {
            metrics
                .queue_wait_us
                .add(u64::try_from(tally.waited.as_micros()).unwrap_or(u64::MAX));
        }
        if tally.pongs > 0 {
            metrics.sent_pong.add(tally.pongs);
        }
        if tally.keep_alives > 0 {
            metrics.keep_alives.add(tally.keep_alives);
        }
        self.clear();
    }

    /// Counts the packets as lost to a failed write and empties the batch.
    pub(crate) fn fail(&mut self, metrics: &RelayMetrics) {
        let tally = std::mem::take(&mut self.tally);
        for (sum, kind) in [
            (tally.data, PacketKind::Data),
            (tally.disco, PacketKind::Disco),
        ] {
            if sum.packets > 0 {
                metrics.drop_packets(DropReason::WriteError, kind, sum.packets, sum.bytes);
            }
        }
        self.clear();
    }

    /// Gives memory back that an idle connection does not need.
    pub(crate) fn shrink(&mut self) {
        self.frames.shrink_to_fit();
    }

    fn clear(&mut self) {
        self.frames.clear();
        self.written = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(lens: &[usize]) -> Batch {
        let mut batch = Batch::default();
        for len in lens {
            let wire = Bytes::from(vec![0; 37 + len]);
            let frame = RecvPacket {
                kind: PacketKind::Data,
                wire,
            };
            batch.push_packet(frame, Duration::from_micros(3));
        }
        batch
    }

    #[test]
    fn a_partial_write_resumes_inside_a_frame() {
        let mut batch = batch(&[3, 5]);
        batch.advance(40);
        assert_eq!(
            batch.slices().iter().map(|s| s.len()).collect::<Vec<_>>(),
            [42]
        );
        batch.advance(41);
        assert!(!batch.is_written());
        assert_eq!(
            batch.slices().iter().map(|s| s.len()).collect::<Vec<_>>(),
            [1]
        );
        batch.advance(1);
        assert!(batch.is_written());
        batch.advance(99);
        assert!(batch.is_written(), "more than there is changes nothing");
    }

    #[test]
    fn sent_packets_are_counted_once_finished() {
        let metrics = RelayMetrics::default();
        let mut batch = batch(&[3, 5]);
        batch.push_keep_alive();
        batch.finish(&metrics);
        assert_eq!(
            (metrics.sent.data.value(), metrics.sent.bytes.value()),
            (2, 8)
        );
        assert_eq!(
            (metrics.queue_wait_us.value(), metrics.keep_alives.value()),
            (6, 1)
        );
        assert!(batch.is_written());
        batch.finish(&metrics);
        assert_eq!(metrics.sent.data.value(), 2);
    }
}
