//! MagicDNS names and the DNS part of a netmap (`tailcfg.DNSConfig`).

mod nextdns;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use self::nextdns::NextDns;
use crate::config::DnsConfig;
use crate::state::{Node, Settings};
use crate::tailcfg::{self, CapMap, DnsRecord, Resolver};
use crate::types::Timestamp;

/// The range whose reverse zones clients serve by themselves.
const CGNAT: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10);
/// The range whose reverse zone clients serve by themselves.
const TAILSCALE_ULA: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0), 48);

/// Name of a node with the dot at its end (`tailcfg.Node.Name`). The text behind the first label is
/// the client's MagicDNS suffix.
pub fn node_name(node: &Node, base_domain: &str) -> String {
    if base_domain.is_empty() {
        format!("{}.", node.given_name)
    } else {
        format!("{}.{base_domain}.", node.given_name)
    }
}

/// What a node with these attributes is told about name resolution. A node whose key has expired is
/// told nothing.
pub fn dns_config(
    config: &DnsConfig,
    settings: Option<&Settings>,
    (viewer, attributes): (&Node, &CapMap),
    now: Timestamp,
) -> tailcfg::DnsConfig {
    if viewer.is_expired(now) {
        return tailcfg::DnsConfig::default();
    }
    let nextdns = NextDns::of(viewer, attributes);
    let global = nextdns.resolvers(&config.global);
    let (resolvers, fallback_resolvers) = if config.override_local_dns {
        (global, vec![])
    } else {
        (vec![], global)
    };
    let magic = config.magic_dns && !config.base_domain.is_empty();
    let base = magic.then(|| config.base_domain.clone());
    tailcfg::DnsConfig {
        resolvers,
        routes: Some(routes(config, settings, &nextdns)),
        fallback_resolvers,
        domains: base
            .into_iter()
            .chain(config.search_domains.iter().cloned())
            .collect(),
        proxied: config.magic_dns,
        extra_records: config.extra_records.iter().map(record).collect(),
        ..Default::default()
    }
}

fn record(record: &crate::config::ExtraRecord) -> DnsRecord {
    DnsRecord {
        name: record.name.clone(),
        r#type: record.kind.clone(),
        value: record.value.clone(),
    }
}

/// Split DNS, and the reverse zones of prefixes that clients do not know by themselves; an empty
/// list means that the client answers from the netmap.
fn routes(
    config: &DnsConfig,
    settings: Option<&Settings>,
    nextdns: &NextDns<'_>,
) -> BTreeMap<String, Vec<Resolver>> {
    let split = config.split.iter();
    let mut routes: BTreeMap<_, Vec<_>> = split
        .map(|(domain, servers)| (domain.clone(), nextdns.resolvers(servers)))
        .collect();
    if let Some(settings) = settings.filter(|_| config.magic_dns) {
        let v4 = settings
            .ipv4_prefix
            .filter(|prefix| !CGNAT.contains(prefix));
        let v6 = settings
            .ipv6_prefix
            .filter(|prefix| !TAILSCALE_ULA.contains(prefix));
        let zones = v4.map(reverse_zones_v4).into_iter().flatten();
        for zone in zones.chain(v6.map(reverse_zones_v6).into_iter().flatten()) {
            routes.entry(zone).or_default();
        }
    }
    routes
}

/// Zones below `in-addr.arpa`: a label is a byte.
fn reverse_zones_v4(prefix: Ipv4Net) -> Vec<String> {
    let bytes = prefix.network().octets().map(u16::from);
    let label = |byte: u16| format!("{byte}.");
    reverse_zones(&bytes, 8, prefix.prefix_len(), label, "in-addr.arpa")
}

/// Zones below `ip6.arpa`: a label is a hex digit.
fn reverse_zones_v6(prefix: Ipv6Net) -> Vec<String> {
    let bytes = prefix.network().octets();
    let digits: Vec<_> = bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(u16::from)
        .collect();
    let label = |digit: u16| format!("{digit:x}.");
    reverse_zones(&digits, 4, prefix.prefix_len(), label, "ip6.arpa")
}

/// The zones that cover a network and nothing beside it: one when the prefix ends between two
/// labels, else one for each value of the label in which it ends.
fn reverse_zones(
    network: &[u16],
    label_bits: u8,
    prefix_len: u8,
    label: impl Fn(u16) -> String,
    root: &str,
) -> Vec<String> {
    let whole = usize::from(prefix_len / label_bits);
    let fixed: Vec<_> = network
        .iter()
        .take(whole)
        .map(|value| label(*value))
        .collect();
    let zone: String = fixed.into_iter().rev().chain([root.to_owned()]).collect();
    let spare_bits = label_bits - prefix_len % label_bits;
    if spare_bits == label_bits {
        return vec![zone];
    }
    let first = network.get(whole).copied().unwrap_or_default();
    let values = first..first + (1 << spare_bits);
    values.map(|value| label(value) + &zone).collect()
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;

    use super::*;
    use crate::netmap::testing::node;

    fn zones(prefix: &str) -> Vec<String> {
        match prefix.parse::<IpNet>().unwrap() {
            IpNet::V4(net) => reverse_zones_v4(net),
            IpNet::V6(net) => reverse_zones_v6(net),
        }
    }

    fn told(config: &DnsConfig) -> tailcfg::DnsConfig {
        let viewer = (&node(1), &CapMap::new());
        dns_config(config, None, viewer, Timestamp::default())
    }

    #[test]
    fn reverse_zones_cover_the_prefix_and_no_more() {
        assert_eq!(zones("10.0.0.0/8"), ["10.in-addr.arpa"]);
        assert_eq!(
            zones("10.20.30.0/23"),
            ["30.20.10.in-addr.arpa", "31.20.10.in-addr.arpa"]
        );
        assert_eq!(
            zones("192.0.2.6/31"),
            ["6.2.0.192.in-addr.arpa", "7.2.0.192.in-addr.arpa"]
        );
        assert_eq!(zones("100.64.0.0/10").len(), 64);
        assert_eq!(zones("fd00:1234::/32"), ["4.3.2.1.0.0.d.f.ip6.arpa"]);
        assert_eq!(zones("fd00::/7").len(), 2);
        assert_eq!(zones("fd00::/7"), ["c.f.ip6.arpa", "d.f.ip6.arpa"]);
    }

    #[test]
    fn prefixes_that_clients_know_need_no_reverse_zones_and_others_do() {
        let config = DnsConfig {
            magic_dns: true,
            ..DnsConfig::default()
        };
        let mut settings = crate::netmap::testing::settings();
        let routes = |settings: &Settings| {
            let viewer = (&node(1), &CapMap::new());
            dns_config(&config, Some(settings), viewer, Timestamp::default())
                .routes
                .unwrap()
        };
        assert!(routes(&settings).is_empty());
        settings.ipv4_prefix = Some("10.9.0.0/16".parse().unwrap());
        assert_eq!(
            routes(&settings),
            BTreeMap::from([("9.10.in-addr.arpa".to_owned(), vec![])])
        );
    }

    #[test]
    fn global_resolvers_override_or_stand_by() {
        let mut config = DnsConfig {
            global: vec!["1.1.1.1".to_owned()],
            ..DnsConfig::default()
        };
        assert_eq!(told(&config).fallback_resolvers.len(), 1);
        config.override_local_dns = true;
        let dns = told(&config);
        assert_eq!((dns.resolvers.len(), dns.fallback_resolvers.len()), (1, 0));
    }

    #[test]
    fn the_base_domain_leads_the_search_list_only_with_magic_dns() {
        let mut config = DnsConfig {
            magic_dns: true,
            base_domain: "net.example.com".to_owned(),
            search_domains: vec!["corp.example".to_owned()],
            ..DnsConfig::default()
        };
        assert_eq!(told(&config).domains, ["net.example.com", "corp.example"]);
        config.magic_dns = false;
        assert_eq!(told(&config).domains, ["corp.example"]);
    }

    #[test]
    fn an_expired_node_is_told_nothing() {
        let config = DnsConfig {
            global: vec!["1.1.1.1".to_owned()],
            ..DnsConfig::default()
        };
        let mut viewer = node(1);
        viewer.expires_at = Some(Timestamp::from_unix_ms(5));
        let viewer = (&viewer, &CapMap::new());
        let dns = dns_config(&config, None, viewer, Timestamp::from_unix_ms(5));
        assert_eq!(dns, tailcfg::DnsConfig::default());
    }

    #[test]
    fn without_a_base_domain_the_host_name_is_the_whole_name() {
        assert_eq!(
            node_name(&node(1), "net.example.com"),
            "host1.net.example.com."
        );
        assert_eq!(node_name(&node(1), ""), "host1.");
    }
}
