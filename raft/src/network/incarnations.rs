//! Which start of each replica was heard of last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

/// Start counters by replica id. Only the latest start of a replica counts: an older process with
/// a copy of the same data folder must not vote or acknowledge.
#[derive(Clone, Debug, Default)]
pub(crate) struct Incarnations(Arc<Mutex<BTreeMap<u64, u64>>>);

impl Incarnations {
    /// `replica` has spoken as this start of it.
    ///
    /// # Errors
    /// The latest start, when this is an older one.
    pub(crate) fn hear(&self, replica: u64, incarnation: u64) -> Result<(), u64> {
        let mut heard = self.0.lock();
        let latest = heard.entry(replica).or_insert(incarnation);
        if incarnation < *latest {
            return Err(*latest);
        }
        *latest = incarnation;
        Ok(())
    }

    /// Forgets replicas that are not members any more.
    pub(crate) fn forget(&self, removed: &BTreeSet<u64>) {
        self.0
            .lock()
            .retain(|replica, _| !removed.contains(replica));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_start_is_told_the_latest() {
        let heard = Incarnations::default();
        assert_eq!(heard.hear(1, 3), Ok(()));
        assert_eq!(heard.hear(1, 2), Err(3));
        assert_eq!(heard.hear(2, 1), Ok(()));
        heard.forget(&BTreeSet::from([1]));
        assert_eq!(heard.hear(1, 2), Ok(()));
    }
}
