//! What the client port answers outside Noise: the key, the upgrade, health, pages for people.

mod bootstrap_dns;
mod health;
mod key;
mod pages;
mod verify;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use tokio::time::timeout;

use super::limits::{BODY_BYTES_MAX, BODY_TIMEOUT, VERIFY_BODY_BYTES_MAX};
use super::metrics::Limit;
use super::{Control, ts2021};

/// The routes of the client port that are not the API's. [`with_security_headers`] belongs around
/// the whole.
pub fn router(control: Control) -> Router {
    Router::new()
        .route("/key", get(key::key))
        .route("/ts2021", get(ts2021::upgrade).post(ts2021::upgrade))
        .route("/health", get(health::health))
        .route("/health/ready", get(health::ready))
        .route("/version", get(health::version))
        .route("/bootstrap-dns", get(bootstrap_dns::bootstrap_dns))
        .route(
            "/verify",
            post(verify::verify)
                .layer(DefaultBodyLimit::max(VERIFY_BODY_BYTES_MAX))
                .layer(from_fn_with_state(control.clone(), limit_time)),
        )
        .route("/", get(pages::blank))
        .route("/robots.txt", get(pages::robots))
        .route("/register/{auth_id}", get(pages::register))
        .route("/auth/{auth_id}", get(pages::ssh_check))
        .route("/apple", get(pages::apple))
        .route("/apple/{platform}", get(pages::apple_profile))
        .route("/windows", get(pages::windows))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(control)
}

/// Ends a request whose body does not arrive.
async fn limit_time(State(control): State<Control>, request: Request, next: Next) -> Response {
    timeout(BODY_TIMEOUT, next.run(request))
        .await
        .unwrap_or_else(|_| {
            control.metrics().limit_hit(Limit::BodyTime);
            let reason = format!(
                "request body did not arrive within {} s",
                BODY_TIMEOUT.as_secs()
            );
            text(StatusCode::REQUEST_TIMEOUT, reason)
        })
}

/// Headers of every answer on the client port, as headscale: no frames, no guessed types, no
/// referrer.
const SECURITY_HEADERS: [(HeaderName, HeaderValue); 4] = [
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("frame-ancestors 'none'"),
    ),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
];

/// Puts the security headers on everything that `router` answers.
pub fn with_security_headers(router: Router) -> Router {
    router.layer(map_response(|mut response: Response| async move {
        response.headers_mut().extend(SECURITY_HEADERS);
        response
    }))
}

/// A plain-text answer.
fn text(status: StatusCode, text: impl Into<String>) -> Response {
    (status, text.into()).into_response()
}
