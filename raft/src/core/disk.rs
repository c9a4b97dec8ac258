//! Watching the disk fill up: long before a write fails, this replica stops taking proposals and
//! lets another one lead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::Core;
use crate::Fatal;
use crate::blocking;
use crate::storage::disk::FreeSpace;

/// Between looks at the disk: it does not fill within seconds.
const INTERVAL: Duration = Duration::from_secs(5);

/// What is known about the disk.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    low: AtomicBool,
}

impl Disk {
    /// Whether too little space is left to take proposals.
    pub(crate) fn is_low(&self) -> bool {
        self.low.load(Ordering::Relaxed)
    }

    /// Notes how much is left; says so when that changes.
    pub(crate) fn note(&self, low: bool) {
        if self.low.swap(low, Ordering::Relaxed) != low {
            if low {
                tracing::error!("disk is nearly full, no proposals are taken here");
            } else {
                tracing::info!("disk has room again");
            }
        }
    }
}

/// Watches the data folder's disk until the replica stops.
pub(crate) async fn watch_disk(core: Arc<Core>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let path = core.config.data_dir.clone();
        let space = blocking::run(move || FreeSpace::of(&path)).await;
        let Ok(Ok(space)) = space else { continue };
        if space.is_critical() {
            let reason = format!("only {} bytes are left on the disk", space.available);
            core.fatal.report(Fatal::Storage { reason });
        }
        core.disk.note(space.is_low());
    }
}
