//! Whole answers to requests inside a session.

use axum::http::{HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use h2::server::SendResponse;
use serde::Serialize;

/// A status and a short body.
#[derive(Debug)]
pub(in crate::control) struct Reply {
    status: StatusCode,
    content_type: Option<HeaderValue>,
    retry_after_s: Option<u32>,
    body: Bytes,
}

impl Reply {
    /// A status alone.
    pub(in crate::control) const fn empty(status: StatusCode) -> Self {
        Self {
            status,
            content_type: None,
            retry_after_s: None,
            body: Bytes::new(),
        }
    }

    /// A reason for people.
    pub(in crate::control) fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            content_type: Some(HeaderValue::from_static("text/plain; charset=utf-8")),
            body: Bytes::from(text.into()),
            ..Self::empty(status)
        }
    }

    /// 200 with a message of the protocol.
    pub(in crate::control) fn json(message: &impl Serialize) -> Self {
        match serde_json::to_vec(message) {
            Ok(json) => Self {
                content_type: Some(HeaderValue::from_static("application/json")),
                body: Bytes::from(json),
                ..Self::empty(StatusCode::OK)
            },
            Err(error) => {
                tracing::error!(%error, "answer cannot be encoded");
                Self::empty(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }

    /// Tells the client when to come back.
    #[must_use]
    pub(in crate::control) const fn with_retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// The status.
    pub(in crate::control) const fn status(&self) -> StatusCode {
        self.status
    }

    /// Sends it; the client may be gone.
    pub(in crate::control) fn send(
        self,
        respond: &mut SendResponse<Bytes>,
    ) -> Result<(), h2::Error> {
        let mut head = Response::new(());
        *head.status_mut() = self.status;
        if let Some(content_type) = self.content_type {
            head.headers_mut()
                .insert(header::CONTENT_TYPE, content_type);
        }
        if let Some(seconds) = self.retry_after_s {
            head.headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        head.headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        let mut stream = respond.send_response(head, self.body.is_empty())?;
        if !self.body.is_empty() {
            stream.send_data(self.body, true)?;
        }
        Ok(())
    }
}
