//! Wakes those who wait for a login, also one over SSH, when it is decided, on whichever replica that happens.
//!
//! One task reads all changes, so that a thousand waiting clients cost nothing while others
//! register.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::{Notify, futures::Notified};
use tokio::task::JoinSet;

use crate::cluster::{Applied, Cluster, What};
use crate::tasks::Tasks;

/// Who waits for which login.
pub(in crate::control) struct LoginWatch {
    waiting: Arc<Waiting>,
    tasks: Tasks,
}

#[derive(Default)]
struct Waiting {
    by_id: Mutex<BTreeMap<String, Arc<Notify>>>,
}

/// One who waits. Forgotten when dropped.
pub(in crate::control) struct LoginWaiter {
    waiting: Arc<Waiting>,
    auth_id: String,
    notify: Arc<Notify>,
}

impl LoginWatch {
    /// Starts to follow the cluster.
    pub(in crate::control) fn spawn(cluster: &Cluster) -> Self {
        let waiting = Arc::new(Waiting::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(cluster.subscribe(), Arc::clone(&waiting)));
        Self {
            waiting,
            tasks: Tasks::new("the login watch", tasks),
        }
    }

    /// Resolves when logins are no longer followed, which only a fault does; tells how.
    pub(in crate::control) async fn ended(&self) -> String {
        self.tasks.ended().await
    }

    /// Waits for one login.
    pub(in crate::control) fn subscribe(&self, auth_id: &str) -> LoginWaiter {
        let mut by_id = self.waiting.by_id.lock();
        let notify = Arc::clone(by_id.entry(auth_id.to_owned()).or_default());
        LoginWaiter {
            waiting: Arc::clone(&self.waiting),
            auth_id: auth_id.to_owned(),
            notify,
        }
    }
}

impl LoginWaiter {
    /// Ends when something about the login changed since it was enabled.
    pub(in crate::control) fn decided(&self) -> Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for LoginWaiter {
    fn drop(&mut self) {
        let mut by_id = self.waiting.by_id.lock();
        // Two owners: the map and this waiter, which is thus the last.
        if Arc::strong_count(&self.notify) <= 2 {
            by_id.remove(&self.auth_id);
        }
    }
}

impl Waiting {
    fn wake<'a>(&self, ids: impl Iterator<Item = &'a String>) {
        let by_id = self.by_id.lock();
        for notify in ids.filter_map(|id| by_id.get(id)) {
            notify.notify_waiters();
        }
    }

    fn wake_all(&self) {
        for notify in self.by_id.lock().values() {
            notify.notify_waiters();
        }
    }
}

async fn follow(mut changes: Receiver<Arc<Applied>>, waiting: Arc<Waiting>) {
    loop {
        match changes.recv().await {
            Ok(applied) => match &applied.what {
                What::Change(change) => {
                    waiting.wake(change.pending_logins.iter().chain(&change.ssh_checks));
                }
                What::Reset => waiting.wake_all(),
            },
            Err(RecvError::Lagged(_)) => waiting.wake_all(),
            Err(RecvError::Closed) => return,
        }
    }
}
