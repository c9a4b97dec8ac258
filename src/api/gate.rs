//! What every request passes: its key, the state that it reads, and the log index of its answer.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Request, State as AxumState};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use crate::cluster::Cluster;
use crate::state::State;
use crate::telemetry::{TRACEPARENT, continue_trace};

use super::auth::PresentedKey;
use super::{Access, ApiError, ApiState, Kind};

const APPLIED_INDEX: HeaderName = HeaderName::from_static("x-raft-applied-index");
const MIN_INDEX: HeaderName = HeaderName::from_static("x-raft-min-index");

/// How long a request waits for the index that it demands: a replica that lags more than this is
/// better left alone.
const MIN_INDEX_WAIT: Duration = Duration::from_secs(5);

/// The longest time that a request may take (headscale's `HTTPTimeout`).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Routes that must answer when the cluster has no leader: what they say is local.
const LOCAL_ROUTES: [&str; 1] = ["/cluster/status"];

/// Who sent a request, for the records: put there by [`gate`].
#[derive(Clone)]
pub(super) struct Caller(pub(super) String);

/// The state that a request reads, put there by [`gate`].
#[derive(Clone)]
pub(super) struct Read(pub(super) Arc<State>);

impl<S: Send + Sync> FromRequestParts<S> for Read {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let missing = || ApiError::new(Kind::Internal, "the request passed no gate");
        parts.extensions.get::<Self>().cloned().ok_or_else(missing)
    }
}

/// Lets a request in, or answers for it.
pub(super) async fn gate(
    AxumState(api): AxumState<ApiState>,
    request: Request,
    next: Next,
) -> Response {
    let span = tracing::debug_span!(
        "api_request",
        http.method = %request.method(),
        url.path = request.uri().path(),
    );
    if let Some(parent) = known_parent(&api, request.headers()) {
        continue_trace(&span, parent);
    }
    let cluster = api.cluster.clone();
    let (mut parts, body) = request.into_parts();
    let answer = async {
        match admit(&api, &parts).await {
            Ok((state, caller)) => {
                parts.extensions.insert(Read(state));
                parts.extensions.insert(caller);
                next.run(Request::from_parts(parts, body)).await
            }
            Err(error) => error.into_response(),
        }
    };
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, answer.instrument(span)).await;
    let mut response = answer.unwrap_or_else(|_| {
        let detail = "the request took too long; look before you try again";
        ApiError::new(Kind::OutcomeUnknown, detail).into_response()
    });
    response
        .headers_mut()
        .insert(APPLIED_INDEX, HeaderValue::from(cluster.applied_index()));
    response
}

/// The span that the request names as its own parent. Strangers name none: it would decide for them
/// what is exported.
fn known_parent<'a>(api: &ApiState, headers: &'a HeaderMap) -> Option<&'a str> {
    let parent = headers.get(TRACEPARENT)?.to_str().ok()?;
    let is_known = match api.access {
        Access::LocalTrust => true,
        Access::ApiKey => {
            let key = PresentedKey::from_headers(headers).ok()?;
            key.verify(&api.cluster.state(), api.clock.now()).is_ok()
        }
    };
    is_known.then_some(parent)
}

/// Checks the key and finds the state to read. A key that the local state does not accept is
/// looked up again in the newest one before it is refused.
async fn admit(api: &ApiState, request: &Parts) -> Result<(Arc<State>, Caller), ApiError> {
    let key = match api.access {
        Access::ApiKey => Some(PresentedKey::from_headers(&request.headers)?),
        Access::LocalTrust => None,
    };
    let caller = Caller(key.as_ref().map_or_else(
        || "local socket".to_owned(),
        |key| format!("API key {}", key.prefix()),
    ));
    let stale = wants_stale(&request.uri)?;
    if let Some(index) = wanted_index(request)? {
        wait_applied(&api.cluster, index).await?;
    }
    let now = api.clock.now();
    if stale {
        let state = api.cluster.state();
        match &key {
            Some(key) if key.verify(&state, now).is_err() => {}
            Some(_) | None => return Ok((state, caller)),
        }
    }
    let state = api.cluster.linearizable().await?;
    if let Some(key) = &key {
        key.verify(&state, now)?;
    }
    Ok((state, caller))
}

fn wants_stale(uri: &Uri) -> Result<bool, ApiError> {
    let query = uri.query().unwrap_or("");
    let value = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("consistency="));
    match value {
        Some("stale") => Ok(true),
        Some("linearizable") => Ok(false),
        None => Ok(LOCAL_ROUTES.iter().any(|route| uri.path().ends_with(route))),
        Some(_) => {
            let detail = "consistency must be linearizable (the default) or stale";
            Err(ApiError::bad_request(detail).at("query.consistency"))
        }
    }
}

fn wanted_index(request: &Parts) -> Result<Option<u64>, ApiError> {
    let Some(header) = request.headers.get(MIN_INDEX) else {
        return Ok(None);
    };
    let index = header.to_str().ok().and_then(|text| text.parse().ok());
    let wrong = || {
        ApiError::bad_request("X-Raft-Min-Index must be a log index: a whole number")
            .at("header.X-Raft-Min-Index")
    };
    index.map(Some).ok_or_else(wrong)
}

/// Waits until this replica has applied `index`.
async fn wait_applied(cluster: &Cluster, index: u64) -> Result<(), ApiError> {
    let reached = tokio::time::timeout(MIN_INDEX_WAIT, cluster.wait_applied(index)).await;
    if reached.is_ok() {
        return Ok(());
    }
    let detail = format!(
        "this replica has applied log index {}, the request demands {index}; try again in a moment",
        cluster.applied_index()
    );
    Err(ApiError::new(Kind::Unavailable, detail))
}
