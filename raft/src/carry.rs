//! Messages between replicas that mean nothing to this layer: what runs above it sends and takes them
//! beside the log, between the same authenticated replicas, over a connection of their own.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use hydrascale_proto::raft::v1::Parcel;

use crate::ReplicaId;
use crate::core::Core;
use crate::network::{CallError, Lane};

/// Takes the streams that other replicas send here.
pub trait Hold: Send + Sync + 'static {
    /// `from` begins a stream. An earlier one of it may not have ended yet.
    fn open(&self, from: ReplicaId) -> Box<dyn Unloading>;
}

/// One stream from another replica; dropped when it has ended.
pub trait Unloading: Send {
    /// The next message. Until this returns nothing more is read: the sender feels it.
    fn take(&mut self, message: Bytes);
}

/// Why a stream to another replica ended before its sender ended it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stream to replica {to} broke: {reason}")]
pub struct CarryError {
    /// To whom.
    pub to: ReplicaId,
    /// Why.
    pub reason: String,
}

/// Sends `messages` to `to` until they end.
///
/// # Errors
/// There is no connection, it broke, or the other side does not take them.
pub(crate) async fn carry(
    core: &Core,
    to: ReplicaId,
    messages: impl Stream<Item = Bytes> + Send + 'static,
) -> Result<(), CarryError> {
    let lanes = &core.lanes;
    let parcels = messages.map(|body| Parcel { body });
    let request = lanes.request(to.0, parcels);
    let ended = lanes.client(to.0, Lane::Cargo).carry(request).await;
    let ended = match ended {
        Ok(response) => lanes.answer(to.0, response).map(drop),
        Err(status) => Err(lanes.judge(&status)),
    };
    ended.map_err(|error: CallError| CarryError {
        to,
        reason: error.to_string(),
    })
}
