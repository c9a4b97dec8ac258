//! Background tasks that run as long as the part of the replica that owns them.

use tokio::sync::Mutex;
use tokio::task::{JoinError, JoinSet};

/// The tasks of one part: they end with it, and none before. A replica that has lost one must not
/// look alive, so somebody waits for [`Self::ended`].
#[derive(Debug)]
pub struct Tasks {
    owner: &'static str,
    running: Mutex<JoinSet<()>>,
}

impl Tasks {
    /// The tasks of `owner`, as it is called in messages.
    pub fn new(owner: &'static str, running: JoinSet<()>) -> Self {
        Self {
            owner,
            running: Mutex::new(running),
        }
    }

    /// Resolves when one of the tasks has ended, and tells how: it has panicked, or stopped where it
    /// should not have.
    ///
    /// # Cancel safety
    /// Nothing is lost when the caller stops waiting.
    pub async fn ended(&self) -> String {
        let owner = self.owner;
        match self.running.lock().await.join_next().await {
            Some(Err(error)) => format!("a background task of {owner} failed: {error}"),
            Some(Ok(())) | None => format!("a background task of {owner} ended"),
        }
    }
}

/// What a task has given, or `None` when it was cancelled. One that panicked takes its owner along,
/// so that it is noticed.
pub fn joined<T>(result: Result<T, JoinError>) -> Option<T> {
    match result {
        Ok(given) => Some(given),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_or_ends_is_told_of() {
        let mut running = JoinSet::new();
        running.spawn(std::future::pending());
        running.spawn(async { panic!("no more connections") });
        let tasks = Tasks::new("this test", running);
        let told = tasks.ended().await;
        assert!(told.contains("this test failed"), "{told}");
        assert!(told.contains("no more connections"), "{told}");
        tasks.running.lock().await.spawn(async {});
        assert!(tasks.ended().await.contains("of this test ended"));
    }
}
