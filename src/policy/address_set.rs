//! Sets of IP addresses as sorted ranges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

/// A set of IP addresses: ranges sorted, disjoint and not adjacent; IPv4 before IPv6.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AddressSet(Vec<Range>);

/// A run of addresses of one family, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Range {
    is_v6: bool,
    first: u128,
    last: u128,
}

impl Range {
    fn of(prefix: &IpNet) -> Self {
        let (is_v6, first) = key(prefix.network());
        let (_, last) = key(prefix.broadcast());
        Self { is_v6, first, last }
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.is_v6 == other.is_v6 && self.first <= other.last && other.first <= self.last
    }

    fn covers(&self, other: &Self) -> bool {
        self.is_v6 == other.is_v6 && self.first <= other.first && other.last <= self.last
    }

    fn address(&self, bits: u128) -> IpAddr {
        if self.is_v6 {
            return Ipv6Addr::from_bits(bits).into();
        }
        Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into()
    }

    /// The lowest and the highest address.
    pub(super) fn ends(&self) -> (IpAddr, IpAddr) {
        (self.address(self.first), self.address(self.last))
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let (is_v6, bits) = key(address);
        self.is_v6 == is_v6 && self.first <= bits && bits <= self.last
    }

    pub(super) fn overlaps_prefix(&self, prefix: &IpNet) -> bool {
        self.overlaps(&Self::of(prefix))
    }

    /// The fewest prefixes that are the same addresses.
    pub(super) fn prefixes(&self) -> Vec<IpNet> {
        match (self.address(self.first), self.address(self.last)) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                Ipv4Subnets::new(first, last, 0).map(IpNet::from).collect()
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                Ipv6Subnets::new(first, last, 0).map(IpNet::from).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Address, CIDR or `a-b`, whichever is exact.
    pub(super) fn text(&self) -> String {
        match self.prefixes().as_slice() {
            [prefix] => prefix_text(prefix),
            _ => format!("{}-{}", self.address(self.first), self.address(self.last)),
        }
    }
}

/// A prefix as filters name it: a bare address if it is a single one.
pub(super) fn prefix_text(prefix: &IpNet) -> String {
    if prefix.prefix_len() == prefix.max_prefix_len() {
        prefix.addr().to_string()
    } else {
        prefix.trunc().to_string()
    }
}

fn key(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(address) => (false, address.to_bits().into()),
        IpAddr::V6(address) => (true, address.to_bits()),
    }
}

impl AddressSet {
    /// The addresses of these prefixes.
    pub(super) fn of(prefixes: impl IntoIterator<Item = IpNet>) -> Self {
        Self::join(prefixes.into_iter().map(|prefix| Range::of(&prefix)))
    }

    fn join(ranges: impl IntoIterator<Item = Range>) -> Self {
        let mut sorted: Vec<Range> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut joined: Vec<Range> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match joined.last_mut() {
                Some(last)
                    if last.is_v6 == range.is_v6 && range.first <= last.last.saturating_add(1) =>
                {
                    last.last = last.last.max(range.last);
                }
                _ => joined.push(range),
            }
        }
        Self(joined)
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        Self::join(self.0.iter().chain(&other.0).copied())
    }

    /// What is in this set and not in the other.
    pub(super) fn minus(&self, other: &Self) -> Self {
        let mut left = self.0.clone();
        for hole in &other.0 {
            left = left.iter().flat_map(|range| cut(range, hole)).collect();
        }
        Self(left)
    }

    pub(super) fn ranges(&self) -> impl Iterator<Item = &Range> {
        self.0.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let (is_v6, bits) = key(address);
        let next = self
            .0
            .partition_point(|range| (range.is_v6, range.first) <= (is_v6, bits));
        let found = next.checked_sub(1).and_then(|place| self.0.get(place));
        found.is_some_and(|range| range.is_v6 == is_v6 && bits <= range.last)
    }

    /// Whether an address is in both.
    pub(super) fn overlaps(&self, prefix: &IpNet) -> bool {
        let wanted = Range::of(prefix);
        self.0.iter().any(|range| range.overlaps(&wanted))
    }

    /// Whether all of the other is in this set.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let covered = |wanted: &Range| self.0.iter().any(|range| range.covers(wanted));
        other.0.iter().all(covered)
    }

    /// Whether all of the range is in this set.
    pub(super) fn covers_range(&self, wanted: &Range) -> bool {
        self.0.iter().any(|range| range.covers(wanted))
    }

    /// The fewest prefixes that are the same set, sorted.
    pub(super) fn prefixes(&self) -> Vec<IpNet> {
        self.0.iter().flat_map(Range::prefixes).collect()
    }

    /// Address, CIDR or `a-b` for each range, sorted by address.
    pub(super) fn texts(&self) -> Vec<String> {
        self.0.iter().map(Range::text).collect()
    }
}

/// What of a range lies outside a hole.
fn cut(range: &Range, hole: &Range) -> Vec<Range> {
    if !range.overlaps(hole) {
        return vec![*range];
    }
    let mut left = Vec::new();
    if range.first < hole.first {
        left.push(Range {
            last: hole.first - 1,
            ..*range
        });
    }
    if hole.last < range.last {
        left.push(Range {
            first: hole.last + 1,
            ..*range
        });
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(prefixes: &[&str]) -> AddressSet {
        AddressSet::of(prefixes.iter().map(|text| text.parse().unwrap()))
    }

    #[test]
    fn ranges_are_joined_and_shown_as_briefly_as_exact() {
        let all = set(&["10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "1.1.1.1/32"]);
        assert_eq!(all.texts(), ["1.1.1.1", "10.0.0.0/8"]);
        let odd = set(&["100.64.0.0/10"]).minus(&set(&["100.115.92.0/23"]));
        assert_eq!(
            odd.texts(),
            ["100.64.0.0-100.115.91.255", "100.115.94.0-100.127.255.255"]
        );
    }

    #[test]
    fn families_do_not_mix() {
        let v4 = set(&["0.0.0.0/0"]);
        assert!(!v4.contains("::1".parse().unwrap()));
        assert!(v4.contains("255.255.255.255".parse().unwrap()));
        assert!(!v4.overlaps(&"::/0".parse().unwrap()));
        assert!(set(&["::/0", "0.0.0.0/0"]).covers(&v4));
        assert!(!v4.covers(&set(&["::/0"])));
    }

    #[test]
    fn a_set_minus_itself_is_empty() {
        let all = set(&["0.0.0.0/0", "::/0"]);
        assert!(all.minus(&all).is_empty());
        assert_eq!(all.minus(&set(&["::/0"])), set(&["0.0.0.0/0"]));
    }
}
