//! The cluster's keys: how its secrets are sealed, certificates, and the authority that signs them.

use axum::Json;
use axum::extract::State as AxumState;
use data_encoding::HEXLOWER_PERMISSIVE;
use serde::{Deserialize, Serialize};

use super::super::body::JsonBody;
use super::super::{ApiError, ApiState};
use crate::types::ReplicaId;

#[derive(Default, Deserialize)]
pub(super) struct Reseal {
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
pub(super) async fn reseal(
    AxumState(api): AxumState<ApiState>,
    JsonBody(body): JsonBody<Reseal>,
) -> Result<Json<Sealed>, ApiError> {
    let key = api.cluster.rotate_sealing_key(!body.unseal).await?;
    let sealing_key = key.map(|id| id.to_string());
    Ok(Json(Sealed { sealing_key }))
}

#[derive(Default, Deserialize)]
pub(super) struct Renew {
    /// Without it all replicas.
    replica: Option<u64>,
}

#[derive(Serialize)]
pub(super) struct Asked {}

/// Asks for new certificates; the status tells when they are there.
pub(super) async fn renew_certificates(
    AxumState(api): AxumState<ApiState>,
    JsonBody(body): JsonBody<Renew>,
) -> Result<Json<Asked>, ApiError> {
    let of = body.replica.map(ReplicaId);
    api.cluster.renew_certificates(of).await?;
    Ok(Json(Asked {}))
}

#[derive(Deserialize)]
pub(super) struct Replace {
    /// `authority.id` of the status that the caller has seen.
    replaces: String,
}

/// Begins to replace the certificate authority; the status tells how far it is.
pub(super) async fn rotate_authority(
    AxumState(api): AxumState<ApiState>,
    JsonBody(body): JsonBody<Replace>,
) -> Result<Json<Asked>, ApiError> {
    let id = HEXLOWER_PERMISSIVE.decode(body.replaces.as_bytes());
    let Some(id) = id.ok().filter(|id| id.len() == 32) else {
        let detail = "name the authority by its id in the status, 64 hex digits";
        return Err(ApiError::bad_request(detail).at("body.replaces"));
    };
    api.cluster.rotate_authority(id).await?;
    Ok(Json(Asked {}))
}
