//! A sender's memory of its last few destinations, which spares the registry a lookup per packet.

use std::sync::Arc;

use super::Client;
use crate::types::NodeKey;

/// Slots; a node talks to few peers at a time.
const SLOTS: usize = 8;

/// Direct-mapped by the first bits of the key, which is random. An entry counts while its
/// connection is the active one of its key.
#[derive(Debug, Default)]
pub(super) struct Routes {
    slots: [Option<Arc<Client>>; SLOTS],
}

impl Routes {
    /// The active connection of `key`, if remembered.
    pub(super) fn find(&self, key: &NodeKey) -> Option<&Arc<Client>> {
        let client = self.slots.get(slot(key))?.as_ref()?;
        (client.key == *key && client.is_active()).then_some(client)
    }

    /// Remembers where packets for its key go.
    pub(super) fn remember(&mut self, client: Arc<Client>) {
        if let Some(entry) = self.slots.get_mut(slot(&client.key)) {
            *entry = Some(client);
        }
    }
}

fn slot(key: &NodeKey) -> usize {
    usize::from(key.as_bytes()[0]) % SLOTS
}
