//! `/bootstrap-dns`: addresses for clients whose DNS is broken.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use crate::control::Control;

/// The addresses of the name asked for, or of all names when it is unknown or absent.
pub(super) async fn bootstrap_dns(
    State(control): State<Control>,
    RawQuery(query): RawQuery,
) -> Response {
    let asked = query
        .as_deref()
        .and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("q=")));
    let asked = asked
        .unwrap_or_default()
        .trim_end_matches('.')
        .to_ascii_lowercase();
    let mut names = (control.options().bootstrap_names)();
    if names.contains_key(&asked) {
        names.retain(|name, _| *name == asked);
    }
    // Whoever asks this asks once.
    let close = [(header::CONNECTION, HeaderValue::from_static("close"))];
    (close, Json(names)).into_response()
}
