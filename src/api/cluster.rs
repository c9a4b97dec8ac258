//! Routes of our own: the cluster's health and its growth.

use std::time::Duration;

use axum::Json;
use axum::extract::State as AxumState;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::cluster::ClusterStatus;
use crate::types::Timestamp;

use super::body::JsonBody;
use super::gate::Read;
use super::{ApiError, ApiState};

/// Life of a join token for which the request names none.
const TOKEN_TTL: Duration = Duration::from_secs(3600);
/// Longest life of a join token: it admits a machine to everything the cluster knows.
const TOKEN_TTL_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// How the cluster looks from this replica, leader or not.
pub(super) async fn status(AxumState(api): AxumState<ApiState>) -> Json<ClusterStatus> {
    Json(api.cluster.report())
}

#[derive(Serialize)]
pub(super) struct Digest {
    digest: String,
}

/// A hash over the whole state, to compare replicas with: equal when they applied the same
/// commands.
pub(super) async fn digest(Read(state): Read) -> Json<Digest> {
    Json(Digest {
        digest: HEXLOWER.encode(&state.digest()),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateJoinToken {
    expiration: Option<Timestamp>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreatedJoinToken {
    join_token: String,
    expiration: Timestamp,
}

/// Makes a one-time token that admits a new replica; the only place that shows it.
pub(super) async fn create_join_token(
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
    let join_token = api.cluster.create_join_token(ttl).await?;
    Ok(Json(CreatedJoinToken {
        join_token,
        expiration,
    }))
}
