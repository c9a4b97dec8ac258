//! Where replicas are reached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::RwLock;

/// Addresses by replica id. What a replica says about itself on an authenticated connection wins
/// over the membership, which may be older: a wrong address cannot reach a wrong replica, because
/// certificates name replicas, not addresses.
#[derive(Clone, Debug, Default)]
pub(crate) struct AddressBook(Arc<RwLock<BTreeMap<u64, Addresses>>>);

#[derive(Clone, Debug, Default)]
struct Addresses {
    told: Option<String>,
    listed: Option<String>,
}

impl AddressBook {
    /// The membership, or a list given when joining, says that `replica` is at `addr`.
    pub(crate) fn list(&self, replica: u64, addr: &str) {
        self.update(replica, addr, |addresses| &mut addresses.listed);
    }

    /// `replica` itself says that it is at `addr`.
    pub(crate) fn tell(&self, replica: u64, addr: &str) {
        self.update(replica, addr, |addresses| &mut addresses.told);
    }

    /// Where to reach `replica`.
    pub(crate) fn find(&self, replica: u64) -> Option<String> {
        let book = self.0.read();
        let addresses = book.get(&replica)?;
        addresses.told.clone().or_else(|| addresses.listed.clone())
    }

    /// Forgets replicas that were removed.
    pub(crate) fn forget(&self, removed: &BTreeSet<u64>) {
        self.0
            .write()
            .retain(|replica, _| !removed.contains(replica));
    }

    fn update(
        &self,
        replica: u64,
        addr: &str,
        field: impl Fn(&mut Addresses) -> &mut Option<String>,
    ) {
        if addr.is_empty() {
            return;
        }
        // Most calls repeat what is known: spare them the write lock.
        let known = self.0.read().get(&replica).cloned();
        if known.is_some_and(|mut known| field(&mut known).as_deref() == Some(addr)) {
            return;
        }
        *field(self.0.write().entry(replica).or_default()) = Some(addr.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_replica_says_itself_wins_over_the_list() {
        let book = AddressBook::default();
        book.list(1, "old:1");
        assert_eq!(book.find(1).as_deref(), Some("old:1"));
        book.tell(1, "new:1");
        book.list(1, "older:1");
        assert_eq!(book.find(1).as_deref(), Some("new:1"));
        assert_eq!(book.find(2), None);
        book.forget(&BTreeSet::from([1]));
        assert_eq!(book.find(1), None);
    }
}
