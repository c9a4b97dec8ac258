//! `/preauthkey`.

use axum::Json;
use axum::extract::State as AxumState;
use hydrascale_proto::state::v1::{
    CreatePreAuthKey, DeletePreAuthKey, ExpirePreAuthKey, command::Op,
};
use serde::{Deserialize, Serialize};

use crate::state::secret::{SecretKind, SecretText};
use crate::types::Timestamp;

use super::body::{IdText, JsonBody, Params, parse_id};
use super::gate::Read;
use super::shape::{Empty, PreAuthKeyShape};
use super::{ApiError, ApiState, Kind};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyAnswer {
    pre_auth_key: PreAuthKeyShape,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeysAnswer {
    pre_auth_keys: Vec<PreAuthKeyShape>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Create {
    user: Option<IdText>,
    reusable: Option<bool>,
    ephemeral: Option<bool>,
    expiration: Option<Timestamp>,
    acl_tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
pub(super) struct Expire {
    id: Option<IdText>,
}

/// `?user=<id>` is what clients of headscale up to 0.27 had to send.
pub(super) async fn list(Read(state): Read, params: Params) -> Result<Json<KeysAnswer>, ApiError> {
    let user = params.id("user")?;
    let pre_auth_keys = state
        .pre_auth_keys()
        .filter(|key| user.is_none_or(|user| key.user_id.is_some_and(|id| id.0 == user)))
        .map(|key| PreAuthKeyShape::new(&state, key, None))
        .collect();
    Ok(Json(KeysAnswer { pre_auth_keys }))
}

/// The only answer that holds the secret. Without `expiration` the key is expired from the start,
/// as in headscale.
pub(super) async fn create(
    AxumState(api): AxumState<ApiState>,
    Read(state): Read,
    JsonBody(body): JsonBody<Create>,
) -> Result<Json<KeyAnswer>, ApiError> {
    let user = body
        .user
        .as_ref()
        .map(IdText::as_str)
        .filter(|text| !text.is_empty());
    let user_id = user
        .map(|text| parse_id(text, "body.user"))
        .transpose()?
        .filter(|id| *id != 0);
    let no_tailnet = || ApiError::new(Kind::Internal, "the tailnet does not exist yet");
    let pepper = state.secret_pepper().ok_or_else(no_tailnet)?;
    let secret = SecretText::from_random(SecretKind::PreAuthKey, rand::random(), &rand::random());
    let op = Op::CreatePreAuthKey(CreatePreAuthKey {
        prefix: secret.prefix().to_owned(),
        secret_hash: secret.hash(pepper).to_vec().into(),
        user_id,
        reusable: body.reusable.unwrap_or_default(),
        ephemeral: body.ephemeral.unwrap_or_default(),
        expires_at_ms: body
            .expiration
            .filter(|at| !at.is_go_zero())
            .map(Timestamp::unix_ms),
        tags: body.acl_tags.unwrap_or_default(),
    });
    let done = api.cluster.propose(op).await?;
    let state = api.cluster.state();
    let gone = || ApiError::new(Kind::Conflict, "the key was deleted in the meantime");
    let key = state.pre_auth_key(done.id).ok_or_else(gone)?;
    let shown = secret.expose();
    Ok(Json(KeyAnswer {
        pre_auth_key: PreAuthKeyShape::new(&state, key, Some(&shown)),
    }))
}

pub(super) async fn expire(
    AxumState(api): AxumState<ApiState>,
    JsonBody(body): JsonBody<Expire>,
) -> Result<Json<Empty>, ApiError> {
    let missing = || ApiError::bad_request("name the key by its id").at("body.id");
    let key_id = parse_id(body.id.ok_or_else(missing)?.as_str(), "body.id")?;
    let op = ExpirePreAuthKey {
        key_id,
        ..Default::default()
    };
    api.cluster.propose(Op::ExpirePreAuthKey(op)).await?;
    Ok(Json(Empty {}))
}

pub(super) async fn delete(
    AxumState(api): AxumState<ApiState>,
    params: Params,
) -> Result<Json<Empty>, ApiError> {
    let missing = || ApiError::bad_request("name the key by ?id=").at("query.id");
    let key_id = params.id("id")?.ok_or_else(missing)?;
    api.cluster
        .propose(Op::DeletePreAuthKey(DeletePreAuthKey { key_id }))
        .await?;
    Ok(Json(Empty {}))
}
