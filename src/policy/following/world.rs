//! A tailnet to which anything may happen.

use hydrascale_proto::state::v1::command::Op;
use hydrascale_proto::state::v1::{self, Command};
use proptest::prelude::*;

use super::policies::{Book, POLICIES};
use crate::state::{Applied, ApplyContext, Change, State};
use crate::types::{NodeId, Timestamp};

/// Nodes and users that there are at most: more make pairs slow, not rarer.
const NODES_MAX: usize = 24;
const USERS_MAX: usize = 6;

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
pub(in crate::policy) enum Step {
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
    SetText(String),
    EditRule(usize, usize),
    SetRole(usize, i32),
    Readdress(u8),
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
        1 => (0..POLICIES.len()).prop_map(Step::SetPolicy),
        8 => (any::<usize>(), 0..32_usize).prop_map(|(rule, place)| Step::EditRule(rule, place)),
        2 => (node(), 0..4_i32).prop_map(|(user, role)| Step::SetRole(user, role)),
        1 => (0..4_u8).prop_map(Step::Readdress),
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

fn settings(v4: bool, v6: bool) -> v1::Settings {
    let prefix = |wanted: bool, prefix: &str| if wanted { prefix } else { "" }.to_owned();
    v1::Settings {
        ipv4_prefix: prefix(v4, "100.64.0.0/10"),
        ipv6_prefix: prefix(v6, "fd7a:115c:a1e0::/48"),
        ephemeral_inactivity_ms: 120_000,
        login_ttl_ms: 900_000,
        session_grace_ms: 10_000,
        replica_grace_ms: 25_000,
        ..Default::default()
    }
}

pub(in crate::policy) struct World {
    pub(in crate::policy) state: State,
    index: u64,
    pub(super) made: u64,
    book: Book,
}

impl World {
    pub(in crate::policy) fn new() -> Self {
        let mut world = Self {
            state: State::default(),
            index: 0,
            made: 0,
            book: Book::default(),
        };
        world.apply(Op::InitTailnet(v1::InitTailnet {
            settings: Some(settings(true, true)),
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
    pub(in crate::policy) fn take(&mut self, step: &Step) -> Change {
        self.made += 1;
        if let Step::EditRule(rule, place) = *step {
            self.book.toggle(rule, place);
        }
        let mut change = Change::default();
        for op in self.operations(step) {
            change.merge(self.apply(op).change);
        }
        change
    }

    fn operations(&self, step: &Step) -> Vec<Op> {
        let node = |number| self.node(number);
        let user = |number| self.user(number);
        let op = match *step {
            Step::AddNode {
                owner,
                tags,
                routes,
            } => return self.registration(owner, tags, routes),
            Step::Readdress(families) => return readdressing(families),
            Step::SetText(ref text) => Some(set_policy(text.clone())),
            Step::SetPolicy(number) => Some(set_policy(POLICIES[number].to_owned())),
            Step::EditRule(..) => Some(set_policy(self.book.text())),
            Step::AddUser => self.new_user(),
            Step::RemoveUser(number) => user(number).map(destroy),
            Step::RenameUser(number) => user(number).map(|user| self.rename(user)),
            Step::SetRole(number, role) => user(number).map(|user| set_role(user, role)),
            Step::RemoveNode(number) => node(number).map(delete),
            Step::Retag(number, mask) => node(number).map(|node| retag(node, mask)),
            Step::Approve(number, mask) => node(number).map(|node| approve(node, mask)),
            Step::Open(number) => node(number).map(open),
            Step::Close(number) => node(number).and_then(|node| self.close(node)),
            Step::Advertise(number, mask) => node(number).map(|node| report(node, "linux", mask)),
            Step::Reinstall(number, is_linux) => {
                let os = if is_linux { "linux" } else { "windows" };
                node(number).map(|node| report(node, os, 0))
            }
            Step::Report(number) => node(number).map(move_home),
        };
        op.into_iter().collect()
    }

    fn name(&self) -> String {
        format!("u{}", self.made % 6)
    }

    fn new_user(&self) -> Option<Op> {
        let name = self.name();
        let domains = ["", "@one.example", "@two.example"];
        let email = match domains[usize::try_from(self.made / 6 % 3).unwrap()] {
            "" => String::new(),
            domain => format!("{name}{domain}"),
        };
        let user = v1::CreateUser {
            name,
            email,
            ..Default::default()
        };
        (self.state.users().count() < USERS_MAX).then_some(Op::CreateUser(user))
    }

    fn rename(&self, user_id: u64) -> Op {
        let name = self.name();
        Op::RenameUser(v1::RenameUser { user_id, name })
    }

    fn close(&self, node_id: u64) -> Option<Op> {
        let session = self.state.session(NodeId(node_id))?;
        Some(Op::CloseSession(v1::CloseSession {
            node_id,
            session_no: Some(session.no.into()),
        }))
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

fn set_policy(text: String) -> Op {
    Op::SetPolicy(v1::SetPolicy {
        text,
        author: "test".into(),
        replaces: None,
    })
}

fn destroy(user_id: u64) -> Op {
    Op::DestroyUser(v1::DestroyUser { user_id })
}

fn set_role(user_id: u64, role: i32) -> Op {
    Op::SetUserRole(v1::SetUserRole { user_id, role })
}

fn delete(node_id: u64) -> Op {
    Op::DeleteNode(v1::DeleteNode { node_id })
}

fn retag(node_id: u64, mask: u8) -> Op {
    let tags = tags(mask);
    Op::SetNodeTags(v1::SetNodeTags { node_id, tags })
}

fn approve(node_id: u64, mask: u8) -> Op {
    let routes = chosen(&ROUTES, mask).into_iter();
    let routes = routes.map(str::to_owned).collect();
    Op::SetApprovedRoutes(v1::SetApprovedRoutes { node_id, routes })
}

fn open(node_id: u64) -> Op {
    Op::OpenSession(v1::OpenSession {
        node_id,
        replica_id: 1,
        incarnation: 1,
        known: None,
    })
}

fn report(node_id: u64, os: &str, routes: u8) -> Op {
    Op::UpdateNode(v1::UpdateNode {
        node_id,
        hostinfo_json: hostinfo(os, routes),
        ..Default::default()
    })
}

fn move_home(node_id: u64) -> Op {
    Op::UpdateNode(v1::UpdateNode {
        node_id,
        home_derp: Some(3),
        ..Default::default()
    })
}

/// Other families of addresses for everybody.
fn readdressing(families: u8) -> Vec<Op> {
    let settings = settings(families != 1, families != 2);
    vec![
        Op::UpdateSettings(v1::UpdateSettings {
            settings: Some(settings),
        }),
        Op::BackfillAddresses(v1::BackfillAddresses::default()),
    ]
}
