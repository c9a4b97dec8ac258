//! The policy routes, which say that there is no policy yet.

use axum::Router;
use axum::routing::{get, post};

use super::{ApiError, ApiState, Kind};

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/policy", get(unsupported).put(unsupported))
        .route("/policy/check", post(unsupported))
}

async fn unsupported() -> ApiError {
    let detail = "policies are not supported yet: every node may reach every other node";
    ApiError::new(Kind::NotImplemented, detail)
}
