//! Who is connected: every connection by key, which of them gets packets, and who must be told
//! when a key leaves.
//!
//! A key may have several connections: a client that changed networks opens a new one before the
//! old one is known to be dead, and a cloned machine has two for ever. All stay open; the one that
//! wrote last is active and gets the packets. Closing the others at once would make both machines
//! of a cloned pair reconnect for ever.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::client::{Client, CloseReason, ConnectionId};
use super::frame::{PeerGone, PeerGoneReason};
use super::limits::{CONNECTIONS_PER_KEY_MAX, REGISTRY_SHARDS};
use super::mesh::Mesh;
use super::metrics::RelayMetrics;
use crate::types::NodeKey;

/// The registry. No two shards are locked at once, and no lock is held over an await.
#[derive(Debug)]
pub(crate) struct Clients {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    /// Goes up with every [`Clients::close_where`].
    closings: AtomicU64,
    pub(super) mesh: Mesh,
    pub(super) metrics: Arc<RelayMetrics>,
}

type Shard = HashMap<NodeKey, Peer>;

/// All connections of one key; at least one while it is in the registry.
#[derive(Debug, Default)]
struct Peer {
    /// By last activity; the last one is active.
    connections: Vec<Arc<Client>>,
    watchers: Watchers,
}

impl Clients {
    /// An empty registry.
    pub(crate) fn new(metrics: Arc<RelayMetrics>) -> Self {
        Self {
            shards: (0..REGISTRY_SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            closings: AtomicU64::new(0),
            mesh: Mesh::default(),
            metrics,
        }
    }

    /// Adds a connection and makes it the active one of its key.
    pub(crate) fn insert(&self, client: &Arc<Client>) {
        let mut shard = self.shard(&client.key).lock();
        let peer = shard.entry(client.key).or_default();
        let before = peer.connections.len();
        if let Some(superseded) = peer.connections.last() {
            // if nobody is there any more, the kernel finds out for want of an acknowledgement
            superseded.queue.push_keep_alive();
        }
        peer.connections.push(Arc::clone(client));
        let evicted = (before >= CONNECTIONS_PER_KEY_MAX).then(|| peer.connections.remove(0));
        peer.update_flags();
        let after = peer.connections.len();
        drop(shard);
        self.mesh.touch(&client.key);
        self.metrics.current_connections.increment();
        if before > 0 {
            self.metrics.total_dup_client_conns.increment();
        }
        self.count_duplicates(before, after);
        if let Some(evicted) = evicted {
            self.metrics.evicted_connections.increment();
            self.metrics.current_connections.decrement();
            evicted.active.store(false, Ordering::Relaxed);
            evicted.queue.close(CloseReason::Evicted);
        }
    }

    /// Removes a connection. When it was the last one of its key in the cluster, everyone who got a
    /// packet from that key is told that it is gone.
    pub(crate) fn remove(&self, client: &Arc<Client>) {
        client.active.store(false, Ordering::Relaxed);
        let mut shard = self.shard(&client.key).lock();
        let Some(peer) = shard.get_mut(&client.key) else {
            return;
        };
        let before = peer.connections.len();
        peer.connections.retain(|other| other.id != client.id);
        let after = peer.connections.len();
        if before == after {
            return; // it was evicted
        }
        peer.update_flags();
        let gone = if after == 0 {
            shard.remove(&client.key)
        } else {
            None
        };
        drop(shard);
        self.mesh.touch(&client.key);
        self.metrics.current_connections.decrement();
        self.count_duplicates(before, after);
        let watchers = gone.map(|peer| peer.watchers);
        // Reachable by another relay it is not gone.
        let watchers = watchers.and_then(|all| self.mesh.elsewhere.adopt(&client.key, all));
        if let Some(watchers) = watchers {
            self.tell_watchers(&client.key, watchers);
        }
    }

    /// Tells the watchers of a key that has left the last other relay, unless it is connected here,
    /// where they then go on watching.
    pub(super) fn adopt_or_tell(&self, key: &NodeKey, watchers: Watchers) {
        let mut shard = self.shard(key).lock();
        if let Some(peer) = shard.get_mut(key) {
            return peer.watchers.merge(watchers);
        }
        drop(shard);
        self.tell_watchers(key, watchers);
    }

    /// Whether a key is connected, and then whether it calls this relay home.
    pub(super) fn is_home(&self, key: &NodeKey) -> Option<bool> {
        let shard = self.shard(key).lock();
        let mut connections = shard.get(key)?.connections.iter();
        Some(connections.any(|client| client.home.load(Ordering::Relaxed)))
    }

    /// Makes a connection the active one of its key, because its owner wrote on it.
    pub(crate) fn make_active(&self, client: &Arc<Client>) {
        let mut shard = self.shard(&client.key).lock();
        let Some(peer) = shard.get_mut(&client.key) else {
            return;
        };
        let place = peer
            .connections
            .iter()
            .position(|other| other.id == client.id);
        if let Some(place) = place {
            let client = peer.connections.remove(place);
            peer.connections.push(client);
            peer.update_flags();
        }
    }

    /// The connection that gets packets for `dst`. Its owner will be told when the key of `from`
    /// leaves.
    pub(crate) fn route(&self, from: &Client, dst: &NodeKey) -> Option<Arc<Client>> {
        let target = self.active(dst)?;
        let mut shard = self.shard(&from.key).lock();
        shard.get_mut(&from.key)?.watchers.insert(&target);
        Some(target)
    }

    /// The active connection of a key.
    pub(crate) fn active(&self, key: &NodeKey) -> Option<Arc<Client>> {
        self.shard(key)
            .lock()
            .get(key)?
            .connections
            .last()
            .map(Arc::clone)
    }

    /// Ends all connections of the keys that `is_out` picks, and returns how many. It is not asked
    /// about connections that are being admitted; they notice by [`Clients::closings`].
    pub(crate) fn close_where(
        &self,
        is_out: impl Fn(&NodeKey) -> bool,
        reason: CloseReason,
    ) -> usize {
        self.closings.fetch_add(1, Ordering::SeqCst);
        let mut closed = self.all();
        closed.retain(|client| is_out(&client.key));
        for client in &closed {
            client.queue.close(reason);
        }
        closed.len()
    }

    /// How often [`Clients::close_where`] was called.
    pub(crate) fn closings(&self) -> u64 {
        self.closings.load(Ordering::SeqCst)
    }

    /// All connections.
    pub(crate) fn all(&self) -> Vec<Arc<Client>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            all.extend(
                shard
                    .lock()
                    .values()
                    .flat_map(|peer| peer.connections.iter().cloned()),
            );
        }
        all
    }

    fn shard(&self, key: &NodeKey) -> &Mutex<Shard> {
        let hash = usize::try_from(self.hasher.hash_one(key) % REGISTRY_SHARDS as u64);
        &self.shards[hash.unwrap_or_default()]
    }

    fn tell_watchers(&self, key: &NodeKey, watchers: Watchers) {
        let notice = PeerGone {
            key: *key,
            reason: PeerGoneReason::Disconnected,
        };
        for watcher in watchers.into_live() {
            if watcher.queue.push_gone(notice) {
                self.metrics.peer_gone_disconnected.increment();
            } else {
                self.metrics.peer_gone_overflow.increment();
            }
        }
    }

    fn count_duplicates(&self, before: usize, after: usize) {
        let metrics = &self.metrics;
        match (before, after) {
            (0, 1..) => metrics.current_clients.increment(),
            (1.., 0) => metrics.current_clients.decrement(),
            _ => {}
        }
        let duplicates = |n: usize| if n > 1 { n } else { 0 };
        match (before, after) {
            (..=1, 2..) => metrics.current_dup_client_keys.increment(),
            (2.., ..=1) => metrics.current_dup_client_keys.decrement(),
            _ => {}
        }
        for _ in duplicates(before)..duplicates(after) {
            metrics.current_dup_client_conns.increment();
        }
        for _ in duplicates(after)..duplicates(before) {
            metrics.current_dup_client_conns.decrement();
        }
    }
}

impl Peer {
    fn update_flags(&self) {
        let duplicate = self.connections.len() > 1;
        let active = self.connections.last().map(|client| client.id);
        for client in &self.connections {
            client.duplicate.store(duplicate, Ordering::Relaxed);
            client
                .active
                .store(active == Some(client.id), Ordering::Relaxed);
        }
    }
}

/// Connections that got a packet from a key, and keep a return route to it.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    connections: HashMap<ConnectionId, Weak<Client>>,
    /// Dead entries are cleared out at this size.
    sweep_at: usize,
}

impl Watchers {
    pub(super) fn insert(&mut self, client: &Arc<Client>) {
        self.connections.insert(client.id, Arc::downgrade(client));
        self.sweep();
    }

    /// Those of another as well.
    pub(super) fn merge(&mut self, other: Self) {
        self.connections.extend(other.connections);
        self.sweep();
    }

    fn sweep(&mut self) {
        if self.connections.len() > self.sweep_at {
            self.connections.retain(|_, client| is_live(client));
            self.sweep_at = 2 * self.connections.len() + 16;
        }
    }

    fn into_live(self) -> impl Iterator<Item = Arc<Client>> {
        self.connections
            .into_values()
            .filter_map(|client| client.upgrade())
    }
}

/// Whether a connection may still be written to; a route cache may keep a dead one in memory.
fn is_live(client: &Weak<Client>) -> bool {
    client
        .upgrade()
        .is_some_and(|client| !client.queue.is_closing())
}
