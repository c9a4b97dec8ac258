//! Who hears whom no more. Pure.

use std::collections::BTreeSet;

/// Ordered pairs (from, to) of replicas between which nothing passes.
pub type Cuts = BTreeSet<(usize, usize)>;

/// Nothing passes between the two groups, either way.
pub(super) fn apart(one: &[usize], two: &[usize]) -> Cuts {
    let pairs = one.iter().flat_map(|a| two.iter().map(move |b| (*a, *b)));
    pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect()
}

/// The first of `order` is alone.
pub(super) fn alone(order: &[usize]) -> Cuts {
    let (one, others) = order.split_at(order.len().min(1));
    apart(one, others)
}

/// The smaller half of `order`, which comes first, and the larger one.
pub(super) fn halves(order: &[usize]) -> Cuts {
    let (minority, majority) = order.split_at(order.len().saturating_sub(1) / 2);
    apart(minority, majority)
}

/// Nothing reaches the first of `order`, but it is heard.
pub(super) fn deaf(order: &[usize]) -> Cuts {
    let (one, others) = order.split_at(order.len().min(1));
    let pairs = one
        .iter()
        .flat_map(|to| others.iter().map(move |from| (*from, *to)));
    pairs.collect()
}

/// The first of `order` hears, but is not heard.
pub(super) fn mute(order: &[usize]) -> Cuts {
    deaf(order)
        .into_iter()
        .map(|(from, to)| (to, from))
        .collect()
}

/// The first of `order` reaches the second only, which is one of a majority that reach each other;
/// the rest reaches nobody. Of four and more the first has no majority any more; but it keeps the
/// bridge, whom they need, from seeing that it lacks one, so that without a remedy nobody leads
/// (databendlabs/openraft, issue 2080). Of three the first keeps its majority.
pub(super) fn bridge(order: &[usize]) -> Cuts {
    let majority = order.len() / 2 + 1;
    all_but(order, |one, two| {
        let (first, second) = (one.min(two), one.max(two));
        let is_among_majority = first > 0 && second <= majority;
        second == 1 || is_among_majority
    })
}

/// Each reaches only the one before and the one behind it: of five each sees another majority. Of
/// three nobody would miss anybody, so there the ring is open: the last does not reach the first.
pub(super) fn ring(order: &[usize]) -> Cuts {
    let len = order.len();
    all_but(order, |one, two| {
        let apart = one.abs_diff(two);
        apart <= 1 || (len > 3 && apart == len - 1)
    })
}

/// Nothing passes but between those whose places in `order` are near.
fn all_but(order: &[usize], is_near: impl Fn(usize, usize) -> bool) -> Cuts {
    let mut cuts = Cuts::new();
    for (one, a) in order.iter().enumerate() {
        for (two, b) in order.iter().enumerate() {
            if one != two && !is_near(one, two) {
                cuts.insert((*a, *b));
            }
        }
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many `who` talks with, itself included.
    fn company(cuts: &Cuts, size: usize, who: usize) -> usize {
        let talks =
            |other: &usize| !cuts.contains(&(who, *other)) && !cuts.contains(&(*other, who));
        (0..size).filter(talks).count()
    }

    fn companies(cuts: &Cuts, size: usize) -> Vec<usize> {
        (0..size).map(|who| company(cuts, size, who)).collect()
    }

    #[test]
    fn halves_leave_a_majority_of_any_size() {
        assert_eq!(companies(&halves(&[0, 1, 2, 3, 4]), 5), [2, 2, 3, 3, 3]);
        assert_eq!(companies(&halves(&[2, 0, 1]), 3), [2, 2, 1]);
        assert_eq!(companies(&alone(&[1, 0, 2]), 3), [2, 1, 2]);
    }

    #[test]
    fn one_way_cuts_have_a_direction() {
        assert_eq!(deaf(&[1, 0, 2]), Cuts::from([(0, 1), (2, 1)]));
        assert_eq!(mute(&[1, 0, 2]), Cuts::from([(1, 0), (1, 2)]));
    }

    #[test]
    fn in_a_ring_of_five_everybody_sees_another_majority() {
        assert_eq!(companies(&ring(&[3, 1, 4, 0, 2]), 5), [3; 5]);
        assert_eq!(companies(&ring(&[0, 1, 2]), 3), [2, 3, 2]);
    }

    #[test]
    fn the_only_majority_needs_the_bridge_that_the_first_one_reaches() {
        let cuts = bridge(&[2, 0, 1, 3, 4]);
        assert_eq!(companies(&cuts, 5), [4, 3, 2, 3, 1]);
        assert!(!cuts.contains(&(2, 0)) && !cuts.contains(&(1, 3)));
        assert_eq!(companies(&bridge(&[0, 1, 2, 3]), 4), [2, 4, 3, 3]);
        assert_eq!(companies(&bridge(&[1, 0, 2]), 3), [3, 2, 2]);
    }
}
