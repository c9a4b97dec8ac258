//! Single messages: what clients cannot take.

use std::time::Duration;

use hydrascale_proto::state::v1 as pb;

use crate::netmap::testing::client::Client;
use crate::netmap::testing::full_map;
use crate::netmap::testing::{World, endpoints, key, tell};
use crate::netmap::{Delta, Told, Wire, encode, user_profile};
use crate::tailcfg::MapResponse;
use crate::types::{NodeId, RegionId, UserId};

const FIRST: NodeId = NodeId(1);
const SECOND: NodeId = NodeId(2);

/// A replica and some nodes of alice, all of them online.
fn world(nodes: u8) -> World {
    let mut world = World::new();
    world.replica_up(1);
    for device in 1..=nodes {
        let id = world.register(device, device + 10, "alice").unwrap();
        world.open(id, 1);
    }
    world.take_delta();
    world
}

fn told(world: &World, delta: &Delta, viewer: NodeId) -> Option<MapResponse> {
    let viewer = delta.basis().state.node(viewer)?;
    delta.message(&world.config, viewer, &delta.outline(viewer.id))
}

fn frame(world: &World, delta: &Delta, viewer: NodeId, wire: Wire) -> bytes::Bytes {
    match tell(world, delta, viewer, wire) {
        Told::Frame(frame) => frame,
        other @ (Told::Nothing | Told::Whole(_)) => panic!("expected a frame, got {other:?}"),
    }
}

fn full(world: &World, viewer: NodeId) -> MapResponse {
    full_map(&world.basis(), &world.config, viewer, world.now, Wire::Raw)
}

#[test]
fn a_node_is_never_among_its_own_peers() {
    let mut world = world(2);
    world.rename(SECOND, "renamed");
    let delta = world.take_delta();
    let mut client = Client::default();
    client.take(full(&world, SECOND));
    client.take_frames(&frame(&world, &delta, SECOND, Wire::Raw));
    assert_eq!(client.peers.keys().collect::<Vec<_>>(), [&FIRST]);
    assert_eq!(client.node.unwrap().name, "renamed.net.example.com.");
}

/// Clients lose all patches of a message with one of themselves, and endpoints that come with a home.
#[test]
fn of_many_nodes_that_move_each_is_told_of_all_but_itself() {
    let nodes = 70;
    let mut world = world(nodes);
    let viewer = NodeId(40);
    let mut client = Client::default();
    client.take(full(&world, viewer));
    for id in 1..=u64::from(nodes) {
        let update = pb::UpdateNode {
            endpoints: Some(endpoints(&["192.0.2.1:1"])),
            home_derp: Some(901),
            ..Default::default()
        };
        world.update(NodeId(id), update);
    }
    let delta = world.take_delta();
    client.take_frames(&frame(&world, &delta, viewer, Wire::Raw));
    assert_eq!(client.peers.len(), 69);
    for peer in client.peers.values() {
        let at = peer.endpoints.as_deref().unwrap_or_default();
        assert_eq!(
            (peer.home_derp, at.len()),
            (RegionId(901), 1),
            "{}",
            peer.id
        );
    }
}

#[test]
fn a_disco_key_that_comes_with_going_offline_is_not_lost() {
    let mut world = world(2);
    world.close(SECOND);
    world.pass(10_000);
    // This map says already since when the node is offline.
    let mut client = Client::default();
    client.take(full(&world, FIRST));
    world.update(
        SECOND,
        pb::UpdateNode {
            disco_key: key(7),
            ..Default::default()
        },
    );
    let delta = world.take_delta();
    client.take_frames(&frame(&world, &delta, FIRST, Wire::Raw));
    assert!(client.peers[&SECOND].disco_key.is_some());
}

#[test]
fn the_time_offline_is_told_beside_a_node_that_changed_as_a_whole() {
    let mut world = world(2);
    let mut client = Client::default();
    client.take(full(&world, FIRST));
    world.update(
        SECOND,
        pb::UpdateNode {
            hostinfo_json: r#"{"OS":"windows"}"#.into(),
            ..Default::default()
        },
    );
    world.close(SECOND);
    world.pass(10_000);
    let delta = world.take_delta();
    client.take_frames(&frame(&world, &delta, FIRST, Wire::Raw));
    let peer = &client.peers[&SECOND];
    assert_eq!((peer.online, peer.last_seen.is_some()), (Some(false), true));
}

#[test]
fn every_key_expiry_of_one_moment_is_announced() {
    let mut world = world(3);
    for (id, in_ms) in [(SECOND, 10_000), (NodeId(3), 1)] {
        world.expire(id, Some(in_ms));
    }
    world.close(SECOND);
    world.take_delta();
    world.pass(10_000);
    let delta = world.take_delta();
    let expired: Vec<_> = told(&world, &delta, FIRST).unwrap().peers_changed;
    assert!(expired.len() == 2 && expired.iter().all(|peer| peer.expired));
}

#[test]
fn an_expired_key_that_is_renewed_brings_back_what_hung_on_it() {
    let mut world = world(2);
    world.update(
        SECOND,
        pb::UpdateNode {
            endpoints: Some(endpoints(&["192.0.2.1:1"])),
            home_derp: Some(900),
            ..Default::default()
        },
    );
    world.expire(SECOND, Some(1));
    world.pass(2);
    let mut client = Client::default();
    client.take(full(&world, FIRST));
    assert_eq!(client.peers[&SECOND].endpoints, Some(vec![]));
    world.take_delta();
    world.expire(SECOND, Some(60_000));
    let delta = world.take_delta();
    client.take_frames(&frame(&world, &delta, FIRST, Wire::Raw));
    let peer = &client.peers[&SECOND];
    assert!(!peer.expired && peer.home_derp.0 == 900);
    assert_eq!(peer.endpoints.as_ref().map(Vec::len), Some(1));
}

#[test]
fn a_route_follows_who_is_online() {
    let mut world = world(3);
    for id in [SECOND, NodeId(3)] {
        world.update(
            id,
            pb::UpdateNode {
                hostinfo_json: r#"{"RoutableIPs":["10.1.0.0/16"]}"#.into(),
                ..Default::default()
            },
        );
        world.approve(id, &["10.1.0.0/16"]);
    }
    world.take_delta();
    let mut client = Client::default();
    client.take(full(&world, FIRST));
    assert_eq!(client.peers[&SECOND].primary_routes.len(), 1);
    world.close(SECOND);
    world.pass(10_000);
    let delta = world.take_delta();
    client.take_frames(&frame(&world, &delta, FIRST, Wire::Raw));
    assert_eq!(client.peers[&SECOND].primary_routes, []);
    assert_eq!(client.peers[&NodeId(3)].primary_routes.len(), 1);
}

#[test]
fn no_text_of_a_node_or_user_needs_an_escape() {
    let mut world = world(2);
    let hostile = "a\"b\\c\u{1}\n";
    let hostinfo = serde_json::json!({
        "OS": hostile, "Hostname": hostile, "sshHostKeys": [hostile],
        "Services": [{"Proto": "peerapi4", "Port": 1, "Description": hostile}],
        "Location": {"Country": hostile, "City": hostile},
    });
    world.update(
        SECOND,
        pb::UpdateNode {
            hostinfo_json: hostinfo.to_string().into(),
            ..Default::default()
        },
    );
    let json = encode(&full(&world, FIRST), Wire::Raw);
    assert!(!json.contains(&b'\\'));
}

#[test]
fn a_compressed_frame_is_one_zstd_frame_with_size_and_without_checksum() {
    let world = world(30);
    let message = full(&world, FIRST);
    let raw = encode(&message, Wire::Raw);
    let compressed = encode(&message, Wire::Zstd);
    let payload = compressed.get(4..).unwrap();
    let frame_len = zstd::zstd_safe::find_frame_compressed_size(payload).unwrap();
    assert_eq!(frame_len, payload.len());
    let size = zstd::zstd_safe::get_frame_content_size(payload).unwrap();
    assert_eq!(size, Some(raw.len() as u64 - 4));
    assert_eq!(payload[4] & 0b100, 0, "no checksum flag");
    let json = zstd::bulk::decompress(payload, raw.len()).unwrap();
    assert_eq!(json, raw[4..]);
}

#[test]
fn a_dial_plan_lists_the_replicas_that_are_up_once_there_are_two() {
    let mut world = world(1);
    assert_eq!(full(&world, FIRST).control_dial_plan, None);
    world.config.replicas_serve_server_url = true;
    assert_eq!(full(&world, FIRST).control_dial_plan, None);
    world.replica_up(2);
    let delta = world.take_delta();
    let plan = told(&world, &delta, FIRST)
        .unwrap()
        .control_dial_plan
        .unwrap();
    assert_eq!(plan, full(&world, FIRST).control_dial_plan.unwrap());
    let addresses: Vec<_> = plan
        .candidates
        .iter()
        .map(|candidate| candidate.ip.unwrap().to_string())
        .collect();
    assert_eq!(addresses, ["192.0.2.1", "192.0.2.2"]);
    assert!(
        plan.candidates
            .iter()
            .all(|candidate| candidate.dial_timeout_sec > 0.0)
    );
}

#[test]
fn profiles_fall_back_from_display_name_to_name() {
    let world = world(1);
    let alice = user_profile(&world.state, UserId(1)).unwrap();
    assert_eq!(
        (&*alice.login_name, &*alice.display_name),
        ("alice", "alice")
    );
    assert_eq!(user_profile(&world.state, UserId(99)), None);
}

#[test]
fn a_change_without_news_for_clients_has_no_message() {
    let mut world = world(1);
    world.update(
        FIRST,
        pb::UpdateNode {
            hostinfo_json: r#"{"OS":"linux","Hostname":"host1","NetInfo":{"WorkingUDP":true}}"#
                .into(),
            ..Default::default()
        },
    );
    let delta = world.take_delta();
    assert_eq!(told(&world, &delta, FIRST), None);
}

#[test]
fn an_announced_expiry_is_told_by_a_replica_whose_clock_is_behind() {
    let mut world = world(2);
    world.expire(SECOND, Some(1000));
    world.take_delta();
    world.pass(1000);
    world.now = world.now.saturating_sub(Duration::from_millis(50));
    let delta = world.take_delta();
    let told = told(&world, &delta, FIRST).unwrap();
    assert!(
        told.peers_changed.iter().any(|peer| peer.expired),
        "{told:?}"
    );
    assert!(full(&world, FIRST).peers[0].expired);
}
