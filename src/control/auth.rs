//! Who asks: a node is the machine key of the session and the node key of the request together.
//!
//! "Unknown" is never said from a replica that may lag behind: a miss is looked up again in a
//! linearizable state.

use std::sync::Arc;

use axum::http::StatusCode;
use h2::RecvStream;
use serde::de::DeserializeOwned;

use super::Control;
use super::inner::{Reply, Session};
use super::limits::STALE_SERVICE_MAX;
use super::metrics::Limit;
use crate::cluster::ReadError;
use crate::state::{Node, State};
use crate::tailcfg::{self, DecodeError};
use crate::types::NodeKey;

impl Control {
    /// Whether some node has this key, as of now.
    ///
    /// # Errors
    /// It is unknown here, and no leader confirms that.
    pub(super) async fn is_known_node_key(&self, key: &NodeKey) -> Result<bool, ReadError> {
        Ok(self.find_node(key).await?.is_some())
    }

    /// The node with this key, as of now.
    pub(super) async fn find_node(&self, key: &NodeKey) -> Result<Option<Arc<Node>>, ReadError> {
        let find = |state: &State| state.node_by_node_key(key).cloned();
        if let Some(node) = find(&self.cluster().state()) {
            return Ok(Some(node));
        }
        if key.is_zero() {
            return Ok(None);
        }
        Ok(find(&*self.cluster().linearizable().await?))
    }
}

impl Session {
    /// Serves nobody once this replica has been cut off from the cluster for too long.
    ///
    /// # Errors
    /// What to answer instead.
    pub(super) fn refuse_if_too_stale(&self) -> Result<(), Reply> {
        if self.control.leaderless() <= STALE_SERVICE_MAX {
            return Ok(());
        }
        self.control.metrics().limit_hit(Limit::StaleService);
        let reason = "this replica has been cut off from the cluster for too long";
        Err(Reply::text(StatusCode::SERVICE_UNAVAILABLE, reason))
    }

    /// The node with this key on the machine at the other end.
    ///
    /// # Errors
    /// What to answer instead: 404, also for another machine's node, as headscale; 503 when that
    /// cannot be told.
    pub(super) async fn authenticate(&self, key: &NodeKey) -> Result<Arc<Node>, Reply> {
        match self.control.find_node(key).await {
            Ok(Some(node)) if node.machine_key == self.peer.machine_key => Ok(node),
            Ok(Some(node)) => {
                tracing::warn!(node.id = node.id.0, "node key presented by another machine");
                Err(Reply::text(StatusCode::NOT_FOUND, "node not found"))
            }
            Ok(None) => Err(Reply::text(StatusCode::NOT_FOUND, "node not found")),
            Err(error) => Err(Reply::text(
                StatusCode::SERVICE_UNAVAILABLE,
                error.to_string(),
            )),
        }
    }

    /// Reads and decodes a message of the protocol.
    ///
    /// # Errors
    /// What to answer instead.
    pub(super) async fn read_message<M: DeserializeOwned>(
        &self,
        body: RecvStream,
    ) -> Result<M, Reply> {
        let body = self.read_body(body).await.map_err(|error| error.reply())?;
        decode(&body)
    }
}

/// Decodes a message of the protocol.
///
/// # Errors
/// What to answer instead.
pub(super) fn decode<M: DeserializeOwned>(body: &[u8]) -> Result<M, Reply> {
    tailcfg::decode(body).map_err(|error| {
        let status = match &error {
            DecodeError::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            DecodeError::Json(_) => StatusCode::BAD_REQUEST,
        };
        Reply::text(status, error.to_string())
    })
}
