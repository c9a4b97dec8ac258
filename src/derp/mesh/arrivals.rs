//! What comes from another relay.

use std::sync::Arc;

use bytes::Bytes;
use hydrascale_proto::relay::v1::{MeshBatch, Presence};
use prost::Message;

use super::elsewhere::{Put, StreamNo};
use crate::derp::limits::MESH_CLIENTS_MAX;
use crate::derp::server::Relay;
use crate::types::{NodeKey, ReplicaId};

/// A stream from another relay. What it told is forgotten when it is dropped.
pub struct Arrivals {
    relay: Arc<Relay>,
    stream: StreamNo,
    /// Keys that it called present.
    keys: usize,
}

impl Arrivals {
    pub(crate) fn new(relay: Arc<Relay>, from: ReplicaId) -> Self {
        let stream = relay.clients.mesh.elsewhere.begin(from);
        Self {
            relay,
            stream,
            keys: 0,
        }
    }

    /// Acts on the next message. What makes no sense is counted and left out.
    pub fn take(&mut self, message: Bytes) {
        let Ok(batch) = MeshBatch::decode(message) else {
            return self.relay.metrics.mesh_malformed.increment();
        };
        for presence in &batch.presences {
            self.note(presence);
        }
        for forwarded in &batch.packets {
            let src = NodeKey::from_slice(&forwarded.src);
            let dst = NodeKey::from_slice(&forwarded.dst);
            match (src, dst) {
                (Some(src), Some(dst)) => {
                    self.relay.clients.deliver(&src, &dst, &forwarded.packet);
                }
                (None, _) | (_, None) => self.relay.metrics.mesh_malformed.increment(),
            }
        }
    }

    fn note(&mut self, presence: &Presence) {
        let metrics = &self.relay.metrics;
        let Some(key) = NodeKey::from_slice(&presence.key) else {
            return metrics.mesh_malformed.increment();
        };
        if !presence.here {
            return self.forget(&key);
        }
        let elsewhere = &self.relay.clients.mesh.elsewhere;
        let room = self.keys < MESH_CLIENTS_MAX;
        match elsewhere.put(&key, self.stream, presence.home, room) {
            Put::Known => {}
            Put::New => self.keys += 1,
            Put::First => {
                self.keys += 1;
                metrics.clients_remote.increment();
            }
            Put::Refused => metrics.mesh_clients_refused.increment(),
        }
    }

    /// The key has left that relay. When it is nowhere else, whoever got packets from it is told.
    fn forget(&mut self, key: &NodeKey) {
        let clients = &self.relay.clients;
        let (told, watchers) = clients.mesh.elsewhere.take(key, self.stream);
        if told {
            self.keys = self.keys.saturating_sub(1);
        }
        if let Some(watchers) = watchers {
            self.relay.metrics.clients_remote.decrement();
            clients.adopt_or_tell(key, watchers);
        }
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        let told = self.relay.clients.mesh.elsewhere.told_by(self.stream);
        for key in told {
            self.forget(&key);
        }
    }
}
