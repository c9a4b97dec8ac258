//! The one table of errors: what went wrong -> HTTP status -> gRPC code, as headscale has them.
//!
//! The body serves both of headscale's generations: RFC 7807 (`title status detail errors`) and
//! grpc-gateway (`code message details`).

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hydrascale_proto::state::v1::{Refusal, RefusalCode};
use serde::Serialize;
use serde_json::Value;

use crate::cluster::{ProposeError, ReadError};

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request names something that cannot be.
    BadRequest,
    /// No API key, or one that is not valid.
    Unauthorized,
    /// The thing does not exist.
    NotFound,
    /// The route exists, the method does not.
    MethodNotAllowed,
    /// The thing exists already, or belongs to another.
    Conflict,
    /// `If-Match` names what is no longer so.
    PreconditionFailed,
    /// The body is longer than allowed.
    TooLarge,
    /// The body has not the shape of this operation.
    Unprocessable,
    /// Our fault.
    Internal,
    /// Known, and not supported.
    NotImplemented,
    /// No leader at the moment; worth another try.
    Unavailable,
    /// It may have been done or not.
    OutcomeUnknown,
}

impl Kind {
    /// HTTP status and gRPC code (`google.rpc.Code`).
    const fn codes(self) -> (StatusCode, u8) {
        match self {
            Self::BadRequest => (StatusCode::BAD_REQUEST, 3),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, 16),
            Self::NotFound => (StatusCode::NOT_FOUND, 5),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, 12),
            Self::Conflict => (StatusCode::CONFLICT, 6),
            Self::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, 9),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, 8),
            Self::Unprocessable => (StatusCode::UNPROCESSABLE_ENTITY, 3),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, 2),
            Self::NotImplemented => (StatusCode::NOT_IMPLEMENTED, 12),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, 14),
            Self::OutcomeUnknown => (StatusCode::GATEWAY_TIMEOUT, 4),
        }
    }
}

/// An answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct ApiError {
    kind: Kind,
    detail: String,
    location: Option<String>,
}

impl ApiError {
    /// An error of this kind; `detail` names the input and the remedy.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            location: None,
        }
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(Kind::BadRequest, detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, detail)
    }

    /// Names the part of the request that is wrong (`body.user`, `path.id`).
    pub(super) fn at(mut self, location: impl Into<String>) -> Self {
        self.location = Some(location.into());
        self
    }

    /// The same error as another kind, where headscale answers so.
    pub(super) fn with_kind(mut self, from: Kind, to: Kind) -> Self {
        if self.kind == from {
            self.kind = to;
        }
        self
    }

    /// What went wrong.
    pub const fn kind(&self) -> Kind {
        self.kind
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal.code() {
            RefusalCode::NotFound | RefusalCode::LoginNotFound => Kind::NotFound,
            RefusalCode::AlreadyExists | RefusalCode::MachineMismatch => Kind::Conflict,
            RefusalCode::Invalid
            | RefusalCode::Precondition
            | RefusalCode::AuthKeyInvalid
            | RefusalCode::AuthKeyExpired
            | RefusalCode::AuthKeyUsed
            | RefusalCode::AuthKeyRevoked
            | RefusalCode::NodeExpired
            | RefusalCode::LoginRejected => Kind::BadRequest,
            RefusalCode::Unspecified | RefusalCode::AddressesExhausted => Kind::Internal,
        };
        Self::new(kind, refusal.message)
    }
}

impl From<ProposeError> for ApiError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Refused(refusal) => refusal.into(),
            ProposeError::Unavailable { .. } => Self::new(Kind::Unavailable, error.to_string()),
            ProposeError::Unknown { .. } => Self::new(Kind::OutcomeUnknown, error.to_string()),
        }
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        Self::new(Kind::Unavailable, error.to_string())
    }
}

/// The body of an error.
#[derive(Serialize)]
struct Problem {
    title: &'static str,
    status: u16,
    detail: String,
    errors: Vec<ProblemPart>,
    code: u8,
    message: String,
    details: [Value; 0],
}

#[derive(Serialize)]
struct ProblemPart {
    message: String,
    location: String,
}

/// Seconds after which a client may try again: elections take about one.
const RETRY_AFTER_SECS: u64 = 1;

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = self.kind.codes();
        if self.kind == Kind::Internal {
            tracing::error!(error = %self.detail, "api request failed");
        }
        let errors = self
            .location
            .map(|location| ProblemPart {
                message: self.detail.clone(),
                location,
            })
            .into_iter()
            .collect();
        let problem = Problem {
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            message: self.detail.clone(),
            detail: self.detail,
            errors,
            code,
            details: [],
        };
        let mut response = (status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if self.kind == Kind::Unavailable {
            headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECS));
        }
        response
    }
}

pub(super) async fn no_such_route() -> ApiError {
    ApiError::not_found("there is no such operation; see the API's documentation")
}

pub(super) async fn method_not_allowed() -> ApiError {
    ApiError::new(
        Kind::MethodNotAllowed,
        "this path has no operation with that method",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body(error: ApiError) -> (Response<()>, Value) {
        let (parts, body) = error.into_response().into_parts();
        let bytes = axum::body::to_bytes(body, 4096).await.unwrap();
        (
            Response::from_parts(parts, ()),
            serde_json::from_slice(&bytes).unwrap(),
        )
    }

    #[tokio::test]
    async fn a_refusal_becomes_a_problem_that_both_generations_read() {
        let refusal = Refusal {
            code: RefusalCode::NotFound.into(),
            message: "no node 7".into(),
        };
        let (response, body) = body(refusal.into()).await;
        assert_eq!(response.status(), 404);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(
            body,
            serde_json::json!({
                "title": "Not Found", "status": 404, "detail": "no node 7", "errors": [],
                "code": 5, "message": "no node 7", "details": [],
            })
        );
    }

    #[tokio::test]
    async fn a_missing_leader_asks_to_try_again() {
        let error = ProposeError::Unavailable {
            reason: "there is no leader".into(),
        };
        let (response, body) = body(error.into()).await;
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert_eq!(body["code"], 14);
    }
}
