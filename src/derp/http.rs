//! The little HTTP/1.1 that a relay speaks before, or instead of, DERP.
//!
//! A parser of its own rather than hyper: the bytes behind an upgrade's head belong to DERP and
//! must not get lost, the few routes have no bodies, and a fast start is an upgrade that gets no head
//! at all, which hyper cannot do.

mod challenge;
mod head;
mod response;
mod routes;

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

pub(crate) use self::head::HeadError;
use self::head::RequestHead;
use self::response::Response;
use self::routes::Routed;
use super::bootstrap::BootstrapDns;
use super::limits::{
    HTTP_HEAD_BYTES_MAX, HTTP_HEAD_TIMEOUT, HTTP_IDLE_TIMEOUT, HTTP_REQUESTS_MAX,
    HTTP_WRITE_TIMEOUT,
};
use super::metrics::RelayMetrics;

/// Room for a read: a client's request head, in one piece.
const READ_BYTES: usize = 1024;

/// Why a connection ended before it became a DERP connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// The request is malformed or too long.
    #[error("bad request")]
    Head(#[from] HeadError),
    /// The transport failed.
    #[error("transport failed")]
    Io(#[from] io::Error),
    /// The request took too long to arrive, or the answer to leave.
    #[error("request or answer took too long")]
    Timeout,
    /// The connection ended inside a request.
    #[error("connection ended inside a request")]
    Truncated,
}

/// How a connection went on.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is served and may be closed.
    Done,
    /// It speaks DERP now; these bytes came behind the request.
    Upgraded(BytesMut),
    /// The same, inside a WebSocket.
    WebSocket(BytesMut),
}

/// What the routes need to know.
pub(crate) struct Site<'a> {
    /// The relay's public key, 64 hex digits.
    pub(crate) public_key_hex: &'a str,
    /// Answers `/bootstrap-dns`.
    pub(crate) bootstrap: &'a dyn BootstrapDns,
    /// Where requests count.
    pub(crate) metrics: &'a RelayMetrics,
}

/// Answers requests on `io` until one of them makes it a DERP connection.
///
/// # Errors
/// See [`HttpError`]; a malformed request is answered first.
pub(crate) async fn serve<S>(io: &mut S, site: &Site<'_>) -> Result<Outcome, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut buf = BytesMut::new();
    for _ in 0..HTTP_REQUESTS_MAX {
        let head = match read_head(io, &mut buf).await {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(Outcome::Done),
            Err(HttpError::Head(error)) => {
                respond(io, &Response::bad_request(&error).closing(), true).await?;
                return Err(error.into());
            }
            Err(error) => return Err(error),
        };
        site.metrics.http_requests.increment();
        let (response, keep_alive) = match routes::route(&head, site) {
            Routed::Upgrade(response) => {
                respond(io, &response, true).await?;
                return Ok(Outcome::Upgraded(buf));
            }
            Routed::FastStart => {
                site.metrics.fast_starts.increment();
                return Ok(Outcome::Upgraded(buf));
            }
            Routed::WebSocket(response) => {
                site.metrics.websocket_accepts.increment();
                respond(io, &response, true).await?;
                return Ok(Outcome::WebSocket(buf));
            }
            Routed::Answer(response) if head.keep_alive => (response, true),
            Routed::Answer(response) => (response.closing(), false),
        };
        let keep_alive = keep_alive && !response.is_closing();
        respond(io, &response, !head.is_head()).await?;
        if !keep_alive {
            break;
        }
    }
    Ok(Outcome::Done)
}

/// Reads one request head off `io`; `None` when the connection ends or stays silent instead.
async fn read_head<S>(io: &mut S, buf: &mut BytesMut) -> Result<Option<RequestHead>, HttpError>
where
    S: AsyncRead + Unpin,
{
    if buf.is_empty() {
        buf.reserve(READ_BYTES);
        match timeout(HTTP_IDLE_TIMEOUT, io.read_buf(buf)).await {
            Err(_) | Ok(Ok(0)) => return Ok(None),
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Ok(read) => read?,
        };
    }
    timeout(HTTP_HEAD_TIMEOUT, read_rest_of_head(io, buf))
        .await
        .map_err(|_| HttpError::Timeout)?
}

async fn read_rest_of_head<S>(
    io: &mut S,
    buf: &mut BytesMut,
) -> Result<Option<RequestHead>, HttpError>
where
    S: AsyncRead + Unpin,
{
    loop {
        if let Some((head, len)) = RequestHead::parse(buf)? {
            buf.advance(len);
            return Ok(Some(head));
        }
        if buf.len() >= HTTP_HEAD_BYTES_MAX {
            return Err(HeadError::TooLong.into());
        }
        buf.reserve(READ_BYTES);
        if io.read_buf(buf).await? == 0 {
            return Err(HttpError::Truncated);
        }
    }
}

async fn respond<S>(io: &mut S, response: &Response, with_body: bool) -> Result<(), HttpError>
where
    S: AsyncWrite + Unpin,
{
    let wire = response.encode(with_body);
    let write = async {
        io.write_all(&wire).await?;
        io.flush().await
    };
    timeout(HTTP_WRITE_TIMEOUT, write)
        .await
        .map_err(|_| HttpError::Timeout)??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{DuplexStream, duplex};
    use tokio::time::Instant;

    use super::*;
    use crate::derp::bootstrap::StaticNames;

    /// Serves `input`, cut into `chunks`, and returns the outcome and all that was answered.
    async fn talk(chunks: &[&[u8]]) -> (Result<Outcome, HttpError>, String) {
        let (mut ours, theirs) = duplex(256 * 1024);
        for chunk in chunks {
            ours.write_all(chunk).await.unwrap();
        }
        ours.shutdown().await.unwrap();
        serve_one(theirs, ours).await
    }

    async fn serve_one(
        mut theirs: DuplexStream,
        mut ours: DuplexStream,
    ) -> (Result<Outcome, HttpError>, String) {
        let metrics = RelayMetrics::default();
        let names = StaticNames::default();
        let site = Site {
            public_key_hex: "5e5e",
            bootstrap: &names,
            metrics: &metrics,
        };
        let outcome = serve(&mut theirs, &site).await;
        drop(theirs);
        let mut answer = String::new();
        ours.read_to_string(&mut answer).await.unwrap();
        (outcome, answer)
    }

    #[tokio::test]
    async fn an_upgrade_is_answered_to_the_byte_and_loses_no_bytes_behind_it() {
        let request =
            b"GET /derp HTTP/1.1\r\nHost: r\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n";
        let (outcome, answer) = talk(&[request, b"\x02\0\0\0\x40rest"]).await;
        assert_eq!(
            answer,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\
             Derp-Version: 2\r\nDerp-Public-Key: 5e5e\r\n\r\n"
        );
        let Ok(Outcome::Upgraded(rest)) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(&rest[..], b"\x02\0\0\0\x40rest");
    }

    #[tokio::test]
    async fn requests_on_one_connection_are_answered_in_turn() {
        let check = b"GET https://relay:8443/derp/latency-check HTTP/1.1\r\nhost: relay\r\n\r\n";
        let (outcome, answer) = talk(&[check, check]).await;
        assert!(matches!(outcome, Ok(Outcome::Done)));
        assert_eq!(answer.matches("HTTP/1.1 200 OK\r\n").count(), 2);
        assert!(!answer.contains("close"), "{answer}");
    }

    #[tokio::test]
    async fn connection_close_is_honoured() {
        let probe = b"GET /derp/probe HTTP/1.1\r\nConnection: close\r\n\r\n";
        let (_, answer) = talk(&[probe, probe]).await;
        assert_eq!(answer.matches("HTTP/1.1 200 OK\r\n").count(), 1);
        assert!(answer.contains("Connection: close\r\n"));
    }

    #[tokio::test]
    async fn garbage_and_endless_heads_get_400_and_an_error() {
        let (outcome, answer) = talk(&[b"\x16\x03\x01\x02\0"]).await;
        assert!(matches!(outcome, Err(HttpError::Head(_))), "{outcome:?}");
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
            "{answer}"
        );
        let endless = [b"GET / HTTP/1.1\r\na: ".as_slice(), &[b'x'; 20_000]].concat();
        let (outcome, answer) = talk(&[&endless]).await;
        assert!(matches!(outcome, Err(HttpError::Head(HeadError::TooLong))));
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        let (outcome, answer) = talk(&[b"GET / HT"]).await;
        assert!(matches!(outcome, Err(HttpError::Truncated)));
        assert_eq!(answer, "");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_dribbling_end_in_time() {
        let (ours, theirs) = duplex(1024);
        let start = Instant::now();
        let (outcome, _) = serve_without_eof(theirs, ours).await;
        assert!(matches!(outcome, Ok(Outcome::Done)));
        assert_eq!(start.elapsed(), HTTP_IDLE_TIMEOUT);

        let (mut ours, theirs) = duplex(1024);
        ours.write_all(b"GET /").await.unwrap();
        let start = Instant::now();
        let (outcome, _) = serve_without_eof(theirs, ours).await;
        assert!(matches!(outcome, Err(HttpError::Timeout)));
        assert_eq!(start.elapsed(), HTTP_HEAD_TIMEOUT);
        assert!(start.elapsed() < Duration::from_secs(60));
    }

    async fn serve_without_eof(
        theirs: DuplexStream,
        ours: DuplexStream,
    ) -> (Result<Outcome, HttpError>, String) {
        serve_one(theirs, ours).await
    }
}
