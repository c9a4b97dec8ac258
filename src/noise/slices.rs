//! The slices of a vectored write as one buffer.

use std::io::IoSlice;

use bytes::Buf;

/// Several slices read as one, so that a record holds the end of one and the start of the next.
pub(super) struct Slices<'a> {
    slices: &'a [IoSlice<'a>],
    /// Bytes of the first slice that are taken.
    taken: usize,
    remaining: usize,
}

impl<'a> Slices<'a> {
    /// Starts at the first byte.
    pub(super) fn new(slices: &'a [IoSlice<'a>]) -> Self {
        let remaining = slices.iter().map(|slice| slice.len()).sum();
        let mut this = Self {
            slices,
            taken: 0,
            remaining,
        };
        this.skip_taken();
        this
    }

    fn skip_taken(&mut self) {
        while let Some((first, rest)) = self.slices.split_first() {
            if self.taken < first.len() {
                return;
            }
            self.taken -= first.len();
            self.slices = rest;
        }
    }
}

impl Buf for Slices<'_> {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.slices
            .first()
            .and_then(|first| first.get(self.taken..))
            .unwrap_or_default()
    }

    fn advance(&mut self, count: usize) {
        assert!(
            count <= self.remaining,
            "advance past the end of the slices"
        );
        self.remaining -= count;
        self.taken += count;
        self.skip_taken();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn slices_read_like_their_concatenation(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..10), 0..6),
            step in 1_usize..7,
        ) {
            let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
            let mut buf = Slices::new(&slices);
            let mut got = Vec::new();
            while buf.has_remaining() {
                let piece = buf.copy_to_bytes(step.min(buf.remaining()));
                got.extend_from_slice(&piece);
            }
            prop_assert_eq!(got, parts.concat());
        }
    }
}
