//! What a request for `/ts2021` must look like, in its two variants.
//!
//! ```text
//! POST: Upgrade: tailscale-control-protocol, X-Tailscale-Handshake: <base64 of 101 bytes>
//! GET:  a WebSocket of subprotocol tailscale-control-protocol, the handshake in the query
//! ```
//!
//! Source: `control/controlhttp/controlhttpserver`. The target may be in absolute form: the
//! official Rust client sends it so.

use axum::http::{HeaderMap, Method, Uri, header};
use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};

use super::handshake::{HandshakeError, INITIATION_LEN, Initiation};

/// Value of `Upgrade`, and the WebSocket subprotocol; the Go client compares it byte for byte.
pub const PROTOCOL: &str = "tailscale-control-protocol";
/// Header, or query parameter of the WebSocket variant, that carries the initiation.
pub const HANDSHAKE_NAME: &str = "X-Tailscale-Handshake";

/// Base64 of the initiation is 136 characters; anything much longer is not looked at.
const HANDSHAKE_TEXT_LEN_MAX: usize = 256;

/// Why a request for `/ts2021` was refused.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum UpgradeError {
    /// There is no `Upgrade` header; typical of a proxy that strips it.
    #[error("missing next protocol: is there a proxy that strips the Upgrade header?")]
    MissingProtocol,
    /// The client wants another protocol.
    #[error("unknown next protocol, expected {PROTOCOL}")]
    UnknownProtocol,
    /// The handshake is absent.
    #[error("missing {HANDSHAKE_NAME}")]
    MissingHandshake,
    /// The handshake is not base64.
    #[error("{HANDSHAKE_NAME} is not standard base64 of {INITIATION_LEN} bytes")]
    Encoding,
    /// The handshake has the wrong shape.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

/// A well-formed wish to speak Noise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpgradeRequest {
    /// Speak on the bare connection after a 101.
    Raw(Initiation),
    /// Speak inside binary WebSocket messages.
    WebSocket(Initiation),
}

impl UpgradeRequest {
    /// Whether the request asks for the WebSocket variant, well-formed or not.
    pub fn is_websocket(method: &Method, headers: &HeaderMap) -> bool {
        method == Method::GET
            && headers
                .get(header::UPGRADE)
                .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
    }

    /// Reads the handshake out of a request's head.
    ///
    /// # Errors
    /// Names the header or parameter that is missing or malformed.
    pub fn parse(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Self, UpgradeError> {
        if Self::is_websocket(method, headers) {
            let text = query_value(uri).ok_or(UpgradeError::MissingHandshake)?;
            return parse_initiation(text.as_bytes()).map(Self::WebSocket);
        }
        let protocol = headers
            .get(header::UPGRADE)
            .ok_or(UpgradeError::MissingProtocol)?;
        if !protocol
            .as_bytes()
            .eq_ignore_ascii_case(PROTOCOL.as_bytes())
        {
            return Err(UpgradeError::UnknownProtocol);
        }
        let text = headers
            .get(HANDSHAKE_NAME)
            .ok_or(UpgradeError::MissingHandshake)?;
        parse_initiation(text.as_bytes()).map(Self::Raw)
    }
}

fn parse_initiation(text: &[u8]) -> Result<Initiation, UpgradeError> {
    if text.len() > HANDSHAKE_TEXT_LEN_MAX {
        return Err(UpgradeError::Encoding);
    }
    let bytes = BASE64.decode(text).map_err(|_| UpgradeError::Encoding)?;
    Ok(Initiation::parse(&bytes)?)
}

/// The handshake parameter of a query, percent-decoded.
///
/// A bare `+` stays one: it is a base64 digit, and no client means a space by it.
fn query_value(uri: &Uri) -> Option<String> {
    let value = uri.query()?.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        (name == HANDSHAKE_NAME).then_some(value)
    })?;
    percent_decode(value)
}

fn percent_decode(text: &str) -> Option<String> {
    let mut pieces = text.split('%');
    let mut decoded = pieces.next()?.to_owned();
    for piece in pieces {
        let code = HEXLOWER_PERMISSIVE
            .decode(piece.get(..2)?.as_bytes())
            .ok()?;
        decoded.extend(code.into_iter().map(char::from));
        decoded.push_str(piece.get(2..)?);
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn initiation() -> Vec<u8> {
        let mut bytes = vec![0; INITIATION_LEN];
        bytes[..5].copy_from_slice(&[0, 130, 1, 0, 96]);
        bytes[100] = 0xff;
        bytes
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn post_upgrade_is_understood_also_in_absolute_form_and_mixed_case() {
        let text = BASE64.encode(&initiation());
        let headers = headers(&[
            ("upgrade", "Tailscale-Control-Protocol"),
            ("x-tailscale-handshake", &text),
        ]);
        for uri in ["/ts2021", "http://127.0.0.1:8080/ts2021"] {
            let uri = Uri::from_static(uri);
            let request = UpgradeRequest::parse(&Method::POST, &uri, &headers).unwrap();
            assert!(
                matches!(request, UpgradeRequest::Raw(initiation) if initiation.capver() == 130)
            );
        }
    }

    #[test]
    fn websocket_takes_the_handshake_from_the_query() {
        let text = BASE64.encode(&initiation());
        let escaped = text
            .replace('+', "%2B")
            .replace('/', "%2f")
            .replace('=', "%3D");
        let headers = headers(&[("upgrade", "websocket")]);
        for value in [&text, &escaped] {
            let uri = format!("/ts2021?a=b&X-Tailscale-Handshake={value}")
                .parse()
                .unwrap();
            let request = UpgradeRequest::parse(&Method::GET, &uri, &headers).unwrap();
            assert!(matches!(request, UpgradeRequest::WebSocket(_)));
        }
    }

    #[test]
    fn each_missing_or_wrong_part_is_named() {
        let uri = Uri::from_static("/ts2021");
        let refused = |method: Method, pairs: &[(&'static str, &str)]| {
            UpgradeRequest::parse(&method, &uri, &headers(pairs)).unwrap_err()
        };
        let post = |pairs: &[(&'static str, &str)]| refused(Method::POST, pairs);
        assert_eq!(post(&[]), UpgradeError::MissingProtocol);
        assert_eq!(post(&[("upgrade", "h2c")]), UpgradeError::UnknownProtocol);
        assert_eq!(
            post(&[("upgrade", PROTOCOL)]),
            UpgradeError::MissingHandshake
        );
        let with = |text: &str| post(&[("upgrade", PROTOCOL), ("x-tailscale-handshake", text)]);
        assert_eq!(with("!"), UpgradeError::Encoding);
        assert_eq!(with(&"A".repeat(400)), UpgradeError::Encoding);
        assert_eq!(
            with("AAAA"),
            UpgradeError::Handshake(HandshakeError::Length(3))
        );
        let websocket = refused(Method::GET, &[("upgrade", "websocket")]);
        assert_eq!(websocket, UpgradeError::MissingHandshake);
    }

    proptest! {
        #[test]
        fn no_text_panics_the_parser(text in "\\PC{0,300}") {
            let _ = percent_decode(&text);
            let _ = parse_initiation(text.as_bytes());
        }
    }
}
