//! `/apikey`.

use axum::Json;
use axum::extract::{Path, State as AxumState};
use hydrascale_proto::state::v1::{CreateApiKey, DeleteApiKey, ExpireApiKey, command::Op};
use serde::{Deserialize, Serialize};

use crate::state::State;
use crate::state::secret::{SecretKind, SecretText};
use crate::types::Timestamp;

use super::body::{IdText, JsonBody, Params, parse_id};
use super::gate::Read;
use super::shape::{ApiKeyShape, Empty};
use super::{ApiError, ApiState, Kind};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyAnswer {
    api_key: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeysAnswer {
    api_keys: Vec<ApiKeyShape>,
}

#[derive(Deserialize)]
pub(super) struct Create {
    expiration: Option<Timestamp>,
}

#[derive(Deserialize)]
pub(super) struct Expire {
    prefix: Option<String>,
    id: Option<IdText>,
}

pub(super) async fn list(Read(state): Read) -> Json<KeysAnswer> {
    Json(KeysAnswer {
        api_keys: state.api_keys().map(|key| ApiKeyShape::new(key)).collect(),
    })
}

/// The only answer that holds the secret. Without `expiration` the key is expired from the start,
/// as in headscale.
pub(super) async fn create(
    AxumState(api): AxumState<ApiState>,
    Read(state): Read,
    JsonBody(body): JsonBody<Create>,
) -> Result<Json<KeyAnswer>, ApiError> {
    let no_tailnet = || ApiError::new(Kind::Internal, "the tailnet does not exist yet");
    let pepper = state.secret_pepper().ok_or_else(no_tailnet)?;
    let secret = SecretText::from_random(SecretKind::ApiKey, rand::random(), &rand::random());
    let op = Op::CreateApiKey(CreateApiKey {
        prefix: secret.prefix().to_owned(),
        secret_hash: secret.hash(pepper).to_vec().into(),
        expires_at_ms: Some(body.expiration.unwrap_or(Timestamp::GO_ZERO).unix_ms()),
    });
    api.cluster.propose(op).await?;
    Ok(Json(KeyAnswer {
        api_key: secret.expose().to_string(),
    }))
}

pub(super) async fn expire(
    AxumState(api): AxumState<ApiState>,
    Read(state): Read,
    JsonBody(body): JsonBody<Expire>,
) -> Result<Json<Empty>, ApiError> {
    let prefix = body.prefix.filter(|prefix| !prefix.is_empty());
    let id = body.id.filter(|id| !matches!(id.as_str(), "" | "0"));
    let key_id = match (prefix, id) {
        (Some(prefix), None) => id_of_prefix(&state, &prefix)?,
        (None, Some(id)) => parse_id(id.as_str(), "body.id")?,
        (Some(_), Some(_)) => return Err(ambiguous("both are given")),
        (None, None) => return Err(ambiguous("neither is given")),
    };
    api.cluster
        .propose(Op::ExpireApiKey(ExpireApiKey { key_id }))
        .await?;
    Ok(Json(Empty {}))
}

/// The path always names a prefix, so an id in the query makes two.
pub(super) async fn delete(
    AxumState(api): AxumState<ApiState>,
    Read(state): Read,
    Path(prefix): Path<String>,
    params: Params,
) -> Result<Json<Empty>, ApiError> {
    if params.id("id")?.is_some() {
        return Err(ambiguous("both are given"));
    }
    let key_id = id_of_prefix(&state, &prefix)?;
    api.cluster
        .propose(Op::DeleteApiKey(DeleteApiKey { key_id }))
        .await?;
    Ok(Json(Empty {}))
}

fn ambiguous(what: &str) -> ApiError {
    ApiError::bad_request(format!(
        "name the API key by its prefix or by its id: {what}"
    ))
}

/// Accepts the bare public part, and the forms in which keys are shown.
fn id_of_prefix(state: &State, text: &str) -> Result<u64, ApiError> {
    let bare = text
        .strip_prefix(SecretKind::ApiKey.prefix())
        .unwrap_or(text);
    let bare = bare.strip_suffix("-***").unwrap_or(bare);
    let unknown = || {
        let shown: String = bare.chars().take(64).collect();
        ApiError::not_found(format!("there is no API key with prefix {shown:?}"))
    };
    state
        .api_key_by_prefix(bare)
        .map(|key| key.id)
        .ok_or_else(unknown)
}
