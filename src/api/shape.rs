//! The objects of REST v1 as headscale main (0.30) writes them: camelCase names, ids as text,
//! times in RFC 3339, absent lists as `[]`.

use serde::{Serialize, Serializer};

use crate::netmap::{RouteTable, TAGGED_DEVICES, exit_routes};
use crate::state::secret::{SecretKind, masked};
use crate::state::{ApiKey, Node, PreAuthKey, RegisterMethod, State, User, UserRole};
use crate::types::{DiscoKey, MachineKey, NodeKey, Timestamp};

use super::ApiError;

/// An empty object: the answer of operations without a result.
#[derive(Serialize)]
pub(super) struct Empty {}

/// Ids are text in JSON.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde calls"
)]
fn as_text<S: Serializer>(id: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UserShape {
    #[serde(serialize_with = "as_text")]
    id: u64,
    name: String,
    created_at: Timestamp,
    display_name: String,
    email: String,
    provider_id: String,
    provider: String,
    profile_pic_url: String,
    /// headscale has no roles; absent for members.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
}

/// Roles by the names that policies have for them behind `autogroup:`.
const ROLES: [(&str, UserRole); 7] = [
    ("member", UserRole::Member),
    ("owner", UserRole::Owner),
    ("admin", UserRole::Admin),
    ("network-admin", UserRole::NetworkAdmin),
    ("it-admin", UserRole::ItAdmin),
    ("billing-admin", UserRole::BillingAdmin),
    ("auditor", UserRole::Auditor),
];

/// The role of this name.
pub(super) fn parse_role(text: &str, location: &str) -> Result<UserRole, ApiError> {
    let found = ROLES.iter().find(|(name, _)| *name == text);
    found.map(|(_, role)| *role).ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        let names = ROLES.map(|(name, _)| name).join(", ");
        ApiError::bad_request(format!("{shown:?} is no role: one of {names} is wanted"))
            .at(location)
    })
}

/// The name of a role that is more than a member's.
fn shown_role(role: UserRole) -> Option<&'static str> {
    let found = ROLES.iter().find(|(_, known)| *known == role);
    found
        .map(|(name, _)| *name)
        .filter(|_| role != UserRole::Member)
}

impl UserShape {
    pub(super) fn new(user: &User) -> Self {
        Self {
            id: user.id.0,
            name: shown_name(user),
            created_at: user.created_at,
            display_name: user.display_name.clone(),
            email: user.email.clone(),
            provider_id: user.provider_id.clone(),
            provider: user.provider.clone(),
            profile_pic_url: user.picture_url.clone(),
            role: shown_role(user.role),
        }
    }

    fn tagged_devices() -> Self {
        Self {
            id: TAGGED_DEVICES.0,
            name: "tagged-devices".to_owned(),
            created_at: Timestamp::GO_ZERO,
            display_name: "Tagged Devices".to_owned(),
            email: String::new(),
            provider_id: String::new(),
            provider: String::new(),
            profile_pic_url: String::new(),
            role: None,
        }
    }
}

/// The first of name, e-mail, identity and id that there is.
fn shown_name(user: &User) -> String {
    [&user.name, &user.email, &user.provider_id]
        .into_iter()
        .find(|text| !text.is_empty())
        .map_or_else(|| user.id.to_string(), Clone::clone)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PreAuthKeyShape {
    user: Option<UserShape>,
    #[serde(serialize_with = "as_text")]
    id: u64,
    key: String,
    reusable: bool,
    ephemeral: bool,
    used: bool,
    expiration: Option<Timestamp>,
    created_at: Timestamp,
    acl_tags: Vec<String>,
}

impl PreAuthKeyShape {
    /// A key on its own: an unset expiration is the zero time. `secret` is shown once, by the
    /// operation that made the key.
    pub(super) fn new(state: &State, key: &PreAuthKey, secret: Option<&str>) -> Self {
        let shown = || masked(SecretKind::PreAuthKey, &key.prefix);
        Self {
            expiration: Some(key.expires_at.unwrap_or(Timestamp::GO_ZERO)),
            key: secret.map_or_else(shown, ToOwned::to_owned),
            ..Self::of_node(state, key)
        }
    }

    /// The key inside a node: an unset expiration is null.
    fn of_node(state: &State, key: &PreAuthKey) -> Self {
        Self {
            user: key
                .user_id
                .and_then(|id| state.user(id))
                .map(|user| UserShape::new(user)),
            id: key.id,
            key: masked(SecretKind::PreAuthKey, &key.prefix),
            reusable: key.reusable,
            ephemeral: key.ephemeral,
            used: key.used,
            expiration: key.expires_at,
            created_at: key.created_at,
            acl_tags: key.tags.clone(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ApiKeyShape {
    #[serde(serialize_with = "as_text")]
    id: u64,
    prefix: String,
    expiration: Option<Timestamp>,
    created_at: Timestamp,
    /// headscale never sets it either.
    last_seen: Option<Timestamp>,
}

impl ApiKeyShape {
    pub(super) fn new(key: &ApiKey) -> Self {
        Self {
            id: key.id,
            prefix: masked(SecretKind::ApiKey, &key.prefix),
            expiration: key.expires_at,
            created_at: key.created_at,
            last_seen: None,
        }
    }
}

/// Where a node is shown; headscale fills two fields differently.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// In a list: the owner of a tagged node is the synthetic user, and the routes that the node
    /// serves are shown, exit routes too.
    List(&'a RouteTable),
    /// Alone: the owner of a tagged node is null, served routes are not shown.
    Single,
    /// In the answer to approving routes: as alone, with the subnet routes that the node serves.
    Routes(&'a RouteTable),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeShape {
    #[serde(serialize_with = "as_text")]
    id: u64,
    machine_key: MachineKey,
    node_key: NodeKey,
    disco_key: DiscoKey,
    ip_addresses: Vec<String>,
    name: String,
    user: Option<UserShape>,
    last_seen: Option<Timestamp>,
    expiry: Option<Timestamp>,
    pre_auth_key: Option<PreAuthKeyShape>,
    created_at: Timestamp,
    register_method: &'static str,
    given_name: String,
    online: bool,
    approved_routes: Vec<String>,
    available_routes: Vec<String>,
    subnet_routes: Vec<String>,
    tags: Vec<String>,
}

impl NodeShape {
    pub(super) fn new(state: &State, node: &Node, place: Place<'_>) -> Self {
        let ipv4 = node.ipv4.map(|ip| ip.to_string());
        let ipv6 = node.ipv6.map(|ip| ip.to_string());
        let key = node.pre_auth_key_id.and_then(|id| state.pre_auth_key(id));
        Self {
            id: node.id.0,
            machine_key: node.machine_key,
            node_key: node.node_key,
            disco_key: node.disco_key.unwrap_or_default(),
            ip_addresses: ipv4.into_iter().chain(ipv6).collect(),
            name: node.hostname.clone(),
            user: owner(state, node, place),
            last_seen: Some(node.last_seen.unwrap_or(node.created_at)),
            expiry: node.expires_at,
            pre_auth_key: key.map(|key| PreAuthKeyShape::of_node(state, key)),
            created_at: node.created_at,
            register_method: register_method(node.register_method),
            given_name: node.given_name.clone(),
            online: state.is_online(node.id),
            approved_routes: texts(&node.approved_routes),
            available_routes: texts(&node.hostinfo.routable_ips),
            subnet_routes: served_routes(node, place),
            tags: node.tags.clone(),
        }
    }
}

fn owner(state: &State, node: &Node, place: Place<'_>) -> Option<UserShape> {
    if !node.tags.is_empty() && matches!(place, Place::List(_)) {
        return Some(UserShape::tagged_devices());
    }
    node.user_id
        .and_then(|id| state.user(id))
        .map(|user| UserShape::new(user))
}

/// What netmaps send to this node.
fn served_routes(node: &Node, place: Place<'_>) -> Vec<String> {
    match place {
        Place::List(table) => {
            let exits = exit_routes(node);
            table
                .primary(node.id)
                .iter()
                .copied()
                .chain(exits)
                .map(|net| net.to_string())
                .collect()
        }
        Place::Single => Vec::new(),
        Place::Routes(table) => texts(table.primary(node.id)),
    }
}

fn texts(nets: &[ipnet::IpNet]) -> Vec<String> {
    nets.iter().map(ToString::to_string).collect()
}

const fn register_method(method: RegisterMethod) -> &'static str {
    match method {
        RegisterMethod::Unspecified => "REGISTER_METHOD_UNSPECIFIED",
        RegisterMethod::AuthKey => "REGISTER_METHOD_AUTH_KEY",
        RegisterMethod::Cli => "REGISTER_METHOD_CLI",
        RegisterMethod::Oidc => "REGISTER_METHOD_OIDC",
    }
}
