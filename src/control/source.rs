//! Where a client is, as far as that says something: for limits that keep one of many from using up
//! what is there for all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::http::HeaderMap;
use ipnet::{IpNet, Ipv4Net};

/// What proxies append the address to that they were called from.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// Addresses behind a provider's NAT (RFC 6598).
const SHARED: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10);
/// Of an IPv6 address, what one customer has at least: the rest it draws itself.
const NETWORK: u128 = !0 << 64;

/// An IPv4 address, or an IPv6 network of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source(IpAddr);

impl Source {
    /// Where a request comes from that arrived from `remote`.
    ///
    /// A trusted proxy tells; where it does not, nothing is known. An address of a private network is
    /// as well a balancer's, which all clients share, and says nothing either.
    pub(super) fn of(remote: IpAddr, headers: &HeaderMap, proxies: &[IpNet]) -> Option<Self> {
        let remote = remote.to_canonical();
        let is_proxy = |address: &IpAddr| proxies.iter().any(|net| net.contains(address));
        if is_proxy(&remote) {
            return forwarded(headers, is_proxy).map(Self::at);
        }
        is_public(remote).then(|| Self::at(remote))
    }

    fn at(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self(address),
            IpAddr::V6(address) => Self(Ipv6Addr::from_bits(address.to_bits() & NETWORK).into()),
        }
    }
}

/// The last address that no proxy of ours has: whatever stands before it, anybody may have written.
fn forwarded(headers: &HeaderMap, is_proxy: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let lines = headers.get_all(FORWARDED_FOR).into_iter().rev();
    for line in lines {
        for entry in line.to_str().ok()?.rsplit(',') {
            let address = entry.trim().parse::<IpAddr>().ok()?.to_canonical();
            if !is_proxy(&address) {
                return Some(address);
            }
        }
    }
    None
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !(address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_unspecified()
                || SHARED.contains(&address))
        }
        IpAddr::V6(address) => {
            !(address.is_loopback()
                || address.is_unspecified()
                || address.is_unique_local()
                || address.is_unicast_link_local())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(remote: &str, forwarded_for: &[&str], proxies: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in forwarded_for {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        let proxies: Vec<IpNet> = proxies.iter().map(|net| net.parse().unwrap()).collect();
        let source = Source::of(remote.parse().unwrap(), &headers, &proxies);
        source.map(|source| source.0.to_string())
    }

    #[test]
    fn a_public_address_is_a_source_and_one_that_a_balancer_may_have_is_none() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(source("192.0.2.1", &[], &[]), some("192.0.2.1"));
        assert_eq!(source("::ffff:192.0.2.1", &[], &[]), some("192.0.2.1"));
        let network = source("2001:db8:1:2:3:4:5:6", &[], &[]);
        assert_eq!(network, some("2001:db8:1:2::"));
        for inside in ["10.0.0.1", "127.0.0.1", "100.64.0.1", "::1", "fd00::1"] {
            assert_eq!(source(inside, &[], &[]), None, "{inside}");
        }
    }

    #[test]
    fn a_trusted_proxy_tells_the_address_and_nobody_else_does() {
        let proxies = ["10.0.0.0/8", "198.51.100.7/32"];
        let told = |remote, lines: &[&str]| source(remote, lines, &proxies);
        let client = Some("192.0.2.1".to_owned());
        assert_eq!(told("10.0.0.1", &["192.0.2.1"]), client);
        assert_eq!(told("10.0.0.1", &["6.6.6.6, 192.0.2.1, 10.0.0.9"]), client);
        assert_eq!(told("10.0.0.1", &["6.6.6.6", "192.0.2.1"]), client);
        assert_eq!(told("192.0.2.1", &["6.6.6.6"]), client);
        for nothing in [&[][..], &["6.6.6.6, unknown"], &["10.0.0.9"]] {
            assert_eq!(told("10.0.0.1", nothing), None);
        }
        assert_eq!(
            told("198.51.100.7", &[]),
            None,
            "a balancer without headers"
        );
    }
}
