//! `/policy`: the policy in force, the versions before it, and its replacement.
//!
//! Every version has an ETag, the SHA-256 of its text. `If-Match` makes a replacement conditional:
//! it happens only while the named version is in force.

mod explain;

use std::sync::Arc;

use axum::extract::{Path, State as AxumState};
use axum::http::header::{ETAG, IF_MATCH};
use axum::http::{HeaderMap, HeaderName};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use data_encoding::HEXLOWER;
use hydrascale_proto::state::v1::{RefusalCode, SetPolicy, command::Op};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cluster::{Cluster, ProposeError};
use crate::config::PolicyMode;
use crate::policy;
use crate::state::{POLICY_BYTES_MAX, PolicyVersion, State};
use crate::types::Timestamp;

use super::body::{IdText, JsonBody, LongJsonBody, parse_id};
use super::gate::{Caller, Read};
use super::{ApiError, ApiState, Kind};

/// JSON may write a byte as six.
pub(super) const BODY_BYTES_MAX: usize = 6 * POLICY_BYTES_MAX + 1024;
/// Longer names of authors say nothing more; what is stored is bounded as well.
const AUTHOR_CHARS_MAX: usize = 48;

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/policy", get(current).put(replace))
        .route("/policy/check", post(check))
        .route("/policy/history", get(history))
        .route("/policy/history/{version}", get(version))
        .route("/policy/rollback", post(roll_back))
        .route("/policy/explain", get(explain::explain))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PolicyAnswer {
    policy: String,
    updated_at: Timestamp,
    /// What it says that has no effect.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

type Tagged = ([(HeaderName, String); 1], Json<PolicyAnswer>);

fn tagged(policy: &PolicyVersion, warnings: Vec<String>) -> Tagged {
    let answer = PolicyAnswer {
        policy: policy.text.clone(),
        updated_at: policy.created_at,
        warnings,
    };
    ([(ETAG, format!("\"{}\"", etag(policy)))], Json(answer))
}

/// SHA-256 of the text, 64 hex digits.
fn etag(policy: &PolicyVersion) -> String {
    HEXLOWER.encode(&Sha256::digest(&policy.text))
}

/// Looks through what is read of policies, beside the other requests: in long ones it takes a while.
async fn beside<T: Send + 'static>(
    look: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let stopped = |_| ApiError::new(Kind::Internal, "the policy could not be looked through");
    tokio::task::spawn_blocking(look).await.map_err(stopped)
}

async fn current(
    AxumState(api): AxumState<ApiState>,
    Read(state): Read,
) -> Result<Tagged, ApiError> {
    // headscale answers 500, and its clients look for this text.
    let missing = || {
        let detail = "acl policy not found: none is set, and every node may reach every other; \
                      set one with `policy set --file FILE`";
        ApiError::new(Kind::Internal, detail)
    };
    let policy = state.policy().ok_or_else(missing)?;
    let reading = api.cluster.policy(&state).await;
    let warnings = beside(move || reading.warnings().lines()).await?;
    Ok(tagged(policy, warnings))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VersionShape {
    version: u64,
    author: String,
    updated_at: Timestamp,
    bytes: usize,
    etag: String,
}

impl VersionShape {
    fn new(policy: &PolicyVersion) -> Self {
        Self {
            version: policy.version,
            author: policy.author.clone(),
            updated_at: policy.created_at,
            bytes: policy.text.len(),
            etag: etag(policy),
        }
    }
}

#[derive(Serialize)]
struct History {
    versions: Vec<VersionShape>,
}

/// Newest first.
async fn history(Read(state): Read) -> Json<History> {
    let versions = state.policy_versions().rev();
    Json(History {
        versions: versions.map(|policy| VersionShape::new(policy)).collect(),
    })
}

async fn version(Read(state): Read, Path(version): Path<String>) -> Result<Tagged, ApiError> {
    let policy = kept(&state, &version, "path.version")?;
    Ok(tagged(policy, Vec::new()))
}

fn kept<'a>(
    state: &'a State,
    version: &str,
    location: &str,
) -> Result<&'a Arc<PolicyVersion>, ApiError> {
    let number = parse_id(version, location)?;
    let missing = || {
        ApiError::not_found(format!(
            "version {number} of the policy is not kept; `policy history` lists those that are"
        ))
        .at(location)
    };
    state.policy_version(number).ok_or_else(missing)
}

#[derive(Deserialize)]
struct PolicyBody {
    #[serde(default)]
    policy: String,
    /// Who sets it, as far as the caller says.
    author: Option<String>,
}

#[derive(Serialize)]
struct CheckAnswer {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

async fn check(
    Read(state): Read,
    LongJsonBody(body): LongJsonBody<PolicyBody>,
) -> Result<Json<CheckAnswer>, ApiError> {
    let (_, warnings) = checked(state, body.policy).await?;
    Ok(Json(CheckAnswer { warnings }))
}

/// Gives the text back, with the warnings. Runs beside the other requests: for many nodes it takes
/// a while.
async fn checked(state: Arc<State>, text: String) -> Result<(String, Vec<String>), ApiError> {
    let check = move || match policy::check(&text, &state) {
        Ok(warnings) => Ok((text, warnings.lines())),
        Err(errors) => Err(ApiError::bad_request(errors.to_string()).at("body.policy")),
    };
    beside(check).await?
}

async fn replace(
    AxumState(api): AxumState<ApiState>,
    Read(state): Read,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    LongJsonBody(body): LongJsonBody<PolicyBody>,
) -> Result<Tagged, ApiError> {
    let author = author(body.author.as_deref(), &caller);
    set(&api, state, &headers, body.policy, author).await
}

#[derive(Deserialize)]
struct RollBackBody {
    version: IdText,
    author: Option<String>,
}

/// Puts the text of a kept version into force again, as a new version.
async fn roll_back(
    AxumState(api): AxumState<ApiState>,
    Read(state): Read,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<RollBackBody>,
) -> Result<Tagged, ApiError> {
    let old = kept(&state, body.version.as_str(), "body.version")?;
    let text = old.text.clone();
    let author = author(body.author.as_deref(), &caller);
    set(&api, state, &headers, text, author).await
}

async fn set(
    api: &ApiState,
    state: Arc<State>,
    headers: &HeaderMap,
    text: String,
    author: String,
) -> Result<Tagged, ApiError> {
    if api.policy_mode != PolicyMode::Database {
        let detail = "update is disabled for modes other than 'database': the policy comes from \
                      the file policy.path; change it there and send SIGHUP, or set policy.mode \
                      to database";
        return Err(ApiError::bad_request(detail));
    }
    let replaces = expected(headers, &state)?;
    let (text, warnings) = checked(state, text).await?;
    let op = Op::SetPolicy(SetPolicy {
        text,
        author,
        replaces,
    });
    let done = api.cluster.propose(op).await.map_err(refused)?;
    let state = api.cluster.state();
    let gone = || {
        ApiError::new(
            Kind::Conflict,
            "the policy was changed again in the meantime",
        )
    };
    let policy = state.policy_version(done.id).ok_or_else(gone)?;
    tracing::info!(version = policy.version, "policy is set");
    Ok(tagged(policy, warnings))
}

/// A replacement that came too late is a failed precondition, as one that was late from the start.
fn refused(error: ProposeError) -> ApiError {
    match error {
        ProposeError::Refused(refusal) if refusal.code() == RefusalCode::Precondition => {
            ApiError::new(Kind::PreconditionFailed, refusal.message).at("header.If-Match")
        }
        ProposeError::Refused(_)
        | ProposeError::Unavailable { .. }
        | ProposeError::Unknown { .. } => error.into(),
    }
}

/// The version that must still be in force: the one with the demanded ETag.
fn expected(headers: &HeaderMap, state: &State) -> Result<Option<u64>, ApiError> {
    let Some(wanted) = headers.get(IF_MATCH) else {
        return Ok(None);
    };
    let current = state.policy();
    let version = current.map_or(0, |policy| policy.version);
    let matches = |tag: &str| {
        let tag = tag.trim().trim_matches('"');
        // The service's clients write `ts-default` for "while none has been set".
        current.map_or(tag == "ts-default", |policy| {
            tag == "*" || tag == etag(policy)
        })
    };
    if wanted
        .to_str()
        .is_ok_and(|tags| tags.split(',').any(matches))
    {
        return Ok(Some(version));
    }
    let detail = format!(
        "precondition failed, invalid old hash: version {version} is in force; look at it and set \
         yours again"
    );
    Err(ApiError::new(Kind::PreconditionFailed, detail).at("header.If-Match"))
}

/// What stands in the history. Only the part that this server knows is certain.
fn author(told: Option<&str>, caller: &Caller) -> String {
    let shown = |c: &char| !c.is_control();
    let told: String = told
        .into_iter()
        .flat_map(|name| name.trim().chars())
        .filter(shown)
        .take(AUTHOR_CHARS_MAX)
        .collect();
    if told.is_empty() {
        caller.0.clone()
    } else {
        format!("{told} ({})", caller.0)
    }
}

/// What the policy in force says that had an effect before a change of users and has none after it.
/// Logged too, because not everybody reads answers.
pub(super) async fn lost_meaning(
    cluster: &Cluster,
    before: &State,
    after: &State,
) -> Result<Vec<String>, ApiError> {
    if after.policy().is_none() {
        return Ok(Vec::new());
    }
    let before = cluster.policy(before).await;
    let after = cluster.policy(after).await;
    let lost = beside(move || after.warnings().since(&before.warnings()).lines());
    let warnings = lost.await?;
    for warning in &warnings {
        tracing::debug!(warning, "policy names a user who is gone");
    }
    if !warnings.is_empty() {
        let entries = warnings.len();
        tracing::warn!(
            entries,
            "policy names users who are gone; see `policy check`"
        );
    }
    Ok(warnings)
}
