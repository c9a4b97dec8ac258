//! What a node is told in the first message of a map stream, but for its peers, and in the last.

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

/// Everything that `viewer` is told but its peers; `clock` is this replica's.
pub(super) fn own_parts(
    scene: Scene<'_>,
    viewer: &Node,
    peers: &[&Node],
    clock: Timestamp,
) -> MapResponse {
    let Scene {
        view, state, now, ..
    } = scene;
    let View { config, policy } = view;
    let mut owners: BTreeSet<_> = peers.iter().map(|node| owner(node)).collect();
    owners.insert(owner(viewer));
    MapResponse {
        node: Some(scene.own(viewer)),
        derp_map: Some(state.derp_map()),
        dns_config: Some(dns_config(&config.dns, state.settings(), viewer, now)),
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
        control_time: Some(clock),
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
