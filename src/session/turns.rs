//! Work that takes longer than other tasks should wait, in turns.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use crate::tasks::joined;

/// Runs work off the reactor, on half of the processors at most: the others are for the rest of the
/// replica, above all for the heartbeats of consensus.
#[derive(Debug)]
pub(super) struct Turns {
    permits: Arc<Semaphore>,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(count())),
        }
    }

    /// Does the work when its turn has come; `None` when the replica stops. The turn comes with what
    /// the work gives: the next begins when it is dropped.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<(T, OwnedSemaphorePermit)> {
        let turn = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        // The turn lasts as long as the work, also when nobody waits for it any more.
        let working = spawn_blocking(move || (work(), turn));
        joined(working.await)
    }

    /// Waits until nobody works.
    #[cfg(test)]
    pub(super) async fn rest(&self) {
        let all = u32::try_from(count()).unwrap();
        let _nobody_works = self.permits.acquire_many(all).await.unwrap();
    }
}

fn count() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors / 2).max(1)
}
