//! `/key`: the control plane's Noise key (`tailcfg.OverTLSPublicKeyResponse`).

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::text;
use crate::control::Control;
use crate::types::MachineKey;

/// The first capability version that speaks Noise; older ones are answered nothing, as by
/// headscale.
const CAPVER_NOISE: u32 = 39;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KeyResponse {
    /// For clients before Noise; always zero. tailscale-rs requires the field.
    legacy_public_key: MachineKey,
    public_key: MachineKey,
}

pub(super) async fn key(State(control): State<Control>, RawQuery(query): RawQuery) -> Response {
    let Some(capver) = query.as_deref().and_then(parse_capver) else {
        return text(
            StatusCode::BAD_REQUEST,
            "parameter v must be a capability version",
        );
    };
    if capver < CAPVER_NOISE {
        return StatusCode::OK.into_response();
    }
    let Some(private) = control.noise_key() else {
        return text(
            StatusCode::SERVICE_UNAVAILABLE,
            "the cluster is not initialised yet",
        );
    };
    let response = KeyResponse {
        legacy_public_key: MachineKey::default(),
        public_key: private.public(),
    };
    Json(response).into_response()
}

fn parse_capver(query: &str) -> Option<u32> {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix("v="))?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_among_other_parameters() {
        assert_eq!(parse_capver("a=1&v=130"), Some(130));
        assert_eq!(parse_capver("v="), None);
        assert_eq!(parse_capver("v=-1"), None);
        assert_eq!(parse_capver("vv=130"), None);
    }
}
