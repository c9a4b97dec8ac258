//! `/verify`: whether a relay may admit a node key (`tailcfg.DERPAdmitClientRequest`).

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::text;
use crate::control::Control;
use crate::control::metrics::Limit;
use crate::tailcfg;
use crate::types::NodeKey;

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct AdmitRequest {
    node_public: NodeKey,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AdmitResponse {
    allow: bool,
}

/// Unauthenticated, as headscale's: it tells only whether a key that the asker holds is known.
pub(super) async fn verify(
    State(control): State<Control>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                control.metrics().limit_hit(Limit::BodyBytes);
            }
            return rejection.into_response();
        }
    };
    let request: AdmitRequest = match tailcfg::decode(&body) {
        Ok(request) => request,
        Err(error) => return text(StatusCode::BAD_REQUEST, error.to_string()),
    };
    match control.is_known_node_key(&request.node_public).await {
        Ok(allow) => Json(AdmitResponse { allow }).into_response(),
        // The relay takes anything but 200 for a refusal, which it may retry.
        Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}
