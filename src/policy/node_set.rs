//! Sets of small numbers as bits: of nodes by their places in the roster, of terms, of routes.

const BITS: usize = 64;

/// A set of numbers. It is as long as its greatest number needs, so that equal sets are equal however
/// they were made, and that a roster can grow without touching its sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeSet(Vec<u64>);

impl NodeSet {
    pub(super) fn of(numbers: impl IntoIterator<Item = usize>) -> Self {
        let mut set = Self::default();
        for number in numbers {
            set.insert(number);
        }
        set
    }

    /// A set from its words, least numbers first.
    pub(super) fn of_words(words: Vec<u64>) -> Self {
        let mut set = Self(words);
        set.trim();
        set
    }

    pub(super) fn words(&self) -> &[u64] {
        &self.0
    }

    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    pub(super) fn insert(&mut self, number: usize) {
        let word = number / BITS;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= 1 << (number % BITS);
        }
    }

    pub(super) fn remove(&mut self, number: usize) {
        if let Some(word) = self.0.get_mut(number / BITS) {
            *word &= !(1 << (number % BITS));
        }
        self.trim();
    }

    pub(super) fn set(&mut self, number: usize, is_in: bool) {
        if is_in {
            self.insert(number);
        } else {
            self.remove(number);
        }
    }

    pub(super) fn contains(&self, number: usize) -> bool {
        let word = self.0.get(number / BITS);
        word.is_some_and(|word| word >> (number % BITS) & 1 == 1)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
    }

    /// Adds what is in both others.
    pub(super) fn add_both(&mut self, one: &Self, other: &Self) {
        self.add(&one.intersection(other));
    }

    pub(super) fn meets(&self, other: &Self) -> bool {
        let mut pairs = self.0.iter().zip(&other.0);
        pairs.any(|(word, other)| word & other != 0)
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        let pairs = self.0.iter().zip(&other.0);
        Self::of_words(pairs.map(|(word, other)| word & other).collect())
    }

    pub(super) fn without(&self, other: &Self) -> Self {
        let others = other.0.iter().chain(std::iter::repeat(&0));
        let pairs = self.0.iter().zip(others);
        Self::of_words(pairs.map(|(word, other)| word & !other).collect())
    }

    /// The numbers in order.
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
    fn numbers_come_back_in_order() {
        let set = NodeSet::of([130, 0, 63, 64]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 130]);
        assert!(set.contains(130) && !set.contains(131) && !set.contains(9_999));
    }

    #[test]
    fn sets_meet_where_both_have_a_number() {
        let one = NodeSet::of([1, 99]);
        assert!(one.meets(&NodeSet::of([99])));
        assert!(!one.meets(&NodeSet::of([2, 500])));
        assert_eq!(one.intersection(&NodeSet::of([1, 2])), NodeSet::of([1]));
        assert_eq!(one.without(&NodeSet::of([1, 200])), NodeSet::of([99]));
    }

    #[test]
    fn equal_sets_are_equal_however_they_were_made() {
        let mut set = NodeSet::of([1, 5_000]);
        set.remove(5_000);
        assert_eq!(set, NodeSet::of([1]));
        set.remove(1);
        assert!(set.is_empty());
        set.add(&NodeSet::of([700]));
        assert_eq!(set, NodeSet::of([700]));
    }
}
