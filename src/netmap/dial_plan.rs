//! Where clients find the control plane next time (`tailcfg.ControlDialPlan`).

use std::net::IpAddr;

use super::NetmapConfig;
use crate::state::{Relay, State};
use crate::tailcfg::{ControlDialPlan, ControlIpCandidate};

/// A candidate that does not answer for so long is given up; 0 would fail at once.
const DIAL_TIMEOUT_SEC: f64 = 5.0;
/// Clients dial all candidates at once, so more than a few would be rude.
const CANDIDATES_MAX: usize = 5;

/// The public addresses of the replicas that are up, where clients of the configured URL reach them;
/// `None` when they would not, or when a plan of one says nothing new.
///
/// The first to answer wins, so every client may get the same plan.
pub(super) fn dial_plan(state: &State, config: &NetmapConfig) -> Option<ControlDialPlan> {
    if !config.replicas_serve_server_url {
        return None;
    }
    let up = state
        .replicas()
        .filter(|replica| replica.down_since.is_none());
    let addresses = up
        .filter_map(|replica| replica.relay.as_ref())
        .filter_map(public_address);
    let candidates: Vec<_> = addresses.take(CANDIDATES_MAX).map(candidate).collect();
    (candidates.len() > 1).then_some(ControlDialPlan { candidates })
}

fn public_address(relay: &Relay) -> Option<IpAddr> {
    let literals = [&relay.ipv4, &relay.ipv6, &relay.hostname];
    let mut addresses = literals
        .into_iter()
        .filter_map(|text| text.parse::<IpAddr>().ok());
    addresses.find(|ip| !ip.is_unspecified())
}

fn candidate(ip: IpAddr) -> ControlIpCandidate {
    ControlIpCandidate {
        ip: Some(ip),
        dial_timeout_sec: DIAL_TIMEOUT_SEC,
        ..ControlIpCandidate::default()
    }
}
