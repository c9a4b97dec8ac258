//! What waits for another relay: who is here, and packets for who is there.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, stream};
use hydrascale_proto::relay::v1::{ForwardedPacket, MeshBatch};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Notify;

use crate::derp::clients::Clients;
use crate::derp::frame::PacketKind;
use crate::derp::limits::{
    MESH_BATCH_BYTES, MESH_BATCH_KEYS, MESH_KEYS_WAITING_MAX, MESH_QUEUE_BYTES_MAX,
    MESH_QUEUE_PACKETS_MAX,
};
use crate::derp::metrics::{DropReason, RelayMetrics};
use crate::derp::server::Relay;
use crate::types::{NodeKey, ReplicaId};

/// A packet on its way to another relay.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) src: NodeKey,
    pub(super) dst: NodeKey,
    pub(super) kind: PacketKind,
    pub(super) packet: Bytes,
}

/// What waits for one other relay while there is a stream to it.
#[derive(Debug, Default)]
pub(crate) struct Link {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Keys whose presence may have changed; what it is then is looked up when they go out.
    keys: BTreeSet<NodeKey>,
    packets: VecDeque<Forward>,
    packet_bytes: usize,
    /// Too much was missed: the stream ends, and a new one starts from nothing.
    overrun: bool,
}

impl Link {
    /// Adds a packet; the oldest make room.
    pub(super) fn push(&self, packet: Forward, metrics: &RelayMetrics) {
        let mut waiting = self.waiting.lock();
        waiting.packet_bytes += packet.packet.len();
        waiting.packets.push_back(packet);
        while waiting.packets.len() > MESH_QUEUE_PACKETS_MAX
            || waiting.packet_bytes > MESH_QUEUE_BYTES_MAX
        {
            let Some(oldest) = waiting.packets.pop_front() else {
                break;
            };
            let len = oldest.packet.len();
            waiting.packet_bytes -= len;
            metrics.drop_packet(DropReason::MeshQueue, oldest.kind, len);
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// Owes the other relay news of a key.
    pub(super) fn touch(&self, key: &NodeKey) {
        let mut waiting = self.waiting.lock();
        if waiting.overrun {
            return;
        }
        waiting.keys.insert(*key);
        waiting.overrun |= waiting.keys.len() > MESH_KEYS_WAITING_MAX;
        drop(waiting);
        self.wake.notify_one();
    }

    /// The next message, once something waits; `None` when the stream has to start anew.
    async fn next(&self, clients: &Clients) -> Option<Bytes> {
        loop {
            match self.take() {
                Taken::Overrun => return None,
                Taken::Nothing => self.wake.notified().await,
                Taken::Some(keys, packets) => {
                    let batch = MeshBatch {
                        presences: keys.iter().map(|key| clients.presence(key)).collect(),
                        packets: packets.into_iter().map(ForwardedPacket::from).collect(),
                    };
                    return Some(batch.encode_to_vec().into());
                }
            }
        }
    }

    fn take(&self) -> Taken {
        let mut waiting = self.waiting.lock();
        if waiting.overrun {
            return Taken::Overrun;
        }
        let mut keys = Vec::new();
        while keys.len() < MESH_BATCH_KEYS
            && let Some(key) = waiting.keys.pop_first()
        {
            keys.push(key);
        }
        let (mut packets, mut bytes) = (Vec::new(), 0);
        // News of a key overtakes no packet of it: who is watched must be known there first.
        while bytes < MESH_BATCH_BYTES
            && waiting.keys.is_empty()
            && let Some(packet) = waiting.packets.pop_front()
        {
            bytes += packet.packet.len();
            packets.push(packet);
        }
        waiting.packet_bytes -= bytes;
        match keys.is_empty() && packets.is_empty() {
            true => Taken::Nothing,
            false => Taken::Some(keys, packets),
        }
    }
}

enum Taken {
    Nothing,
    Some(Vec<NodeKey>, Vec<Forward>),
    Overrun,
}

impl From<Forward> for ForwardedPacket {
    fn from(forward: Forward) -> Self {
        Self {
            src: Bytes::copy_from_slice(forward.src.as_bytes()),
            dst: Bytes::copy_from_slice(forward.dst.as_bytes()),
            packet: forward.packet,
        }
    }
}

/// The stream to another relay: first who is here, then what comes up. While it lives, packets for
/// clients of that relay go into it; a newer one to the same relay takes its place.
pub(crate) fn batches(
    relay: Arc<Relay>,
    to: ReplicaId,
) -> impl Stream<Item = Bytes> + Send + 'static {
    let open = Open::new(relay, to);
    stream::unfold(open, |open| async move {
        let batch = open.link.next(&open.relay.clients).await?;
        Some((batch, open))
    })
}

/// A link that is in use.
struct Open {
    relay: Arc<Relay>,
    to: ReplicaId,
    link: Arc<Link>,
}

impl Open {
    fn new(relay: Arc<Relay>, to: ReplicaId) -> Self {
        let link = Arc::new(Link::default());
        let clients = &relay.clients;
        let replaced = clients.mesh.links.write().insert(to, Arc::clone(&link));
        if replaced.is_none() {
            relay.metrics.mesh_links.increment();
        }
        // Whoever comes from here on is told by the registry.
        for client in clients.all() {
            link.touch(&client.key);
        }
        Self { relay, to, link }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut links = self.relay.clients.mesh.links.write();
        let is_this = |link: &Arc<Link>| Arc::ptr_eq(link, &self.link);
        if links.get(&self.to).is_some_and(is_this) {
            links.remove(&self.to);
            self.relay.metrics.mesh_links.decrement();
        }
        drop(links);
        let lost = std::mem::take(&mut *self.link.waiting.lock());
        for packet in lost.packets {
            let metrics = &self.relay.metrics;
            metrics.drop_packet(DropReason::MeshQueue, packet.kind, packet.packet.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_was_overrun_grows_no_further() {
        let link = Link::default();
        let key = |number: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            NodeKey::from_bytes(bytes)
        };
        for number in 0..MESH_KEYS_WAITING_MAX + 1000 {
            link.touch(&key(number));
        }
        assert_eq!(link.waiting.lock().keys.len(), MESH_KEYS_WAITING_MAX + 1);
        assert!(matches!(link.take(), Taken::Overrun));
    }
}
