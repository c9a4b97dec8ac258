//! The tailnet's state as a file.

use axum::body::Body;
use axum::extract::State as AxumState;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::super::{ApiError, ApiState};

/// Streams a backup of what this replica has applied, as of a moment after the request came; with
/// `?consistency=stale` also without a leader. A backup that fails on the way breaks the body off.
pub(super) async fn get(AxumState(api): AxumState<ApiState>) -> Result<Response, ApiError> {
    let bytes = api.cluster.backup()?;
    tracing::info!("backup is sent");
    let kind = [(CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, Body::from_stream(bytes)).into_response())
}
