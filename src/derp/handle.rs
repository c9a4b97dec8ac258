//! What the rest of the replica sees of its relay.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::sync::watch;

use super::client::CloseReason;
use super::health::RelayHealth;
use super::mesh::{self, Arrivals};
use super::metrics::RelayMetrics;
use super::server::Relay;
use crate::types::{NodeKey, ReplicaId};

/// Cheap to clone; does not keep the relay running.
#[derive(Clone)]
pub struct RelayHandle(Arc<Relay>);

/// A relay at a glance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayStats {
    /// Keys with a connection.
    pub clients: u64,
    /// Connections of admitted clients.
    pub connections: u64,
    /// Connections whose owner calls this relay home.
    pub home_connections: u64,
    /// Connections that are not admitted yet.
    pub pending: usize,
    /// STUN answers, and clients should come.
    pub healthy: bool,
    /// Clients are being sent elsewhere.
    pub draining: bool,
}

impl RelayHandle {
    pub(crate) fn new(relay: Arc<Relay>) -> Self {
        Self(relay)
    }

    /// The relay's public key.
    pub fn public_key(&self) -> [u8; 32] {
        self.0.key.public()
    }

    /// Ends all connections of the nodes that `is_out` picks, when any number of them may have lost
    /// their right to be here, and has those asked again that are being admitted just now. Returns
    /// how many there were. Call it after the change shows in what [`super::Admission`] answers.
    pub fn close_where(&self, is_out: impl Fn(&NodeKey) -> bool) -> usize {
        self.0.clients.close_where(is_out, CloseReason::Removed)
    }

    /// Silences STUN, so that clients look for another relay, or lets it speak again. Connections
    /// are accepted all the same.
    pub fn set_quiet(&self, quiet: bool) {
        self.0.health.set_quiet(quiet);
    }

    /// Closes the connections that are there one after another over `over`, so that their owners do
    /// not arrive elsewhere all at once. Who comes again is let in.
    pub async fn send_away(&self, over: Duration) {
        self.0.send_away(over).await;
    }

    /// The stream to the relay of replica `to`: who is connected here, at first and when it changes,
    /// and packets for who is connected there. Messages of at most 1 MiB, for the other side's
    /// [`Self::arrivals`]. It ends by itself only when too much waits; the next one starts afresh.
    pub fn link(&self, to: ReplicaId) -> impl Stream<Item = Bytes> + Send + use<> {
        mesh::batches(Arc::clone(&self.0), to)
    }

    /// Takes a stream that the relay of replica `from` made for this one. Nothing here doubts what
    /// it says: whoever calls this knows who `from` is.
    pub fn arrivals(&self, from: ReplicaId) -> Arrivals {
        Arrivals::new(Arc::clone(&self.0), from)
    }

    /// Whether clients should come here.
    pub fn health(&self) -> RelayHealth {
        self.0.health.clone()
    }

    /// The relay at a glance.
    pub fn stats(&self) -> RelayStats {
        let metrics = &self.0.metrics;
        RelayStats {
            clients: metrics.current_clients.value(),
            connections: metrics.current_connections.value(),
            home_connections: metrics.current_home_connections.value(),
            pending: self.0.door.pending(),
            healthy: self.0.health.is_healthy(),
            draining: self.0.is_draining(),
        }
    }

    /// Counters and gauges.
    pub fn metrics(&self) -> Arc<RelayMetrics> {
        Arc::clone(&self.0.metrics)
    }

    /// What `DERPNode.CertName` must say, and every change of it: publish it in the DERP map.
    pub fn cert_name(&self) -> watch::Receiver<Option<String>> {
        self.0.cert_name.subscribe()
    }
}

impl fmt::Debug for RelayHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RelayHandle").field(&self.stats()).finish()
    }
}
