//! Decoded rows to stored rows. A row's key is its table's tag byte and the primary key; the tags
//! and the messages are the storage format, so they only ever gain members.

use bytes::{BufMut, Bytes, BytesMut};
use hydrascale_proto::state::v1;
use hydrascale_raft::Row;
use prost::Message;

use super::convert::{endpoints_to_proto, relay_to_proto, settings_to_proto};
use super::{
    ApiKey, Node, PendingLogin, PolicyVersion, PreAuthKey, Replica, Session, SshApproval, SshCheck,
    SshLogin, State, Tailnet, User,
};

/// A kind of row. The number is the first byte of the key: rows load in this order, so a table
/// stands behind those that it refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Table {
    Tailnet = 0x01,
    Users = 0x10,
    Replicas = 0x20,
    Nodes = 0x30,
    PreAuthKeys = 0x40,
    ApiKeys = 0x50,
    PendingLogins = 0x60,
    Sessions = 0x70,
    Policies = 0x80,
    SshChecks = 0x90,
    SshApprovals = 0xa0,
}

impl Table {
    const ALL: [Self; 11] = [
        Self::Tailnet,
        Self::Users,
        Self::Replicas,
        Self::Nodes,
        Self::PreAuthKeys,
        Self::ApiKeys,
        Self::PendingLogins,
        Self::Sessions,
        Self::Policies,
        Self::SshChecks,
        Self::SshApprovals,
    ];

    pub(super) fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|table| *table as u8 == tag)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tailnet => "tailnet",
            Self::Users => "users",
            Self::Replicas => "replicas",
            Self::Nodes => "nodes",
            Self::PreAuthKeys => "pre_auth_keys",
            Self::ApiKeys => "api_keys",
            Self::PendingLogins => "pending_logins",
            Self::Sessions => "sessions",
            Self::Policies => "policies",
            Self::SshChecks => "ssh_checks",
            Self::SshApprovals => "ssh_approvals",
        }
    }

    /// Key of the row with this number.
    pub(super) fn numbered(self, id: u64) -> Bytes {
        let mut key = BytesMut::with_capacity(9);
        key.put_u8(self as u8);
        key.put_u64(id);
        key.freeze()
    }

    /// Key of the row about this SSH login.
    pub(super) fn about(self, login: &SshLogin) -> Bytes {
        let user = login.local_user.as_bytes();
        let mut key = BytesMut::with_capacity(17 + user.len());
        key.put_u8(self as u8);
        key.put_u64(login.src.0);
        key.put_u64(login.dst.0);
        key.put_slice(user);
        key.freeze()
    }

    /// Key of the row with this name.
    pub(super) fn named(self, name: &str) -> Bytes {
        let mut key = BytesMut::with_capacity(1 + name.len());
        key.put_u8(self as u8);
        key.put_slice(name.as_bytes());
        key.freeze()
    }
}

impl State {
    /// All rows in key order: what the commands so far left in the store.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        let first = self.tailnet.iter().map(|row| tailnet(row));
        first
            .chain(self.users.values().map(|row| user(row)))
            .chain(self.replicas.values().map(|row| replica(row)))
            .chain(self.nodes.values().map(|row| node(row)))
            .chain(self.pre_auth_keys.values().map(|row| pre_auth_key(row)))
            .chain(self.api_keys.values().map(|row| api_key(row)))
            .chain(self.pending_logins.values().map(|row| pending_login(row)))
            .chain(self.sessions.values().map(session))
            .chain(self.policies.values().map(|row| policy(row)))
            .chain(self.ssh_checks.values().map(|row| ssh_check(row)))
            .chain(self.ssh_approvals.values().map(ssh_approval))
    }

    /// A hash over all rows, equal on replicas that applied the same commands.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for row in self.rows() {
            for part in [&row.key, &row.value] {
                hasher.update(&(part.len() as u64).to_be_bytes());
                hasher.update(part);
            }
        }
        *hasher.finalize().as_bytes()
    }
}

fn row(key: Bytes, message: &impl Message) -> Row {
    Row {
        key,
        value: message.encode_to_vec().into(),
    }
}

pub(super) fn tailnet(tailnet: &Tailnet) -> Row {
    let message = v1::TailnetRow {
        settings: Some(settings_to_proto(&tailnet.settings)),
        noise_private_key: tailnet.noise_private_key.clone(),
        secret_pepper: tailnet.secret_pepper.to_vec().into(),
        last_user_id: tailnet.last_user_id,
        last_node_id: tailnet.last_node_id,
        last_pre_auth_key_id: tailnet.last_pre_auth_key_id,
        last_api_key_id: tailnet.last_api_key_id,
        now_ms: tailnet.announced_until.unix_ms(),
        last_ipv4: tailnet
            .last_ipv4
            .map(|ip| ip.octets().to_vec())
            .unwrap_or_default()
            .into(),
        last_ipv6: tailnet
            .last_ipv6
            .map(|ip| ip.octets().to_vec())
            .unwrap_or_default()
            .into(),
    };
    row(Table::Tailnet.named(""), &message)
}

pub(super) fn user(user: &User) -> Row {
    let message = v1::UserRow {
        id: user.id.0,
        name: user.name.clone(),
        display_name: user.display_name.clone(),
        email: user.email.clone(),
        picture_url: user.picture_url.clone(),
        provider: user.provider.clone(),
        provider_id: user.provider_id.clone(),
        created_at_ms: user.created_at.unix_ms(),
        role: user.role.into(),
    };
    row(Table::Users.numbered(user.id.0), &message)
}

pub(super) fn node(node: &Node) -> Row {
    let message = v1::NodeRow {
        id: node.id.0,
        machine_key: node.machine_key.as_bytes().to_vec().into(),
        node_key: node.node_key.as_bytes().to_vec().into(),
        disco_key: node
            .disco_key
            .map(|key| key.as_bytes().to_vec())
            .unwrap_or_default()
            .into(),
        user_id: node.user_id.map(|id| id.0),
        register_method: node.register_method.into(),
        hostname: node.hostname.clone(),
        given_name: node.given_name.clone(),
        ipv4: node.ipv4.map(|ip| ip.to_string()).unwrap_or_default(),
        ipv6: node.ipv6.map(|ip| ip.to_string()).unwrap_or_default(),
        hostinfo_json: node.hostinfo_json.to_vec().into(),
        endpoints: Some(endpoints_to_proto(&node.endpoints)),
        home_derp: node.home_derp.map_or(0, |id| u32::from(id.0)),
        capver: u32::from(node.capver),
        tags: node.tags.clone(),
        approved_routes: node
            .approved_routes
            .iter()
            .map(ToString::to_string)
            .collect(),
        pre_auth_key_id: node.pre_auth_key_id,
        ephemeral: node.ephemeral,
        expires_at_ms: node.expires_at.map(|at| at.unix_ms()),
        created_at_ms: node.created_at.unix_ms(),
        last_seen_ms: node.last_seen.map(|at| at.unix_ms()),
        routes_set_under: node.routes_set_under,
    };
    row(Table::Nodes.numbered(node.id.0), &message)
}

pub(super) fn pre_auth_key(key: &PreAuthKey) -> Row {
    let message = v1::PreAuthKeyRow {
        id: key.id,
        prefix: key.prefix.clone(),
        secret_hash: key.secret_hash.to_vec().into(),
        user_id: key.user_id.map(|id| id.0),
        reusable: key.reusable,
        ephemeral: key.ephemeral,
        used: key.used,
        revoked: key.revoked,
        expires_at_ms: key.expires_at.map(|at| at.unix_ms()),
        created_at_ms: key.created_at.unix_ms(),
        tags: key.tags.clone(),
    };
    row(Table::PreAuthKeys.numbered(key.id), &message)
}

pub(super) fn api_key(key: &ApiKey) -> Row {
    let message = v1::ApiKeyRow {
        id: key.id,
        prefix: key.prefix.clone(),
        secret_hash: key.secret_hash.to_vec().into(),
        expires_at_ms: key.expires_at.map(|at| at.unix_ms()),
        created_at_ms: key.created_at.unix_ms(),
    };
    row(Table::ApiKeys.numbered(key.id), &message)
}

pub(super) fn pending_login(login: &PendingLogin) -> Row {
    let message = v1::PendingLoginRow {
        login: Some(v1::StartLogin {
            auth_id: login.auth_id.clone(),
            machine_key: login.machine_key.as_bytes().to_vec().into(),
            node_key: login.node_key.as_bytes().to_vec().into(),
            hostinfo_json: login.hostinfo_json.to_vec().into(),
            capver: u32::from(login.capver),
            ephemeral: login.ephemeral,
            requested_expiry_ms: login.requested_expiry.map(|at| at.unix_ms()),
        }),
        created_at_ms: login.created_at.unix_ms(),
        approved_node_id: login.approved_node.map(|id| id.0),
        rejected: login.rejected,
    };
    row(Table::PendingLogins.named(&login.auth_id), &message)
}

pub(super) fn session(session: &Session) -> Row {
    let message = v1::SessionRow {
        node_id: session.node_id.0,
        session_no: Some(session.no.into()),
        replica_id: session.replica.0,
        incarnation: session.incarnation,
        opened_at_ms: session.opened_at.unix_ms(),
        closed_at_ms: session.closed_at.map(|at| at.unix_ms()),
    };
    row(Table::Sessions.numbered(session.node_id.0), &message)
}

pub(super) fn policy(policy: &PolicyVersion) -> Row {
    let message = v1::PolicyRow {
        version: policy.version,
        text: policy.text.clone(),
        author: policy.author.clone(),
        created_at_ms: policy.created_at.unix_ms(),
    };
    row(Table::Policies.numbered(policy.version), &message)
}

pub(super) fn ssh_check(check: &SshCheck) -> Row {
    let message = v1::SshCheckRow {
        check: Some(v1::StartSshCheck {
            auth_id: check.auth_id.clone(),
            src_node_id: check.src.0,
            dst_node_id: check.dst.0,
            local_user: check.local_user.clone(),
        }),
        created_at_ms: check.created_at.unix_ms(),
        approved: check.approved,
    };
    row(Table::SshChecks.named(&check.auth_id), &message)
}

pub(super) fn ssh_approval(approval: &SshApproval) -> Row {
    let message = v1::SshApprovalRow {
        src_node_id: approval.login.src.0,
        dst_node_id: approval.login.dst.0,
        local_user: approval.login.local_user.clone(),
        approved_at_ms: approval.approved_at.unix_ms(),
        policy_version: approval.policy_version,
    };
    row(Table::SshApprovals.about(&approval.login), &message)
}

pub(super) fn replica(replica: &Replica) -> Row {
    let ended = replica
        .ended
        .iter()
        .map(|(incarnation, at)| v1::EndedIncarnation {
            incarnation: *incarnation,
            ended_at_ms: at.unix_ms(),
        });
    let message = v1::ReplicaRow {
        id: replica.id.0,
        incarnation: replica.incarnation,
        name: replica.name.clone(),
        version: replica.version.clone(),
        level_min: replica.levels.0,
        level_max: replica.levels.1,
        config_digest: replica.config_digest.clone(),
        relay: replica.relay.as_ref().map(relay_to_proto),
        region_id: replica.region_id.map_or(0, |id| u32::from(id.0)),
        down_since_ms: replica.down_since.map(|at| at.unix_ms()),
        drained_since_ms: replica.drained_since.map(|at| at.unix_ms()),
        stopping: replica.stopping,
        retired_relay: replica.retired_relay.as_ref().map(relay_to_proto),
        removed_at_ms: replica.removed_at.map(|at| at.unix_ms()),
        ended: ended.collect(),
    };
    row(Table::Replicas.numbered(replica.id.0), &message)
}
