//! What takes its time says how far it is: on a terminal, from the first second on, each line over the
//! one before. Results go elsewhere.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, interval_at};

/// Before the first line, and between two.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Where it is told; nowhere when nobody watches.
pub(super) struct Progress<'a>(Option<&'a mut dyn Write>);

impl<'a> Progress<'a> {
    pub(super) const fn new(watched: Option<&'a mut dyn Write>) -> Self {
        Self(watched)
    }

    /// Waits for `work`, which `what` names and whose bytes are counted in `count`.
    pub(super) async fn of<T>(
        self,
        what: &str,
        count: &Count,
        mut work: impl Future<Output = T> + Unpin,
    ) -> T {
        let Some(err) = self.0 else {
            return work.await;
        };
        let begun = Instant::now();
        let mut ticks = interval_at(begun + TELL_EVERY, TELL_EVERY);
        let mut told = false;
        let done = loop {
            tokio::select! {
                biased;
                done = &mut work => break done,
                _ = ticks.tick() => {
                    told = true;
                    tell(err, &format!("\r{}", line(what, count.bytes(), begun.elapsed())));
                }
            }
        };
        if told {
            tell(err, "\n");
        }
        done
    }

    /// The same for work that blocks: it gets a thread of its own.
    ///
    /// # Errors
    /// The work panicked.
    pub(super) async fn of_blocking<T: Send + 'static>(
        self,
        what: &str,
        work: impl FnOnce(&Count) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let count = Count::default();
        let counted = count.clone();
        self.of(what, &count, spawn_blocking(move || work(&counted)))
            .await
    }
}

fn tell(err: &mut dyn Write, text: &str) {
    // A terminal that is gone has nobody to be told.
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

fn line(what: &str, bytes: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    match bytes {
        0 => format!("{what}: {seconds} s"),
        bytes => format!("{what}: {} MiB, {seconds} s", bytes >> 20),
    }
}

/// How many bytes went by.
#[derive(Clone, Debug, Default)]
pub(super) struct Count(Arc<AtomicU64>);

impl Count {
    /// Passes everything on, counted.
    pub(super) fn of<T>(&self, inner: T) -> Counted<T> {
        Counted {
            inner,
            count: self.clone(),
        }
    }

    fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// A reader or writer whose bytes are counted.
pub(super) struct Counted<T> {
    inner: T,
    count: Count,
}

impl<T: Read> Read for Counted<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.count.add(bytes);
        Ok(bytes)
    }
}

impl<T: Write> Write for Counted<T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let bytes = self.inner.write(buffer)?;
        self.count.add(bytes);
        Ok(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// What is told of something that copies 3 MiB and then takes as long as this.
    async fn told_of(takes: Duration) -> String {
        let mut err = Vec::new();
        let count = Count::default();
        let work = Box::pin(async {
            io::copy(&mut count.of(io::repeat(0).take(3 << 20)), &mut io::sink()).unwrap();
            sleep(takes).await;
            7
        });
        let progress = Progress::new(Some(&mut err));
        assert_eq!(progress.of("copying", &count, work).await, 7);
        String::from_utf8(err).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_takes_more_than_a_second_is_told() {
        assert_eq!(told_of(Duration::from_millis(900)).await, "");
        assert_eq!(
            told_of(Duration::from_millis(2500)).await,
            "\rcopying: 3 MiB, 1 s\rcopying: 3 MiB, 2 s\n"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_watches_work_is_only_waited_for() {
        let work = Box::pin(sleep(Duration::from_secs(3)));
        Progress::new(None)
            .of("waiting", &Count::default(), work)
            .await;
        let done = Progress::new(None).of_blocking("counting", |count| {
            count.of(io::sink()).write_all(b"four").unwrap();
            count.bytes()
        });
        assert_eq!(done.await.unwrap(), 4);
    }

    #[test]
    fn a_line_without_bytes_names_the_time_alone() {
        assert_eq!(line("asking", 0, Duration::from_secs(4)), "asking: 4 s");
    }
}
