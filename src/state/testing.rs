//! A small world for tests: a state, the rows that its commands wrote, and a clock. Every command
//! checks what always holds: a refusal changes nothing, and the rows rebuild the state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use hydrascale_proto::state::v1::command::Op;
use hydrascale_proto::state::v1::{self, Command, Outcome, RefusalCode, outcome};
use hydrascale_raft::{Row, RowWrite};

use super::secret::{SecretKind, hash_secret};
use super::{Applied, ApplyContext, Node, RegisterMethod, SessionNo, State};
use crate::types::{MachineKey, NodeId, NodeKey, ReplicaId, Timestamp, UserId};

/// Settings with short times.
pub(super) fn settings() -> v1::Settings {
    v1::Settings {
        ipv4_prefix: "100.64.0.0/10".into(),
        ipv6_prefix: "fd7a:115c:a1e0::/48".into(),
        random_allocation: false,
        ephemeral_inactivity_ms: 120_000,
        node_expiry_ms: 0,
        login_ttl_ms: 900_000,
        session_grace_ms: 10_000,
        replica_grace_ms: 25_000,
    }
}

/// A node as a test starts from it.
pub(super) fn node() -> Node {
    Node {
        id: NodeId(1),
        machine_key: MachineKey::from_bytes([1; 32]),
        node_key: NodeKey::from_bytes([2; 32]),
        disco_key: None,
        user_id: None,
        register_method: RegisterMethod::AuthKey,
        hostname: "host".into(),
        given_name: "host".into(),
        ipv4: None,
        ipv6: None,
        hostinfo_json: Arc::from(&b"{}"[..]),
        hostinfo: Arc::default(),
        endpoints: Arc::new([]),
        home_derp: None,
        capver: 130,
        tags: vec!["tag:a".into()],
        approved_routes: vec![],
        routes_set_under: 0,
        pre_auth_key_id: None,
        ephemeral: false,
        expires_at: None,
        created_at: Timestamp::default(),
        last_seen: None,
    }
}

/// A pre-auth key as its holder presents it.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) id: u64,
    pub(super) proof: v1::PreAuthKeyProof,
}

/// No two nodes share what must be unique, by the rows alone.
pub(crate) fn assert_unique(state: &State) {
    let mut seen = BTreeSet::new();
    for node in state.nodes() {
        let mut texts = vec![
            node.node_key.to_string(),
            format!("name {}", node.given_name),
        ];
        texts.extend(node.ipv4.map(|ip| ip.to_string()));
        texts.extend(node.ipv6.map(|ip| ip.to_string()));
        for text in texts {
            assert!(seen.insert(text.clone()), "{text} is there twice");
        }
        assert!(
            node.user_id.is_some() != node.is_tagged(),
            "one owner: {node:?}"
        );
        assert!(node.given_name.len() <= 63);
    }
}

pub(super) struct World {
    pub(super) state: State,
    pub(super) now: Timestamp,
    pub(super) index: u64,
    /// All commands so far.
    pub(super) log: Vec<(ApplyContext, Command)>,
    rows: BTreeMap<Bytes, Bytes>,
}

pub(super) const PEPPER: [u8; 32] = [0x22; 32];

impl World {
    /// Before the first command.
    pub(super) fn empty() -> Self {
        let now = Timestamp::from_unix_ms(1_700_000_000_000);
        Self {
            state: State::default(),
            now,
            index: 0,
            log: Vec::new(),
            rows: BTreeMap::new(),
        }
    }

    /// A tailnet without anything in it.
    pub(super) fn new() -> Self {
        let mut world = Self::empty();
        world.init();
        world
    }

    /// A tailnet with at least one row in each table.
    pub(super) fn populated() -> Self {
        let mut world = Self::new();
        world.replica_up(1, 1);
        let node = world.add_node(1);
        world.open(node, 1, 1);
        world.start_login(1, 50);
        let auth_id = world.start_ssh_check(node, node);
        world.decide_ssh_check(&auth_id, true);
        world.ok(v1::CreateApiKey {
            prefix: "0123456789ab".into(),
            secret_hash: vec![3; 32].into(),
            expires_at_ms: None,
        });
        world
    }

    pub(super) fn init(&mut self) -> Applied {
        self.ok(v1::InitTailnet {
            settings: Some(settings()),
            noise_private_key: vec![0x11; 32].into(),
            secret_pepper: PEPPER.to_vec().into(),
        })
    }

    /// The rows as the writes of all commands left them.
    pub(super) fn rows(&self) -> Vec<Row> {
        let row = |(key, value): (&Bytes, &Bytes)| Row {
            key: key.clone(),
            value: value.clone(),
        };
        self.rows.iter().map(row).collect()
    }

    /// Applies a command and checks what always holds.
    pub(super) fn apply(&mut self, op: impl Into<Operation>) -> Applied {
        self.index += 1;
        let before = self.after_sweep();
        let ctx = ApplyContext {
            index: self.index,
            now: self.now,
        };
        let command = Command {
            op: Some(op.into().0),
        };
        let applied = self.state.apply(&ctx, &command).unwrap();
        self.log.push((ctx, command));
        for write in &applied.writes {
            match write {
                RowWrite::Put(row) => self.rows.insert(row.key.clone(), row.value.clone()),
                RowWrite::Delete(key) => self.rows.remove(key),
            };
        }
        assert_eq!(self.state.rows().collect::<Vec<_>>(), self.rows());
        assert_eq!(
            State::load(self.rows()).unwrap(),
            self.state,
            "rows rebuild the state"
        );
        if matches!(applied.outcome.result, Some(outcome::Result::Refusal(_))) {
            assert_eq!(self.state, before, "a refusal changes nothing");
        }
        applied
    }

    /// The state as it is once time alone did its work.
    fn after_sweep(&self) -> State {
        let mut state = self.state.clone();
        let ctx = ApplyContext {
            index: self.index,
            now: self.now,
        };
        state
            .apply(
                &ctx,
                &Command {
                    op: Some(Op::Tick(v1::Tick {})),
                },
            )
            .unwrap();
        state
    }

    /// Applies a command that must not be refused.
    pub(super) fn ok(&mut self, op: impl Into<Operation>) -> Applied {
        let applied = self.apply(op);
        assert!(
            !matches!(applied.outcome.result, Some(outcome::Result::Refusal(_))),
            "refused: {:?}",
            applied.outcome
        );
        applied
    }

    pub(super) fn pass(&mut self, ms: i64) {
        self.now = Timestamp::from_unix_ms(self.now.unix_ms() + ms);
    }

    /// Lets time pass and proposes a tick.
    pub(super) fn tick_after(&mut self, ms: i64) -> Applied {
        self.pass(ms);
        self.ok(v1::Tick {})
    }

    pub(super) fn create_user(&mut self, name: &str) -> UserId {
        let applied = self.ok(v1::CreateUser {
            name: name.into(),
            ..Default::default()
        });
        UserId(done_id(&applied))
    }

    pub(super) fn create_key(&mut self, command: v1::CreatePreAuthKey) -> Key {
        let number = self.index;
        let secret_hash = hash_secret(&PEPPER, SecretKind::PreAuthKey, &number.to_be_bytes());
        let secret_hash = Bytes::copy_from_slice(&secret_hash);
        let proof = v1::PreAuthKeyProof {
            prefix: format!("{number:012x}"),
            secret_hash: secret_hash.clone(),
        };
        let prefix = proof.prefix.clone();
        let applied = self.ok(v1::CreatePreAuthKey {
            prefix,
            secret_hash,
            ..command
        });
        Key {
            id: done_id(&applied),
            proof,
        }
    }

    /// A reusable key of this user.
    pub(super) fn auth_key(&mut self, user: UserId) -> Key {
        self.create_key(v1::CreatePreAuthKey {
            user_id: Some(user.0),
            reusable: true,
            expires_at_ms: Some(self.now.unix_ms() + 86_400_000),
            ..Default::default()
        })
    }

    /// Registers the device with this number with the key.
    pub(super) fn register(&mut self, device: u8, key: &Key) -> NodeId {
        let command = registration(device, device, key);
        NodeId(done_id(&self.ok(command)))
    }

    /// A node of a user of its own.
    pub(super) fn add_node(&mut self, device: u8) -> NodeId {
        let user = self.create_user(&format!("user{device}"));
        let key = self.auth_key(user);
        self.register(device, &key)
    }

    pub(super) fn delete_node(&mut self, id: NodeId) -> Applied {
        self.ok(v1::DeleteNode { node_id: id.0 })
    }

    pub(super) fn set_home(&mut self, id: NodeId, region: u32) -> Applied {
        let home_derp = Some(region);
        self.ok(v1::UpdateNode {
            node_id: id.0,
            home_derp,
            ..Default::default()
        })
    }

    pub(super) fn start_login(&mut self, device: u8, node_key: u8) -> String {
        let auth_id = format!("hskey-authreq-{:024x}", self.index);
        self.ok(v1::StartLogin {
            auth_id: auth_id.clone(),
            machine_key: vec![device; 32].into(),
            node_key: vec![node_key; 32].into(),
            hostinfo_json: hostinfo(device).into(),
            capver: 130,
            ephemeral: false,
            requested_expiry_ms: None,
        });
        auth_id
    }

    pub(super) fn start_ssh_check(&mut self, src: NodeId, dst: NodeId) -> String {
        let auth_id = format!("hskey-authreq-{:024x}", self.index);
        self.ok(v1::StartSshCheck {
            auth_id: auth_id.clone(),
            src_node_id: src.0,
            dst_node_id: dst.0,
            local_user: "deploy".into(),
        });
        auth_id
    }

    pub(super) fn decide_ssh_check(&mut self, auth_id: &str, approved: bool) -> Applied {
        self.ok(v1::DecideSshCheck {
            auth_id: auth_id.to_owned(),
            approved,
        })
    }

    pub(super) fn approve(&self, auth_id: &str, user: UserId) -> v1::ApproveLogin {
        v1::ApproveLogin {
            auth_id: auth_id.to_owned(),
            user_id: user.0,
            method: RegisterMethod::Cli.into(),
            expires_at_ms: None,
            entropy: self.index,
            tag_grant: None,
        }
    }

    pub(super) fn replica_up(&mut self, id: u64, incarnation: u64) -> Applied {
        self.ok(replica(id, incarnation))
    }

    pub(super) fn replica_down(&mut self, id: u64, incarnation: u64) -> Applied {
        self.ok(v1::ReplicaDown {
            replica_id: id,
            incarnation,
            last_heard_ms: None,
            silence_ms: None,
        })
    }

    pub(super) fn remove_replica(&mut self, id: u64) -> Applied {
        self.ok(v1::RemoveReplica { replica_id: id })
    }

    pub(super) fn open(&mut self, node: NodeId, replica: u64, incarnation: u64) -> SessionNo {
        self.ok(v1::OpenSession {
            node_id: node.0,
            replica_id: replica,
            incarnation,
            known: None,
        });
        let session = self.state.session(node).unwrap();
        assert_eq!(session.replica, ReplicaId(replica));
        session.no
    }

    pub(super) fn close(&mut self, node: NodeId, no: SessionNo) -> Applied {
        self.ok(v1::CloseSession {
            node_id: node.0,
            session_no: Some(no.into()),
        })
    }
}

pub(super) fn hostinfo(device: u8) -> Vec<u8> {
    format!(r#"{{"OS":"linux","Hostname":"host{device}"}}"#).into_bytes()
}

pub(super) fn registration(device: u8, node_key: u8, key: &Key) -> v1::RegisterNode {
    v1::RegisterNode {
        machine_key: vec![device; 32].into(),
        node_key: vec![node_key; 32].into(),
        hostinfo_json: hostinfo(device).into(),
        capver: 130,
        ephemeral: false,
        requested_expiry_ms: None,
        auth_key: Some(key.proof.clone()),
        entropy: u64::from(device),
        tag_grant: None,
    }
}

pub(super) fn replica(id: u64, incarnation: u64) -> v1::ReplicaUp {
    let names = ["zero", "alpha", "beta", "gamma", "delta"];
    let name = usize::try_from(id)
        .ok()
        .and_then(|id| names.get(id))
        .copied()
        .unwrap_or("more");
    v1::ReplicaUp {
        replica_id: id,
        incarnation,
        name: name.into(),
        version: "0.1.0".into(),
        level_min: 1,
        level_max: 1,
        config_digest: "digest".into(),
        relay: Some(v1::Relay {
            hostname: format!("derp{id}.example.com"),
            ipv4: format!("192.0.2.{}", id % 250),
            ipv6: "none".into(),
            derp_port: 8443,
            stun_port: 3478,
            public_key: vec![9; 32].into(),
            ..Default::default()
        }),
    }
}

/// The id in the outcome of a command that was not refused.
pub(super) fn done_id(applied: &Applied) -> u64 {
    match &applied.outcome.result {
        Some(outcome::Result::Done(done)) => done.id,
        other => panic!("not done: {other:?}"),
    }
}

/// Code and message of a refused command.
pub(super) fn refusal(applied: &Applied) -> (RefusalCode, String) {
    refusal_of(&applied.outcome)
}

pub(super) fn refusal_of(outcome: &Outcome) -> (RefusalCode, String) {
    match &outcome.result {
        Some(outcome::Result::Refusal(refusal)) => (refusal.code(), refusal.message.clone()),
        other => panic!("not refused: {other:?}"),
    }
}

/// An operation, made from its message.
#[derive(Clone, Debug)]
pub(super) struct Operation(pub(super) Op);

impl From<Op> for Operation {
    fn from(op: Op) -> Self {
        Self(op)
    }
}

macro_rules! operations {
    ($($name:ident)*) => {
        $(impl From<v1::$name> for Operation {
            fn from(message: v1::$name) -> Self {
                Self(Op::$name(message))
            }
        })*
    };
}

operations! {
    InitTailnet Batch Tick UpdateSettings ResealNoiseKey BackfillAddresses
    CreateUser RenameUser DestroyUser SetUserRole
    CreatePreAuthKey ExpirePreAuthKey DeletePreAuthKey CreateApiKey ExpireApiKey DeleteApiKey
    RegisterNode StartLogin ApproveLogin RejectLogin LogoutNode
    DeleteNode RenameNode SetNodeExpiry SetNodeTags SetApprovedRoutes UpdateNode
    ApproveRoutes StartSshCheck DecideSshCheck
    OpenSession CloseSession ReplicaUp ReplicaDown RemoveReplica DrainReplica ReplicaStopping SetPolicy
}
