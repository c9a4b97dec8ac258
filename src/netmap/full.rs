//! The first message of a map stream: everything that a node is told.

use std::collections::BTreeSet;

use super::node::{own, owner, peer};
use super::{NetmapConfig, user_profile};
use crate::dns::dns_config;
use crate::policy::Policy;
use crate::state::{Node, State};
use crate::tailcfg::{Debug, MapResponse};
use crate::types::Timestamp;

/// Everything that `viewer` is told. Clients forget all they knew at each new stream, so nothing is
/// left out (`tailcfg.MapResponse`, the first of a stream).
pub fn full_map(
    state: &State,
    config: &NetmapConfig,
    policy: &dyn Policy,
    viewer: &Node,
    now: Timestamp,
) -> MapResponse {
    let seen: Vec<_> = state
        .nodes()
        .filter(|node| node.id != viewer.id && policy.can_see(state, viewer, node))
        .collect();
    let mut owners: BTreeSet<_> = seen.iter().map(|node| owner(node)).collect();
    owners.insert(owner(viewer));
    MapResponse {
        node: Some(own(state, config, policy, viewer, now)),
        derp_map: Some(state.derp_map()),
        peers: seen
            .iter()
            .map(|node| peer(state, config, node, now))
            .collect(),
        dns_config: Some(dns_config(
            &config.dns,
            state.settings(),
            viewer.is_expired(now),
        )),
        domain: config.domain().to_owned(),
        collect_services: Some(false),
        packet_filters: [("base".to_owned(), Some(policy.packet_filter(state, viewer)))].into(),
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
        ..Default::default()
    }
}
