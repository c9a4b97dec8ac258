//! A node that only watches: it keeps the netmap that it is sent and notes what changes in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use hydrascale_benches::client::{
    CAPVER, Connection, Identity, MapStream, Registration, fetch_server_key,
};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::wait;

/// Between two attempts to stream again. Official clients start with less.
const RETRY: Duration = Duration::from_millis(50);

/// A peer as the netmap shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// First label of its name.
    pub name: String,
    /// Its home region; 0 while unknown.
    pub home: u64,
    /// Whether it is said to be online; nothing before that was said.
    pub online: Option<bool>,
    /// IPv4 and IPv6 prefixes.
    pub addresses: Vec<String>,
}

/// Something that changed in the netmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When the message came.
    pub at: Instant,
    /// The peer's name.
    pub peer: String,
    /// What happened to it.
    pub what: What,
}

/// What can happen to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It appeared.
    Joined,
    /// It is gone.
    Left,
    /// It is online now.
    Online,
    /// It is offline now.
    Offline,
    /// It has this home region now.
    Home(u64),
}

#[derive(Default)]
struct Seen {
    netmap: Netmap,
    events: Vec<Event>,
    streams: usize,
}

/// A watching node. Leaves when dropped.
pub struct Observer {
    hostname: String,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Observer {
    /// Joins the tailnet through the first of `servers` and streams from it; when the stream
    /// breaks, from the next one, without registering again.
    ///
    /// # Errors
    /// When it cannot join.
    pub async fn start(hostname: &str, servers: &[SocketAddr], auth_key: &str) -> Result<Self> {
        let first = *servers.first().context("no server")?;
        let identity = Identity::generate(&mut rand::rng());
        let key = fetch_server_key(first).await?;
        let mut connection = Connection::open(first, &key, &identity, CAPVER).await?;
        let registration = Registration {
            auth_key: auth_key.to_owned(),
            hostname: hostname.to_owned(),
            ..Registration::default()
        };
        let registered = connection.register(&registration).await?;
        ensure!(
            registered.authorized,
            "{hostname} was refused: {}",
            registered.error
        );
        let stream = connection.stream(hostname).await?;

        let seen = Arc::new(Mutex::new(Seen {
            streams: 1,
            ..Seen::default()
        }));
        let watch = Watch {
            hostname: hostname.to_owned(),
            servers: servers.to_vec(),
            key,
            identity,
            seen: Arc::clone(&seen),
        };
        let task = tokio::spawn(watch.run(stream));
        Ok(Self {
            hostname: hostname.to_owned(),
            seen,
            task,
        })
    }

    /// The peers as of now, by name.
    pub fn peers(&self) -> BTreeMap<String, Peer> {
        let seen = self.lock();
        seen.netmap
            .peers
            .values()
            .map(|peer| (peer.name.clone(), peer.clone()))
            .collect()
    }

    /// The regions of the relays that it knows.
    pub fn relays(&self) -> BTreeSet<u64> {
        self.lock().netmap.relays.clone()
    }

    /// What its user is warned of: titles by the warnings' ids.
    pub fn warnings(&self) -> BTreeMap<String, String> {
        self.lock().netmap.warnings.clone()
    }

    /// What happened since `since`.
    pub fn events_since(&self, since: Instant) -> Vec<Event> {
        self.lock()
            .events
            .iter()
            .filter(|event| event.at >= since)
            .cloned()
            .collect()
    }

    /// How often it opened a map stream.
    pub fn streams(&self) -> usize {
        self.lock().streams
    }

    /// Waits until the peers hold.
    ///
    /// # Errors
    /// After `limit`, naming `what`.
    pub async fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        holds: impl Fn(&BTreeMap<String, Peer>) -> bool,
    ) -> Result<Duration> {
        let what = format!("{} sees that {what}", self.hostname);
        let waited = wait::until(&what, limit, async || holds(&self.peers()).then_some(()));
        let ((), took) = waited
            .await
            .with_context(|| format!("it sees {:?}", self.peers()))?;
        Ok(took)
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Watch {
    hostname: String,
    servers: Vec<SocketAddr>,
    key: [u8; 32],
    identity: Identity,
    seen: Arc<Mutex<Seen>>,
}

impl Watch {
    async fn run(self, mut stream: MapStream) {
        let mut next = 0;
        loop {
            while let Ok(Some(message)) = stream.next().await {
                let mut seen = self.lock();
                let events = seen.netmap.apply(&message, Instant::now());
                seen.events.extend(events);
            }
            stream = loop {
                next = (next + 1) % self.servers.len();
                let Some(server) = self.servers.get(next) else {
                    return;
                };
                match self.stream_from(*server).await {
                    Ok(stream) => break stream,
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            };
            let mut seen = self.lock();
            seen.streams += 1;
            seen.netmap.begins = true;
        }
    }

    async fn stream_from(&self, server: SocketAddr) -> Result<MapStream> {
        let mut connection = Connection::open(server, &self.key, &self.identity, CAPVER).await?;
        connection.stream(&self.hostname).await
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the messages come to, kept as the official client keeps it.
#[derive(Default)]
struct Netmap {
    /// By node id.
    peers: BTreeMap<i64, Peer>,
    /// Regions.
    relays: BTreeSet<u64>,
    /// Titles by id.
    warnings: BTreeMap<String, String>,
    /// The next message is the first of a stream: it replaces the warnings of the one before.
    begins: bool,
}

impl Netmap {
    fn apply(&mut self, message: &Value, at: Instant) -> Vec<Event> {
        let before = self.peers.clone();
        let listed = |name: &str| {
            message[name]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default()
        };
        // A non-empty list is complete, and then nothing else of the message counts.
        if listed("Peers").is_empty() {
            for id in listed("PeersRemoved").iter().filter_map(Value::as_i64) {
                self.peers.remove(&id);
            }
            self.upsert(listed("PeersChanged"));
            for (id, online) in message["OnlineChange"].as_object().into_iter().flatten() {
                if let Some(peer) = id.parse().ok().and_then(|id: i64| self.peers.get_mut(&id)) {
                    peer.online = online.as_bool();
                }
            }
            self.patch(listed("PeersChangedPatch"));
        } else {
            self.peers.clear();
            self.upsert(listed("Peers"));
        }
        if let Some(regions) = message["DERPMap"]["Regions"].as_object() {
            self.relays = regions.keys().filter_map(|id| id.parse().ok()).collect();
        }
        if std::mem::take(&mut self.begins) {
            self.warnings.clear();
        }
        self.warn(&message["DisplayMessages"]);
        changes(&before, &self.peers, at)
    }

    /// Applies a patch: null ends a warning, and as `*` all that there were.
    fn warn(&mut self, patch: &Value) {
        if patch.get("*").is_some_and(Value::is_null) {
            self.warnings.clear();
        }
        for (id, warning) in patch.as_object().into_iter().flatten() {
            if warning.is_null() {
                self.warnings.remove(id);
            } else {
                let title = warning["Title"].as_str().unwrap_or_default();
                self.warnings.insert(id.clone(), title.to_owned());
            }
        }
    }

    fn upsert(&mut self, nodes: &[Value]) {
        for node in nodes {
            let Some(id) = node["ID"].as_i64() else {
                continue;
            };
            let name = node["Name"].as_str().unwrap_or_default();
            let addresses = node["Addresses"].as_array().into_iter().flatten();
            let peer = Peer {
                name: name.split('.').next().unwrap_or_default().to_owned(),
                home: node["HomeDERP"].as_u64().unwrap_or_default(),
                online: node["Online"].as_bool(),
                addresses: addresses
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect(),
            };
            self.peers.insert(id, peer);
        }
    }

    fn patch(&mut self, patches: &[Value]) {
        for patch in patches {
            let Some(peer) = patch["NodeID"]
                .as_i64()
                .and_then(|id| self.peers.get_mut(&id))
            else {
                continue;
            };
            if let Some(home) = patch["DERPRegion"].as_u64().filter(|home| *home != 0) {
                peer.home = home;
            }
            if let Some(online) = patch["Online"].as_bool() {
                peer.online = Some(online);
            }
        }
    }
}

fn changes(before: &BTreeMap<i64, Peer>, after: &BTreeMap<i64, Peer>, at: Instant) -> Vec<Event> {
    let mut events = Vec::new();
    let mut note = |peer: &Peer, what| {
        events.push(Event {
            at,
            peer: peer.name.clone(),
            what,
        });
    };
    for (id, old) in before {
        if !after.contains_key(id) {
            note(old, What::Left);
        }
    }
    for (id, new) in after {
        let old = before.get(id);
        if old.is_none() {
            note(new, What::Joined);
        }
        if new.online != old.and_then(|old| old.online) {
            match new.online {
                Some(true) => note(new, What::Online),
                Some(false) => note(new, What::Offline),
                None => {}
            }
        }
        if new.home != old.map_or(0, |old| old.home) {
            note(new, What::Home(new.home));
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn whats(events: &[Event]) -> Vec<What> {
        events.iter().map(|event| event.what).collect()
    }

    #[test]
    fn deltas_are_applied_as_clients_do_and_noted() {
        let mut netmap = Netmap::default();
        let now = Instant::now();
        let first = json!({"Peers": [{"ID": 1, "Name": "web.tail.test.", "Online": true}]});
        assert_eq!(
            whats(&netmap.apply(&first, now)),
            [What::Joined, What::Online]
        );
        let patch = json!({"PeersChangedPatch": [{"NodeID": 1, "DERPRegion": 900}]});
        assert_eq!(whats(&netmap.apply(&patch, now)), [What::Home(900)]);
        let offline = json!({"OnlineChange": {"1": false}});
        assert_eq!(whats(&netmap.apply(&offline, now)), [What::Offline]);
        // An empty list changes nothing.
        assert_eq!(whats(&netmap.apply(&json!({"Peers": []}), now)), []);
        let removed = json!({"PeersRemoved": [1]});
        assert_eq!(whats(&netmap.apply(&removed, now)), [What::Left]);
    }

    #[test]
    fn warnings_are_patched_and_end_with_their_stream() {
        let mut netmap = Netmap::default();
        let mut told = |begins: bool, patch: Value| {
            netmap.begins = begins;
            netmap.apply(&json!({ "DisplayMessages": patch }), Instant::now());
            netmap.warnings.keys().cloned().collect::<String>()
        };
        assert_eq!(told(false, json!({ "a": { "Title": "A" }, "b": {} })), "ab");
        assert_eq!(told(false, json!({ "b": null })), "a");
        assert_eq!(told(false, Value::Null), "a");
        assert_eq!(told(false, json!({ "*": null, "c": {} })), "c");
        assert_eq!(told(true, Value::Null), "");
    }

    #[test]
    fn relays_stay_until_there_is_another_map_of_them() {
        let mut netmap = Netmap::default();
        let map = json!({ "DERPMap": { "Regions": { "900": {}, "901": {} } } });
        for message in [map, json!({ "Peers": [] })] {
            netmap.apply(&message, Instant::now());
            assert_eq!(netmap.relays, BTreeSet::from([900, 901]));
        }
    }

    #[test]
    fn a_full_list_replaces_everything() {
        let mut netmap = Netmap::default();
        let now = Instant::now();
        netmap.apply(&json!({"Peers": [{"ID": 1, "Name": "a."}]}), now);
        let events = netmap.apply(&json!({"Peers": [{"ID": 2, "Name": "b."}]}), now);
        assert_eq!(whats(&events), [What::Left, What::Joined]);
    }
}
