//! A request head, reduced to what the routes look at.

use crate::derp::limits::{HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX};

/// RFC 6455 §4.1.
const WEBSOCKET_VERSION: &str = "13";

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    /// Not HTTP/1.
    #[error("malformed request head: {0}")]
    Malformed(#[from] httparse::Error),
    /// The head does not end.
    #[error("request head is longer than {HTTP_HEAD_BYTES_MAX} bytes")]
    TooLong,
}

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RequestHead {
    /// As sent; methods are case-sensitive.
    pub(super) method: String,
    /// Without scheme, authority and query.
    pub(super) path: String,
    /// Behind the question mark; empty when there is none.
    pub(super) query: String,
    /// `Upgrade`, in lower case.
    pub(super) upgrade: String,
    /// `Sec-WebSocket-Protocol`, in lower case.
    pub(super) websocket_protocols: String,
    /// `Sec-WebSocket-Key`, when the request asks for the version that there is.
    pub(super) websocket_key: Option<String>,
    /// `Derp-Fast-Start: 1`: the client knows the relay's key and waits for no answer.
    pub(super) fast_start: bool,
    /// `X-Tailscale-Challenge`.
    pub(super) challenge: String,
    /// The client expects to use the connection again, and nothing is in the way of that.
    pub(super) keep_alive: bool,
}

impl RequestHead {
    /// Parses the head at the start of `buf` and its length; `None` while it is incomplete.
    ///
    /// # Errors
    /// See [`HeadError`].
    pub(super) fn parse(buf: &[u8]) -> Result<Option<(Self, usize)>, HeadError> {
        let mut headers = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(len) = request.parse(buf)? else {
            return Ok(None);
        };
        if len > HTTP_HEAD_BYTES_MAX {
            return Err(HeadError::TooLong);
        }
        let (path, query) = split_target(request.path.unwrap_or_default());
        let mut head = Self {
            method: request.method.unwrap_or_default().to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            keep_alive: request.version == Some(1),
            ..Self::default()
        };
        let mut has_body = false;
        let mut websocket_version = String::new();
        for header in request.headers.iter() {
            let value = String::from_utf8_lossy(header.value);
            has_body |= head.take_header(header.name, value.trim());
            if header.name.eq_ignore_ascii_case("sec-websocket-version") {
                value.trim().clone_into(&mut websocket_version);
            }
        }
        if websocket_version != WEBSOCKET_VERSION {
            head.websocket_key = None;
        }
        // bodies are not read, so nothing can follow one
        head.keep_alive &= !has_body;
        Ok(Some((head, len)))
    }

    /// Whether the answer must come without its body.
    pub(super) fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// Whether this only reads.
    pub(super) fn is_read(&self) -> bool {
        self.method == "GET" || self.is_head()
    }

    /// Notes a header; true when it announces a body.
    fn take_header(&mut self, name: &str, value: &str) -> bool {
        match name.to_ascii_lowercase().as_str() {
            "upgrade" => self.upgrade = value.to_ascii_lowercase(),
            "sec-websocket-protocol" => self.websocket_protocols = value.to_ascii_lowercase(),
            "sec-websocket-key" => self.websocket_key = Some(value.to_owned()),
            "derp-fast-start" => self.fast_start = value == "1",
            "x-tailscale-challenge" => self.challenge = value.to_owned(),
            "connection" => {
                let has = |option| {
                    value
                        .split(',')
                        .any(|v| v.trim().eq_ignore_ascii_case(option))
                };
                self.keep_alive = (self.keep_alive || has("keep-alive")) && !has("close");
            }
            "content-length" => return value != "0",
            "transfer-encoding" => return true,
            _ => {}
        }
        false
    }
}

/// Path and query of a request target; tailscale-rs sends it with scheme and authority in front.
fn split_target(target: &str) -> (&str, &str) {
    let relative = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => {
            rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/")
        }
        Some(_) | None => target,
    };
    relative.split_once('?').unwrap_or((relative, ""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(head: &str) -> RequestHead {
        let (parsed, len) = RequestHead::parse(head.as_bytes()).unwrap().unwrap();
        assert_eq!(len, head.len());
        parsed
    }

    #[test]
    fn a_go_client_asks_to_upgrade() {
        let head = parse(
            "GET /derp HTTP/1.1\r\nHost: relay\r\nUser-Agent: Go-http-client/1.1\r\n\
             Connection: Upgrade\r\nUpgrade: DERP\r\n\r\n",
        );
        assert_eq!(
            (head.path.as_str(), head.upgrade.as_str()),
            ("/derp", "derp")
        );
        assert!(head.keep_alive);
    }

    #[test]
    fn a_rust_client_posts_to_an_absolute_target() {
        let head =
            parse("POST https://relay/derp HTTP/1.1\r\nhost: relay\r\nupgrade: DERP\r\n\r\n");
        assert_eq!(
            (head.method.as_str(), head.path.as_str()),
            ("POST", "/derp")
        );
        assert_eq!(split_target("http://relay:80"), ("/", ""));
        assert_eq!(
            split_target("/bootstrap-dns?q=a://b"),
            ("/bootstrap-dns", "q=a://b")
        );
    }

    #[test]
    fn keep_alive_follows_version_connection_and_body() {
        let keep_alive = |rest: &str| parse(&format!("GET / {rest}\r\n\r\n")).keep_alive;
        assert!(keep_alive("HTTP/1.1"));
        assert!(!keep_alive("HTTP/1.1\r\nConnection: foo, Close"));
        assert!(!keep_alive("HTTP/1.0"));
        assert!(keep_alive("HTTP/1.0\r\nConnection: keep-alive"));
        assert!(keep_alive("HTTP/1.1\r\nContent-Length: 0"));
        assert!(!keep_alive("HTTP/1.1\r\nContent-Length: 5"));
        assert!(!keep_alive(
            "HTTP/1.1\r\nContent-Length: 5\r\nConnection: keep-alive"
        ));
        assert!(!keep_alive("HTTP/1.1\r\nTransfer-Encoding: chunked"));
    }

    #[test]
    fn an_incomplete_head_waits() {
        assert_eq!(
            RequestHead::parse(b"GET / HTTP/1.1\r\nHost: a\r\n"),
            Ok(None)
        );
        assert_eq!(RequestHead::parse(b""), Ok(None));
    }

    #[test]
    fn too_many_headers_are_malformed() {
        let head = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
        let error = RequestHead::parse(head.as_bytes()).unwrap_err();
        assert_eq!(error, HeadError::Malformed(httparse::Error::TooManyHeaders));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = RequestHead::parse(&bytes);
        }

        #[test]
        fn no_target_or_header_panics(target in "[!-~]{1,40}", name in "[a-z-]{1,20}", value: String) {
            let head = format!("GET {target} HTTP/1.1\r\n{name}: {value}\r\n\r\n");
            let _ = RequestHead::parse(head.as_bytes());
        }
    }
}
