//! `/auth`, `/node/register` and `/debug/node`: logins that wait for a decision, interactive ones and
//! those over SSH.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as AxumState;
use hydrascale_proto::state::v1::{
    ApproveLogin, DecideSshCheck, RegisterMethod, RejectLogin, StartLogin, TagGrant, command::Op,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::policy::Owner;
use crate::state::secret::{AuthId, AuthIdParseError};
use crate::state::{PendingLogin, SshCheck, State};
use crate::types::{MachinePrivateKey, NodeId, NodeKey, UserId};

use super::body::{JsonBody, Params};
use super::gate::Read;
use super::nodes::{NodeAnswer, policy_not_understood};
use super::shape::{Empty, Place, UserShape};
use super::{ApiError, ApiState};

/// The capability version that a made-up login claims: one that is spoken for sure.
const DEBUG_CAPVER: u32 = 113;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Register {
    user: Option<String>,
    auth_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Decision {
    auth_id: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct DebugNode {
    user: Option<String>,
    key: Option<String>,
    name: Option<String>,
    routes: Option<Vec<String>>,
}

pub(super) async fn register(
    AxumState(api): AxumState<ApiState>,
    Read(state): Read,
    JsonBody(body): JsonBody<Register>,
) -> Result<Json<NodeAnswer>, ApiError> {
    let auth_id = parse_auth_id(body.auth_id.as_deref(), "body.authId")?;
    approve_for(&api, &state, body.user.as_deref(), &auth_id).await
}

/// The deprecated form; its body, which some clients send, is ignored.
pub(super) async fn register_by_query(
    AxumState(api): AxumState<ApiState>,
    Read(state): Read,
    params: Params,
) -> Result<Json<NodeAnswer>, ApiError> {
    let auth_id = parse_auth_id(params.text("key"), "query.key")?;
    approve_for(&api, &state, params.text("user"), &auth_id).await
}

async fn approve_for(
    api: &ApiState,
    state: &State,
    user: Option<&str>,
    auth_id: &AuthId,
) -> Result<Json<NodeAnswer>, ApiError> {
    let user_id = find_user(state, user)?;
    let op = Op::ApproveLogin(ApproveLogin {
        auth_id: auth_id.to_string(),
        user_id: user_id.0,
        method: RegisterMethod::Cli.into(),
        expires_at_ms: None,
        entropy: rand::random(),
        tag_grant: tag_grant(&api.cluster, state, user_id, auth_id).await?,
    });
    let done = api.cluster.propose(op).await?;
    NodeAnswer::after(&api.cluster.state(), NodeId(done.id), Place::Single)
}

/// What the policy gives to the user of the tags that the device asks for.
async fn tag_grant(
    cluster: &Cluster,
    state: &State,
    user: UserId,
    auth_id: &AuthId,
) -> Result<Option<TagGrant>, ApiError> {
    let login = state.pending_login(auth_id.as_str());
    let wanted = login
        .map(|login| login.requested_tags())
        .unwrap_or_default();
    let Some(user) = state.user(user).filter(|_| !wanted.is_empty()) else {
        return Ok(None);
    };
    let rights = cluster.policy(state).await.rights();
    let rights = rights.map_err(|errors| policy_not_understood(&errors))?;
    Ok(Some(rights.grant(Owner::User(user), &wanted)))
}

/// Approval without an owner is for logins of known nodes (SSH checks); a registration needs one.
pub(super) async fn approve(
    AxumState(api): AxumState<ApiState>,
    Read(state): Read,
    JsonBody(body): JsonBody<Decision>,
) -> Result<Json<Empty>, ApiError> {
    let auth_id = parse_auth_id(body.auth_id.as_deref(), "body.authId")?;
    if let Some(check) = state.ssh_check(auth_id.as_str()) {
        return decide_ssh_check(&api, check, true).await;
    }
    let login = find_login(&state, &auth_id)?;
    let detail = format!(
        "{} is a registration and needs an owner: use auth register with a user",
        login.auth_id
    );
    Err(ApiError::bad_request(detail).at("body.authId"))
}

pub(super) async fn reject(
    AxumState(api): AxumState<ApiState>,
    Read(state): Read,
    JsonBody(body): JsonBody<Decision>,
) -> Result<Json<Empty>, ApiError> {
    let auth_id = parse_auth_id(body.auth_id.as_deref(), "body.authId")?;
    if let Some(check) = state.ssh_check(auth_id.as_str()) {
        return decide_ssh_check(&api, check, false).await;
    }
    let auth_id = auth_id.to_string();
    api.cluster
        .propose(Op::RejectLogin(RejectLogin { auth_id }))
        .await?;
    Ok(Json(Empty {}))
}

async fn decide_ssh_check(
    api: &ApiState,
    check: &SshCheck,
    approved: bool,
) -> Result<Json<Empty>, ApiError> {
    let auth_id = check.auth_id.clone();
    api.cluster
        .propose(Op::DecideSshCheck(DecideSshCheck { auth_id, approved }))
        .await?;
    let (src, dst) = (check.src.0, check.dst.0);
    tracing::info!(src, dst, approved, "ssh check decided");
    Ok(Json(Empty {}))
}

#[derive(Serialize)]
pub(super) struct DebugAnswer {
    node: Value,
}

/// Starts a login of a device that does not exist, for trying out the approval.
pub(super) async fn debug_node(
    AxumState(api): AxumState<ApiState>,
    Read(state): Read,
    JsonBody(body): JsonBody<DebugNode>,
) -> Result<Json<DebugAnswer>, ApiError> {
    let auth_id = parse_auth_id(body.key.as_deref(), "body.key")?;
    let user_id = find_user(&state, body.user.as_deref())?;
    let name = body.name.unwrap_or_default();
    let routes = body.routes.unwrap_or_default();
    let machine_key = MachinePrivateKey::from_bytes(rand::random()).public();
    let node_key = MachinePrivateKey::from_bytes(rand::random()).public();
    let node_key = NodeKey::from_bytes(*node_key.as_bytes());
    let hostinfo = json!({"Hostname": name, "RoutableIPs": routes, "OS": "debug"});
    let op = Op::StartLogin(StartLogin {
        auth_id: auth_id.to_string(),
        machine_key: machine_key.as_bytes().to_vec().into(),
        node_key: node_key.as_bytes().to_vec().into(),
        hostinfo_json: hostinfo.to_string().into_bytes().into(),
        capver: DEBUG_CAPVER,
        ..Default::default()
    });
    api.cluster.propose(op).await?;
    let user = state.user(user_id).map(|user| UserShape::new(user));
    Ok(Json(DebugAnswer {
        node: json!({
            "id": "0", "machineKey": machine_key, "name": name, "givenName": "", "user": user,
            "nodeKey": node_key, "discoKey": "",
            "ipAddresses": [], "lastSeen": null, "expiry": null, "preAuthKey": null,
            "createdAt": null, "registerMethod": "REGISTER_METHOD_UNSPECIFIED", "online": false,
            "approvedRoutes": [], "availableRoutes": routes, "subnetRoutes": [], "tags": [],
        }),
    }))
}

fn parse_auth_id(text: Option<&str>, location: &str) -> Result<AuthId, ApiError> {
    text.unwrap_or_default()
        .parse()
        .map_err(|error: AuthIdParseError| ApiError::bad_request(error.to_string()).at(location))
}

fn find_user(state: &State, name: Option<&str>) -> Result<UserId, ApiError> {
    let missing = || ApiError::bad_request("name the user that shall own the node").at("user");
    let name = name.filter(|name| !name.is_empty()).ok_or_else(missing)?;
    let unknown = || ApiError::not_found(format!("there is no user {name:?}; create it first"));
    state
        .user_by_name(name)
        .map(|user| user.id)
        .ok_or_else(unknown)
}

fn find_login<'a>(state: &'a State, auth_id: &AuthId) -> Result<&'a Arc<PendingLogin>, ApiError> {
    let unknown = || {
        ApiError::not_found(format!(
            "no login waits under {auth_id}: it ran out or never began"
        ))
    };
    state.pending_login(auth_id.as_str()).ok_or_else(unknown)
}
