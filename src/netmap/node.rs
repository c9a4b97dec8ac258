//! A node as its peers and as it itself see it (`tailcfg.Node`).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde_json::{Value, json};

use super::profile::owner;
use super::routes::exit_routes;
use super::text::plain;
use super::{Basis, NetmapConfig};
use crate::dns::node_name;
use crate::state::{Node, State};
use crate::tailcfg::{self, CapMap, Hostinfo, Location, MapResponse, Service};
use crate::types::{RegionId, Timestamp};

/// Everything that the nodes of netmaps are made from.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) config: &'a NetmapConfig,
    pub(super) basis: &'a Basis,
    pub(super) now: Timestamp,
}

impl Scene<'_> {
    /// A node as all peers see it who may use these of its routes.
    pub(super) fn peer(&self, node: &Node, routes: BTreeSet<IpNet>) -> tailcfg::Node {
        tailcfg::Node {
            cap_map: self.basis.engine.peer_attributes(node.id),
            ..self.node(node, routes)
        }
    }

    /// A node as it sees itself: with its machine key and its capabilities.
    pub(super) fn own(&self, node: &Node) -> tailcfg::Node {
        let primary = self.basis.primary(node.id).iter().copied();
        let routes = primary.chain(exit_routes(node)).collect();
        let mut cap_map = capabilities(self.config);
        cap_map.extend(self.basis.engine.attributes(node.id));
        tailcfg::Node {
            machine: Some(node.machine_key),
            cap_map,
            ..self.node(node, routes)
        }
    }

    fn node(&self, node: &Node, routes: BTreeSet<IpNet>) -> tailcfg::Node {
        let primary = self.basis.primary(node.id).iter();
        let primary = primary.filter(|route| routes.contains(route));
        let mut told = tailcfg::Node {
            primary_routes: primary.copied().collect(),
            ..describe(self.config, &self.basis.state, node, routes, self.now)
        };
        if self.basis.engine.hides_ipv4(node.id) {
            hide_ipv4(&mut told, node);
        }
        told
    }
}

/// Leaves out the IPv4 address of a node that has another; its IPv4 routes stay.
fn hide_ipv4(told: &mut tailcfg::Node, node: &Node) {
    let own = node.ipv4.filter(|_| node.ipv6.is_some());
    let Some(own) = own.map(IpAddr::from).map(IpNet::from) else {
        return;
    };
    told.addresses.retain(|address| *address != own);
    if let Some(allowed) = &mut told.allowed_ips {
        allowed.retain(|address| *address != own);
    }
}

/// What everybody who is told of a node at all is told; `routes` beside its addresses.
fn describe(
    config: &NetmapConfig,
    state: &State,
    node: &Node,
    routes: BTreeSet<IpNet>,
    now: Timestamp,
) -> tailcfg::Node {
    let expired = node.is_expired(now);
    let online = state.is_online(node.id);
    let addresses = addresses(node);
    tailcfg::Node {
        id: node.id,
        stable_id: node.id.to_string(),
        name: node_name(node, &config.dns.base_domain),
        user: owner(node),
        key: node.node_key,
        key_expiry: node.expires_at,
        disco_key: node.disco_key,
        allowed_ips: Some(addresses.iter().copied().chain(routes).collect()),
        addresses,
        endpoints: Some(if expired { vec![] } else { endpoints(node) }),
        home_derp: node.home_derp.filter(|_| !expired).unwrap_or(RegionId(0)),
        hostinfo: Some(reduced(&node.hostinfo)),
        created: Some(node.created_at),
        cap: node.capver,
        tags: node.tags.clone(),
        last_seen: node.last_seen.filter(|_| !online),
        online: Some(online),
        machine_authorized: true,
        expired,
        ..Default::default()
    }
}

/// The last message for a node that was deleted, made from a state in which it still was: with a key
/// that has expired its client asks for a login, instead of polling for ever a node that is gone.
pub fn logged_out(
    config: &NetmapConfig,
    state: &State,
    node: &Node,
    now: Timestamp,
) -> MapResponse {
    let node = tailcfg::Node {
        machine: Some(node.machine_key),
        key_expiry: Some(LONG_EXPIRED),
        expired: true,
        ..describe(config, state, node, BTreeSet::new(), now)
    };
    MapResponse {
        node: Some(node),
        ..MapResponse::default()
    }
}

/// Any time that is over on every client's clock, yet not zero, which means "never".
const LONG_EXPIRED: Timestamp = Timestamp::from_unix_ms(123_000);

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
