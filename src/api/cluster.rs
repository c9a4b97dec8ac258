//! Routes of our own: the cluster's health, its growth, who belongs to it.

mod backup;
mod keys;
mod members;
mod upgrade;

use std::time::Duration;

use axum::extract::{Path, State as AxumState};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::cluster::{ClusterStatus, JoinTokenStatus};
use crate::types::{ReplicaId, Timestamp};

use super::body::JsonBody;
use super::gate::Read;
use super::{ApiError, ApiState};

/// Life of a join token for which the request names none.
const TOKEN_TTL: Duration = Duration::from_secs(3600);
/// Longest life of a join token: it admits a machine to everything the cluster knows.
const TOKEN_TTL_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

pub(super) fn routes() -> Router<ApiState> {
    let tokens = get(list_join_tokens).post(create_join_token);
    Router::new()
        .route("/cluster/status", get(status))
        .route("/cluster/digest", get(digest))
        .route("/cluster/backup", get(backup::get))
        .route("/cluster/join-token", tokens)
        .route("/cluster/join-token/{id}", delete(revoke_join_token))
        .route("/cluster/sealing-key", post(keys::reseal))
        .route("/cluster/certificates", post(keys::renew_certificates))
        .route("/cluster/authority", post(keys::rotate_authority))
        .route("/cluster/leader", post(members::lead))
        .route("/cluster/upgrade/finalize", post(upgrade::finalize))
        .route("/cluster/replica/{id}/promote", post(members::promote))
        .route("/cluster/replica/{id}/demote", post(members::demote))
        .route("/cluster/replica/{id}/remove", post(members::remove))
        .route("/cluster/replica/{id}/replace", post(members::replace))
        .route("/cluster/replica/{id}/drain", post(members::drain))
        .route("/cluster/replica/{id}/undrain", post(members::undrain))
}

/// How the cluster looks from this replica, leader or not.
async fn status(AxumState(api): AxumState<ApiState>) -> Json<ClusterStatus> {
    Json(api.cluster.report())
}

#[derive(Serialize)]
struct Digest {
    digest: String,
}

/// A hash over the whole state, to compare replicas with: equal when they applied the same
/// commands.
async fn digest(Read(state): Read) -> Json<Digest> {
    Json(Digest {
        digest: HEXLOWER.encode(&state.digest()),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CreateJoinToken {
    expiration: Option<Timestamp>,
    /// The replica whose place the joiner takes.
    replaces: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CreatedJoinToken {
    join_token: String,
    expiration: Timestamp,
}

/// Makes a one-time token that admits a new replica; the only place that shows it.
async fn create_join_token(
    AxumState(api): AxumState<ApiState>,
    JsonBody(body): JsonBody<CreateJoinToken>,
) -> Result<Json<CreatedJoinToken>, ApiError> {
    let now = api.clock.now();
    let expiration = body
        .expiration
        .unwrap_or_else(|| now.saturating_add(TOKEN_TTL));
    let ttl = expiration.saturating_since(now);
    if ttl.is_zero() || ttl > TOKEN_TTL_MAX {
        let detail = "a join token must expire between now and 7 days from now";
        return Err(ApiError::bad_request(detail).at("body.expiration"));
    }
    let replaces = body.replaces.map(ReplicaId);
    let join_token = api.cluster.create_join_token(ttl, replaces).await?;
    Ok(Json(CreatedJoinToken {
        join_token,
        expiration,
    }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JoinTokens {
    join_tokens: Vec<JoinTokenStatus>,
}

/// The tokens that are remembered, without their secrets.
async fn list_join_tokens(
    AxumState(api): AxumState<ApiState>,
) -> Result<Json<JoinTokens>, ApiError> {
    let join_tokens = api.cluster.join_tokens().await?;
    Ok(Json(JoinTokens { join_tokens }))
}

#[derive(Serialize)]
struct Revoked {}

/// Withdraws a token that was not used yet.
async fn revoke_join_token(
    AxumState(api): AxumState<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<Revoked>, ApiError> {
    api.cluster.revoke_join_token(id).await?;
    Ok(Json(Revoked {}))
}
