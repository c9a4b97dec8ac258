//! `GET /health`.

use axum::Json;
use serde::Serialize;

use super::gate::Read;
use super::{ApiError, Kind};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Health {
    /// headscale's name for "the state can be read".
    database_connectivity: bool,
}

/// Healthy when the state could be read as the request wanted it, and a tailnet exists.
pub(super) async fn get(Read(state): Read) -> Result<Json<Health>, ApiError> {
    if state.tailnet().is_none() {
        let detail = "the tailnet does not exist yet: run `hydrascale cluster init`";
        return Err(ApiError::new(Kind::Internal, detail));
    }
    Ok(Json(Health {
        database_connectivity: true,
    }))
}
