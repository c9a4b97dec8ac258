//! Who belongs to the cluster: every change may be asked of any replica, and again.

use axum::Json;
use axum::extract::{Path, State as AxumState};
use serde::{Deserialize, Serialize};

use super::super::body::{JsonBody, parse_id};
use super::super::{ApiError, ApiState};
use crate::cluster::MemberChange;
use crate::types::ReplicaId;

/// What a change was decided on.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Decided {
    /// `membershipIndex` of the status that the caller has seen.
    expected_membership: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Replace {
    with: u64,
    expected_membership: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct Lead {
    to: Option<u64>,
}

/// How the cluster looks after a change.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Changed {
    leader: u64,
    membership_index: u64,
}

impl Changed {
    fn now(api: &ApiState, leader: ReplicaId) -> Json<Self> {
        Json(Self {
            leader: leader.0,
            membership_index: api.cluster.status().membership_index,
        })
    }
}

/// `promote` and `demote`: whether a replica votes. A learner votes once it has caught up.
pub(super) async fn promote(
    api: AxumState<ApiState>,
    id: Path<String>,
    body: JsonBody<Decided>,
) -> Result<Json<Changed>, ApiError> {
    change(api, &id, &body.0, MemberChange::Promote).await
}

pub(super) async fn demote(
    api: AxumState<ApiState>,
    id: Path<String>,
    body: JsonBody<Decided>,
) -> Result<Json<Changed>, ApiError> {
    change(api, &id, &body.0, MemberChange::Demote).await
}

/// The replica leaves for good, and ends when it hears of it.
pub(super) async fn remove(
    api: AxumState<ApiState>,
    id: Path<String>,
    body: JsonBody<Decided>,
) -> Result<Json<Changed>, ApiError> {
    change(api, &id, &body.0, MemberChange::Remove).await
}

async fn change(
    AxumState(api): AxumState<ApiState>,
    id: &str,
    decided: &Decided,
    change: impl FnOnce(ReplicaId) -> MemberChange,
) -> Result<Json<Changed>, ApiError> {
    let change = change(ReplicaId(parse_id(id, "path.id")?));
    let expected = decided.expected_membership;
    let leader = api.cluster.change_member(change, expected).await?;
    Ok(Changed::now(&api, leader))
}

/// Another replica takes the place of this one, which leaves for good.
pub(super) async fn replace(
    AxumState(api): AxumState<ApiState>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<Replace>,
) -> Result<Json<Changed>, ApiError> {
    let change = MemberChange::Replace {
        id: ReplicaId(parse_id(&id, "path.id")?),
        with: ReplicaId(body.with),
    };
    let expected = body.expected_membership;
    let leader = api.cluster.change_member(change, expected).await?;
    Ok(Changed::now(&api, leader))
}

/// Clients go elsewhere, and do not come back until `undrain`.
pub(super) async fn drain(
    api: AxumState<ApiState>,
    id: Path<String>,
) -> Result<Json<Changed>, ApiError> {
    set_drained(api, &id, true).await
}

pub(super) async fn undrain(
    api: AxumState<ApiState>,
    id: Path<String>,
) -> Result<Json<Changed>, ApiError> {
    set_drained(api, &id, false).await
}

async fn set_drained(
    AxumState(api): AxumState<ApiState>,
    id: &str,
    drained: bool,
) -> Result<Json<Changed>, ApiError> {
    let id = ReplicaId(parse_id(id, "path.id")?);
    api.cluster.set_drained(id, drained).await?;
    let leader = api.cluster.status().leader.unwrap_or_default();
    Ok(Changed::now(&api, ReplicaId(leader)))
}

/// Another replica leads: the one named, or whichever it costs least.
pub(super) async fn lead(
    AxumState(api): AxumState<ApiState>,
    JsonBody(body): JsonBody<Lead>,
) -> Result<Json<Changed>, ApiError> {
    let to = body.to.map(ReplicaId);
    let leader = api.cluster.transfer_leadership(to).await?;
    Ok(Changed::now(&api, leader))
}
