//! Which tailnet address a node gets: the next free one after the last one given, or the next free
//! one after a random place.
//!
//! Sequential allocation goes on from a cursor instead of reusing the lowest free address, so that
//! an address comes back to use as late as possible: peers may still hold it in an old netmap.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use imbl::OrdMap;
use ipnet::{Ipv4Net, Ipv6Net};

use crate::types::NodeId;

/// The addresses of a prefix that nodes may get: without the network and the broadcast address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pool {
    first: u128,
    last: u128,
    address: fn(u128) -> Option<IpAddr>,
}

/// Inclusive ranges that Tailscale clients use themselves: the service address 100.100.100.100,
/// 100.115.92.0/23 (virtual machines of ChromeOS), fd7a:115c:a1e0::53 (its IPv6 counterpart), and
/// fd7a:115c:a1e0:b1a::/64 (4via6 routes).
const RESERVED: [(u128, u128); 4] = [
    range4(
        Ipv4Addr::new(100, 100, 100, 100),
        Ipv4Addr::new(100, 100, 100, 100),
    ),
    range4(
        Ipv4Addr::new(100, 115, 92, 0),
        Ipv4Addr::new(100, 115, 93, 255),
    ),
    range6(
        Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0x53),
        Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0x53),
    ),
    range6(
        Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0xb1a, 0, 0, 0, 0),
        Ipv6Addr::new(
            0xfd7a, 0x115c, 0xa1e0, 0xb1a, 0xffff, 0xffff, 0xffff, 0xffff,
        ),
    ),
];

const fn range4(first: Ipv4Addr, last: Ipv4Addr) -> (u128, u128) {
    (first.to_bits() as u128, last.to_bits() as u128)
}

const fn range6(first: Ipv6Addr, last: Ipv6Addr) -> (u128, u128) {
    (first.to_bits(), last.to_bits())
}

impl Pool {
    pub(super) fn v4(prefix: Ipv4Net) -> Self {
        Self {
            first: u128::from(prefix.network().to_bits()) + 1,
            last: u128::from(prefix.broadcast().to_bits()).saturating_sub(1),
            address: |number| {
                u32::try_from(number)
                    .ok()
                    .map(|n| Ipv4Addr::from_bits(n).into())
            },
        }
    }

    pub(super) fn v6(prefix: Ipv6Net) -> Self {
        Self {
            first: prefix.network().to_bits().saturating_add(1),
            last: prefix.broadcast().to_bits().saturating_sub(1),
            address: |number| Some(Ipv6Addr::from_bits(number).into()),
        }
    }

    /// The next free address after the cursor, from the start of the pool when there is none.
    pub(super) fn after(
        &self,
        cursor: Option<IpAddr>,
        used: &OrdMap<IpAddr, NodeId>,
    ) -> Option<IpAddr> {
        let start = cursor.map_or(self.first, |ip| number(ip).saturating_add(1));
        self.first_free(start, used)
    }

    /// The next free address after a place that the entropy chooses.
    pub(super) fn random(&self, entropy: u64, used: &OrdMap<IpAddr, NodeId>) -> Option<IpAddr> {
        let size = self.last.checked_sub(self.first)?.saturating_add(1);
        let mut place = [0; 16];
        let hash = blake3::hash(&entropy.to_le_bytes());
        place.copy_from_slice(hash.as_bytes().first_chunk::<16>()?);
        self.first_free(self.first + u128::from_le_bytes(place) % size, used)
    }

    /// The address at this place of the pool, free or not, wrapping around.
    pub(super) fn at(&self, place: u64) -> Option<IpAddr> {
        let size = self.last.checked_sub(self.first)?.saturating_add(1);
        (self.address)(self.first + u128::from(place) % size)
    }

    /// The place of an address of the pool.
    pub(super) fn place_of(&self, ip: IpAddr) -> Option<u64> {
        u64::try_from(number(ip).checked_sub(self.first)?).ok()
    }

    /// The first free address from `start` on, wrapping around once.
    fn first_free(&self, start: u128, used: &OrdMap<IpAddr, NodeId>) -> Option<IpAddr> {
        let start = if (self.first..=self.last).contains(&start) {
            start
        } else {
            self.first
        };
        let behind = self.between(start, self.last, used);
        behind.or_else(|| self.between(self.first, start.saturating_sub(1), used))
    }

    /// The first free address of an inclusive range. Walks the used addresses beside the
    /// candidates, so that a full range costs one pass over its nodes.
    fn between(&self, first: u128, last: u128, used: &OrdMap<IpAddr, NodeId>) -> Option<IpAddr> {
        if first > last {
            return None;
        }
        let bounds = (self.address)(first)?..=(self.address)(last)?;
        let mut taken = used.range(bounds).map(|(ip, _)| number(*ip)).peekable();
        let mut candidate = first;
        while candidate <= last {
            if let Some(end) = reserved_end(candidate) {
                candidate = end.saturating_add(1);
                continue;
            }
            while taken.next_if(|number| *number < candidate).is_some() {}
            if taken.peek() != Some(&candidate) {
                return (self.address)(candidate);
            }
            candidate += 1;
        }
        None
    }
}

fn reserved_end(number: u128) -> Option<u128> {
    let range = RESERVED
        .iter()
        .find(|(first, last)| (*first..=*last).contains(&number));
    range.map(|(_, last)| *last)
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(prefix: &str) -> Pool {
        Pool::v4(prefix.parse().unwrap())
    }

    fn used(ips: &[&str]) -> OrdMap<IpAddr, NodeId> {
        ips.iter()
            .map(|ip| (ip.parse::<IpAddr>().unwrap(), NodeId(1)))
            .collect()
    }

    fn after(pool: &Pool, cursor: &str, taken: &[&str]) -> Option<String> {
        let cursor = (!cursor.is_empty()).then(|| cursor.parse().unwrap());
        pool.after(cursor, &used(taken)).map(|ip| ip.to_string())
    }

    #[test]
    fn sequential_starts_behind_the_network_address_and_goes_on_from_the_cursor() {
        let pool = v4("100.64.0.0/10");
        assert_eq!(after(&pool, "", &[]).unwrap(), "100.64.0.1");
        assert_eq!(after(&pool, "100.64.0.1", &[]).unwrap(), "100.64.0.2");
        assert_eq!(
            after(&pool, "100.64.0.1", &["100.64.0.2", "100.64.0.3"]).unwrap(),
            "100.64.0.4"
        );
        assert_eq!(after(&pool, "10.0.0.1", &[]).unwrap(), "100.64.0.1");
    }

    #[test]
    fn reserved_addresses_are_skipped() {
        let pool = v4("100.64.0.0/10");
        assert_eq!(
            after(&pool, "100.100.100.99", &[]).unwrap(),
            "100.100.100.101"
        );
        assert_eq!(after(&pool, "100.115.91.255", &[]).unwrap(), "100.115.94.0");
        let six = Pool::v6("fd7a:115c:a1e0::/48".parse().unwrap());
        assert_eq!(after(&six, "", &[]).unwrap(), "fd7a:115c:a1e0::1");
        assert_eq!(
            after(&six, "fd7a:115c:a1e0::52", &[]).unwrap(),
            "fd7a:115c:a1e0::54"
        );
        let via = "fd7a:115c:a1e0:b19:ffff:ffff:ffff:ffff";
        assert_eq!(after(&six, via, &[]).unwrap(), "fd7a:115c:a1e0:b1b::");
    }

    #[test]
    fn it_wraps_and_then_is_exhausted() {
        let pool = v4("10.0.0.0/29");
        let mut taken = vec!["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"];
        assert_eq!(after(&pool, "10.0.0.6", &taken).unwrap(), "10.0.0.1");
        assert_eq!(after(&pool, "10.0.0.2", &taken).unwrap(), "10.0.0.1");
        taken.extend(["10.0.0.1", "10.0.0.2"]);
        assert_eq!(after(&pool, "10.0.0.2", &taken), None);
        assert_eq!(pool.random(7, &used(&taken)), None);
    }

    #[test]
    fn a_prefix_without_room_gives_nothing() {
        for prefix in [
            "10.0.0.0/32",
            "10.0.0.0/31",
            "255.255.255.255/32",
            "0.0.0.0/32",
        ] {
            assert_eq!(after(&v4(prefix), "", &[]), None, "{prefix}");
            assert_eq!(v4(prefix).random(1, &used(&[])), None, "{prefix}");
        }
        let all = Pool::v6("::/0".parse().unwrap());
        assert_eq!(after(&all, "", &[]).unwrap(), "::1");
        assert!(all.random(3, &used(&[])).is_some());
    }

    #[test]
    fn random_places_differ_by_entropy_and_find_the_last_free_address() {
        let pool = v4("10.0.0.0/29");
        let taken = used(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.5", "10.0.0.6"]);
        for entropy in 0..50 {
            assert_eq!(
                pool.random(entropy, &taken).unwrap().to_string(),
                "10.0.0.4"
            );
        }
        let wide = v4("100.64.0.0/10");
        assert_ne!(wide.random(1, &used(&[])), wide.random(2, &used(&[])));
    }
}
