//! The mesh: how a packet reaches a client that is connected to another replica's relay.
//!
//! ```text
//! here                                                   there
//! reader ── nobody here ──> Elsewhere ──> Link ── stream ──> Arrivals ──> the client's queue
//! registry ── who came, who left ───────> Link ── stream ──> Arrivals ──> Elsewhere
//! ```
//!
//! Each relay streams to each other one who is connected to it, and packets for who is connected
//! there. The streams go between authenticated replicas; how is their caller's business. What
//! arrives is delivered to connections of this relay and never sent on, so packets cannot go round.

mod arrivals;
mod elsewhere;
mod link;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hydrascale_proto::relay::v1::Presence;
use parking_lot::RwLock;
use tokio::time::Instant;

pub use self::arrivals::Arrivals;
pub(crate) use self::elsewhere::Elsewhere;
use self::link::Forward;
pub(crate) use self::link::{Link, batches};
use super::clients::Clients;
use super::frame::{PacketKind, RecvPacket};
use super::metrics::DropReason;
use super::queue::Packet;
use crate::types::{NodeKey, ReplicaId};

/// What a relay knows of the others, and what waits for them.
#[derive(Debug, Default)]
pub(crate) struct Mesh {
    pub(crate) elsewhere: Elsewhere,
    links: RwLock<BTreeMap<ReplicaId, Arc<Link>>>,
}

impl Mesh {
    /// Notes that the presence of a key may have changed, for all who are to know.
    pub(crate) fn touch(&self, key: &NodeKey) {
        for link in self.links.read().values() {
            link.touch(key);
        }
    }

    fn link(&self, to: ReplicaId) -> Option<Arc<Link>> {
        self.links.read().get(&to).map(Arc::clone)
    }
}

impl Clients {
    /// Sends a packet of `src` to the relay that `dst` is connected to; whether there is one.
    pub(crate) fn forward(&self, src: &NodeKey, dst: &NodeKey, packet: &[u8]) -> bool {
        let place = self.mesh.elsewhere.find(dst);
        let Some(link) = place.and_then(|replica| self.mesh.link(replica)) else {
            return false;
        };
        let packet = Forward {
            src: *src,
            dst: *dst,
            kind: PacketKind::of(packet),
            packet: Bytes::copy_from_slice(packet),
        };
        let metrics = &self.metrics;
        metrics
            .forwarded_out
            .add(packet.kind, 1, packet.packet.len());
        link.push(packet, metrics);
        true
    }

    /// Delivers a packet of `src`, a client of another relay, to the connection of `dst` here.
    fn deliver(&self, src: &NodeKey, dst: &NodeKey, packet: &[u8]) {
        let Some(frame) = RecvPacket::new(src, packet) else {
            return self.metrics.mesh_malformed.increment();
        };
        let (kind, len) = (frame.kind, packet.len());
        self.metrics.forwarded_in.add(kind, 1, len);
        let Some(client) = self.active(dst) else {
            let reason = DropReason::UnknownDestOnForward;
            return self.metrics.drop_packet(reason, kind, len);
        };
        self.mesh.elsewhere.watch(src, &client);
        let packet = Packet { frame, slab: None };
        client.queue.push(packet, Instant::now(), &self.metrics);
    }

    /// Whether a key is connected here, as other relays are told.
    fn presence(&self, key: &NodeKey) -> Presence {
        let home = self.is_home(key);
        Presence {
            key: Bytes::copy_from_slice(key.as_bytes()),
            here: home.is_some(),
            home: home.unwrap_or(false),
        }
    }
}
