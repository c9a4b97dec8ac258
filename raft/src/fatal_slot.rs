//! The one reason for which a replica ended by itself.

use std::sync::Arc;

use tokio::sync::watch;

use crate::Fatal;

/// Holds the first reason reported; everybody may wait for it.
#[derive(Clone, Debug)]
pub(crate) struct FatalSlot(Arc<watch::Sender<Option<Fatal>>>);

impl FatalSlot {
    /// No reason yet.
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// Reports a reason; later ones are ignored.
    pub(crate) fn report(&self, fatal: Fatal) {
        self.0.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                tracing::error!(error = %fatal, "replica cannot go on");
                *slot = Some(fatal);
            }
            first
        });
    }

    /// The reason, if there is one already.
    pub(crate) fn reported(&self) -> Option<Fatal> {
        self.0.borrow().clone()
    }

    /// Waits for a reason.
    pub(crate) async fn wait(&self) -> Fatal {
        let mut reports = self.0.subscribe();
        let reported = reports.wait_for(Option::is_some).await;
        let fatal = reported.ok().and_then(|slot| slot.clone());
        fatal.unwrap_or_else(|| Fatal::Consensus {
            reason: "the replica is gone".to_owned(),
        })
    }
}
