//! Wakes those who wait for a login, also one over SSH, when it is decided, on whichever replica that
//! happens.
//!
//! One task reads all changes, so that a thousand waiting clients cost nothing while others
//! register.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use axum::http::StatusCode;
use parking_lot::Mutex;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::{Notify, futures::Notified};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::cluster::{Applied, Cluster, What};
use crate::control::inner::{Reply, Session};
use crate::control::limits::LOGIN_RECHECK;
use crate::tasks::Tasks;

/// Who waits for which login.
pub(in crate::control) struct LoginWatch {
    waiting: Arc<Waiting>,
    tasks: Tasks,
}

#[derive(Default)]
struct Waiting {
    by_id: Mutex<BTreeMap<String, Waited>>,
}

/// A login that somebody waits for.
#[derive(Default)]
struct Waited {
    notify: Arc<Notify>,
    waiters: usize,
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
        let waited = by_id.entry(auth_id.to_owned()).or_default();
        waited.waiters += 1;
        LoginWaiter {
            waiting: Arc::clone(&self.waiting),
            auth_id: auth_id.to_owned(),
            notify: Arc::clone(&waited.notify),
        }
    }
}

impl LoginWaiter {
    /// Waits until a login that was enabled may have been decided, but not for long: what is waited
    /// for may have gone by unheard.
    ///
    /// # Errors
    /// What to answer instead: this replica may hear of nothing. The client is sent to another one.
    pub(in crate::control) async fn wait(
        session: &Session,
        decided: Pin<&mut Notified<'_>>,
    ) -> Result<(), Reply> {
        tokio::select! {
            biased;
            () = decided => Ok(()),
            () = session.control.streams().sends_away() => {
                session.hand_off();
                let reason = "this replica sends its clients to others";
                Err(Reply::text(StatusCode::SERVICE_UNAVAILABLE, reason))
            }
            () = sleep(LOGIN_RECHECK) => session.refuse_if_too_stale(),
        }
    }

    /// Ends when something about the login changed since it was enabled.
    pub(in crate::control) fn decided(&self) -> Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for LoginWaiter {
    fn drop(&mut self) {
        let mut by_id = self.waiting.by_id.lock();
        let Some(waited) = by_id.get_mut(&self.auth_id) else {
            return;
        };
        waited.waiters -= 1;
        if waited.waiters == 0 {
            by_id.remove(&self.auth_id);
        }
    }
}

impl Waiting {
    fn wake<'a>(&self, ids: impl Iterator<Item = &'a String>) {
        let by_id = self.by_id.lock();
        for waited in ids.filter_map(|id| by_id.get(id)) {
            waited.notify.notify_waiters();
        }
    }

    fn wake_all(&self) {
        for waited in self.by_id.lock().values() {
            waited.notify.notify_waiters();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_who_wait_for_one_login_leave_nothing_behind() {
        let watch = LoginWatch {
            waiting: Arc::default(),
            tasks: Tasks::new("the login watch", JoinSet::new()),
        };
        let (first, second) = (watch.subscribe("a"), watch.subscribe("a"));
        // Both are gone before either looks who is left.
        let kept = (Arc::clone(&first.notify), Arc::clone(&second.notify));
        drop(first);
        assert_eq!(watch.waiting.by_id.lock().len(), 1);
        drop(second);
        assert!(watch.waiting.by_id.lock().is_empty());
        drop(kept);
    }
}
