//! Requests as `curl` would send them, without retries.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};

/// Answers in these tests are a few words.
pub(crate) const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A status and a body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// What follows the head.
    pub body: String,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// A port.
    Tcp(SocketAddr),
    /// A local socket.
    Local(PathBuf),
}

/// Sends one GET.
///
/// # Errors
/// When there is no whole answer within `limit`.
pub async fn get(server: SocketAddr, path: &str, limit: Duration) -> Result<Answer> {
    let asked = timeout(limit, async {
        ask(TcpStream::connect(server).await?, &server.to_string(), path).await
    });
    match asked.await {
        Ok(answer) => answer,
        Err(_) => bail!("no answer within {limit:?}"),
    }
}

/// Sends one GET to a local socket.
///
/// # Errors
/// When there is no whole answer within `limit`.
pub async fn get_local(socket: &Path, path: &str, limit: Duration) -> Result<Answer> {
    let asked = timeout(limit, async {
        ask(UnixStream::connect(socket).await?, "local", path).await
    });
    match asked.await {
        Ok(answer) => answer,
        Err(_) => bail!("no answer within {limit:?}"),
    }
}

/// Sends one POST with a JSON body.
///
/// # Errors
/// When there is no whole answer within `limit`.
pub async fn post(to: &Endpoint, path: &str, body: &str, limit: Duration) -> Result<Answer> {
    let text = format!(
        "POST {path} HTTP/1.1\r\nHost: local\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let asked = timeout(limit, async {
        match to {
            Endpoint::Tcp(server) => exchange(TcpStream::connect(server).await?, &text).await,
            Endpoint::Local(socket) => exchange(UnixStream::connect(socket).await?, &text).await,
        }
    });
    match asked.await {
        Ok(answer) => answer,
        Err(_) => bail!("no answer within {limit:?}"),
    }
}

async fn ask(wire: impl AsyncRead + AsyncWrite + Unpin, host: &str, path: &str) -> Result<Answer> {
    let text = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    exchange(wire, &text).await
}

async fn exchange(mut wire: impl AsyncRead + AsyncWrite + Unpin, text: &str) -> Result<Answer> {
    wire.write_all(text.as_bytes()).await?;
    let mut answer = Vec::new();
    wire.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    parse(&answer)
}

/// Reads a whole answer; one that is cut off before its announced length is none.
pub(crate) fn parse(answer: &[u8]) -> Result<Answer> {
    let answer = String::from_utf8_lossy(answer);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer has no end of head")?;
    // With an announced length a cut connection is told from a whole answer.
    if let Some(len) = announced_length(head) {
        let read = u64::try_from(body.len())?;
        ensure!(read >= len, "cut off after {read} of {len} bytes");
    }
    Ok(Answer {
        status: status_of(head)?,
        body: body.to_owned(),
    })
}

pub(crate) fn status_of(head: &str) -> Result<u16> {
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    status.with_context(|| format!("not HTTP: {head:?}"))
}

pub(crate) fn announced_length(head: &str) -> Option<u64> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let wanted = name.eq_ignore_ascii_case("content-length");
        if wanted {
            value.trim().parse().ok()
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_cut_off_before_its_length_is_no_answer() {
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell").is_err());
        let whole = parse(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").unwrap();
        assert_eq!((whole.status, whole.body.as_str()), (200, "hello"));
    }
}
