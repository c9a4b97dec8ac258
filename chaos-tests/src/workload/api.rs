//! One request to a replica's API.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::{history::Answer, http, outcome::Seen};

/// After this a client has seen silence. Some elections take longer: with more patience all clients
/// would soon wait for the one replica that is cut off, and none would ask the others.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Lists of some thousand nodes stay below.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Of a complaint, in a history.
const TEXT_CHARS_MAX: usize = 200;

/// The API of one replica.
#[derive(Clone, Debug)]
pub(super) struct Api {
    way: Way,
}

#[derive(Clone, Debug)]
enum Way {
    /// By its local socket, which no fault of a link concerns.
    Local(PathBuf),
    /// By its client port, with an API key.
    Remote(SocketAddr, String),
}

/// What to ask for.
#[derive(Clone, Debug, Default)]
pub(super) struct Call {
    pub(super) method: &'static str,
    /// Behind `/api/v1`.
    pub(super) path: String,
    pub(super) body: Option<Value>,
    /// The ETag that must still be in force.
    pub(super) if_match: Option<String>,
}

impl Call {
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self::of("GET", path, None)
    }

    pub(super) fn of(method: &'static str, path: impl Into<String>, body: Option<Value>) -> Self {
        Self {
            method,
            path: path.into(),
            body,
            if_match: None,
        }
    }

    pub(super) fn is_read(&self) -> bool {
        self.method == "GET"
    }

    fn text(&self, api_key: Option<&str>) -> String {
        let key = api_key.map(|key| format!("Authorization: Bearer {key}\r\n"));
        let key = key.unwrap_or_default();
        let body = self.body.as_ref().map(Value::to_string).unwrap_or_default();
        let condition = self.if_match.as_ref();
        let condition =
            condition.map_or_else(String::new, |tag| format!("If-Match: \"{tag}\"\r\n"));
        format!(
            "{} /api/v1{} HTTP/1.1\r\nHost: local\r\nConnection: close\r\n{key}{condition}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.method,
            self.path,
            body.len(),
        )
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl Reply {
    pub(super) const fn seen(&self) -> Seen {
        Seen::Status(self.status)
    }

    /// What it complains about.
    pub(super) fn text(&self) -> Answer {
        let detail = self.body["detail"].as_str().unwrap_or_default();
        let text = format!("{} {detail}", self.status);
        Answer::Text {
            text: text.chars().take(TEXT_CHARS_MAX).collect(),
        }
    }
}

impl Api {
    pub(super) fn local(socket: &Path) -> Self {
        Self {
            way: Way::Local(socket.to_owned()),
        }
    }

    pub(super) fn remote(address: SocketAddr, api_key: &str) -> Self {
        Self {
            way: Way::Remote(address, api_key.to_owned()),
        }
    }

    /// Sends one request.
    pub(super) async fn send(&self, call: &Call) -> Result<Reply, Seen> {
        self.send_within(ANSWER_LIMIT, call).await
    }

    /// The same, with `limit` for the answer.
    pub(super) async fn send_within(&self, limit: Duration, call: &Call) -> Result<Reply, Seen> {
        match &self.way {
            Way::Local(socket) => ask(limit, UnixStream::connect(socket), call.text(None)).await,
            Way::Remote(address, key) => {
                ask(limit, TcpStream::connect(address), call.text(Some(key))).await
            }
        }
    }
}

async fn ask<W: AsyncRead + AsyncWrite + Unpin>(
    limit: Duration,
    connect: impl Future<Output = io::Result<W>>,
    request: String,
) -> Result<Reply, Seen> {
    let Ok(Ok(wire)) = timeout(ANSWER_LIMIT, connect).await else {
        return Err(Seen::NotSent);
    };
    let answered = timeout(limit, exchange(wire, &request)).await;
    answered.ok().flatten().ok_or(Seen::NoAnswer)
}

async fn exchange(mut wire: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Option<Reply> {
    wire.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let mut wire = wire.take(ANSWER_BYTES_MAX);
    wire.read_to_end(&mut answer).await.ok()?;
    // What is cut off is no answer.
    let answer = http::parse(&answer).ok()?;
    Some(Reply {
        status: answer.status,
        body: serde_json::from_str(&answer.body).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_condition_and_a_body_are_written_as_http() {
        let call = Call {
            if_match: Some("tag".to_owned()),
            ..Call::of("PUT", "/policy", Some(json!({"policy": "{}"})))
        };
        assert_eq!(
            call.text(Some("secret")),
            "PUT /api/v1/policy HTTP/1.1\r\nHost: local\r\nConnection: close\r\n\
             Authorization: Bearer secret\r\nIf-Match: \"tag\"\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n\
             {\"policy\":\"{}\"}"
        );
        assert!(!call.is_read() && Call::get("/user").is_read());
    }

    #[tokio::test]
    async fn a_replica_that_is_down_is_sent_nothing() {
        let api = Api::local(Path::new("/nonexistent/replica.sock"));
        assert_eq!(
            api.send(&Call::get("/user")).await.unwrap_err(),
            Seen::NotSent
        );
    }
}
