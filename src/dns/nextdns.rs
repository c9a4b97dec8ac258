//! Resolvers of NextDNS: their URL says whose settings count, and which device asks.
//!
//! Attributes of the policy say it for single nodes, as headscale has it: `nextdns:PROFILE` takes the
//! place of what the configured URL says, `nextdns:no-device-info` keeps the device to itself.

use std::net::IpAddr;

use crate::state::Node;
use crate::tailcfg::{CapMap, Resolver};

const URL: &str = "https://dns.nextdns.io";
const PREFIX: &str = "nextdns:";
const NO_DEVICE_INFO: &str = "no-device-info";
/// Longest name of a profile, in bytes.
const PROFILE_MAX: usize = 64;

/// How a node asks NextDNS.
pub(super) struct NextDns<'a> {
    viewer: &'a Node,
    /// Whose settings count, if not those of the configured URL.
    profile: Option<&'a str>,
    tells_device: bool,
}

impl<'a> NextDns<'a> {
    /// How a node with these attributes asks. Of several profiles the first in order counts.
    pub(super) fn of(viewer: &'a Node, attributes: &'a CapMap) -> Self {
        let own = || {
            attributes
                .keys()
                .filter_map(|name| name.strip_prefix(PREFIX))
        };
        Self {
            viewer,
            profile: own().find(|name| *name != NO_DEVICE_INFO && is_profile(name)),
            tells_device: !own().any(|name| name == NO_DEVICE_INFO),
        }
    }

    /// The resolvers at these addresses.
    pub(super) fn resolvers(&self, addresses: &[String]) -> Vec<Resolver> {
        let resolver = |addr: &String| Resolver {
            addr: self.address(addr).unwrap_or_else(|| addr.clone()),
            ..Resolver::default()
        };
        addresses.iter().map(resolver).collect()
    }

    /// The address with what NextDNS is to know; `None` for other resolvers.
    fn address(&self, addr: &str) -> Option<String> {
        let rest = addr.strip_prefix(URL)?;
        // Anything else is a host of somebody else's.
        if !rest.is_empty() && !rest.starts_with(['/', '?']) {
            return None;
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (path, query) = match self.profile {
            Some(profile) => (format!("/{profile}"), ""),
            None => (path.to_owned(), query),
        };
        let kept = query.split('&').filter(|pair| !pair.is_empty());
        let device = self.tells_device.then(|| self.device());
        let device: Vec<(&str, String)> = device.into_iter().flatten().collect();
        let is_device = |pair: &&str| {
            let name = pair.split_once('=').map_or(*pair, |(name, _)| name);
            device.iter().any(|(own, _)| *own == name)
        };
        let told = device.iter().map(|(name, value)| format!("{name}={value}"));
        let kept = kept.filter(|pair| !is_device(pair)).map(str::to_owned);
        let pairs: Vec<String> = kept.chain(told).collect();
        let mark = if pairs.is_empty() { "" } else { "?" };
        Some(format!("{URL}{path}{mark}{}", pairs.join("&")))
    }

    /// The device, as NextDNS wants to know it.
    fn device(&self) -> impl Iterator<Item = (&'static str, String)> {
        let node = self.viewer;
        let v6 = || node.ipv6.map(IpAddr::from);
        let ip = node.ipv4.map(IpAddr::from).or_else(v6);
        let ip = ip.map(|ip| ("device_ip", escaped(&ip.to_string())));
        ip.into_iter().chain([
            ("device_model", escaped(&node.hostinfo.os)),
            ("device_name", escaped(&node.hostname)),
        ])
    }
}

/// Whether a name cannot be taken for another part of a URL.
fn is_profile(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=PROFILE_MAX).contains(&name.len()) && name.bytes().all(is_plain)
}

/// Query text: everything but unreserved characters is percent-encoded (RFC 3986 section 2.3).
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netmap::testing::node;

    const DEVICE: &str = "device_ip=100.64.0.1&device_model=linux&device_name=Ann%27s%20laptop";

    fn told(addr: &str, attributes: &[&str]) -> String {
        let mut viewer = node(1);
        viewer.hostname = "Ann's laptop".to_owned();
        let attributes = attributes.iter().map(|name| ((*name).to_owned(), vec![]));
        let attributes: CapMap = attributes.collect();
        let nextdns = NextDns::of(&viewer, &attributes);
        nextdns.resolvers(&[addr.to_owned()]).remove(0).addr
    }

    #[test]
    fn nextdns_is_told_which_device_asks() {
        let configured = "https://dns.nextdns.io/abc";
        assert_eq!(told(configured, &[]), format!("{configured}?{DEVICE}"));
        assert_eq!(told(configured, &["nextdns:no-device-info"]), configured);
    }

    #[test]
    fn a_profile_of_the_policy_takes_the_place_of_the_configured_one() {
        for configured in ["https://dns.nextdns.io", "https://dns.nextdns.io/abc?x=1"] {
            let profile = ["nextdns:own1", "nextdns:own2"];
            let own = format!("https://dns.nextdns.io/own1?{DEVICE}");
            assert_eq!(told(configured, &profile), own);
            let alone = ["nextdns:own1", "nextdns:no-device-info"];
            assert_eq!(told(configured, &alone), "https://dns.nextdns.io/own1");
        }
    }

    #[test]
    fn what_the_configured_query_says_stays() {
        let configured = "https://dns.nextdns.io/abc?x=1&device_name=all";
        let expected = format!("https://dns.nextdns.io/abc?x=1&{DEVICE}");
        assert_eq!(told(configured, &[]), expected);
    }

    #[test]
    fn a_profile_that_could_lead_elsewhere_counts_for_nothing() {
        let configured = "https://dns.nextdns.io/abc";
        for name in ["a/b", "a?b", "a@b", "", "a b", "é", &"a".repeat(65)] {
            let attribute = format!("nextdns:{name}");
            assert_eq!(
                told(configured, &[&attribute]),
                format!("{configured}?{DEVICE}")
            );
        }
    }

    #[test]
    fn other_resolvers_are_told_nothing() {
        for other in [
            "1.1.1.1",
            "https://dns.nextdns.io.example.com/abc",
            "https://dns.example.com/nextdns",
        ] {
            assert_eq!(told(other, &["nextdns:own"]), other);
        }
    }
}
