//! `/node`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State as AxumState};
use hydrascale_proto::state::v1::{
    BackfillAddresses, DeleteNode, RenameNode, SetApprovedRoutes, SetNodeExpiry, SetNodeTags,
    command::Op,
};
use serde::{Deserialize, Serialize};

use crate::netmap::RouteTable;
use crate::policy::PolicyErrors;
use crate::state::{Node, State, tags_not_permitted};
use crate::types::{NodeId, Timestamp};

use super::body::{JsonBody, Params, parse_id};
use super::gate::Read;
use super::shape::{Empty, NodeShape, Place};
use super::{ApiError, ApiState, Kind};

#[derive(Serialize)]
pub(super) struct NodeAnswer {
    node: NodeShape,
}

impl NodeAnswer {
    /// The node as it is after an operation on it.
    pub(super) fn after(
        state: &State,
        id: NodeId,
        place: Place<'_>,
    ) -> Result<Json<Self>, ApiError> {
        let gone = |id| ApiError::new(Kind::Conflict, format!("node {id} is gone in the meantime"));
        let node = state.node(id).ok_or_else(|| gone(id))?;
        Ok(Json(Self {
            node: NodeShape::new(state, node, place),
        }))
    }
}

#[derive(Serialize)]
pub(super) struct NodesAnswer {
    nodes: Vec<NodeShape>,
}

#[derive(Serialize)]
pub(super) struct ChangesAnswer {
    changes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Expire {
    expiry: Option<Timestamp>,
    disable_expiry: Option<bool>,
}

#[derive(Deserialize)]
pub(super) struct Tags {
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
pub(super) struct Routes {
    routes: Option<Vec<String>>,
}

pub(super) async fn list(Read(state): Read, params: Params) -> Result<Json<NodesAnswer>, ApiError> {
    let user = match params.text("user") {
        Some(name) => {
            let unknown = || ApiError::not_found(format!("there is no user {name:?}"));
            Some(state.user_by_name(name).ok_or_else(unknown)?.id)
        }
        None => None,
    };
    let routes = RouteTable::of(&state);
    let nodes = state
        .nodes()
        .filter(|node| user.is_none() || node.user_id == user)
        .map(|node| NodeShape::new(&state, node, Place::List(&routes)))
        .collect();
    Ok(Json(NodesAnswer { nodes }))
}

pub(super) async fn get(
    Read(state): Read,
    Path(id): Path<String>,
) -> Result<Json<NodeAnswer>, ApiError> {
    let node = find(&state, &id)?;
    Ok(Json(NodeAnswer {
        node: NodeShape::new(&state, node, Place::Single),
    }))
}

pub(super) async fn delete(
    AxumState(api): AxumState<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<Empty>, ApiError> {
    let node_id = parse_id(&id, "path.nodeId")?;
    api.cluster
        .propose(Op::DeleteNode(DeleteNode { node_id }))
        .await?;
    Ok(Json(Empty {}))
}

/// Without a body the node key expires now.
pub(super) async fn expire(
    AxumState(api): AxumState<ApiState>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<Expire>,
) -> Result<Json<NodeAnswer>, ApiError> {
    let node_id = parse_id(&id, "path.nodeId")?;
    let expires_at = match (body.expiry, body.disable_expiry.unwrap_or_default()) {
        (Some(_), true) => {
            return Err(ApiError::bad_request("give expiry or disableExpiry, not both").at("body"));
        }
        (None, true) => None,
        (Some(at), false) => Some(at),
        (None, false) => Some(api.clock.now()),
    };
    let expires_at_ms = expires_at.map(Timestamp::unix_ms);
    api.cluster
        .propose(Op::SetNodeExpiry(SetNodeExpiry {
            node_id,
            expires_at_ms,
        }))
        .await?;
    NodeAnswer::after(&api.cluster.state(), NodeId(node_id), Place::Single)
}

/// A name that is taken is a bad request here, not a conflict, as in headscale.
pub(super) async fn rename(
    AxumState(api): AxumState<ApiState>,
    Path((id, given_name)): Path<(String, String)>,
) -> Result<Json<NodeAnswer>, ApiError> {
    let node_id = parse_id(&id, "path.nodeId")?;
    api.cluster
        .propose(Op::RenameNode(RenameNode {
            node_id,
            given_name,
        }))
        .await
        .map_err(|error| ApiError::from(error).with_kind(Kind::Conflict, Kind::BadRequest))?;
    NodeAnswer::after(&api.cluster.state(), NodeId(node_id), Place::Single)
}

/// An administrator may set any tag whose owners the policy names; without a policy there are none.
/// Who has tags keeps some: without any the node would belong to nobody.
pub(super) async fn set_tags(
    AxumState(api): AxumState<ApiState>,
    Read(state): Read,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<Tags>,
) -> Result<Json<NodeAnswer>, ApiError> {
    let node_id = find(&state, &id)?.id;
    let tags = body.tags.unwrap_or_default();
    if tags.is_empty() {
        let detail = "cannot remove all tags from node: it would belong to nobody";
        return Err(ApiError::bad_request(detail).at("body.tags"));
    }
    let rights = api.cluster.policy(&state).await.rights();
    let rights = rights.map_err(|errors| policy_not_understood(&errors))?;
    let unknown: Vec<&str> = tags
        .iter()
        .filter(|tag| !rights.defines(tag))
        .map(String::as_str)
        .collect();
    if !unknown.is_empty() {
        let refused = tags_not_permitted(&unknown);
        let detail = format!("{refused}: the policy's tagOwners must name them");
        return Err(ApiError::bad_request(detail).at("body.tags"));
    }
    let op = Op::SetNodeTags(SetNodeTags {
        node_id: node_id.0,
        tags,
    });
    api.cluster.propose(op).await?;
    NodeAnswer::after(&api.cluster.state(), node_id, Place::Single)
}

/// A newer program has set a policy that this one cannot read.
pub(super) fn policy_not_understood(errors: &PolicyErrors) -> ApiError {
    let detail = format!("this replica does not understand the policy in force: {errors}");
    ApiError::new(Kind::Internal, detail)
}

pub(super) async fn approve_routes(
    AxumState(api): AxumState<ApiState>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<Routes>,
) -> Result<Json<NodeAnswer>, ApiError> {
    let node_id = parse_id(&id, "path.nodeId")?;
    let routes = body
        .routes
        .unwrap_or_default()
        .into_iter()
        .filter(|r| !r.is_empty())
        .collect();
    api.cluster
        .propose(Op::SetApprovedRoutes(SetApprovedRoutes { node_id, routes }))
        .await?;
    let state = api.cluster.state();
    NodeAnswer::after(
        &state,
        NodeId(node_id),
        Place::Routes(&RouteTable::of(&state)),
    )
}

/// Gives nodes the addresses that the settings call for, and says whose changed.
pub(super) async fn backfill_addresses(
    AxumState(api): AxumState<ApiState>,
    Read(before): Read,
    params: Params,
) -> Result<Json<ChangesAnswer>, ApiError> {
    if params.text("confirmed") != Some("true") {
        let detail = "addresses of nodes may change: confirm it by ?confirmed=true";
        return Err(ApiError::bad_request(detail).at("query.confirmed"));
    }
    let op = Op::BackfillAddresses(BackfillAddresses {
        entropy: rand::random(),
    });
    api.cluster.propose(op).await?;
    let after = api.cluster.state();
    let changes = before.nodes().filter_map(|old| {
        let new = after.node(old.id)?;
        (addresses(old) != addresses(new)).then(|| {
            format!(
                "node {}: {:?} became {:?}",
                old.id,
                addresses(old),
                addresses(new)
            )
        })
    });
    Ok(Json(ChangesAnswer {
        changes: changes.collect(),
    }))
}

fn addresses(node: &Node) -> Vec<String> {
    let ipv4 = node.ipv4.map(|ip| ip.to_string());
    ipv4.into_iter()
        .chain(node.ipv6.map(|ip| ip.to_string()))
        .collect()
}

fn find<'a>(state: &'a State, id: &str) -> Result<&'a Arc<Node>, ApiError> {
    let id = NodeId(parse_id(id, "path.nodeId")?);
    state
        .node(id)
        .ok_or_else(|| ApiError::not_found(format!("there is no node {id}")))
}
