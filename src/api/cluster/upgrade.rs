//! Raising the feature level.

use axum::Json;
use axum::extract::State as AxumState;
use serde::Serialize;

use super::super::{ApiError, ApiState};

/// What is in force now.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Finalized {
    feature_level: u32,
}

/// Raises the cluster's feature level to the highest that all replicas support; asking again is fine.
pub(super) async fn finalize(
    AxumState(api): AxumState<ApiState>,
) -> Result<Json<Finalized>, ApiError> {
    let feature_level = api.cluster.finalize_upgrade().await?;
    Ok(Json(Finalized { feature_level }))
}
