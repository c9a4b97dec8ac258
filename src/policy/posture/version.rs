//! Versions in their order, as Tailscale compares them (its package `cmpver`).

use std::cmp::Ordering;

/// Compares runs of other characters by letter and runs of digits by number, in turns; the end of
/// a version is an empty run, and an empty run of digits is 0: `12` comes before `12.0`.
pub(super) fn compare(mut one: &str, mut other: &str) -> Ordering {
    while !one.is_empty() || !other.is_empty() {
        let words = (
            take(&mut one, |c| !c.is_ascii_digit()),
            take(&mut other, |c| !c.is_ascii_digit()),
        );
        let digits = (
            take(&mut one, |c| c.is_ascii_digit()),
            take(&mut other, |c| c.is_ascii_digit()),
        );
        let order = words
            .0
            .cmp(words.1)
            .then_with(|| numeric(digits.0, digits.1));
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

fn take<'a>(text: &mut &'a str, belongs: impl Fn(char) -> bool) -> &'a str {
    let end = text.find(|c| !belongs(c)).unwrap_or(text.len());
    let (run, rest) = text.split_at(end);
    *text = rest;
    run
}

/// Numbers of any length.
fn numeric(one: &str, other: &str) -> Ordering {
    let (one, other) = (one.trim_start_matches('0'), other.trim_start_matches('0'));
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_are_in_their_order() {
        let ordered = [
            "1.2",
            "1.2.0",
            "1.2.3-a",
            "1.02.10",
            "1.10",
            "1.10.0-rc1",
            "12",
            "12.0",
            "x1",
        ];
        for (place, one) in ordered.iter().enumerate() {
            for (other_place, other) in ordered.iter().enumerate() {
                let wanted = place.cmp(&other_place);
                assert_eq!(compare(one, other), wanted, "{one} and {other}");
            }
        }
        assert_eq!(compare("1.08", "1.8"), Ordering::Equal);
        assert_eq!(
            compare("99999999999999999999998", "99999999999999999999999"),
            Ordering::Less
        );
    }

    proptest! {
        #[test]
        fn the_order_is_one(a in "[0-9a-c.-]{0,8}", b in "[0-9a-c.-]{0,8}", c in "[0-9a-c.-]{0,8}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }
    }
}
