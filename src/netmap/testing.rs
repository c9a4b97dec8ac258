//! A small tailnet for tests: commands in, states and changes out.

pub(crate) mod client;

use std::sync::Arc;

use bytes::Bytes;
use hydrascale_proto::state::v1::{self as pb, command::Op, outcome};
use ipnet::{Ipv4Net, Ipv6Net};

use super::{Basis, Delta, NetmapConfig, Outline, Told, Whole, Wire};
use crate::config::{DnsConfig, FeatureConfig};
use crate::state::{ApplyContext, Change, Node, RegisterMethod, Settings, State};
use crate::tailcfg::{self, Hostinfo, MapResponse};
use crate::types::{MachineKey, NodeId, NodeKey, Timestamp, UserId};

/// What a viewer is told first, as it arrives in this form.
pub(crate) fn full_map(
    basis: &Arc<Basis>,
    config: &NetmapConfig,
    viewer: NodeId,
    now: Timestamp,
    wire: Wire,
) -> MapResponse {
    let whole = Whole::new(Arc::clone(basis), now);
    let viewer = basis.state.node(viewer).unwrap();
    let (message, peers) = whole.message(config, viewer);
    let pages = whole.pages(viewer, &peers, wire).into_iter();
    let pages = pages.map(|(page, _)| whole.page(config, viewer.id, &page));
    let frame = Whole::frame(&message, pages.collect(), wire);
    let payload = frame[4..].to_vec();
    let json = match wire {
        Wire::Raw => payload,
        Wire::Zstd => zstd::stream::decode_all(&*payload).unwrap(),
    };
    tailcfg::decode(&json).unwrap()
}

/// What a viewer is told of a change.
pub(crate) fn tell(world: &World, delta: &Delta, viewer: NodeId, wire: Wire) -> Told {
    let viewer = delta.basis().state.node(viewer).unwrap();
    let outline = delta.outline(viewer.id);
    let shared = |part: &Outline| delta.frame(&world.config, part, wire);
    delta.tell(&world.config, viewer, &outline, wire, shared)
}

/// A row as tests of single functions need it.
pub(crate) fn node(number: u8) -> Node {
    let hostinfo = Hostinfo {
        os: "linux".to_owned(),
        ..Hostinfo::default()
    };
    Node {
        id: NodeId(number.into()),
        machine_key: MachineKey::from_bytes([number; 32]),
        node_key: NodeKey::from_bytes([number + 100; 32]),
        disco_key: None,
        user_id: Some(UserId(1)),
        register_method: RegisterMethod::AuthKey,
        hostname: format!("host{number}"),
        given_name: format!("host{number}"),
        ipv4: Some([100, 64, 0, number].into()),
        ipv6: Some([0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, number.into()].into()),
        hostinfo_json: Arc::from(&b"{\"OS\":\"linux\"}"[..]),
        hostinfo: Arc::new(hostinfo),
        endpoints: Arc::new([]),
        home_derp: None,
        capver: 130,
        tags: vec![],
        approved_routes: vec![],
        routes_set_under: 0,
        pre_auth_key_id: None,
        ephemeral: false,
        expires_at: None,
        created_at: Timestamp::default(),
        last_seen: None,
    }
}

/// Settings with the prefixes that clients know.
pub(crate) fn settings() -> Settings {
    let v4: Ipv4Net = "100.64.0.0/10".parse().unwrap();
    let v6: Ipv6Net = "fd7a:115c:a1e0::/48".parse().unwrap();
    let second = std::time::Duration::from_secs(1);
    Settings {
        ipv4_prefix: Some(v4),
        ipv6_prefix: Some(v6),
        random_allocation: false,
        ephemeral_inactivity: 120 * second,
        node_expiry: None,
        login_ttl: 900 * second,
        session_grace: 10 * second,
        replica_grace: 25 * second,
    }
}

/// The configuration of the tailnet `net.example.com`.
pub(crate) fn config() -> NetmapConfig {
    NetmapConfig {
        dns: DnsConfig {
            magic_dns: true,
            base_domain: "net.example.com".to_owned(),
            ..DnsConfig::default()
        },
        features: FeatureConfig {
            taildrop: true,
            ..FeatureConfig::default()
        },
        ..NetmapConfig::default()
    }
}

/// A tailnet and what changed in it since somebody looked.
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) index: u64,
    pub(crate) now: Timestamp,
    pub(crate) config: NetmapConfig,
    incarnation: u64,
    change: Change,
    basis: Arc<Basis>,
}

impl World {
    /// One user with a key that lets in any number of nodes.
    pub(crate) fn new() -> Self {
        let mut world = Self {
            state: State::default(),
            index: 0,
            now: "2026-11-21T02:00:00Z".parse().unwrap(),
            config: config(),
            incarnation: 0,
            change: Change::default(),
            basis: Arc::new(Basis::of(0, Arc::default())),
        };
        world.run(Op::InitTailnet(pb::InitTailnet {
            settings: Some(pb::Settings {
                ipv4_prefix: "100.64.0.0/10".into(),
                ipv6_prefix: "fd7a:115c:a1e0::/48".into(),
                ephemeral_inactivity_ms: 120_000,
                login_ttl_ms: 900_000,
                session_grace_ms: 10_000,
                replica_grace_ms: 25_000,
                ..Default::default()
            }),
            noise_private_key: vec![1; 32].into(),
            secret_pepper: vec![2; 32].into(),
        }));
        for name in ["alice", "bob"] {
            let user = pb::CreateUser {
                name: name.into(),
                ..Default::default()
            };
            let user_id = world.run(Op::CreateUser(user)).map(|done| done.id);
            world.run(Op::CreatePreAuthKey(pb::CreatePreAuthKey {
                prefix: key_prefix(name),
                secret_hash: vec![3; 32].into(),
                user_id,
                reusable: true,
                expires_at_ms: Some(i64::MAX),
                ..Default::default()
            }));
        }
        world.take_delta();
        world
    }

    /// Applies a command; `None` when it was refused.
    pub(crate) fn run(&mut self, op: Op) -> Option<pb::Done> {
        self.index += 1;
        let ctx = ApplyContext {
            index: self.index,
            now: self.now,
        };
        let applied = self
            .state
            .apply(&ctx, &pb::Command { op: Some(op) })
            .unwrap();
        self.change.merge(applied.change);
        match applied.outcome.result {
            Some(outcome::Result::Done(done)) => Some(done),
            Some(outcome::Result::Refusal(_) | outcome::Result::Batch(_)) | None => None,
        }
    }

    /// Registers a device of a user, or logs it in again under another node key.
    pub(crate) fn register(&mut self, device: u8, node_key: u8, user: &str) -> Option<NodeId> {
        let hostinfo = format!(r#"{{"OS":"linux","Hostname":"host{device}"}}"#);
        let register = pb::RegisterNode {
            machine_key: vec![device; 32].into(),
            node_key: vec![node_key; 32].into(),
            hostinfo_json: hostinfo.into_bytes().into(),
            capver: 130,
            auth_key: Some(pb::PreAuthKeyProof {
                prefix: key_prefix(user),
                secret_hash: vec![3; 32].into(),
            }),
            ..Default::default()
        };
        self.run(Op::RegisterNode(register))
            .map(|done| NodeId(done.id))
    }

    pub(crate) fn update(&mut self, node: NodeId, update: pb::UpdateNode) {
        self.run(Op::UpdateNode(pb::UpdateNode {
            node_id: node.0,
            ..update
        }));
    }

    /// Opens a map stream of the node on a replica; refused when that is not up.
    pub(crate) fn open(&mut self, node: NodeId, replica: u64) {
        self.run(Op::OpenSession(pb::OpenSession {
            node_id: node.0,
            replica_id: replica,
            incarnation: self.incarnation,
            known: None,
        }));
    }

    /// Ends the node's map stream, if it has one.
    pub(crate) fn close(&mut self, node: NodeId) {
        if let Some(session) = self.state.session(node) {
            let session_no = Some(session.no.into());
            self.run(Op::CloseSession(pb::CloseSession {
                node_id: node.0,
                session_no,
            }));
        }
    }

    pub(crate) fn delete(&mut self, node: NodeId) {
        self.run(Op::DeleteNode(pb::DeleteNode { node_id: node.0 }));
    }

    pub(crate) fn rename(&mut self, node: NodeId, given_name: &str) {
        self.run(Op::RenameNode(pb::RenameNode {
            node_id: node.0,
            given_name: given_name.to_owned(),
        }));
    }

    /// Sets the expiry of the node's key, relative to now; `None` = never.
    pub(crate) fn expire(&mut self, node: NodeId, in_ms: Option<i64>) {
        let expires_at_ms = in_ms.map(|ms| self.now.unix_ms() + ms);
        self.run(Op::SetNodeExpiry(pb::SetNodeExpiry {
            node_id: node.0,
            expires_at_ms,
        }));
    }

    pub(crate) fn tag(&mut self, node: NodeId, tags: &[&str]) {
        self.run(Op::SetNodeTags(pb::SetNodeTags {
            node_id: node.0,
            tags: owned(tags),
        }));
    }

    pub(crate) fn approve(&mut self, node: NodeId, routes: &[&str]) {
        self.run(Op::SetApprovedRoutes(pb::SetApprovedRoutes {
            node_id: node.0,
            routes: owned(routes),
        }));
    }

    pub(crate) fn rename_user(&mut self, user_id: u64, name: &str) {
        let name = name.to_owned();
        self.run(Op::RenameUser(pb::RenameUser { user_id, name }));
    }

    pub(crate) fn set_policy(&mut self, text: &str) {
        self.run(Op::SetPolicy(pb::SetPolicy {
            text: text.to_owned(),
            ..Default::default()
        }));
    }

    pub(crate) fn set_role(&mut self, user_id: u64, role: i32) {
        self.run(Op::SetUserRole(pb::SetUserRole { user_id, role }));
    }

    /// Starts or restarts a replica with a relay.
    pub(crate) fn replica_up(&mut self, id: u64) {
        self.incarnation += 1;
        self.run(Op::ReplicaUp(pb::ReplicaUp {
            replica_id: id,
            incarnation: self.incarnation,
            name: format!("r{id}"),
            level_min: 1,
            level_max: 1,
            relay: Some(pb::Relay {
                hostname: format!("r{id}.example.com"),
                ipv4: format!("192.0.2.{id}"),
                derp_port: 8443,
                public_key: key(9),
                ..Default::default()
            }),
            ..Default::default()
        }));
    }

    pub(crate) fn replica_down(&mut self, id: u64) {
        self.run(Op::ReplicaDown(pb::ReplicaDown {
            replica_id: id,
            incarnation: self.incarnation,
            ..Default::default()
        }));
    }

    /// Lets time pass, with what is due in it.
    pub(crate) fn pass(&mut self, ms: i64) {
        self.now = Timestamp::from_unix_ms(self.now.unix_ms() + ms);
        self.run(Op::Tick(pb::Tick {}));
    }

    /// What changed since this was last called.
    pub(crate) fn take_delta(&mut self) -> Delta {
        let state = Arc::new(self.state.clone());
        let change = std::mem::take(&mut self.change);
        let (next, change) = self.basis.follow(self.index, state, change);
        let before = std::mem::replace(&mut self.basis, Arc::new(next));
        Delta::new(before, self.basis(), change, self.now)
    }

    /// The basis that the last delta led to.
    pub(crate) fn basis(&self) -> Arc<Basis> {
        Arc::clone(&self.basis)
    }
}

fn key_prefix(user: &str) -> String {
    let first = user.bytes().next().unwrap_or_default();
    format!("{first:012x}")
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

pub(crate) fn endpoints(addresses: &[&str]) -> pb::Endpoints {
    pb::Endpoints {
        addresses: owned(addresses),
        types: vec![1; addresses.len()],
    }
}

pub(crate) fn key(byte: u8) -> Bytes {
    vec![byte; 32].into()
}
