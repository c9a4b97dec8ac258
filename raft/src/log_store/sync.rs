//! Group commit: one thread syncs for everybody who waits and answers in order of arrival.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use openraft::storage::IOFlushed;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::stopped;
use crate::blocking;
use crate::counters::Counters;
use crate::engine::Engine;
use crate::fatal::Fatal;
use crate::type_config::TypeConfig;

/// Somebody whose write must be durable before they go on.
pub(crate) enum Waiter {
    /// An append's completion.
    Append(IOFlushed<TypeConfig>),
    /// A caller that waits: a vote, or an append that must not return early.
    Caller(oneshot::Sender<io::Result<()>>),
    /// Ends the thread after answering whoever came before.
    Stop,
}

/// Where writers register after their write; answers come in the order of registration.
#[derive(Clone)]
pub(crate) struct SyncQueue {
    waiters: mpsc::Sender<Waiter>,
}

impl SyncQueue {
    /// Registers a waiter; waits while the queue is full.
    pub(crate) async fn send(&self, waiter: Waiter) -> io::Result<()> {
        self.waiters.send(waiter).await.map_err(|refused| {
            answer(refused.0, Err(stopped()));
            stopped()
        })
    }

    /// Waits until everything written before the call is durable.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the answer; the sync takes place.
    pub(crate) async fn wait_synced(&self) -> io::Result<()> {
        let (done, synced) = oneshot::channel();
        self.send(Waiter::Caller(done)).await?;
        synced.await.unwrap_or_else(|_| Err(stopped()))
    }
}

/// The thread that owns every fsync of the log.
pub(crate) struct SyncThread {
    queue: SyncQueue,
    thread: Option<thread::JoinHandle<()>>,
}

impl SyncThread {
    /// Starts the thread.
    pub(crate) fn spawn(
        engine: Arc<dyn Engine>,
        fatal: Fatal,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let (waiters, queued) = mpsc::channel(WAITERS_MAX);
        #[cfg(test)]
        if crate::simulation::is_on() {
            tokio::spawn(simulated(engine, fatal, queued));
            let queue = SyncQueue { waiters };
            return Ok(Self {
                queue,
                thread: None,
            });
        }
        let thread = thread::Builder::new()
            .name("raft-log-sync".to_owned())
            .spawn(move || run(&*engine, &fatal, &counters, queued))?;
        Ok(Self {
            queue: SyncQueue { waiters },
            thread: Some(thread),
        })
    }

    /// Where to register.
    pub(crate) fn queue(&self) -> SyncQueue {
        self.queue.clone()
    }

    /// Answers everybody who registered before and ends the thread; waits for its last sync.
    pub(crate) async fn stop(self) {
        let stopped = blocking::run(move || drop(self));
        if stopped.await.is_err() {
            tracing::error!("log sync thread cannot be joined");
        }
    }

    fn end(&self) {
        // Full means that the thread is about to take everything.
        while let Err(TrySendError::Full(_)) = self.queue.waiters.try_send(Waiter::Stop) {
            thread::sleep(RETRY);
        }
    }
}

impl Drop for SyncThread {
    /// Waits for the thread, so that the database is closed when its last owner lets it go.
    fn drop(&mut self) {
        self.end();
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("log sync thread panicked");
        }
    }
}

fn run(
    engine: &dyn Engine,
    fatal: &Fatal,
    counters: &Counters,
    mut queued: mpsc::Receiver<Waiter>,
) {
    let mut waiters = Vec::new();
    let mut stopping = false;
    while !stopping && queued.blocking_recv_many(&mut waiters, WAITERS_MAX) > 0 {
        let started = Instant::now();
        let result = sync(engine, fatal);
        counters.log_syncs.add_one();
        counters.log_sync_micros.add(micros(started.elapsed()));
        for waiter in waiters.drain(..) {
            if matches!(waiter, Waiter::Append(_)) {
                counters.log_appends.add_one();
            }
            stopping = stopping || matches!(waiter, Waiter::Stop);
            answer(waiter, result.clone().map_err(io::Error::other));
        }
    }
}

/// What [`run`] does, where there are no threads and the disk takes as long as a seed says.
#[cfg(test)]
async fn simulated(engine: Arc<dyn Engine>, fatal: Fatal, mut queued: mpsc::Receiver<Waiter>) {
    let mut waiters = Vec::new();
    let mut stopping = false;
    while !stopping && queued.recv_many(&mut waiters, WAITERS_MAX).await > 0 {
        crate::simulation::disk_delay().await;
        let result = sync(&*engine, &fatal);
        crate::simulation::disk_delay().await;
        for waiter in waiters.drain(..) {
            stopping = stopping || matches!(waiter, Waiter::Stop);
            answer(waiter, result.clone().map_err(io::Error::other));
        }
    }
}

fn sync(engine: &dyn Engine, fatal: &Fatal) -> Result<(), String> {
    if fatal.has_failed() {
        return Err(stopped().to_string());
    }
    engine.sync().map_err(|error| {
        fatal.report("sync the log", &error);
        crate::fatal::chain(&error)
    })
}

fn micros(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}

fn answer(waiter: Waiter, result: io::Result<()>) {
    match waiter {
        Waiter::Append(callback) => callback.io_completed(result),
        // A caller that went away needs no answer.
        Waiter::Caller(done) => drop(done.send(result)),
        Waiter::Stop => {}
    }
}

/// Writers waiting at most; openraft itself keeps far fewer appends in flight.
const WAITERS_MAX: usize = 4096;
/// Between tries to enter a full queue while stopping.
const RETRY: Duration = Duration::from_millis(1);
