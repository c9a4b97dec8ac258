//! `/health`, `/health/ready` and `/version`.
//!
//! `/health` says that the process serves: restart it when it fails. `/health/ready` says that
//! clients should be sent here: take the replica out of the balancer when it fails. Both answer from
//! memory, since balancers ask several times a second.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::control::Control;
use crate::control::limits::LAG_READY_MAX;

const CONTENT_TYPE: &str = "application/health+json";

pub(super) async fn health() -> Response {
    pass()
}

pub(super) async fn ready(State(control): State<Control>) -> Response {
    match not_ready(&control) {
        None => pass(),
        Some(reason) => {
            let body = serde_json::json!({ "status": "fail", "output": reason });
            let head = [(header::CONTENT_TYPE, CONTENT_TYPE)];
            (StatusCode::SERVICE_UNAVAILABLE, head, body.to_string()).into_response()
        }
    }
}

pub(super) async fn version(State(control): State<Control>) -> Response {
    Json(&control.options().version).into_response()
}

fn pass() -> Response {
    (
        [(header::CONTENT_TYPE, CONTENT_TYPE)],
        r#"{"status":"pass"}"#,
    )
        .into_response()
}

/// Why clients should go elsewhere; `None` when they are welcome.
fn not_ready(control: &Control) -> Option<String> {
    if control.drain().is_cancelled() {
        return Some("this replica is draining".to_owned());
    }
    if control.noise_key().is_none() {
        return Some("the cluster is not initialised yet".to_owned());
    }
    let status = control.cluster().status();
    if let Some(without) = control.cluster().lacks_leader() {
        return Some(format!("no leader for {:.1} s", without.as_secs_f64()));
    }
    if !control.cluster().has_caught_up() {
        return Some("this replica has not caught up since it started".to_owned());
    }
    if control.cluster().is_stopping() {
        return Some("this replica is about to stop".to_owned());
    }
    if control.cluster().is_drained() {
        return Some("this replica is drained, until `cluster undrain`".to_owned());
    }
    let lag = status.committed_index.saturating_sub(status.applied_index);
    (lag > LAG_READY_MAX).then(|| format!("this replica is {lag} log entries behind"))
}
