//! What a change of the policy tells whom.

use hydrascale_proto::state::v1 as pb;

use crate::netmap::testing::{self, World};
use crate::netmap::{Delta, Told, Wire};
use crate::tailcfg::{MapResponse, decode};
use crate::types::NodeId;

const ALICE: NodeId = NodeId(1);
const ALICES_OTHER: NodeId = NodeId(2);
const BOB: NodeId = NodeId(3);

const ALICE_ONLY: &str = r#"{"acls": [
    {"action": "accept", "src": ["alice@"], "dst": ["alice@:22"]},
]}"#;
const ALICE_AND_BOB: &str = r#"{"acls": [
    {"action": "accept", "src": ["alice@"], "dst": ["alice@:22"]},
    {"action": "accept", "src": ["bob@"], "dst": ["bob@:22"]},
]}"#;

/// Two nodes of alice and two of bob under a policy.
fn world(policy: &str) -> World {
    let mut world = World::new();
    for (device, user) in [(1, "alice"), (2, "alice"), (3, "bob"), (4, "bob")] {
        world.register(device, device + 10, user).unwrap();
    }
    world.set_policy(policy);
    world.take_delta();
    world
}

fn tell(world: &World, delta: &Delta, viewer: NodeId) -> Told {
    testing::tell(world, delta, viewer, Wire::Raw)
}

fn messages(told: Told) -> Vec<MapResponse> {
    let Told::Frame(frames) = told else {
        panic!("expected frames, got {told:?}");
    };
    let mut rest = &*frames;
    let mut messages = Vec::new();
    while let Some((len, behind)) = rest.split_first_chunk() {
        let (payload, next) = behind.split_at(u32::from_le_bytes(*len) as usize);
        messages.push(decode(payload).unwrap());
        rest = next;
    }
    messages
}

#[test]
fn a_new_rule_tells_nothing_to_those_whom_it_does_not_concern() {
    let mut world = world(ALICE_ONLY);
    world.set_policy(ALICE_AND_BOB);
    let delta = world.take_delta();
    assert_eq!(tell(&world, &delta, ALICE), Told::Nothing);
    let told = messages(tell(&world, &delta, BOB));
    assert!(told.iter().any(|message| message.peers_changed.len() == 1));
    assert!(
        told.iter()
            .any(|message| !message.packet_filters.is_empty())
    );
}

#[test]
fn a_rule_that_is_gone_hides_peers_and_closes_ports() {
    let mut world = world(ALICE_AND_BOB);
    world.set_policy(ALICE_ONLY);
    let delta = world.take_delta();
    let told = messages(tell(&world, &delta, BOB));
    let removed: Vec<_> = told
        .iter()
        .flat_map(|message| &message.peers_removed)
        .collect();
    assert!(removed.contains(&&NodeId(4)), "{removed:?}");
    let mut filters = told
        .iter()
        .filter_map(|message| message.packet_filters.get("base"));
    assert_eq!(filters.next(), Some(&Some(vec![])));
    assert_eq!(tell(&world, &delta, ALICES_OTHER), Told::Nothing);
}

#[test]
fn a_comment_in_the_policy_tells_nothing_to_anybody() {
    let mut world = world(ALICE_ONLY);
    world.set_policy(&format!("// who may do what\n{ALICE_ONLY}"));
    let delta = world.take_delta();
    for viewer in 1..=4 {
        assert_eq!(tell(&world, &delta, NodeId(viewer)), Told::Nothing);
    }
}

#[test]
fn without_ipv4_addresses_go_and_come_back() {
    let mut world = world(ALICE_ONLY);
    let with = |world: &mut World, rest: &str| {
        world.set_policy(&ALICE_ONLY.replacen('{', &format!("{{{rest}"), 1));
        let delta = world.take_delta();
        let told = messages(tell(world, &delta, ALICE));
        let own = told.iter().find_map(|message| message.node.clone());
        let mut peers = told.iter().flat_map(|message| &message.peers_changed);
        let shown = |addresses: &[ipnet::IpNet]| -> Vec<bool> {
            let addresses = addresses.iter();
            addresses.map(|address| address.addr().is_ipv4()).collect()
        };
        let peer = peers.next().unwrap();
        assert_eq!(peer.allowed_ips.as_ref(), Some(&peer.addresses));
        (shown(&own.unwrap().addresses), shown(&peer.addresses))
    };
    let hidden = with(&mut world, r#""disableIPv4": true,"#);
    assert_eq!(hidden, (vec![false], vec![false]));
    let shown = with(&mut world, "");
    assert_eq!(shown, (vec![true, false], vec![true, false]));
    let attribute = r#""nodeAttrs": [{"target": ["*"], "attr": ["disable-ipv4"]}],"#;
    let hidden = with(&mut world, attribute);
    assert_eq!(hidden, (vec![false], vec![false]));
}

#[test]
fn a_device_that_ceases_to_conform_ceases_to_be_let_in() {
    let mut world = world(
        r#"{"postures": {"posture:old": ["node:tsVersion < '1.50'"]},
            "acls": [{"action": "accept", "src": ["bob@"], "dst": ["alice@:22"],
                "srcPosture": ["posture:old"]}]}"#,
    );
    let report = |world: &mut World, version: &str| {
        let hostinfo = format!(r#"{{"OS":"linux","IPNVersion":"{version}"}}"#);
        let update = pb::UpdateNode {
            hostinfo_json: hostinfo.into_bytes().into(),
            ..Default::default()
        };
        world.update(BOB, update);
        world.take_delta()
    };
    let delta = report(&mut world, "1.40.0-t1-g2");
    assert_eq!(delta.basis().engine.filter(ALICE).len(), 1);
    let delta = report(&mut world, "1.50.0-t1-g2");
    assert_eq!(delta.basis().engine.filter(ALICE), []);
    let told = messages(tell(&world, &delta, ALICE));
    assert!(
        told.iter()
            .any(|message| !message.packet_filters.is_empty())
    );
}

#[test]
fn the_policys_relays_join_the_map_of_relays() {
    let mut world = world(ALICE_ONLY);
    world.replica_up(1);
    world.take_delta();
    let regions = |world: &mut World, policy: &str| -> Vec<u16> {
        world.set_policy(policy);
        let delta = world.take_delta();
        let told = messages(tell(world, &delta, ALICE));
        let map = told.into_iter().find_map(|message| message.derp_map);
        map.unwrap()
            .regions
            .unwrap()
            .keys()
            .map(|id| id.0)
            .collect()
    };
    let own = r#"{"derpMap": {"Regions": {"7": {"Nodes": [{"Name": "a", "HostName": "b"}]}}},"#;
    let with = ALICE_ONLY.replacen('{', own, 1);
    assert_eq!(regions(&mut world, &with), [7, 900]);
    let alone = with.replacen(
        "\"Regions\"",
        "\"OmitDefaultRegions\": true, \"Regions\"",
        1,
    );
    assert_eq!(regions(&mut world, &alone), [7]);
    assert_eq!(regions(&mut world, ALICE_ONLY), [900]);
}

#[test]
fn many_peers_that_come_into_sight_at_once_are_told_as_a_whole_netmap() {
    let mut world = World::new();
    for device in 1..=100 {
        world.register(device, device + 100, "alice").unwrap();
    }
    world.set_policy(r#"{"acls": []}"#);
    world.take_delta();
    world.set_policy("");
    let delta = world.take_delta();
    let told = tell(&world, &delta, ALICE);
    let Told::Whole(Some(first)) = told else {
        panic!("expected a whole netmap, got {told:?}");
    };
    let first = messages(Told::Frame(first));
    assert!(first.iter().all(|message| message.peers_changed.is_empty()));
    assert!(
        first
            .iter()
            .any(|message| !message.packet_filters.is_empty())
    );
}

#[test]
fn a_policy_that_this_version_cannot_read_lets_nobody_reach_anybody() {
    let mut world = world(ALICE_ONLY);
    world.set_policy("{");
    let delta = world.take_delta();
    assert!(delta.basis().engine.fault().is_some());
    assert_eq!(delta.basis().engine.peers(ALICE).count(), 0);
    assert_eq!(delta.basis().engine.filter(ALICE), []);
}

#[test]
fn addresses_that_are_hidden_from_everybody_are_told_as_a_whole_netmap() {
    let mut world = World::new();
    for device in 1..=100 {
        world.register(device, device + 100, "alice").unwrap();
    }
    world.take_delta();
    world.set_policy(r#"{"disableIPv4": true}"#);
    let delta = world.take_delta();
    assert!(matches!(tell(&world, &delta, ALICE), Told::Whole(_)));
}

#[test]
fn a_renamed_user_is_told_to_those_alone_who_see_nodes_of_theirs() {
    let mut world = world(ALICE_AND_BOB);
    world.rename_user(1, "alina");
    let delta = world.take_delta();
    assert_eq!(tell(&world, &delta, BOB), Told::Nothing);
    let told = messages(tell(&world, &delta, ALICE));
    let names = told.iter().flat_map(|message| &message.user_profiles);
    let names: Vec<&str> = names.map(|profile| &*profile.login_name).collect();
    assert!(names.contains(&"alina"), "{names:?}");
}
