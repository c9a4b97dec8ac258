//! A node as its peers and as it itself see it (`tailcfg.Node`).

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde_json::{Value, json};

use super::profile::owner;
use super::routes::{RouteTable, exit_routes};
use super::text::plain;
use super::{NetmapConfig, View};
use crate::dns::node_name;
use crate::state::{Node, State};
use crate::tailcfg::{self, CapMap, Hostinfo, Location, Service};
use crate::types::{RegionId, Timestamp};

/// Everything that a node of a netmap is made from.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) view: View<'a>,
    pub(super) state: &'a State,
    pub(super) routes: &'a RouteTable,
    pub(super) now: Timestamp,
}

impl Scene<'_> {
    /// A node as peers see it.
    pub(super) fn peer(&self, node: &Node) -> tailcfg::Node {
        let expired = node.is_expired(self.now);
        let online = self.state.is_online(node.id);
        let addresses = addresses(node);
        let primary_routes = self.routes.primary(node.id).to_vec();
        let allowed = addresses
            .iter()
            .copied()
            .chain(primary_routes.iter().copied());
        tailcfg::Node {
            id: node.id,
            stable_id: node.id.to_string(),
            name: node_name(node, &self.view.config.dns.base_domain),
            user: owner(node),
            key: node.node_key,
            key_expiry: node.expires_at,
            disco_key: node.disco_key,
            allowed_ips: Some(allowed.chain(exit_routes(node)).collect()),
            addresses,
            endpoints: Some(if expired { vec![] } else { endpoints(node) }),
            home_derp: node.home_derp.filter(|_| !expired).unwrap_or(RegionId(0)),
            hostinfo: Some(reduced(&node.hostinfo)),
            created: Some(node.created_at),
            cap: node.capver,
            tags: node.tags.clone(),
            primary_routes,
            last_seen: node.last_seen.filter(|_| !online),
            online: Some(online),
            machine_authorized: true,
            expired,
            ..Default::default()
        }
    }

    /// A node as it sees itself: with its machine key and its capabilities.
    pub(super) fn own(&self, node: &Node) -> tailcfg::Node {
        let mut own = self.peer(node);
        own.machine = Some(node.machine_key);
        own.cap_map = capabilities(self.view.config);
        own.cap_map
            .extend(self.view.policy.capabilities(self.state, node));
        own
    }
}

/// What the configuration lets every node do.
fn capabilities(config: &NetmapConfig) -> CapMap {
    let none = Vec::<Value>::new;
    let mut map = CapMap::from([
        ("https://tailscale.com/cap/ssh".to_owned(), none()),
        (
            "default-auto-update".to_owned(),
            vec![json!(config.features.auto_update)],
        ),
    ]);
    if config.features.taildrop {
        map.insert("https://tailscale.com/cap/file-sharing".to_owned(), none());
    }
    map
}

/// IPv4 before IPv6: tailscale-rs takes them by position.
fn addresses(node: &Node) -> Vec<IpNet> {
    let v4 = node.ipv4.map(IpAddr::from);
    let v6 = node.ipv6.map(IpAddr::from);
    v4.into_iter().chain(v6).map(IpNet::from).collect()
}

pub(super) fn endpoints(node: &Node) -> Vec<SocketAddr> {
    node.endpoints
        .iter()
        .map(|endpoint| endpoint.addr)
        .collect()
}

/// What peers need of a Hostinfo; the rest is nobody else's business. Of the services that is the
/// peer API (Taildrop, DNS of exit nodes).
fn reduced(hostinfo: &Hostinfo) -> Hostinfo {
    let is_peer_api = |service: &&Service| {
        matches!(
            service.proto.as_str(),
            "peerapi4" | "peerapi6" | "peerapi-dns-proxy"
        )
    };
    let bare = |service: &Service| Service {
        description: String::new(),
        ..service.clone()
    };
    Hostinfo {
        os: plain(&hostinfo.os),
        hostname: plain(&hostinfo.hostname),
        services: hostinfo
            .services
            .iter()
            .filter(is_peer_api)
            .map(bare)
            .collect(),
        sharee_node: hostinfo.sharee_node,
        location: hostinfo.location.as_ref().map(plain_location),
        routable_ips: hostinfo.routable_ips.clone(),
        ssh_host_keys: hostinfo
            .ssh_host_keys
            .iter()
            .map(|key| plain(key))
            .collect(),
        app_connector: hostinfo.app_connector,
        ..Default::default()
    }
}

fn plain_location(location: &Location) -> Location {
    Location {
        country: plain(&location.country),
        country_code: plain(&location.country_code),
        city: plain(&location.city),
        city_code: plain(&location.city_code),
        ..location.clone()
    }
}
