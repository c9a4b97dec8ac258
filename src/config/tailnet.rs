//! What becomes the settings of the tailnet, and the features that clients are told about.

use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Serialize;

use crate::state::Settings;

use super::duration::parse_prometheus_duration;
use super::reader::Reader;

/// Default of `node.ephemeral.inactivity_timeout`.
const EPHEMERAL_INACTIVITY: Duration = Duration::from_secs(120);
/// An ephemeral node must outlive a missed keep-alive (60 s) and its reconnection.
const EPHEMERAL_INACTIVITY_MIN: Duration = Duration::from_secs(65);
/// Default of `tuning.register_cache_expiration`.
const LOGIN_TTL: Duration = Duration::from_secs(15 * 60);
/// A node counts as online this long after its map stream closed.
const SESSION_GRACE: Duration = Duration::from_secs(10);
/// A node counts as online this long after its replica died.
const REPLICA_GRACE: Duration = Duration::from_secs(25);

/// Where addresses come from and how long things live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TailnetConfig {
    /// `prefixes.v4`; at least one of the two is set.
    pub ipv4_prefix: Option<Ipv4Net>,
    /// `prefixes.v6`.
    pub ipv6_prefix: Option<Ipv6Net>,
    /// `prefixes.allocation: random`.
    pub random_allocation: bool,
    /// `node.ephemeral.inactivity_timeout`.
    pub ephemeral_inactivity: Duration,
    /// `node.expiry`; absent = nodes do not expire.
    pub node_expiry: Option<Duration>,
    /// `tuning.register_cache_expiration`.
    pub login_ttl: Duration,
}

/// What clients are told about features that are not part of the netmap proper.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FeatureConfig {
    /// `logtail.enabled`; false = clients are told to upload no logs.
    pub logtail: bool,
    /// `taildrop.enabled`; whether nodes have the file-sharing capability.
    pub taildrop: bool,
    /// `auto_update.enabled`; the clients' default for updating themselves.
    pub auto_update: bool,
}

impl TailnetConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let (ipv4_prefix, ipv6_prefix) = read_prefixes(reader);
        let random_allocation = reader
            .parse("prefixes.allocation", |text| match text {
                "sequential" => Ok(false),
                "random" => Ok(true),
                _ => Err("must be sequential or random"),
            })
            .unwrap_or(false);
        Self {
            ipv4_prefix,
            ipv6_prefix,
            random_allocation,
            ephemeral_inactivity: read_ephemeral_inactivity(reader),
            node_expiry: read_node_expiry(reader),
            login_ttl: reader
                .duration("tuning.register_cache_expiration")
                .filter(|ttl| !ttl.is_zero())
                .unwrap_or(LOGIN_TTL),
        }
    }

    /// The settings that a new tailnet starts with.
    pub fn settings(&self) -> Settings {
        Settings {
            ipv4_prefix: self.ipv4_prefix,
            ipv6_prefix: self.ipv6_prefix,
            random_allocation: self.random_allocation,
            ephemeral_inactivity: self.ephemeral_inactivity,
            node_expiry: self.node_expiry,
            login_ttl: self.login_ttl,
            session_grace: SESSION_GRACE,
            replica_grace: REPLICA_GRACE,
        }
    }
}

fn read_prefixes(reader: &mut Reader<'_>) -> (Option<Ipv4Net>, Option<Ipv6Net>) {
    let mut ipv4 = reader.parse("prefixes.v4", |text| {
        text.parse::<Ipv4Net>()
            .map(|net| net.trunc())
            .map_err(|_| "must be an IPv4 network such as 100.64.0.0/10")
    });
    let mut ipv6 = reader.parse("prefixes.v6", |text| {
        text.parse::<Ipv6Net>()
            .map(|net| net.trunc())
            .map_err(|_| "must be an IPv6 network such as fd7a:115c:a1e0::/48")
    });
    let given = reader.setting("prefixes.v4").is_some() || reader.setting("prefixes.v6").is_some();
    let older = reader.parse_list("ip_prefixes", |text| {
        text.parse::<IpNet>()
            .map_err(|_| "must be a network such as 100.64.0.0/10")
    });
    if !given {
        for net in &older {
            match net.trunc() {
                IpNet::V4(net) => ipv4 = ipv4.or(Some(net)),
                IpNet::V6(net) => ipv6 = ipv6.or(Some(net)),
            }
        }
    }
    if !given && older.is_empty() {
        let problem = "needs an address range; set prefixes.v4 (100.64.0.0/10), prefixes.v6 \
                       (fd7a:115c:a1e0::/48) or both";
        reader.fail_key("prefixes", problem);
    }
    warn_of_foreign_ranges(reader, ipv4, ipv6);
    (ipv4, ipv6)
}

/// Clients filter and route only these ranges as the tailnet's own.
fn warn_of_foreign_ranges(reader: &mut Reader<'_>, ipv4: Option<Ipv4Net>, ipv6: Option<Ipv6Net>) {
    let within = |net: IpNet, range: &str| {
        range
            .parse::<IpNet>()
            .is_ok_and(|range: IpNet| range.contains(&net))
    };
    if let Some(net) = ipv4.filter(|net| !within((*net).into(), "100.64.0.0/10")) {
        reader.notice(format!(
            "prefixes.v4: {net} is outside 100.64.0.0/10: Tailscale clients do not support it"
        ));
    }
    if let Some(net) = ipv6.filter(|net| !within((*net).into(), "fd7a:115c:a1e0::/48")) {
        reader.notice(format!(
            "prefixes.v6: {net} is outside fd7a:115c:a1e0::/48: Tailscale clients do not support it"
        ));
    }
}

fn read_ephemeral_inactivity(reader: &mut Reader<'_>) -> Duration {
    const KEY: &str = "node.ephemeral.inactivity_timeout";
    let timeout = reader.duration(KEY).unwrap_or(EPHEMERAL_INACTIVITY);
    if timeout <= EPHEMERAL_INACTIVITY_MIN
        && let Some(setting) = reader.setting(KEY)
    {
        reader.fail(setting.error("must be more than 65s, or nodes vanish between keep-alives"));
    }
    timeout
}

/// A bad value is a notice and not an error, as in headscale.
fn read_node_expiry(reader: &mut Reader<'_>) -> Option<Duration> {
    let text = reader.string("node.expiry")?;
    match parse_prometheus_duration(&text) {
        Ok(expiry) => Some(expiry).filter(|expiry| !expiry.is_zero()),
        Err(problem) => {
            reader.notice(format!(
                "node.expiry: {text:?} {problem}; nodes do not expire"
            ));
            None
        }
    }
}

impl FeatureConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            logtail: reader.bool("logtail.enabled").unwrap_or(false),
            taildrop: reader.bool("taildrop.enabled").unwrap_or(true),
            auto_update: reader.bool("auto_update.enabled").unwrap_or(false),
        }
    }
}
