//! `/user`.

use axum::Json;
use axum::extract::{Path, State as AxumState};
use hydrascale_proto::state::v1::{CreateUser, DestroyUser, RenameUser, command::Op};
use serde::{Deserialize, Serialize};

use crate::state::State;
use crate::types::UserId;

use super::body::{JsonBody, Params, parse_id};
use super::gate::Read;
use super::shape::{Empty, UserShape};
use super::{ApiError, ApiState, Kind};

#[derive(Serialize)]
pub(super) struct UserAnswer {
    user: UserShape,
}

#[derive(Serialize)]
pub(super) struct UsersAnswer {
    users: Vec<UserShape>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Create {
    name: Option<String>,
    display_name: Option<String>,
    email: Option<String>,
    picture_url: Option<String>,
}

/// Of the filters the first of name, e-mail and id counts.
pub(super) async fn list(Read(state): Read, params: Params) -> Result<Json<UsersAnswer>, ApiError> {
    let id = params.id("id")?;
    let users = state.users().filter(|user| {
        if let Some(name) = params.text("name") {
            user.name == name
        } else if let Some(email) = params.text("email") {
            user.email == email
        } else {
            id.is_none_or(|id| user.id.0 == id)
        }
    });
    Ok(Json(UsersAnswer {
        users: users.map(|user| UserShape::new(user)).collect(),
    }))
}

pub(super) async fn create(
    AxumState(api): AxumState<ApiState>,
    JsonBody(body): JsonBody<Create>,
) -> Result<Json<UserAnswer>, ApiError> {
    let missing = || ApiError::new(Kind::Unprocessable, "a user needs a name").at("body.name");
    let op = Op::CreateUser(CreateUser {
        name: body
            .name
            .filter(|name| !name.is_empty())
            .ok_or_else(missing)?,
        display_name: body.display_name.unwrap_or_default(),
        email: body.email.unwrap_or_default(),
        picture_url: body.picture_url.unwrap_or_default(),
        ..Default::default()
    });
    let done = api.cluster.propose(op).await?;
    answer(&api.cluster.state(), UserId(done.id))
}

pub(super) async fn rename(
    AxumState(api): AxumState<ApiState>,
    Path((id, name)): Path<(String, String)>,
) -> Result<Json<UserAnswer>, ApiError> {
    let user_id = parse_id(&id, "path.oldId")?;
    api.cluster
        .propose(Op::RenameUser(RenameUser { user_id, name }))
        .await?;
    answer(&api.cluster.state(), UserId(user_id))
}

pub(super) async fn destroy(
    AxumState(api): AxumState<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<Empty>, ApiError> {
    let user_id = parse_id(&id, "path.id")?;
    api.cluster
        .propose(Op::DestroyUser(DestroyUser { user_id }))
        .await?;
    Ok(Json(Empty {}))
}

fn answer(state: &State, id: UserId) -> Result<Json<UserAnswer>, ApiError> {
    let user = state.user(id).ok_or_else(|| {
        ApiError::new(
            Kind::Conflict,
            format!("user {id} was destroyed in the meantime"),
        )
    })?;
    Ok(Json(UserAnswer {
        user: UserShape::new(user),
    }))
}
