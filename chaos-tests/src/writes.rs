//! Writes at a steady rate that wait for no answer before the next one, as clients that know nothing
//! of each other make them: while the cluster stalls they queue, and the stall shows in each of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::task::JoinHandle;

use crate::http::{self, Endpoint};

/// A write without an answer after this has none.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What a write is in one API: where, and how the body of the n-th one reads.
#[derive(Clone, Debug)]
pub struct Api {
    /// The path of the POST.
    pub path: &'static str,
    /// Makes a body.
    pub body: fn(usize) -> String,
}

/// One write that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// When it was sent.
    pub sent: Instant,
    /// When it was acknowledged; `None` when it was refused or not answered.
    pub acknowledged: Option<Instant>,
}

impl Write {
    fn took(&self) -> Option<Duration> {
        Some(self.acknowledged? - self.sent)
    }
}

/// Writes that are being made.
pub struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<Write>>,
}

impl Writer {
    /// Starts: one write every `every`, numbered from `first` on.
    pub fn start(to: Endpoint, api: Api, first: usize, every: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(every);
            let mut number = first;
            // Bounded by the rate and the limit of each.
            let mut running = FuturesUnordered::new();
            let mut done = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                tokio::select! {
                    _ = ticks.tick() => {
                        running.push(write(&to, &api, number));
                        number += 1;
                    }
                    Some(write) = running.next() => done.push(write),
                }
            }
            done.extend(running.collect::<Vec<_>>().await);
            done.sort_unstable_by_key(|write| write.sent);
            done
        });
        Self { stop, task }
    }

    /// Stops, waits for what is under way, and gives everything in the order of sending.
    ///
    /// # Errors
    /// When the writer itself broke.
    pub async fn finish(self) -> Result<Writes> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(Writes(self.task.await?))
    }
}

async fn write(to: &Endpoint, api: &Api, number: usize) -> Write {
    let sent = Instant::now();
    let answer = http::post(to, api.path, &(api.body)(number), ANSWER_LIMIT).await;
    let acknowledged = answer.is_ok_and(|answer| (200..300).contains(&answer.status));
    Write {
        sent,
        acknowledged: acknowledged.then(Instant::now),
    }
}

/// What a [`Writer`] did.
#[derive(Clone, Debug)]
pub struct Writes(pub Vec<Write>);

impl Writes {
    /// From `fault` to the first acknowledgement of a write that was sent after it.
    ///
    /// # Errors
    /// When there is none.
    pub fn first_after(&self, fault: Instant) -> Result<Duration> {
        let after = self.0.iter().filter(|write| write.sent >= fault);
        let first = after.filter_map(|write| write.acknowledged).min();
        Ok(first.context("no write was acknowledged any more")? - fault)
    }

    /// Those that were under way then, or sent later.
    pub fn since(&self, begin: Instant) -> Self {
        let ended_before = |write: &&Write| write.acknowledged.is_some_and(|at| at < begin);
        let since = self.0.iter().filter(|write| !ended_before(write));
        Self(since.copied().collect())
    }

    /// The slowest of the acknowledged ones.
    ///
    /// # Errors
    /// When there is none.
    pub fn slowest(&self) -> Result<Duration> {
        let slowest = self.0.iter().filter_map(Write::took).max();
        slowest.context("no write was acknowledged")
    }

    /// How many were not acknowledged.
    pub fn failed(&self) -> usize {
        self.0
            .iter()
            .filter(|write| write.acknowledged.is_none())
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_a_fault_caught_counts_for_it_and_an_earlier_one_does_not() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let write = |sent, acknowledged| Write {
            sent: at(sent),
            acknowledged: Some(at(acknowledged)),
        };
        let writes = Writes(vec![write(0, 90), write(80, 130), write(120, 125)]);
        assert_eq!(
            writes.since(at(100)).slowest().unwrap(),
            Duration::from_millis(50)
        );
    }

    #[test]
    fn what_was_sent_before_the_fault_is_no_recovery() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let write = |sent, acknowledged: Option<u64>| Write {
            sent: at(sent),
            acknowledged: acknowledged.map(at),
        };
        let writes = Writes(vec![
            write(0, Some(12)),
            write(11, None),
            write(20, Some(900)),
            write(30, Some(800)),
        ]);
        assert_eq!(
            writes.first_after(at(10)).unwrap(),
            Duration::from_millis(790)
        );
        assert_eq!(writes.slowest().unwrap(), Duration::from_millis(880));
        assert_eq!(writes.failed(), 1);
        assert!(writes.first_after(at(31)).is_err());
    }
}
