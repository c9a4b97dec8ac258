//! Reading request bodies within bounds.

use std::future::poll_fn;

use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

use super::{Reply, Session};
use crate::control::limits::{BODY_BYTES_MAX, BODY_TIMEOUT, LARGE_BODIES_MAX, LARGE_BODY_BYTES};
use crate::control::metrics::Limit;

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub(in crate::control) enum BodyError {
    /// Longer than allowed.
    #[error("request body is longer than {BODY_BYTES_MAX} bytes")]
    TooLong,
    /// It did not arrive in time.
    #[error("request body did not arrive within {} s", BODY_TIMEOUT.as_secs())]
    TooSlow,
    /// Too many long bodies are under way.
    #[error("{LARGE_BODIES_MAX} long requests are being read already")]
    Busy,
    /// The connection or the request ended.
    #[error("request body ended early")]
    Broken(#[source] h2::Error),
}

impl BodyError {
    /// What to tell the client.
    pub(in crate::control) fn reply(&self) -> Reply {
        let status = match self {
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken(_) => StatusCode::BAD_REQUEST,
        };
        Reply::text(status, self.to_string())
    }
}

impl Session {
    /// Reads a whole body.
    ///
    /// # Errors
    /// When it is too long, too slow, or broken off.
    pub(in crate::control) async fn read_body(&self, body: RecvStream) -> Result<Bytes, BodyError> {
        let read = timeout(BODY_TIMEOUT, self.read_within_limits(body)).await;
        let result = read.unwrap_or(Err(BodyError::TooSlow));
        let limit = match &result {
            Err(BodyError::TooLong) => Some(Limit::BodyBytes),
            Err(BodyError::TooSlow) => Some(Limit::BodyTime),
            Err(BodyError::Busy) => Some(Limit::LargeBodies),
            Err(BodyError::Broken(_)) | Ok(_) => None,
        };
        if let Some(limit) = limit {
            self.control.metrics().limit_hit(limit);
        }
        result
    }

    async fn read_within_limits(&self, mut body: RecvStream) -> Result<Bytes, BodyError> {
        let _place = self.place().await;
        let mut large_place = None;
        let mut read = BytesMut::new();
        while let Some(chunk) = poll_fn(|cx| body.poll_data(cx)).await {
            let chunk = chunk.map_err(BodyError::Broken)?;
            if read.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(BodyError::TooLong);
            }
            if read.len() + chunk.len() > LARGE_BODY_BYTES && large_place.is_none() {
                large_place = Some(self.large_place()?);
            }
            read.extend_from_slice(&chunk);
            body.flow_control()
                .release_capacity(chunk.len())
                .map_err(BodyError::Broken)?;
        }
        Ok(read.freeze())
    }

    async fn place(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(place) = self.bodies.try_acquire() {
            return Some(place);
        }
        self.control.metrics().limit_hit(Limit::BodiesPerSession);
        self.bodies.acquire().await.ok()
    }

    fn large_place(&self) -> Result<SemaphorePermit<'_>, BodyError> {
        self.control
            .large_bodies()
            .try_acquire()
            .map_err(|_| BodyError::Busy)
    }
}
