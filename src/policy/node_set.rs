//! Sets of nodes as bits over their places in the roster.

const BITS: usize = 64;

/// A set of places of a [`super::roster::Roster`].
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeSet(Vec<u64>);

impl NodeSet {
    /// The empty set over a roster of this size.
    pub(super) fn empty(size: usize) -> Self {
        Self(vec![0; size.div_ceil(BITS)])
    }

    pub(super) fn of(size: usize, places: impl IntoIterator<Item = usize>) -> Self {
        let mut set = Self::empty(size);
        for place in places {
            set.insert(place);
        }
        set
    }

    /// A place beyond the roster is ignored.
    pub(super) fn insert(&mut self, place: usize) {
        if let Some(word) = self.0.get_mut(place / BITS) {
            *word |= 1 << (place % BITS);
        }
    }

    pub(super) fn remove(&mut self, place: usize) {
        if let Some(word) = self.0.get_mut(place / BITS) {
            *word &= !(1 << (place % BITS));
        }
    }

    pub(super) fn contains(&self, place: usize) -> bool {
        let word = self.0.get(place / BITS);
        word.is_some_and(|word| word >> (place % BITS) & 1 == 1)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
    }

    /// Adds what is in both others.
    pub(super) fn add_both(&mut self, one: &Self, other: &Self) {
        for ((word, one), other) in self.0.iter_mut().zip(&one.0).zip(&other.0) {
            *word |= one & other;
        }
    }

    pub(super) fn meets(&self, other: &Self) -> bool {
        let mut pairs = self.0.iter().zip(&other.0);
        pairs.any(|(word, other)| word & other != 0)
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        let mut both = Self(vec![0; self.0.len()]);
        both.add_both(self, other);
        both
    }

    /// The places in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(number, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                if left == 0 {
                    return None;
                }
                let bit = left.trailing_zeros() as usize;
                left &= left - 1;
                Some(number * BITS + bit)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back_in_order() {
        let set = NodeSet::of(200, [130, 0, 63, 64]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 130]);
        assert!(set.contains(130) && !set.contains(131) && !set.contains(9_999));
    }

    #[test]
    fn sets_meet_where_both_have_a_place() {
        let one = NodeSet::of(100, [1, 99]);
        assert!(one.meets(&NodeSet::of(100, [99])));
        assert!(!one.meets(&NodeSet::of(100, [2])));
        assert_eq!(
            one.intersection(&NodeSet::of(100, [1, 2])),
            NodeSet::of(100, [1])
        );
    }
}
