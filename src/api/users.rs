//! `/user`.

use axum::Json;
use axum::extract::{Path, State as AxumState};
use hydrascale_proto::state::v1::{CreateUser, DestroyUser, RenameUser, SetUserRole, command::Op};
use serde::{Deserialize, Serialize};

use crate::state::State;
use crate::types::UserId;

use super::body::{JsonBody, Params, parse_id};
use super::gate::Read;
use super::policy::lost_meaning;
use super::shape::{UserShape, parse_role};
use super::{ApiError, ApiState, Kind};

#[derive(Serialize)]
pub(super) struct UserAnswer {
    user: UserShape,
    /// What the policy says that has lost its meaning by this.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct DestroyAnswer {
    /// What the policy says that has lost its meaning by this.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
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
    answer(&api.cluster.state(), UserId(done.id), Vec::new())
}

pub(super) async fn rename(
    AxumState(api): AxumState<ApiState>,
    Read(before): Read,
    Path((id, name)): Path<(String, String)>,
) -> Result<Json<UserAnswer>, ApiError> {
    let user_id = parse_id(&id, "path.oldId")?;
    api.cluster
        .propose(Op::RenameUser(RenameUser { user_id, name }))
        .await?;
    let after = api.cluster.state();
    let warnings = lost_meaning(&api.cluster, &before, &after).await?;
    answer(&after, UserId(user_id), warnings)
}

/// What policies mean by `autogroup:admin` and so on.
pub(super) async fn set_role(
    AxumState(api): AxumState<ApiState>,
    Path((id, role)): Path<(String, String)>,
) -> Result<Json<UserAnswer>, ApiError> {
    let user_id = parse_id(&id, "path.id")?;
    let role = parse_role(&role, "path.role")?.into();
    api.cluster
        .propose(Op::SetUserRole(SetUserRole { user_id, role }))
        .await?;
    answer(&api.cluster.state(), UserId(user_id), Vec::new())
}

pub(super) async fn destroy(
    AxumState(api): AxumState<ApiState>,
    Read(before): Read,
    Path(id): Path<String>,
) -> Result<Json<DestroyAnswer>, ApiError> {
    let user_id = parse_id(&id, "path.id")?;
    api.cluster
        .propose(Op::DestroyUser(DestroyUser { user_id }))
        .await?;
    let warnings = lost_meaning(&api.cluster, &before, &api.cluster.state()).await?;
    Ok(Json(DestroyAnswer { warnings }))
}

fn answer(state: &State, id: UserId, warnings: Vec<String>) -> Result<Json<UserAnswer>, ApiError> {
    let user = state.user(id).ok_or_else(|| {
        ApiError::new(
            Kind::Conflict,
            format!("user {id} was destroyed in the meantime"),
        )
    })?;
    Ok(Json(UserAnswer {
        user: UserShape::new(user),
        warnings,
    }))
}
