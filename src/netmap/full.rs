//! What a node is told in the first message of a map stream, but for its peers.

use std::collections::BTreeSet;

use super::BASE_FILTER;
use super::dial_plan::dial_plan;
use super::node::Scene;
use super::profile::{owner, user_profile};
use crate::dns::dns_config;
use crate::state::Node;
use crate::tailcfg::{Debug, MapResponse};
use crate::types::Timestamp;

/// Everything that `viewer` is told but its peers; `clock` is this replica's.
pub(super) fn own_parts(
    scene: Scene<'_>,
    viewer: &Node,
    peers: &[&Node],
    clock: Timestamp,
) -> MapResponse {
    let Scene { config, basis, now } = scene;
    let state = &basis.state;
    let attributes = basis.engine.attributes(viewer.id);
    let asking = (viewer, &attributes);
    let mut owners: BTreeSet<_> = peers.iter().map(|node| owner(node)).collect();
    owners.insert(owner(viewer));
    MapResponse {
        node: Some(scene.own(viewer)),
        derp_map: Some(basis.derp_map()),
        dns_config: Some(dns_config(&config.dns, state.settings(), asking, now)),
        domain: config.domain().to_owned(),
        collect_services: Some(false),
        packet_filters: [(BASE_FILTER.to_owned(), Some(basis.engine.filter(viewer.id)))].into(),
        user_profiles: owners
            .into_iter()
            .filter_map(|id| user_profile(state, id))
            .collect(),
        ssh_policy: Some(basis.engine.logins(viewer.id)),
        control_time: Some(clock),
        debug: Some(Debug {
            disable_log_tail: !config.features.logtail,
            ..Debug::default()
        }),
        control_dial_plan: dial_plan(state, config),
        ..Default::default()
    }
}
