//! A tailnet to which anything may happen.

use hydrascale_proto::state::v1::command::Op;
use hydrascale_proto::state::v1::{self, Command};
use proptest::prelude::*;

use crate::state::{Applied, ApplyContext, Change, State};
use crate::types::{NodeId, Timestamp};

/// Nodes and users that there are at most: more make pairs slow, not rarer.
const NODES_MAX: usize = 24;
const USERS_MAX: usize = 6;

pub(super) const POLICIES: [&str; 11] = [
    "",
    r#"{"acls":[{"action":"accept","src":["*"],"dst":["*:*"]}]}"#,
    r#"{"groups":{"group:a":["u1@","u2@"],"group:b":["u2@","u3@"]},"tagOwners":{"tag:x":[],"tag:y":[]},
        "acls":[{"action":"accept","src":["group:a"],"dst":["tag:x:22","autogroup:self:*"]},
                {"action":"accept","src":["group:b","tag:x"],"dst":["tag:y:80,443","10.0.0.0/8:*"]}]}"#,
    r#"{"groups":{"group:a":["u1@"]},"tagOwners":{"tag:x":[],"tag:y":[]},
        "acls":[{"action":"accept","src":["u1@"],"dst":["tag:x:22"]},
                {"action":"accept","src":["group:a"],"dst":["tag:y:22"]},
                {"action":"accept","src":["u4@"],"dst":["tag:x:1"]},
                {"action":"accept","src":["group:a"],"dst":["tag:x:23"]}]}"#,
    r#"{"tagOwners":{"tag:x":[],"tag:y":[]},
        "grants":[{"src":["autogroup:member"],"dst":["autogroup:internet"],"via":["tag:x"],"ip":["*"]},
                  {"src":["u1@","tag:y"],"dst":["10.1.0.0/16"],"via":["tag:y"],"ip":["tcp:443"]},
                  {"src":["autogroup:tagged"],"dst":["*"],"ip":["*"]},
                  {"src":["u2@"],"dst":["autogroup:self"],"app":{"tailscale.com/cap/drive":[{}]}}]}"#,
    r#"{"tagOwners":{"tag:x":["autogroup:member"],"tag:y":[]},"hosts":{"h":"100.64.0.3"},
        "acls":[{"action":"accept","src":["h","100.64.0.0/29"],"dst":["h:*","autogroup:member:5"]},
                {"action":"accept","src":["autogroup:tagged"],"dst":["autogroup:internet:*"]}],
        "ssh":[{"action":"check","src":["autogroup:member"],"dst":["autogroup:self","tag:x"],"users":["root","autogroup:nonroot"]},
               {"action":"accept","src":["tag:y"],"dst":["tag:x"],"users":["deploy"]}],
        "nodeAttrs":[{"target":["tag:x"],"attr":["funnel"]},{"target":["*"],"attr":["suggest-exit-node"]},{"target":["u1@","tag:y"],"attr":["disable-ipv4"]}],
        "autoApprovers":{"routes":{"10.0.0.0/8":["tag:x","u1@"]},"exitNode":["tag:y"]}}"#,
    r#"{"postures":{"posture:new":["node:os == 'linux'"]},"tagOwners":{"tag:x":[],"tag:y":[]},
        "acls":[{"action":"accept","src":["autogroup:member"],"srcPosture":["posture:new"],"dst":["tag:x:*"]},
                {"action":"accept","src":["tag:x"],"dst":["tag:y:9"]},
                {"action":"accept","src":["*"],"srcPosture":["posture:new"],"dst":["10.1.0.0/16:1"]}]}"#,
    r#"{"acls":[]}"#,
    r#"{"acls":[{"action":"accept","src":["*"],"dst":["autogroup:self:*"]},
                {"action":"accept","src":["autogroup:danger-all"],"dst":["100.64.0.2:53","fd7a:115c:a1e0::2:53"]},
                {"action":"accept","src":["100.64.0.2","fd7a:115c:a1e0::2"],"dst":["u3@:7"]},
                {"action":"accept","src":["u1@"],"dst":["u3@:8"]}]}"#,
    r#"{"groups":{"group:a":["u1@","u2@"]},"hosts":{"h":"192.168.0.0/24"},"tagOwners":{"tag:x":[],"tag:y":[]},
        "postures":{"posture:new":["node:os == 'linux'"]},
        "acls":[{"action":"accept","src":["group:a"],"srcPosture":["posture:new"],"dst":["autogroup:self:*"]},
                {"action":"accept","src":["u3@"],"dst":["h:1"]}],
        "ssh":[{"action":"accept","src":["autogroup:member"],"dst":["autogroup:self"],"users":["root"],"recorder":["tag:x"]}],
        "nodeAttrs":[{"target":["h"],"attr":["funnel"]}]}"#,
    r#"{"groups":{"group:a":["u1@"]},"hosts":{"h":"100.64.0.3"},"tagOwners":{"tag:x":[],"tag:y":[]},
        "postures":{"posture:new":["node:os == 'linux'"]},
        "acls":[{"action":"accept","src":["group:a"],"srcPosture":["posture:new"],"dst":["autogroup:self:*"]},
                {"action":"accept","src":["u3@"],"dst":["h:1"]}],
        "ssh":[{"action":"accept","src":["autogroup:member"],"dst":["autogroup:self"],"users":["root"],"recorder":["tag:x"]}],
        "nodeAttrs":[{"target":["h"],"attr":["funnel"]}]}"#,
];

pub(super) const ROUTES: [&str; 6] = [
    "10.1.0.0/16",
    "10.2.0.0/16",
    "100.64.0.0/30",
    "192.168.0.0/24",
    "0.0.0.0/0",
    "::/0",
];

/// What happens, in numbers that are taken modulo what there is.
#[derive(Clone, Debug)]
pub(super) enum Step {
    AddUser,
    RemoveUser(usize),
    RenameUser(usize),
    AddNode { owner: usize, tags: u8, routes: u8 },
    RemoveNode(usize),
    Retag(usize, u8),
    Advertise(usize, u8),
    Approve(usize, u8),
    Open(usize),
    Close(usize),
    SetPolicy(usize),
    Report(usize),
    Reinstall(usize, bool),
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let node = || 0..NODES_MAX;
    prop_oneof![
        1 => Just(Step::AddUser),
        1 => node().prop_map(Step::RemoveUser),
        1 => node().prop_map(Step::RenameUser),
        6 => (node(), 0..8_u8, any::<u8>())
            .prop_map(|(owner, tags, routes)| Step::AddNode { owner, tags, routes }),
        4 => node().prop_map(Step::RemoveNode),
        4 => (node(), 0..4_u8).prop_map(|(node, tags)| Step::Retag(node, tags)),
        2 => (node(), any::<u8>()).prop_map(|(node, routes)| Step::Advertise(node, routes)),
        2 => (node(), any::<u8>()).prop_map(|(node, routes)| Step::Approve(node, routes)),
        2 => node().prop_map(Step::Open),
        1 => node().prop_map(Step::Close),
        2 => (0..POLICIES.len()).prop_map(Step::SetPolicy),
        1 => node().prop_map(Step::Report),
        2 => (node(), any::<bool>()).prop_map(|(node, linux)| Step::Reinstall(node, linux)),
    ]
}

fn chosen<'a>(all: &[&'a str], mask: u8) -> Vec<&'a str> {
    let numbered = all.iter().enumerate();
    let chosen = numbered.filter(|(number, _)| mask >> number & 1 == 1);
    chosen.map(|(_, text)| *text).collect()
}

fn tags(mask: u8) -> Vec<String> {
    let tags = chosen(&["tag:x", "tag:y"], mask & 3);
    tags.into_iter().map(str::to_owned).collect()
}

fn hostinfo(os: &str, mask: u8) -> bytes::Bytes {
    let routes = chosen(&ROUTES, mask);
    let hostinfo = serde_json::json!({"OS": os, "RoutableIPs": routes});
    serde_json::to_vec(&hostinfo).unwrap().into()
}

pub(super) struct World {
    pub(super) state: State,
    index: u64,
    made: u64,
}

impl World {
    pub(super) fn new() -> Self {
        let mut world = Self {
            state: State::default(),
            index: 0,
            made: 0,
        };
        world.apply(Op::InitTailnet(v1::InitTailnet {
            settings: Some(v1::Settings {
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
        world.apply(Op::ReplicaUp(v1::ReplicaUp {
            replica_id: 1,
            incarnation: 1,
            name: "one".into(),
            version: "1".into(),
            level_min: 1,
            level_max: 1,
            ..Default::default()
        }));
        world
    }

    fn apply(&mut self, op: Op) -> Applied {
        self.index += 1;
        let ctx = ApplyContext {
            index: self.index,
            now: Timestamp::from_unix_ms(1_700_000_000_000),
        };
        self.state.apply(&ctx, &Command { op: Some(op) }).unwrap()
    }

    fn node(&self, number: usize) -> Option<u64> {
        let count = self.state.node_count().max(1);
        self.state.nodes().nth(number % count).map(|node| node.id.0)
    }

    fn user(&self, number: usize) -> Option<u64> {
        let count = self.state.users().count().max(1);
        self.state.users().nth(number % count).map(|user| user.id.0)
    }

    /// What the step altered.
    pub(super) fn take(&mut self, step: &Step) -> Change {
        self.made += 1;
        let mut change = Change::default();
        for op in self.operations(step) {
            change.merge(self.apply(op).change);
        }
        change
    }

    fn operations(&self, step: &Step) -> Vec<Op> {
        let update = |node: usize| {
            let node_id = self.node(node)?;
            Some(v1::UpdateNode {
                node_id,
                ..Default::default()
            })
        };
        let name = |number: u64| format!("u{}", number % 6);
        let op = match *step {
            Step::AddNode {
                owner,
                tags,
                routes,
            } => return self.registration(owner, tags, routes),
            Step::AddUser if self.state.users().count() >= USERS_MAX => None,
            Step::AddUser => Some(Op::CreateUser(v1::CreateUser {
                name: name(self.made),
                ..Default::default()
            })),
            Step::RemoveUser(user) => self
                .user(user)
                .map(|user_id| Op::DestroyUser(v1::DestroyUser { user_id })),
            Step::RenameUser(user) => self.user(user).map(|user_id| {
                let name = name(self.made);
                Op::RenameUser(v1::RenameUser { user_id, name })
            }),
            Step::SetPolicy(number) => Some(Op::SetPolicy(v1::SetPolicy {
                text: POLICIES[number].to_owned(),
                author: "test".into(),
                replaces: None,
            })),
            Step::Advertise(node, mask) => update(node).map(|update| {
                let hostinfo_json = hostinfo("linux", mask);
                Op::UpdateNode(v1::UpdateNode {
                    hostinfo_json,
                    ..update
                })
            }),
            Step::Reinstall(node, is_linux) => update(node).map(|update| {
                let hostinfo_json = hostinfo(if is_linux { "linux" } else { "windows" }, 0);
                Op::UpdateNode(v1::UpdateNode {
                    hostinfo_json,
                    ..update
                })
            }),
            Step::Report(node) => update(node).map(|update| {
                let home_derp = Some(3);
                Op::UpdateNode(v1::UpdateNode {
                    home_derp,
                    ..update
                })
            }),
            Step::RemoveNode(node)
            | Step::Retag(node, _)
            | Step::Approve(node, _)
            | Step::Open(node)
            | Step::Close(node) => self.node(node).and_then(|node| self.on_node(step, node)),
        };
        op.into_iter().collect()
    }

    fn on_node(&self, step: &Step, node_id: u64) -> Option<Op> {
        match step {
            Step::RemoveNode(_) => Some(Op::DeleteNode(v1::DeleteNode { node_id })),
            Step::Retag(_, mask) => {
                let tags = tags(*mask);
                Some(Op::SetNodeTags(v1::SetNodeTags { node_id, tags }))
            }
            Step::Approve(_, mask) => {
                let routes = chosen(&ROUTES, *mask).into_iter();
                Some(Op::SetApprovedRoutes(v1::SetApprovedRoutes {
                    node_id,
                    routes: routes.map(str::to_owned).collect(),
                }))
            }
            Step::Open(_) => Some(Op::OpenSession(v1::OpenSession {
                node_id,
                replica_id: 1,
                incarnation: 1,
                known: None,
            })),
            Step::Close(_) => {
                let session = self.state.session(NodeId(node_id))?;
                Some(Op::CloseSession(v1::CloseSession {
                    node_id,
                    session_no: Some(session.no.into()),
                }))
            }
            Step::AddUser
            | Step::RemoveUser(_)
            | Step::RenameUser(_)
            | Step::AddNode { .. }
            | Step::Advertise(..)
            | Step::SetPolicy(_)
            | Step::Report(_)
            | Step::Reinstall(..) => None,
        }
    }

    /// With `mask` from 4 on a node of a user, if there is one; else a tagged one.
    fn registration(&self, owner: usize, mask: u8, offered: u8) -> Vec<Op> {
        if self.state.node_count() >= NODES_MAX {
            return Vec::new();
        }
        let user_id = self.user(owner).filter(|_| mask >= 4);
        let tags = match user_id {
            Some(_) => Vec::new(),
            None => tags(if mask & 3 == 0 { 1 } else { mask }),
        };
        let proof = v1::PreAuthKeyProof {
            prefix: format!("{:012x}", self.made),
            secret_hash: vec![3; 32].into(),
        };
        let mut key = [7; 32];
        key[..8].copy_from_slice(&self.made.to_be_bytes());
        vec![
            Op::CreatePreAuthKey(v1::CreatePreAuthKey {
                prefix: proof.prefix.clone(),
                secret_hash: proof.secret_hash.clone(),
                user_id,
                expires_at_ms: Some(i64::MAX),
                tags,
                ..Default::default()
            }),
            Op::RegisterNode(v1::RegisterNode {
                machine_key: key.to_vec().into(),
                node_key: key.to_vec().into(),
                hostinfo_json: hostinfo("linux", offered),
                capver: 130,
                auth_key: Some(proof),
                ..Default::default()
            }),
        ]
    }
}
