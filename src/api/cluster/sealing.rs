//! How the cluster's secrets are sealed.

use axum::Json;
use axum::extract::State as AxumState;
use serde::{Deserialize, Serialize};

use super::super::body::JsonBody;
use super::super::{ApiError, ApiState};

#[derive(Default, Deserialize)]
pub(super) struct Rotate {
    /// Store the secrets unsealed.
    #[serde(default)]
    unseal: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sealed {
    /// Id of the key in use; nothing when the secrets are not sealed.
    sealing_key: Option<String>,
}

/// Seals the secrets under the first key of the answering replica's file.
pub(super) async fn rotate(
    AxumState(api): AxumState<ApiState>,
    JsonBody(body): JsonBody<Rotate>,
) -> Result<Json<Sealed>, ApiError> {
    let key = api.cluster.rotate_sealing_key(!body.unseal).await?;
    let sealing_key = key.map(|id| id.to_string());
    Ok(Json(Sealed { sealing_key }))
}
