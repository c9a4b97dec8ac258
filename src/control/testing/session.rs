//! A session of the test client, and the map streams in it.

use std::future::poll_fn;

use axum::http::{Method, Request, StatusCode, header};
use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use super::within;
use crate::noise::NoiseStream;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// An open session; closes when dropped.
pub(in crate::control) struct TestSession {
    requests: SendRequest<Bytes>,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for TestSession {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl TestSession {
    /// Speaks HTTP/2 on a connection whose early payload is read.
    pub(in crate::control) async fn start<T>(stream: NoiseStream<T>) -> Self
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (requests, connection) = within(h2::client::handshake(stream)).await.unwrap();
        let connection = tokio::spawn(async move {
            // An end of any kind shows in the requests.
            let _ = connection.await;
        });
        Self {
            requests,
            connection,
        }
    }

    /// Sends a request; gives the status and the body that is still to come.
    pub(in crate::control) async fn send(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<(StatusCode, RecvStream), h2::Error> {
        let (response, mut stream) = self.open(method, path).await?;
        let mut body: Bytes = body.into();
        while !body.is_empty() {
            stream.reserve_capacity(body.len());
            match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(capacity) => {
                    let len = capacity?.min(body.len());
                    stream.send_data(body.split_to(len), false)?;
                }
                // The server answered before it read everything.
                None => break,
            }
        }
        if body.is_empty() {
            // Too late is fine: the answer says why.
            let _ = stream.send_data(Bytes::new(), true);
        }
        let (head, body) = response.await?.into_parts();
        Ok((head.status, body))
    }

    /// Sends the head of a request; its body is the test's business.
    pub(in crate::control) async fn open(
        &self,
        method: Method,
        path: &str,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        // Clients name no real authority, and tailscale-rs a Host of its own.
        let request = Request::builder()
            .method(method)
            .uri(format!("https://unused{path}"))
            .header(header::HOST, "elsewhere")
            .body(())
            .unwrap();
        let mut requests = self.requests.clone().ready().await?;
        requests.send_request(request, false)
    }

    /// A whole exchange.
    pub(in crate::control) async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> (StatusCode, String) {
        let (status, mut stream) = within(self.send(method, path, body)).await.unwrap();
        let mut whole = Vec::new();
        while let Some(chunk) = within(stream.data()).await {
            whole.extend_from_slice(&chunk.unwrap());
        }
        (status, String::from_utf8(whole).unwrap())
    }

    /// Opens a map stream.
    pub(in crate::control) async fn map(&self, request: &Value) -> TestFrames {
        let sent = self.send(Method::POST, "/machine/map", request.to_string());
        let (status, stream) = within(sent).await.unwrap();
        assert_eq!(status, StatusCode::OK);
        TestFrames::new(stream)
    }

    pub(in crate::control) async fn post(&self, path: &str, body: &Value) -> (StatusCode, String) {
        self.exchange(Method::POST, path, body.to_string()).await
    }

    /// A registration that is answered with a message.
    pub(in crate::control) async fn register(&self, request: &Value) -> Value {
        let (status, body) = self.post("/machine/register", request).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

/// The frames of a map stream.
pub(in crate::control) struct TestFrames {
    stream: RecvStream,
    buffer: BytesMut,
}

impl TestFrames {
    pub(in crate::control) fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
        }
    }

    /// The next message; `None` at the end of the stream, however it came.
    pub(in crate::control) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((len, rest)) = self.buffer.split_first_chunk() {
                let len = u32::from_le_bytes(*len) as usize;
                if rest.len() >= len {
                    let message = decode_frame(&rest[..len]);
                    let _ = self.buffer.split_to(4 + len);
                    return Some(message);
                }
            }
            let chunk = within(self.stream.data()).await?.ok()?;
            self.stream
                .flow_control()
                .release_capacity(chunk.len())
                .unwrap();
            self.buffer.extend_from_slice(&chunk);
        }
    }
}

fn decode_frame(payload: &[u8]) -> Value {
    if payload.starts_with(&ZSTD_MAGIC) {
        let json = zstd::bulk::decompress(payload, 16 << 20).unwrap();
        return serde_json::from_slice(&json).unwrap();
    }
    serde_json::from_slice(payload).unwrap()
}
