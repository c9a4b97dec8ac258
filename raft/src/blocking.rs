//! Work that waits for the disk, away from the runtime's threads.

use tokio::task::JoinHandle;

/// Runs `work` where it may block. A simulation, which has one thread, runs it inline as a task.
pub(crate) fn run<T, F>(work: F) -> JoinHandle<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    #[cfg(test)]
    if crate::simulation::is_on() {
        return crate::simulation::run_later(work);
    }
    tokio::task::spawn_blocking(work)
}
