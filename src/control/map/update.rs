//! What a map request says about its node. Pure.

use std::net::SocketAddr;

use bytes::Bytes;
use hydrascale_proto::state::v1 as pb;

use crate::state::Node;
use crate::tailcfg::MapRequest;

/// Endpoints of one node that are kept, as many as the state takes: it would refuse a longer list
/// whole.
const ENDPOINTS_MAX: usize = 256;

/// The update that the request asks for; `None` when it says nothing new.
///
/// In a report every value counts. In a streaming request, which clients other than Go's use for
/// the same purpose, a zero or empty value means that the client does not know it yet
/// (`control/tsp` streams with a zero disco key, tailscale-rs reports there alone).
pub(super) fn build_update(
    node: &Node,
    request: &MapRequest,
    hostinfo_json: Bytes,
    is_report: bool,
) -> Option<pb::UpdateNode> {
    let endpoints = endpoints(request);
    let reports_endpoints = is_report || !endpoints.addresses.is_empty();
    let disco_key = request.disco_key.filter(|key| Some(*key) != node.disco_key);
    let capver = u16::try_from(request.version)
        .ok()
        .filter(|v| *v != 0 && *v != node.capver);
    let update = pb::UpdateNode {
        node_id: node.id.0,
        disco_key: disco_key
            .map(|key| Bytes::copy_from_slice(key.as_bytes()))
            .unwrap_or_default(),
        endpoints: (reports_endpoints && !are_stored(node, &endpoints)).then_some(endpoints),
        hostinfo_json: if *hostinfo_json == *node.hostinfo_json {
            Bytes::new()
        } else {
            hostinfo_json
        },
        capver: capver.map(u32::from),
        ..pb::UpdateNode::default()
    };
    let unchanged = pb::UpdateNode {
        node_id: node.id.0,
        ..pb::UpdateNode::default()
    };
    (update != unchanged).then_some(update)
}

/// The endpoints that are understood, without duplicates.
fn endpoints(request: &MapRequest) -> pb::Endpoints {
    let kinds = request
        .endpoint_types
        .iter()
        .copied()
        .chain(std::iter::repeat(0));
    let mut endpoints = pb::Endpoints::default();
    for (text, kind) in request.endpoints.iter().zip(kinds) {
        let Ok(addr) = text.parse::<SocketAddr>() else {
            continue;
        };
        let addr = addr.to_string();
        if endpoints.addresses.len() < ENDPOINTS_MAX && !endpoints.addresses.contains(&addr) {
            endpoints.addresses.push(addr);
            // A kind that is no byte is as good as unknown.
            endpoints.types.push(u8::try_from(kind).unwrap_or(0).into());
        }
    }
    endpoints
}

fn are_stored(node: &Node, endpoints: &pb::Endpoints) -> bool {
    let reported = endpoints.addresses.iter().zip(&endpoints.types);
    node.endpoints.len() == endpoints.addresses.len()
        && node
            .endpoints
            .iter()
            .zip(reported)
            .all(|(stored, (addr, kind))| {
                stored.addr.to_string() == *addr && u32::from(stored.kind) == *kind
            })
}
