//! Bringing a replica down, gently or at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Fatal;
use crate::core::Core;
use crate::fatal::chain;
use crate::storage::Storage;

/// Between looks at who still holds the database, and how long to look.
const RELEASE_PAUSE: Duration = Duration::from_millis(5);
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);

/// What a replica's handles share.
pub(super) struct Inner {
    pub(super) core: Arc<Core>,
    pub(super) tasks: TaskTracker,
    stops: Stops,
    storage: Mutex<Option<Storage>>,
}

/// The steps of stopping.
#[derive(Clone, Debug, Default)]
pub(super) struct Stops {
    /// Nothing new is begun.
    pub(super) stopping: CancellationToken,
    /// No new connections; those open drain.
    pub(super) serving: CancellationToken,
    /// Connections break.
    pub(super) closing: CancellationToken,
}

impl Inner {
    pub(super) fn new(core: Arc<Core>, storage: Storage, tasks: TaskTracker, stops: Stops) -> Self {
        Self {
            core,
            tasks,
            stops,
            storage: Mutex::new(Some(storage)),
        }
    }

    /// Hands leadership over, then stops.
    pub(super) async fn shutdown(&self) {
        let mut storage = self.storage.lock().await;
        if storage.is_none() {
            return;
        }
        self.step_down().await;
        self.stops.stopping.cancel();
        self.stops.serving.cancel();
        self.stop(&mut storage, true).await;
    }

    /// Stops without ceremony.
    pub(super) async fn abort(&self) {
        self.stops.stopping.cancel();
        self.stops.serving.cancel();
        self.stops.closing.cancel();
        let mut storage = self.storage.lock().await;
        self.stop(&mut storage, false).await;
    }

    async fn step_down(&self) {
        let alone = self.core.effective_membership().voter_ids().count() <= 1;
        if alone || self.core.leader() != Some(self.core.id()) {
            return;
        }
        match self.core.move_leadership(None, &[]).await {
            Ok(leader) => tracing::info!(raft.leader = leader, "leadership handed over"),
            Err(managed) => tracing::warn!(?managed, "leadership could not be handed over"),
        }
    }

    async fn stop(&self, storage: &mut Option<Storage>, drain: bool) {
        if self.core.fatal.reported() == Some(Fatal::Removed) {
            // A restart need not ask to learn it again.
            let marked = self.core.folder.mark_removed(&self.core.identity);
            if let Err(error) = marked {
                tracing::warn!(%error, "the removal cannot be noted in the data folder");
            }
        }
        // It waits for the core's end and has no other result.
        let _ = self.core.raft.shutdown().await;
        self.tasks.close();
        if drain
            && timeout(self.core.timing.drain(), self.tasks.wait())
                .await
                .is_err()
        {
            tracing::debug!("connections are broken off");
        }
        self.stops.closing.cancel();
        self.tasks.wait().await;
        self.core.snapshots.store(None);
        let Some(storage) = storage.take() else {
            return;
        };
        let holders = storage.holders();
        if let Err(error) = storage.close().await {
            tracing::warn!(error = chain(&error), "store did not close cleanly");
        }
        // Consensus' own tasks let go of the log a little later.
        let released = async {
            while holders.strong_count() > 0 {
                sleep(RELEASE_PAUSE).await;
            }
        };
        if timeout(RELEASE_PATIENCE, released).await.is_err() {
            tracing::warn!("the database is still held");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stops.stopping.cancel();
        self.stops.serving.cancel();
        self.stops.closing.cancel();
        let raft = self.core.raft.clone();
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                let _ = raft.shutdown().await;
            });
        }
    }
}
