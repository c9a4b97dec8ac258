//! The way to a replica's REST API: the local socket, or a list of addresses with an API key.
//!
//! Addresses are tried in order. The next one is tried when a replica cannot be reached or has no
//! leader; never when a change may already have been made.

mod address;
mod download;
mod stream;
mod tls;

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, IF_MATCH};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;

use crate::config::{ApiSecret, ClientConfig};

use self::address::Address;
use self::stream::{ConnectError, Stream};
use super::value::Value;

/// Longest answer that is read: a list of 100,000 nodes stays below.
const ANSWER_BYTES_MAX: usize = 512 << 20;

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// A configured address cannot be one.
    #[error("cli.address: {0}")]
    Address(String),
    /// An address was configured without a key.
    #[error(
        "cli.api_key is not set: set it or HEADSCALE_CLI_API_KEY to a key made by `apikeys create` \
         on a replica"
    )]
    NoKey,
    /// The certificates for TLS could not be read.
    #[error("TLS cannot be used: {0}")]
    Tls(String),
    /// No replica could be reached.
    #[error("no replica can be reached: {0}")]
    Unreachable(String),
    /// The replica said no.
    #[error("{0}")]
    Refused(String),
    /// The connection broke after the request had gone out.
    #[error("{address} did not answer: {reason}; look before you try again")]
    Unknown {
        /// Which replica.
        address: String,
        /// What happened.
        reason: String,
    },
    /// A file did not come to its end.
    #[error("{address} broke the answer off: {reason}; nothing of it can be used")]
    BrokenOff {
        /// Which replica.
        address: String,
        /// What happened.
        reason: String,
    },
    /// What came cannot be written.
    #[error("the answer cannot be written")]
    Output(#[source] io::Error),
    /// The answer is no JSON.
    #[error("{address} answered with something that is no REST API: {reason}")]
    Nonsense {
        /// Which replica.
        address: String,
        /// What does not fit.
        reason: String,
    },
}

/// How one attempt ended.
enum Attempt {
    /// With an answer, good or bad.
    Answered(Result<Value, ClientError>),
    /// Nothing was done here: another replica may do it.
    Next(String),
}

/// One request, whoever answers it.
struct Asked<'a> {
    method: Method,
    path: &'a str,
    body: Bytes,
    if_match: Option<&'a str>,
}

pub(super) struct ApiClient {
    addresses: Vec<Address>,
    api_key: Option<ApiSecret>,
    timeout: Duration,
    tls: tls::Connector,
}

impl ApiClient {
    pub(super) fn new(config: ClientConfig) -> Result<Self, ClientError> {
        let addresses = if config.addresses.is_empty() {
            vec![Address::Socket(config.unix_socket)]
        } else {
            let parsed = config.addresses.iter().map(|text| Address::parse(text));
            parsed
                .collect::<Result<Vec<_>, _>>()
                .map_err(ClientError::Address)?
        };
        let local = addresses
            .iter()
            .all(|address| matches!(address, Address::Socket(_)));
        if !local && config.api_key.is_none() {
            return Err(ClientError::NoKey);
        }
        let tls = tls::Connector::new(config.insecure);
        Ok(Self {
            addresses,
            api_key: config.api_key,
            timeout: config.timeout,
            tls,
        })
    }

    /// Whether nobody answers but the replica of this machine.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.addresses.as_slice(), [Address::Socket(_)])
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.request(Method::GET, path, None, None).await
    }

    pub(super) async fn post(
        &self,
        path: &str,
        body: serde_json::Value,
    ) -> Result<Value, ClientError> {
        self.request(Method::POST, path, Some(body), None).await
    }

    /// Only while what has this ETag is in force.
    pub(super) async fn post_if(
        &self,
        path: &str,
        body: serde_json::Value,
        if_match: &str,
    ) -> Result<Value, ClientError> {
        self.request(Method::POST, path, Some(body), Some(if_match))
            .await
    }

    /// `if_match` is the ETag of what is replaced.
    pub(super) async fn put(
        &self,
        path: &str,
        body: serde_json::Value,
        if_match: Option<&str>,
    ) -> Result<Value, ClientError> {
        self.request(Method::PUT, path, Some(body), if_match).await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Value, ClientError> {
        self.request(Method::DELETE, path, None, None).await
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<serde_json::Value>,
        if_match: Option<&str>,
    ) -> Result<Value, ClientError> {
        let body = body
            .map(|body| Bytes::from(body.to_string()))
            .unwrap_or_default();
        let asked = Asked {
            method,
            path,
            body,
            if_match,
        };
        let mut failures = Vec::new();
        for address in &self.addresses {
            match self.attempt(address, &asked).await {
                Attempt::Answered(result) => return result,
                Attempt::Next(reason) => failures.push(format!("{address}: {reason}")),
            }
        }
        Err(ClientError::Unreachable(failures.join("; ")))
    }

    async fn attempt(&self, address: &Address, asked: &Asked<'_>) -> Attempt {
        let stream = match Stream::connect(address, self.timeout, &self.tls).await {
            Ok(stream) => stream,
            Err(ConnectError::Tls(reason)) => {
                return Attempt::Answered(Err(ClientError::Tls(reason)));
            }
            Err(ConnectError::Unreachable(reason)) => return Attempt::Next(reason),
        };
        let request = match self.build(address, asked) {
            Ok(request) => request,
            Err(error) => return Attempt::Answered(Err(error)),
        };
        let answer = tokio::time::timeout(self.timeout, exchange(stream, request)).await;
        let failed = |reason: String| {
            if asked.method == Method::GET {
                return Attempt::Next(reason);
            }
            let address = address.to_string();
            Attempt::Answered(Err(ClientError::Unknown { address, reason }))
        };
        match answer {
            Ok(Ok((status, bytes))) => judge(address, status, &bytes),
            Ok(Err(reason)) => failed(reason),
            Err(_) => failed(format!("no answer within {:?} (cli.timeout)", self.timeout)),
        }
    }

    fn build(
        &self,
        address: &Address,
        asked: &Asked<'_>,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder()
            .method(&asked.method)
            .uri(format!("/api/v1{}", asked.path))
            .header(HOST, address.host_header())
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json");
        if let Some(key) = &self.api_key {
            request = request.header(AUTHORIZATION, format!("Bearer {}", key.expose()));
        }
        if let Some(etag) = asked.if_match {
            request = request.header(IF_MATCH, format!("\"{}\"", etag.trim_matches('"')));
        }
        request
            .body(Full::new(asked.body.clone()))
            .map_err(|error| ClientError::Refused(format!("the request cannot be made: {error}")))
    }
}

/// One request and its answer on a fresh connection.
async fn exchange(
    stream: Stream,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let talk = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(talk);
    tokio::select! {
        answer = &mut talk => answer,
        // The connection's own end is only of interest when it comes first, and even then what it
        // has read may still hold the answer.
        _ = connection => talk.await,
    }
}

fn judge(address: &Address, status: StatusCode, bytes: &Bytes) -> Attempt {
    if status.is_success() {
        let value = serde_json::from_slice(bytes).map_err(|error| ClientError::Nonsense {
            address: address.to_string(),
            reason: error.to_string(),
        });
        return Attempt::Answered(value);
    }
    let message = problem(status, bytes);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        return Attempt::Next(message);
    }
    Attempt::Answered(Err(ClientError::Refused(message)))
}

/// The sentence of an error, in the words of either generation of headscale's API.
fn problem(status: StatusCode, bytes: &Bytes) -> String {
    let value: Option<Value> = serde_json::from_slice(bytes).ok();
    let sentence = value
        .iter()
        .flat_map(|value| [value.text("detail"), value.text("message")])
        .find(|text| !text.is_empty());
    sentence.unwrap_or_else(|| {
        let text = String::from_utf8_lossy(bytes);
        let text: String = text.trim().chars().take(200).collect();
        format!("unexpected response status {status}: {text}")
    })
}

/// A piece of text as part of a path or query.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escape("a b/ü@x.y"), "a%20b%2F%C3%BC%40x.y");
    }

    #[test]
    fn problems_of_both_generations_are_read() {
        let status = StatusCode::NOT_FOUND;
        for (body, expected) in [
            (r#"{"detail":"no node 7"}"#, "no node 7"),
            (r#"{"code":5,"message":"no node 8"}"#, "no node 8"),
            (
                "Unauthorized",
                "unexpected response status 404 Not Found: Unauthorized",
            ),
        ] {
            assert_eq!(
                problem(status, &Bytes::from_static(body.as_bytes())),
                expected
            );
        }
    }
}
