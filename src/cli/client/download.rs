//! Answers that are files: written as they come, never held whole.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Response};
use hyper_util::rt::TokioIo;

use super::address::Address;
use super::{
    ANSWER_BYTES_MAX, ApiClient, Asked, Attempt, ClientError, ConnectError, Stream, judge,
};

/// A replica that sends nothing for this long has stopped to.
const STALL: Duration = Duration::from_secs(60);

impl ApiClient {
    /// Writes the answer to `out`; gives the number of bytes. The next address is tried as long as
    /// nothing came.
    pub(in super::super) async fn download(
        &self,
        path: &str,
        out: &mut dyn Write,
    ) -> Result<u64, ClientError> {
        let asked = Asked {
            method: Method::GET,
            path,
            body: Bytes::new(),
            if_match: None,
        };
        let mut failures = Vec::new();
        for address in &self.addresses {
            match self.begin(address, &asked).await {
                Ok(body) => return receive(address, body, out).await,
                Err(Attempt::Next(reason)) => failures.push(format!("{address}: {reason}")),
                Err(Attempt::Answered(Err(error))) => return Err(error),
                Err(Attempt::Answered(Ok(_))) => {
                    return Err(ClientError::Refused("the answer is no file".to_owned()));
                }
            }
        }
        Err(ClientError::Unreachable(failures.join("; ")))
    }

    /// Asks one replica, up to the head of its answer.
    async fn begin(&self, address: &Address, asked: &Asked<'_>) -> Result<Incoming, Attempt> {
        let stream = Stream::connect(address, self.timeout, &self.tls).await;
        let stream = stream.map_err(|error| match error {
            ConnectError::Tls(reason) => Attempt::Answered(Err(ClientError::Tls(reason))),
            ConnectError::Unreachable(reason) => Attempt::Next(reason),
        })?;
        let request = self
            .build(address, asked)
            .map_err(|error| Attempt::Answered(Err(error)))?;
        let asking = async {
            let io = TokioIo::new(stream);
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
            // It ends with the body, or when that is dropped.
            drop(tokio::spawn(connection));
            sender.send_request(request).await
        };
        let answer: Response<Incoming> = match tokio::time::timeout(self.timeout, asking).await {
            Ok(answer) => answer.map_err(|error| Attempt::Next(error.to_string()))?,
            Err(_) => {
                let reason = format!("no answer within {:?} (cli.timeout)", self.timeout);
                return Err(Attempt::Next(reason));
            }
        };
        let status = answer.status();
        if status.is_success() {
            return Ok(answer.into_body());
        }
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
        let body = tokio::time::timeout(self.timeout, body).await;
        let bytes = body.ok().and_then(Result::ok);
        let bytes = bytes.map(|body| body.to_bytes()).unwrap_or_default();
        Err(judge(address, status, &bytes))
    }
}

async fn receive(
    address: &Address,
    mut body: Incoming,
    out: &mut dyn Write,
) -> Result<u64, ClientError> {
    let broken = |reason: String| ClientError::BrokenOff {
        address: address.to_string(),
        reason,
    };
    let mut bytes: u64 = 0;
    loop {
        let frame = tokio::time::timeout(STALL, body.frame()).await;
        let Some(frame) = frame.map_err(|_| broken(format!("nothing came for {STALL:?}")))? else {
            return Ok(bytes);
        };
        let frame = frame.map_err(|error| broken(error.to_string()))?;
        if let Ok(chunk) = frame.into_data() {
            bytes = bytes.saturating_add(chunk.len() as u64);
            out.write_all(&chunk).map_err(ClientError::Output)?;
        }
    }
}
