//! Whether this replica has caught up since it started: until then it may not even know how much
//! it lacks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use super::Consensus;

/// Pause between attempts while no leader confirms anything.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// True once a linearizable read was served; it stays so.
#[derive(Clone, Debug, Default)]
pub(super) struct CaughtUp(Arc<AtomicBool>);

impl CaughtUp {
    /// Starts to ask for a read until there is one.
    pub(super) fn spawn(consensus: Arc<dyn Consensus>, tasks: &mut JoinSet<()>) -> Self {
        let caught_up = Self::default();
        let this = caught_up.clone();
        tasks.spawn(async move {
            while let Err(error) = consensus.read_index().await {
                tracing::debug!(%error, "replica has not caught up yet");
                tokio::time::sleep(RETRY_AFTER).await;
            }
            this.0.store(true, Ordering::Relaxed);
            // An end would look like a fault.
            std::future::pending::<()>().await;
        });
        caught_up
    }

    pub(super) fn is_so(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
