//! Who is connected to which other relay.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::derp::client::Client;
use crate::derp::clients::Watchers;
use crate::types::{NodeKey, ReplicaId};

/// The clients of the other relays.
#[derive(Debug, Default)]
pub(crate) struct Elsewhere {
    keys: RwLock<HashMap<NodeKey, Remote>>,
    /// Goes up with whatever is newer than something else.
    clock: AtomicU64,
}

/// Where a key is; at least one place.
#[derive(Debug, Default)]
struct Remote {
    places: Vec<Place>,
    /// Connections here that got a packet from it.
    watchers: Mutex<Watchers>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    stream: StreamNo,
    home: bool,
    since: u64,
}

/// A stream from another relay: what it said ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamNo {
    pub(super) from: ReplicaId,
    pub(super) number: u64,
}

/// What a presence was to [`Elsewhere::put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// The stream has told of the key before, or a newer one has.
    Known,
    /// New to the stream.
    New,
    /// New altogether.
    First,
    /// New, and the stream has told of too many.
    Refused,
}

impl Elsewhere {
    /// A number for a stream that begins, greater than those before.
    pub(super) fn begin(&self, from: ReplicaId) -> StreamNo {
        let number = self.tick();
        StreamNo { from, number }
    }

    /// The relay to which packets for a key go: the one that it called home last, else the one that
    /// it connected to last.
    pub(super) fn find(&self, key: &NodeKey) -> Option<ReplicaId> {
        let keys = self.keys.read();
        let places = keys.get(key)?.places.iter();
        let best = places.max_by_key(|place| (place.home, place.since))?;
        Some(best.stream.from)
    }

    /// Notes a presence that `stream` tells, which may be new to it only with `room`. What an older
    /// stream of the same relay said of the key is forgotten.
    pub(super) fn put(&self, key: &NodeKey, stream: StreamNo, home: bool, room: bool) -> Put {
        let since = self.tick();
        let place = Place {
            stream,
            home,
            since,
        };
        let mut keys = self.keys.write();
        let Some(remote) = keys.get_mut(key) else {
            if !room {
                return Put::Refused;
            }
            keys.entry(*key).or_default().places.push(place);
            return Put::First;
        };
        let places = &mut remote.places;
        let same = |other: &&mut Place| other.stream.from == stream.from;
        match places.iter_mut().find(same) {
            Some(known) if known.stream.number > stream.number => Put::Known,
            Some(known) if known.stream == stream => {
                if known.home != home {
                    *known = place;
                }
                Put::Known
            }
            _ if !room => Put::Refused,
            Some(known) => {
                *known = place;
                Put::New
            }
            None => {
                places.push(place);
                Put::New
            }
        }
    }

    /// Forgets what `stream` told of a key: whether it had told of it, and who watched the key when
    /// this was its last place.
    pub(super) fn take(&self, key: &NodeKey, stream: StreamNo) -> (bool, Option<Watchers>) {
        let mut keys = self.keys.write();
        let Some(remote) = keys.get_mut(key) else {
            return (false, None);
        };
        let before = remote.places.len();
        remote.places.retain(|place| place.stream != stream);
        let told = remote.places.len() < before;
        if !remote.places.is_empty() {
            return (told, None);
        }
        let watchers = keys.remove(key).map(|remote| remote.watchers.into_inner());
        (told, watchers)
    }

    /// The keys of which a stream has told.
    pub(super) fn told_by(&self, stream: StreamNo) -> Vec<NodeKey> {
        let keys = self.keys.read();
        let told = keys.iter().filter(|(_, remote)| {
            let mut places = remote.places.iter();
            places.any(|place| place.stream == stream)
        });
        told.map(|(key, _)| *key).collect()
    }

    /// A connection here got a packet from the key: it is told when the key leaves.
    pub(super) fn watch(&self, key: &NodeKey, client: &Arc<Client>) {
        if let Some(remote) = self.keys.read().get(key) {
            remote.watchers.lock().insert(client);
        }
    }

    /// Takes over who watches a key that has left this relay, or gives them back when it is nowhere
    /// else.
    pub(crate) fn adopt(&self, key: &NodeKey, watchers: Watchers) -> Option<Watchers> {
        match self.keys.read().get(key) {
            Some(remote) => {
                remote.watchers.lock().merge(watchers);
                None
            }
            None => Some(watchers),
        }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }
}
