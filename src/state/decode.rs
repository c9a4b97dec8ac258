//! Stored messages to decoded rows.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bytes::Bytes;
use hydrascale_proto::state::v1;

use super::convert::{endpoints_from_proto, relay_from_proto, settings_from_proto, timestamp};
use super::load::Fault;
use super::{
    ApiKey, Node, PendingLogin, PolicyVersion, PreAuthKey, Replica, Session, SshApproval, SshCheck,
    SshLogin, Tailnet, User, UserRole, hostinfo,
};
use crate::types::{DiscoKey, MachineKey, NodeId, NodeKey, RegionId, ReplicaId, Timestamp, UserId};

pub(super) fn tailnet(row: v1::TailnetRow) -> Result<Tailnet, Fault> {
    let settings = row.settings.as_ref().ok_or(Fault::Field("settings"))?;
    Ok(Tailnet {
        settings: settings_from_proto(settings).map_err(|_| Fault::Field("settings"))?,
        noise_private_key: row.noise_private_key,
        secret_pepper: array("secret_pepper", &row.secret_pepper)?,
        last_user_id: row.last_user_id,
        last_node_id: row.last_node_id,
        last_pre_auth_key_id: row.last_pre_auth_key_id,
        last_api_key_id: row.last_api_key_id,
        last_ipv4: optional(&row.last_ipv4, |ip| {
            array("last_ipv4", ip).map(Ipv4Addr::from)
        })?,
        last_ipv6: optional(&row.last_ipv6, |ip| {
            array::<16>("last_ipv6", ip).map(Ipv6Addr::from)
        })?,
        announced_until: Timestamp::from_unix_ms(row.now_ms),
    })
}

pub(super) fn user(row: v1::UserRow) -> Result<User, Fault> {
    let role = UserRole::try_from(row.role).map_err(|_| Fault::Field("role"))?;
    Ok(User {
        role,
        id: UserId(row.id),
        name: row.name,
        display_name: row.display_name,
        email: row.email,
        picture_url: row.picture_url,
        provider: row.provider,
        provider_id: row.provider_id,
        created_at: Timestamp::from_unix_ms(row.created_at_ms),
    })
}

pub(super) fn node(row: v1::NodeRow) -> Result<Node, Fault> {
    let endpoints = endpoints_from_proto(&row.endpoints.clone().unwrap_or_default());
    let routes = row.approved_routes.iter().map(|route| route.parse());
    Ok(Node {
        id: NodeId(row.id),
        machine_key: MachineKey::from_bytes(array("machine_key", &row.machine_key)?),
        node_key: NodeKey::from_bytes(array("node_key", &row.node_key)?),
        disco_key: optional(&row.disco_key, |key| {
            array("disco_key", key).map(DiscoKey::from_bytes)
        })?,
        user_id: row.user_id.map(UserId),
        register_method: row.register_method(),
        ipv4: address("ipv4", &row.ipv4)?,
        ipv6: address("ipv6", &row.ipv6)?,
        hostinfo: Arc::new(hostinfo::decode_or_default(&row.hostinfo_json)),
        hostinfo_json: row.hostinfo_json.as_ref().into(),
        endpoints: endpoints.map_err(|_| Fault::Field("endpoints"))?,
        home_derp: region("home_derp", row.home_derp)?,
        capver: u16::try_from(row.capver).map_err(|_| Fault::Field("capver"))?,
        approved_routes: routes
            .collect::<Result<_, _>>()
            .map_err(|_| Fault::Field("routes"))?,
        routes_set_under: row.routes_set_under,
        hostname: row.hostname,
        given_name: row.given_name,
        tags: row.tags,
        pre_auth_key_id: row.pre_auth_key_id,
        ephemeral: row.ephemeral,
        expires_at: timestamp(row.expires_at_ms),
        created_at: Timestamp::from_unix_ms(row.created_at_ms),
        last_seen: timestamp(row.last_seen_ms),
    })
}

pub(super) fn pre_auth_key(row: v1::PreAuthKeyRow) -> Result<PreAuthKey, Fault> {
    Ok(PreAuthKey {
        id: row.id,
        prefix: row.prefix,
        secret_hash: array("secret_hash", &row.secret_hash)?,
        user_id: row.user_id.map(UserId),
        reusable: row.reusable,
        ephemeral: row.ephemeral,
        used: row.used,
        revoked: row.revoked,
        expires_at: timestamp(row.expires_at_ms),
        created_at: Timestamp::from_unix_ms(row.created_at_ms),
        tags: row.tags,
    })
}

pub(super) fn api_key(row: v1::ApiKeyRow) -> Result<ApiKey, Fault> {
    Ok(ApiKey {
        id: row.id,
        prefix: row.prefix,
        secret_hash: array("secret_hash", &row.secret_hash)?,
        expires_at: timestamp(row.expires_at_ms),
        created_at: Timestamp::from_unix_ms(row.created_at_ms),
    })
}

pub(super) fn pending_login(row: v1::PendingLoginRow) -> Result<PendingLogin, Fault> {
    let login = row.login.ok_or(Fault::Field("login"))?;
    Ok(PendingLogin {
        auth_id: login.auth_id,
        machine_key: MachineKey::from_bytes(array("machine_key", &login.machine_key)?),
        node_key: NodeKey::from_bytes(array("node_key", &login.node_key)?),
        hostinfo_json: login.hostinfo_json.as_ref().into(),
        capver: u16::try_from(login.capver).map_err(|_| Fault::Field("capver"))?,
        ephemeral: login.ephemeral,
        requested_expiry: timestamp(login.requested_expiry_ms),
        created_at: Timestamp::from_unix_ms(row.created_at_ms),
        approved_node: row.approved_node_id.map(NodeId),
        rejected: row.rejected,
    })
}

pub(super) fn session(row: v1::SessionRow) -> Result<Session, Fault> {
    let no = row.session_no.ok_or(Fault::Field("session_no"))?;
    Ok(Session {
        node_id: NodeId(row.node_id),
        no: no.into(),
        replica: ReplicaId(row.replica_id),
        incarnation: row.incarnation,
        opened_at: Timestamp::from_unix_ms(row.opened_at_ms),
        closed_at: timestamp(row.closed_at_ms),
    })
}

pub(super) fn policy(row: v1::PolicyRow) -> PolicyVersion {
    PolicyVersion {
        version: row.version,
        text: row.text,
        author: row.author,
        created_at: Timestamp::from_unix_ms(row.created_at_ms),
    }
}

pub(super) fn ssh_check(row: v1::SshCheckRow) -> Result<SshCheck, Fault> {
    let check = row.check.ok_or(Fault::Field("check"))?;
    Ok(SshCheck {
        auth_id: check.auth_id,
        src: NodeId(check.src_node_id),
        dst: NodeId(check.dst_node_id),
        local_user: check.local_user,
        created_at: Timestamp::from_unix_ms(row.created_at_ms),
        approved: row.approved,
    })
}

pub(super) fn ssh_approval(row: v1::SshApprovalRow) -> SshApproval {
    SshApproval {
        login: SshLogin {
            src: NodeId(row.src_node_id),
            dst: NodeId(row.dst_node_id),
            local_user: row.local_user,
        },
        approved_at: Timestamp::from_unix_ms(row.approved_at_ms),
        policy_version: row.policy_version,
    }
}

pub(super) fn replica(row: v1::ReplicaRow) -> Result<Replica, Fault> {
    let relay = |field, relay: Option<v1::Relay>| {
        relay
            .as_ref()
            .map(relay_from_proto)
            .transpose()
            .map_err(|_| Fault::Field(field))
    };
    let ended = row.ended.iter();
    Ok(Replica {
        id: ReplicaId(row.id),
        incarnation: row.incarnation,
        name: row.name,
        version: row.version,
        levels: (row.level_min, row.level_max),
        config_digest: row.config_digest,
        relay: relay("relay", row.relay)?,
        region_id: region("region_id", row.region_id)?,
        down_since: timestamp(row.down_since_ms),
        drained_since: timestamp(row.drained_since_ms),
        stopping: row.stopping,
        retired_relay: relay("retired_relay", row.retired_relay)?,
        removed_at: timestamp(row.removed_at_ms),
        ended: ended
            .map(|end| (end.incarnation, Timestamp::from_unix_ms(end.ended_at_ms)))
            .collect(),
    })
}

fn array<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], Fault> {
    bytes.try_into().map_err(|_| Fault::Field(field))
}

fn optional<T>(
    bytes: &Bytes,
    read: impl FnOnce(&[u8]) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    if bytes.is_empty() {
        Ok(None)
    } else {
        read(bytes).map(Some)
    }
}

fn address<T: std::str::FromStr>(field: &'static str, text: &str) -> Result<Option<T>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| Fault::Field(field))
}

fn region(field: &'static str, id: u32) -> Result<Option<RegionId>, Fault> {
    let id = u16::try_from(id).map_err(|_| Fault::Field(field))?;
    Ok((id != 0).then_some(RegionId(id)))
}
