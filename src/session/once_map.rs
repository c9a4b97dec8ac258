//! Values that many ask for and one makes.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

/// A value for each key, made by whoever asks for it first. Who asks for it meanwhile waits for it,
/// and who asks for another does not.
#[derive(Debug)]
pub(super) struct OnceMap<K, V> {
    cells: Mutex<BTreeMap<K, Arc<OnceLock<V>>>>,
}

impl<K, V> Default for OnceMap<K, V> {
    fn default() -> Self {
        Self {
            cells: Mutex::default(),
        }
    }
}

impl<K: Ord, V: Clone> OnceMap<K, V> {
    /// The value of a key.
    pub(super) fn get_or_make(&self, key: K, make: impl FnOnce() -> V) -> V {
        let cell = Arc::clone(self.cells.lock().entry(key).or_default());
        cell.get_or_init(make).clone()
    }

    /// The value of a key, if it is there already.
    pub(super) fn get(&self, key: &K) -> Option<V> {
        let cell = self.cells.lock().get(key).map(Arc::clone);
        cell?.get().cloned()
    }

    /// How many keys were asked for.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.cells.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn a_value_that_is_being_made_keeps_nobody_waiting_who_asks_for_another() {
        let map = Arc::new(OnceMap::default());
        let (begun, has_begun) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        let slow = Arc::clone(&map);
        let slow = thread::spawn(move || {
            slow.get_or_make(1, || {
                begun.send(()).unwrap();
                may_go_on.recv().unwrap();
                "slow"
            })
        });
        has_begun.recv().unwrap();
        assert_eq!(map.get_or_make(2, || "fast"), "fast");
        assert_eq!((map.get(&1), map.get(&2)), (None, Some("fast")));
        go_on.send(()).unwrap();
        assert_eq!(slow.join().unwrap(), "slow");
        assert_eq!(map.get_or_make(1, || "made again"), "slow");
    }
}
