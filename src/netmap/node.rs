//! A node as its peers and as it itself see it (`tailcfg.Node`).

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::NetmapConfig;
use crate::dns::node_name;
use crate::policy::Policy;
use crate::state::{Node, State};
use crate::tailcfg::{self, CapMap, Hostinfo, UserProfile};
use crate::types::{RegionId, Timestamp, UserId};

/// Owner of tagged nodes in profiles: headscale's id and name.
pub const TAGGED_DEVICES: UserId = UserId(2_147_455_555);

/// A node as peers see it.
pub(super) fn peer(
    state: &State,
    config: &NetmapConfig,
    node: &Node,
    now: Timestamp,
) -> tailcfg::Node {
    let expired = node.is_expired(now);
    let online = state.is_online(node.id);
    let addresses: Vec<IpNet> = addresses(node);
    tailcfg::Node {
        id: node.id,
        stable_id: node.id.to_string(),
        name: node_name(node, &config.dns.base_domain),
        user: owner(node),
        key: node.node_key,
        key_expiry: node.expires_at,
        disco_key: node.disco_key,
        allowed_ips: Some(addresses.clone()),
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

/// A node as it sees itself: with its machine key and its capabilities.
pub(super) fn own(
    state: &State,
    config: &NetmapConfig,
    policy: &dyn Policy,
    node: &Node,
    now: Timestamp,
) -> tailcfg::Node {
    let mut own = peer(state, config, node, now);
    own.machine = Some(node.machine_key);
    own.cap_map = capabilities(config);
    own.cap_map.extend(policy.capabilities(state, node));
    own
}

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

/// The owner as profiles name it.
pub(super) fn owner(node: &Node) -> UserId {
    node.user_id
        .filter(|_| !node.is_tagged())
        .unwrap_or(TAGGED_DEVICES)
}

/// What clients show about an owner (`tailcfg.UserProfile`).
pub fn user_profile(state: &State, id: UserId) -> Option<UserProfile> {
    if id == TAGGED_DEVICES {
        return Some(UserProfile {
            id,
            login_name: "tagged-devices".to_owned(),
            display_name: "Tagged Devices".to_owned(),
            ..Default::default()
        });
    }
    let user = state.user(id)?;
    let login = if user.email.is_empty() {
        &user.name
    } else {
        &user.email
    };
    let display = if user.display_name.is_empty() {
        &user.name
    } else {
        &user.display_name
    };
    Some(UserProfile {
        id,
        login_name: login.clone(),
        display_name: display.clone(),
        profile_pic_url: user.picture_url.clone(),
        ..Default::default()
    })
}

fn addresses(node: &Node) -> Vec<IpNet> {
    let v4 = node.ipv4.map(IpAddr::from);
    let v6 = node.ipv6.map(IpAddr::from);
    v4.into_iter().chain(v6).map(IpNet::from).collect()
}

pub(super) fn endpoints(node: &Node) -> Vec<std::net::SocketAddr> {
    node.endpoints
        .iter()
        .map(|endpoint| endpoint.addr)
        .collect()
}

/// What peers need of a Hostinfo; the rest is nobody else's business.
fn reduced(hostinfo: &Hostinfo) -> Hostinfo {
    Hostinfo {
        os: hostinfo.os.clone(),
        hostname: hostinfo.hostname.clone(),
        services: hostinfo.services.clone(),
        sharee_node: hostinfo.sharee_node,
        location: hostinfo.location.clone(),
        ssh_host_keys: hostinfo.ssh_host_keys.clone(),
        app_connector: hostinfo.app_connector,
        ..Default::default()
    }
}
