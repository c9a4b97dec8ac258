//! Who may have a whole netmap made, and what those that are made together share.
//!
//! After the death of a replica its clients all want one at once. They take turns: building leaves
//! the other processors to the rest of the replica, above all to the heartbeats of consensus, and
//! whoever waits is served from the state that somebody before it in the line has read meanwhile.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::held::{Fresh, Held, Slow};
use super::metrics::{Bound, MapMetrics};
use super::shared::SharedWhole;
use super::turns::Turns;
use crate::netmap::{Basis, Whole};
use crate::types::Timestamp;

/// Whole netmaps that are made or sent at once. What they take is bounded by their bytes
/// ([`Held`]); this keeps the line short in which states are pinned.
pub(super) const PLACES: usize = 256;
/// A client that has not taken its netmap after this long leaves its place to others: slow clients
/// must not keep fast ones waiting.
pub(super) const PLACE_TIME: Duration = Duration::from_secs(5);
/// How long netmaps may be made from one state although nothing changed: they tell the time.
const WHOLE_AGE_MAX: Duration = Duration::from_secs(5);

pub(super) struct WholeMaps {
    places: Semaphore,
    builders: Turns,
    held: Held,
    /// The state that netmaps were made from last; nothing while nobody has a place.
    newest: Mutex<Option<Arc<SharedWhole>>>,
    metrics: MapMetrics,
}

/// A place among those that get a whole netmap.
pub(super) struct Place<'a> {
    maps: &'a WholeMaps,
    permit: Option<SemaphorePermit<'a>>,
    fresh: Option<Fresh<'a>>,
}

impl WholeMaps {
    pub(super) fn new(metrics: MapMetrics) -> Self {
        Self {
            places: Semaphore::new(PLACES),
            builders: Turns::new(),
            held: Held::new(metrics.clone()),
            newest: Mutex::default(),
            metrics,
        }
    }

    /// Waits for a place.
    pub(super) async fn place(&self) -> Place<'_> {
        let permit = match self.places.try_acquire() {
            Ok(permit) => Some(permit),
            Err(_) => {
                self.metrics.bound_hit(Bound::WholeMaps);
                self.places.acquire().await.ok()
            }
        };
        Place {
            maps: self,
            permit,
            fresh: None,
        }
    }

    /// Runs a build off the reactor when its turn has come; `None` when the replica stops. The turn
    /// comes with what was built: the next may build when there is room for it.
    pub(super) async fn build<T: Send + 'static>(
        &self,
        build: impl FnOnce() -> T + Send + 'static,
    ) -> Option<(T, OwnedSemaphorePermit)> {
        self.builders.run(build).await
    }

    /// What to make netmaps from, applied up to `needed` at least; `basis` is.
    pub(super) fn newest(
        &self,
        basis: Arc<Basis>,
        needed: u64,
        now: Timestamp,
    ) -> Arc<SharedWhole> {
        let mut newest = self.newest.lock();
        let is_recent = |shared: &&Arc<SharedWhole>| {
            let whole = shared.whole();
            whole.basis.index >= needed && now < whole.now.saturating_add(WHOLE_AGE_MAX)
        };
        if let Some(whole) = newest.as_ref().filter(is_recent) {
            return Arc::clone(whole);
        }
        let whole = Whole::new(basis, now);
        let whole = Arc::new(SharedWhole::new(whole, self.metrics.clone()));
        *newest = Some(Arc::clone(&whole));
        whole
    }

    /// Lets go of the newest state when nobody has a place. Also for a build that is done: the place
    /// that it was for may be gone by then.
    pub(super) fn let_go(&self) {
        if self.places.available_permits() == PLACES {
            *self.newest.lock() = None;
        }
    }

    /// Whether a state is held when nothing is being built any more.
    #[cfg(test)]
    pub(super) async fn holds_a_state(&self) -> bool {
        self.builders.rest().await;
        self.newest.lock().is_some()
    }

    /// Counts a netmap that could not share all that it might have.
    pub(super) fn note(&self, whole: &SharedWhole) {
        if whole.is_full() {
            self.metrics.bound_hit(Bound::SharedPages);
        }
    }
}

impl<'a> Place<'a> {
    /// Waits until there is room for a frame of so many bytes.
    pub(super) async fn hold(&mut self, len: usize) {
        self.fresh = Some(self.maps.held.fresh(len).await);
    }

    /// Leaves the place although the netmap is still under way; `None` when no room is left among
    /// those of slow clients.
    pub(super) fn give_up(mut self) -> Option<Slow<'a>> {
        self.maps.metrics.bound_hit(Bound::PlaceTime);
        self.maps.held.slow(self.fresh.take()?)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.maps.let_go();
    }
}
