//! An answer and its bytes.

use std::borrow::Cow;
use std::fmt::Write;

use super::HeadError;

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Response {
    status: &'static str,
    headers: Vec<(&'static str, Cow<'static, str>)>,
    /// `None` for statuses that have none by definition, and then no `Content-Length` either.
    body: Option<Cow<'static, str>>,
}

impl Response {
    /// An answer with a body, which may be empty.
    pub(super) fn new(status: &'static str, body: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Some(body.into()),
        }
    }

    /// An answer of a status that has no body.
    pub(super) fn bodiless(status: &'static str) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: None,
        }
    }

    /// An answer in plain text, which ends with a line feed.
    pub(super) fn text(status: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(status, text).with("Content-Type", "text/plain; charset=utf-8")
    }

    /// The answer to a request that could not be read.
    pub(super) fn bad_request(error: &HeadError) -> Self {
        Self::text("400 Bad Request", format!("{error}\n"))
    }

    /// The answer to a method that means nothing at a path.
    pub(super) fn method_not_allowed() -> Self {
        Self::text("405 Method Not Allowed", "only GET and HEAD\n").with("Allow", "GET, HEAD")
    }

    /// Adds a header.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Announces that the connection ends behind this answer.
    pub(super) fn closing(self) -> Self {
        if self.is_closing() {
            self
        } else {
            self.with("Connection", "close")
        }
    }

    /// Whether the connection ends behind this answer.
    pub(super) fn is_closing(&self) -> bool {
        self.headers
            .iter()
            .any(|(name, value)| *name == "Connection" && value == "close")
    }

    /// The bytes; without the body when the request was a HEAD.
    pub(super) fn encode(&self, with_body: bool) -> Vec<u8> {
        let mut wire = format!("HTTP/1.1 {}\r\n", self.status);
        for (name, value) in &self.headers {
            push_header(&mut wire, name, value);
        }
        if let Some(body) = &self.body {
            push_header(&mut wire, "Content-Length", &body.len().to_string());
        }
        wire.push_str("\r\n");
        if let (Some(body), true) = (&self.body, with_body) {
            wire.push_str(body);
        }
        wire.into_bytes()
    }
}

fn push_header(wire: &mut String, name: &str, value: &str) {
    debug_assert!(!value.contains(['\r', '\n']), "{name} would break the head");
    let _ = write!(wire, "{name}: {value}\r\n"); // writing to a string never fails
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_requests_get_the_length_but_not_the_body() {
        let response = Response::text("200 OK", "four").closing().closing();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n\
                    Connection: close\r\nContent-Length: 4\r\n\r\n";
        assert_eq!(response.encode(false), head.as_bytes());
        assert_eq!(response.encode(true), [head.as_bytes(), b"four"].concat());
        assert_eq!(
            Response::bodiless("204 No Content").encode(true),
            b"HTTP/1.1 204 No Content\r\n\r\n"
        );
    }
}
