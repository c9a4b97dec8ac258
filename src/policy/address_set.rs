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

    /// Whether all of it lies before another one.
    fn is_before(&self, other: &Self) -> bool {
        (self.is_v6, self.last) < (other.is_v6, other.first)
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

    /// What is in any of the sets: one by one, each union would cost as much as all before it.
    pub(super) fn union_of<'a>(sets: impl IntoIterator<Item = &'a Self>) -> Self {
        Self::join(sets.into_iter().flat_map(|set| &set.0).copied())
    }

    /// What is in this set and not in the other.
    pub(super) fn minus(&self, other: &Self) -> Self {
        let mut left = Vec::with_capacity(self.0.len());
        let mut holes = other.0.iter().peekable();
        for range in &self.0 {
            // Nor do they concern what comes later.
            while holes.next_if(|hole| hole.is_before(range)).is_some() {}
            let mut rest = Some(*range);
            for hole in holes.clone().take_while(|hole| !range.is_before(hole)) {
                let Some(open) = rest else { break };
                if open.first < hole.first {
                    let last = hole.first - 1;
                    left.push(Range { last, ..open });
                }
                rest = (hole.last < open.last).then(|| Range {
                    first: hole.last + 1,
                    ..open
                });
            }
            left.extend(rest);
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
        let found = self.not_before(&wanted);
        found.is_some_and(|range| range.overlaps(&wanted))
    }

    /// The first range that does not lie before another one.
    fn not_before(&self, wanted: &Range) -> Option<&Range> {
        self.0
            .get(self.0.partition_point(|range| range.is_before(wanted)))
    }

    /// Whether all of the other is in this set.
    pub(super) fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|wanted| self.covers_range(wanted))
    }

    /// Whether all of the range is in this set.
    pub(super) fn covers_range(&self, wanted: &Range) -> bool {
        let found = self.not_before(wanted);
        found.is_some_and(|range| range.covers(wanted))
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

    #[test]
    fn a_set_with_holes_is_what_single_addresses_say() {
        let texts = [
            "10.0.0.0/29",
            "10.0.0.2/31",
            "10.0.0.6/32",
            "10.0.0.8/30",
            "10.0.0.12/32",
            "255.255.255.255/32",
            "::/126",
            "::3/128",
        ];
        let sets: Vec<AddressSet> = (0..1_u32 << texts.len())
            .step_by(7)
            .map(|mask| {
                let chosen = texts.iter().enumerate();
                let chosen = chosen.filter(|(bit, _)| mask >> bit & 1 == 1);
                AddressSet::of(chosen.map(|(_, text)| text.parse().unwrap()))
            })
            .collect();
        let v4 = (0..16).chain([u32::MAX - 0x0a00_0000]);
        let v4 = v4.map(|last| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + last)));
        let v6 = (0..6).map(|last| IpAddr::from(Ipv6Addr::from_bits(last)));
        let all: Vec<IpAddr> = v4.chain(v6).collect();
        for (one, other) in sets.iter().flat_map(|a| sets.iter().map(move |b| (a, b))) {
            let left = one.minus(other);
            let both = AddressSet::union_of([one, other]);
            assert!(both.covers(one) && both.covers(other));
            assert_eq!(both, one.union(other));
            for address in &all {
                let is_in = |set: &AddressSet| set.contains(*address);
                assert_eq!(is_in(&left), is_in(one) && !is_in(other), "{address}");
                assert_eq!(is_in(one), one.overlaps(&IpNet::from(*address)));
            }
            assert_eq!(one.covers(other), other.minus(one).is_empty());
        }
    }
}
