//! Whatever happens, a client that followed the deltas knows what a fresh full map would tell it.

use std::collections::BTreeMap;

use hydrascale_proto::state::v1 as pb;
use proptest::prelude::*;

use crate::netmap::testing::client::Client;
use crate::netmap::testing::full_map;
use crate::netmap::testing::{World, endpoints, key, tell};
use crate::netmap::{Told, Wire, encode};
use crate::tailcfg::{MapResponse, Node};
use crate::types::{NodeId, RegionId};

/// What may happen to a tailnet.
#[derive(Clone, Debug)]
enum Event {
    Register {
        device: u8,
        node_key: u8,
        by_bob: bool,
    },
    Hostinfo {
        device: u8,
        variant: u8,
    },
    Endpoints {
        device: u8,
        variant: u8,
    },
    Disco {
        device: u8,
        variant: u8,
    },
    Home {
        device: u8,
        region: u32,
    },
    Capver {
        device: u8,
        capver: u32,
    },
    Open {
        device: u8,
        replica: u64,
    },
    Close {
        device: u8,
    },
    Delete {
        device: u8,
    },
    Rename {
        device: u8,
        variant: u8,
    },
    Expire {
        device: u8,
        in_ms: Option<i64>,
    },
    Tags {
        device: u8,
        tagged: bool,
    },
    Approve {
        device: u8,
        variant: u8,
    },
    RenameUser {
        variant: u8,
    },
    Policy {
        variant: usize,
    },
    Role {
        by_bob: bool,
        variant: i32,
    },
    ReplicaUp {
        id: u64,
    },
    ReplicaDown {
        id: u64,
    },
    Pass {
        ms: i64,
    },
    /// A client of the device starts a stream.
    Stream {
        device: u8,
    },
    /// What changed since the last time is told to all streams.
    Flush,
}

fn event() -> impl Strategy<Value = Event> {
    let device = || 1..6_u8;
    prop_oneof![
        3 => (device(), 0..3_u8, any::<bool>())
            .prop_map(|(device, node_key, by_bob)| Event::Register { device, node_key, by_bob }),
        1 => (device(), 0..6_u8).prop_map(|(device, variant)| Event::Hostinfo { device, variant }),
        1 => (device(), 0..3_u8).prop_map(|(device, variant)| Event::Endpoints { device, variant }),
        1 => (device(), 1..4_u8).prop_map(|(device, variant)| Event::Disco { device, variant }),
        1 => (device(), 900..903_u32).prop_map(|(device, region)| Event::Home { device, region }),
        1 => (device(), 113..120_u32).prop_map(|(device, capver)| Event::Capver { device, capver }),
        2 => (device(), 1..3_u64).prop_map(|(device, replica)| Event::Open { device, replica }),
        2 => device().prop_map(|device| Event::Close { device }),
        1 => device().prop_map(|device| Event::Delete { device }),
        1 => (device(), 0..3_u8).prop_map(|(device, variant)| Event::Rename { device, variant }),
        1 => (device(), prop::option::of(-5_000..30_000_i64))
            .prop_map(|(device, in_ms)| Event::Expire { device, in_ms }),
        1 => (device(), any::<bool>()).prop_map(|(device, tagged)| Event::Tags { device, tagged }),
        1 => (device(), 0..3_u8).prop_map(|(device, variant)| Event::Approve { device, variant }),
        1 => (0..3_u8).prop_map(|variant| Event::RenameUser { variant }),
        2 => (0..POLICIES.len()).prop_map(|variant| Event::Policy { variant }),
        1 => (any::<bool>(), 0..4_i32)
            .prop_map(|(by_bob, variant)| Event::Role { by_bob, variant }),
        1 => (1..3_u64).prop_map(|id| Event::ReplicaUp { id }),
        1 => (1..3_u64).prop_map(|id| Event::ReplicaDown { id }),
        2 => (1..20_000_i64).prop_map(|ms| Event::Pass { ms }),
        2 => device().prop_map(|device| Event::Stream { device }),
        4 => Just(Event::Flush),
    ]
}

struct Tailnet {
    world: World,
    devices: BTreeMap<u8, NodeId>,
    streams: BTreeMap<NodeId, Client>,
}

impl Tailnet {
    fn new() -> Self {
        let mut tailnet = Self {
            world: World::new(),
            devices: BTreeMap::new(),
            streams: BTreeMap::new(),
        };
        tailnet.world.replica_up(1);
        // Two nodes that offer the same subnet, since chance alone rarely brings that about.
        for device in [1, 2] {
            let events = [
                Event::Register {
                    device,
                    node_key: 0,
                    by_bob: false,
                },
                Event::Hostinfo { device, variant: 1 },
                Event::Approve { device, variant: 2 },
                Event::Open { device, replica: 1 },
                Event::Stream { device },
            ];
            events.iter().for_each(|event| tailnet.handle(event));
        }
        tailnet.flush();
        tailnet
    }

    fn handle(&mut self, event: &Event) {
        match *event {
            Event::Register {
                device,
                node_key,
                by_bob,
            } => {
                let user = if by_bob { "bob" } else { "alice" };
                let node = self.world.register(device, device * 10 + node_key, user);
                self.devices.extend(node.map(|id| (device, id)));
            }
            Event::Flush => self.flush(),
            Event::Pass { ms } => self.world.pass(ms),
            Event::ReplicaUp { id } => self.world.replica_up(id),
            Event::ReplicaDown { id } => self.world.replica_down(id),
            Event::RenameUser { variant } => self.world.rename_user(1, &format!("alice{variant}")),
            Event::Policy { variant } => self.world.set_policy(POLICIES.get(variant).unwrap()),
            Event::Role { by_bob, variant } => self.world.set_role(1 + u64::from(by_bob), variant),
            Event::Hostinfo { device, .. }
            | Event::Endpoints { device, .. }
            | Event::Disco { device, .. }
            | Event::Home { device, .. }
            | Event::Capver { device, .. }
            | Event::Open { device, .. }
            | Event::Close { device }
            | Event::Delete { device }
            | Event::Rename { device, .. }
            | Event::Expire { device, .. }
            | Event::Tags { device, .. }
            | Event::Approve { device, .. }
            | Event::Stream { device } => {
                if let Some(id) = self.devices.get(&device).copied() {
                    self.handle_node(id, event);
                }
            }
        }
    }

    fn handle_node(&mut self, id: NodeId, event: &Event) {
        let world = &mut self.world;
        match *event {
            Event::Open { replica, .. } => world.open(id, replica),
            Event::Close { .. } => world.close(id),
            Event::Delete { .. } => world.delete(id),
            Event::Rename { variant, .. } => world.rename(id, &format!("name{variant}")),
            Event::Expire { in_ms, .. } => world.expire(id, in_ms),
            Event::Tags { tagged, .. } => world.tag(id, if tagged { &["tag:web"] } else { &[] }),
            Event::Approve { variant, .. } => {
                world.approve(id, ROUTES.get(..variant.into()).unwrap());
            }
            Event::Stream { .. } => self.stream(id),
            Event::Hostinfo { .. }
            | Event::Endpoints { .. }
            | Event::Disco { .. }
            | Event::Home { .. }
            | Event::Capver { .. } => world.update(id, report(event)),
            Event::Register { .. }
            | Event::Policy { .. }
            | Event::Role { .. }
            | Event::RenameUser { .. }
            | Event::ReplicaUp { .. }
            | Event::ReplicaDown { .. }
            | Event::Pass { .. }
            | Event::Flush => {}
        }
    }

    fn fresh(&self, id: NodeId) -> Option<MapResponse> {
        let world = &self.world;
        let basis = world.basis();
        basis.state.node(id)?;
        Some(full_map(&basis, &world.config, id, world.now, Wire::Raw))
    }

    /// The first message is made from the basis that the last delta led to.
    fn stream(&mut self, id: NodeId) {
        if let Some(message) = self.fresh(id) {
            let mut client = Client::default();
            client.take_frames(&encode(&message, Wire::Raw));
            self.streams.insert(id, client);
        }
    }

    fn flush(&mut self) {
        let delta = self.world.take_delta();
        let state = &delta.basis().state;
        self.streams.retain(|id, _| state.node(*id).is_some());
        for (id, client) in &mut self.streams {
            match tell(&self.world, &delta, *id, Wire::Raw) {
                Told::Nothing => {}
                Told::Frame(frames) => client.take_frames(&frames),
                Told::Whole(_) => panic!("a few nodes are never told as a whole"),
            }
        }
        for (id, client) in &self.streams {
            let mut fresh = Client::default();
            fresh.take(self.fresh(*id).unwrap());
            // Profiles are never taken back; those of users without nodes do no harm.
            fresh.profiles.extend(
                client
                    .profiles
                    .iter()
                    .filter(|(id, _)| !fresh.profiles.contains_key(id))
                    .map(|(id, profile)| (*id, profile.clone()))
                    .collect::<Vec<_>>(),
            );
            assert_same(*id, &comparable(client), &comparable(&fresh));
        }
    }
}

/// Peer by peer, so that a failure shows the one that differs.
fn assert_same(viewer: NodeId, followed: &Client, fresh: &Client) {
    for id in followed.peers.keys().chain(fresh.peers.keys()) {
        let (followed, fresh) = (followed.peers.get(id), fresh.peers.get(id));
        assert_eq!(followed, fresh, "what node {viewer} knows of node {id}");
    }
    assert_eq!(
        followed.node, fresh.node,
        "what node {viewer} knows of itself"
    );
    assert_eq!(followed, fresh, "what else node {viewer} knows");
}

/// What a node says about itself.
fn report(event: &Event) -> pb::UpdateNode {
    let mut update = pb::UpdateNode::default();
    if let Event::Hostinfo { variant, .. } = *event {
        update.hostinfo_json = hostinfo(variant).into_bytes().into();
    } else if let Event::Endpoints { variant, .. } = *event {
        update.endpoints = Some(match variant {
            0 => endpoints(&[]),
            1 => endpoints(&["192.0.2.1:41641"]),
            _ => endpoints(&["192.0.2.2:1", "[2001:db8::1]:41641"]),
        });
    } else if let Event::Disco { variant, .. } = *event {
        update.disco_key = key(variant);
    } else if let Event::Home { region, .. } = *event {
        update.home_derp = Some(region);
    } else if let Event::Capver { capver, .. } = *event {
        update.capver = Some(capver);
    }
    update
}

/// What policies differ by for clients: peers, filters, routes and who carries them, logins and
/// attributes.
const POLICIES: [&str; 7] = [
    "",
    r#"{"acls": []}"#,
    r#"{"acls": [{"action": "accept", "src": ["alice@"], "dst": ["bob@:22", "10.1.0.0/16:*"]}]}"#,
    r#"{"tagOwners": {"tag:web": ["alice@"]},
        "acls": [{"action": "accept", "src": ["alice@", "bob@"], "dst": ["tag:web:80"]}],
        "ssh": [{"action": "accept", "src": ["alice@"], "dst": ["tag:web"], "users": ["root"]}]}"#,
    r#"{"tagOwners": {"tag:web": ["alice@"]},
        "grants": [{"src": ["*"], "dst": ["10.1.0.0/16"], "ip": ["*"], "via": ["tag:web"]}]}"#,
    r#"{"grants": [{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"]},
                   {"src": ["*"], "dst": ["autogroup:internet"], "ip": ["*"]}],
        "nodeAttrs": [{"target": ["*"], "attr": ["suggest-exit-node", "funnel"]}]}"#,
    r#"{"acls": [{"action": "accept", "src": ["autogroup:admin"], "dst": ["*:*"]}],
        "nodeAttrs": [{"target": ["bob@"], "attr": ["suggest-exit-node"]}],
        "randomizeClientPort": true}"#,
];

const ROUTES: [&str; 2] = ["10.1.0.0/16", "0.0.0.0/0"];

fn hostinfo(variant: u8) -> String {
    match variant {
        0 => r#"{"OS":"linux","Hostname":"x"}"#.to_owned(),
        1 => r#"{"OS":"linux","RoutableIPs":["10.1.0.0/16","0.0.0.0/0","::/0"]}"#.to_owned(),
        2 => r#"{"OS":"linux","RoutableIPs":["10.1.0.0/16"],"RequestTags":["tag:web"]}"#.to_owned(),
        3 => r#"{"Services":[{"Proto":"peerapi4","Port":1},{"Proto":"tcp","Port":22}]}"#.to_owned(),
        4 => r#"{"NetInfo":{"PreferredDERP":902}}"#.to_owned(),
        _ => r#"{"OS":"a \"quoted\" one"}"#.to_owned(),
    }
}

/// Without what a delta leaves out on purpose: an online peer's last time offline, and of the node
/// itself what it reports itself.
fn comparable(client: &Client) -> Client {
    let mut client = client.clone();
    for peer in client
        .peers
        .values_mut()
        .filter(|peer| peer.online == Some(true))
    {
        peer.last_seen = None;
    }
    client.node = client.node.map(|node| Node {
        disco_key: None,
        endpoints: None,
        home_derp: RegionId(0),
        hostinfo: None,
        cap: 0,
        last_seen: None,
        online: None,
        ..node
    });
    client
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn deltas_lead_to_what_a_fresh_full_map_tells(
        events in prop::collection::vec(event(), 1..60),
    ) {
        let mut tailnet = Tailnet::new();
        for event in &events {
            tailnet.handle(event);
        }
        tailnet.flush();
    }
}
