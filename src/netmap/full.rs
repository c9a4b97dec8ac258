//! The first message of a map stream: everything that a node is told.

use std::collections::BTreeSet;

use super::dial_plan::dial_plan;
use super::node::Scene;
use super::profile::{owner, user_profile};
use super::routes::RouteTable;
use super::{BASE_FILTER, View};
use crate::dns::dns_config;
use crate::state::{Node, State};
use crate::tailcfg::{Debug, MapResponse};
use crate::types::Timestamp;

/// Everything that `viewer` is told. Clients forget all they knew at each new stream, so nothing is
/// left out (`tailcfg.MapResponse`, the first of a stream).
pub fn full_map(state: &State, view: View<'_>, viewer: &Node, now: Timestamp) -> MapResponse {
    let routes = RouteTable::of(state);
    let present = state.present(now);
    let scene = Scene {
        view,
        state,
        routes: &routes,
        now: present,
    };
    let peers: Vec<_> = visible_peers(state, view, viewer).collect();
    let mut owners: BTreeSet<_> = peers.iter().map(|node| owner(node)).collect();
    owners.insert(owner(viewer));
    let View { config, policy } = view;
    MapResponse {
        node: Some(scene.own(viewer)),
        derp_map: Some(state.derp_map()),
        peers: peers.iter().map(|node| scene.peer(node)).collect(),
        dns_config: Some(dns_config(&config.dns, state.settings(), viewer, present)),
        domain: config.domain().to_owned(),
        collect_services: Some(false),
        packet_filters: [(
            BASE_FILTER.to_owned(),
            Some(policy.packet_filter(state, viewer)),
        )]
        .into(),
        user_profiles: owners
            .into_iter()
            .filter_map(|id| user_profile(state, id))
            .collect(),
        ssh_policy: Some(policy.ssh_policy(state, viewer)),
        control_time: Some(now),
        debug: Some(Debug {
            disable_log_tail: !config.features.logtail,
            ..Debug::default()
        }),
        control_dial_plan: dial_plan(state, config),
        ..Default::default()
    }
}

/// The nodes that a viewer knows, in id order and without itself.
pub fn visible_peers<'a>(
    state: &'a State,
    view: View<'a>,
    viewer: &'a Node,
) -> impl Iterator<Item = &'a Node> {
    let nodes = state.nodes().map(|node| &**node);
    nodes.filter(move |node| node.id != viewer.id && view.policy.can_see(state, viewer, node))
}

/// The last message for a node that was deleted, made from the state in which it still was: with a
/// key that has expired its client asks for a login, instead of polling a node that is gone for ever.
pub fn logged_out(state: &State, view: View<'_>, viewer: &Node, now: Timestamp) -> MapResponse {
    let scene = Scene {
        view,
        state,
        routes: &RouteTable::default(),
        now,
    };
    let mut node = scene.own(viewer);
    node.key_expiry = Some(LONG_EXPIRED);
    node.expired = true;
    MapResponse {
        node: Some(node),
        ..MapResponse::default()
    }
}

/// Any time that is over on every client's clock, yet not zero, which means "never".
const LONG_EXPIRED: Timestamp = Timestamp::from_unix_ms(123_000);
