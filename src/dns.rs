//! MagicDNS names and the DNS part of a netmap (`tailcfg.DNSConfig`).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::config::DnsConfig;
use crate::state::{Node, Settings};
use crate::tailcfg::{self, DnsRecord, Resolver};

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

/// What every node is told about name resolution. A node whose key has expired is told nothing.
pub fn dns_config(
    config: &DnsConfig,
    settings: Option<&Settings>,
    expired: bool,
) -> tailcfg::DnsConfig {
    if expired {
        return tailcfg::DnsConfig::default();
    }
    let global: Vec<_> = config.global.iter().map(resolver).collect();
    let (resolvers, fallback_resolvers) = if config.override_local_dns {
        (global, vec![])
    } else {
        (vec![], global)
    };
    let mut domains = Vec::new();
    if config.magic_dns && !config.base_domain.is_empty() {
        domains.push(config.base_domain.clone());
    }
    domains.extend(config.search_domains.iter().cloned());
    tailcfg::DnsConfig {
        resolvers,
        routes: Some(routes(config, settings)),
        fallback_resolvers,
        domains,
        proxied: config.magic_dns,
        extra_records: config.extra_records.iter().map(record).collect(),
        ..Default::default()
    }
}

fn resolver(addr: &String) -> Resolver {
    Resolver {
        addr: addr.clone(),
        ..Resolver::default()
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
fn routes(config: &DnsConfig, settings: Option<&Settings>) -> BTreeMap<String, Vec<Resolver>> {
    let mut routes: BTreeMap<_, Vec<_>> = config
        .split
        .iter()
        .map(|(domain, servers)| (domain.clone(), servers.iter().map(resolver).collect()))
        .collect();
    if let Some(settings) = settings.filter(|_| config.magic_dns) {
        let v4 = settings
            .ipv4_prefix
            .filter(|prefix| !CGNAT.contains(prefix));
        let v6 = settings
            .ipv6_prefix
            .filter(|prefix| !TAILSCALE_ULA.contains(prefix));
        let zones = v4.map(reverse_zones_v4).into_iter().flatten();
        for zone in zones.chain(v6.map(reverse_zone_v6)) {
            routes.entry(zone).or_default();
        }
    }
    routes
}

/// Zones below `in-addr.arpa`, one for each value of the last byte that the prefix touches.
fn reverse_zones_v4(prefix: Ipv4Net) -> Vec<String> {
    let octets = prefix.network().octets();
    let whole = usize::from(prefix.prefix_len() / 8).min(3);
    let fixed: Vec<_> = octets.iter().take(whole).map(u8::to_string).collect();
    let last = octets.get(whole).copied().unwrap_or(0);
    let spread = (prefix.broadcast().octets().get(whole).copied().unwrap_or(0)).max(last);
    (last..=spread)
        .map(|byte| {
            let mut labels = vec![byte.to_string()];
            labels.extend(fixed.iter().rev().cloned());
            format!("{}.in-addr.arpa", labels.join("."))
        })
        .collect()
}

/// The zone below `ip6.arpa`, cut at the last whole hex digit.
fn reverse_zone_v6(prefix: Ipv6Net) -> String {
    let digits = usize::from(prefix.prefix_len() / 4);
    let hex = prefix
        .network()
        .octets()
        .map(|byte| format!("{byte:02x}"))
        .concat();
    let labels: Vec<_> = hex.chars().take(digits).collect();
    let reversed: Vec<_> = labels.iter().rev().map(char::to_string).collect();
    format!("{}.ip6.arpa", reversed.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reverse_zones_cover_the_prefix() {
        assert_eq!(
            reverse_zones_v4("10.20.30.0/23".parse().unwrap()),
            ["30.20.10.in-addr.arpa", "31.20.10.in-addr.arpa"]
        );
        assert_eq!(reverse_zones_v4("10.0.0.0/8".parse().unwrap()).len(), 256);
        assert_eq!(
            reverse_zone_v6("fd00:1234::/32".parse().unwrap()),
            "4.3.2.1.0.0.d.f.ip6.arpa"
        );
    }

    #[test]
    fn global_resolvers_override_or_stand_by() {
        let mut config = DnsConfig {
            global: vec!["1.1.1.1".to_owned()],
            ..DnsConfig::default()
        };
        assert_eq!(dns_config(&config, None, false).fallback_resolvers.len(), 1);
        config.override_local_dns = true;
        let dns = dns_config(&config, None, false);
        assert_eq!((dns.resolvers.len(), dns.fallback_resolvers.len()), (1, 0));
        assert_eq!(
            dns_config(&config, None, true),
            tailcfg::DnsConfig::default()
        );
    }
}
