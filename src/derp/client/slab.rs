//! Read buffers, kept per thread so that idle connections hold none.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;

use crate::derp::limits::{POOLED_SLABS_MAX, READ_SLAB_BYTES};

thread_local! {
    static POOL: RefCell<Vec<Slab>> = const { RefCell::new(Vec::new()) };
}

/// Room for a read: an ordinary packet in its frame.
const READ_BYTES_MIN: usize = 2048;

/// Source of slab numbers.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A read buffer with a number that tells the frames cut from it apart from others'.
#[derive(Debug)]
pub(super) struct Slab {
    /// What was read and not yet decoded.
    pub(super) buf: BytesMut,
    /// Unique in the process.
    pub(super) number: u64,
}

impl Slab {
    /// An empty slab of this thread, or a new one.
    pub(super) fn take() -> Self {
        POOL.with_borrow_mut(Vec::pop)
            .unwrap_or_else(|| Self::holding(BytesMut::with_capacity(READ_SLAB_BYTES)))
    }

    /// A slab that starts with bytes read elsewhere.
    pub(super) fn holding(buf: BytesMut) -> Self {
        Self {
            buf,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Gives the slab back. One that frames still point into is left to them.
    pub(super) fn put(mut self) {
        self.buf.clear();
        if !self.buf.try_reclaim(READ_SLAB_BYTES) || self.buf.capacity() > 2 * READ_SLAB_BYTES {
            return;
        }
        POOL.with_borrow_mut(|pool| {
            if pool.len() < POOLED_SLABS_MAX {
                pool.push(self);
            }
        });
    }

    /// Makes room for `missing` more bytes, moving what is undecoded to a fresh slab if need be.
    pub(super) fn make_room(&mut self, missing: usize) {
        let missing = missing.max(READ_BYTES_MIN);
        let spare = self.buf.capacity() - self.buf.len();
        if spare >= missing || self.buf.try_reclaim(missing.max(READ_SLAB_BYTES / 2)) {
            return;
        }
        let mut fresh = Self::take();
        fresh.buf.reserve(self.buf.len() + missing);
        fresh.buf.extend_from_slice(&self.buf);
        std::mem::replace(self, fresh).put();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slab_is_reused_unless_frames_point_into_it() {
        POOL.with_borrow_mut(Vec::clear);
        let mut slab = Slab::take();
        let number = slab.number;
        slab.buf.extend_from_slice(b"frame");
        let frame = slab.buf.split_to(5).freeze();
        slab.put();
        let mut slab = Slab::take();
        assert_ne!(slab.number, number, "the first one is still in use");
        assert_eq!(&frame[..], b"frame");
        let number = slab.number;
        slab.buf.extend_from_slice(b"other");
        slab.put();
        let slab = Slab::take();
        assert_eq!((slab.number, slab.buf.len()), (number, 0));
    }

    #[test]
    fn room_for_a_long_frame_keeps_what_is_undecoded() {
        let mut slab = Slab::take();
        slab.buf.extend_from_slice(&vec![1; READ_SLAB_BYTES - 3]);
        let frame = slab.buf.split_to(READ_SLAB_BYTES - 5).freeze();
        slab.make_room(70_000);
        assert_eq!(&slab.buf[..], &[1, 1]);
        assert!(slab.buf.capacity() >= 70_002);
        assert_eq!(frame.len(), READ_SLAB_BYTES - 5);
    }
}
