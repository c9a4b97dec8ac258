//! The sending half of a connection.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{Duration, Instant, sleep_until, timeout};

use super::{Client, CloseReason};
use crate::derp::batch::Batch;
use crate::derp::frame::Restarting;
use crate::derp::limits::{
    BATCHES_PER_TURN, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_JITTER, RESTART_RECONNECT_IN,
    RESTART_TRY_FOR, WRITE_STALL_TIMEOUT,
};
use crate::derp::metrics::RelayMetrics;
use crate::derp::progress::Progress;

/// Writes what waits in the client's queue, and a keep-alive when nothing else was written for a
/// while.
pub(super) struct Writer<'a, W> {
    io: &'a mut W,
    progress: Progress,
    client: &'a Client,
    metrics: &'a RelayMetrics,
    batch: Batch,
    keep_alive_after: Duration,
    last_write: Instant,
}

impl<'a, W: AsyncWrite + Unpin> Writer<'a, W> {
    /// A writer with a keep-alive interval of its own.
    pub(super) fn new(
        io: &'a mut W,
        progress: Progress,
        client: &'a Client,
        metrics: &'a Arc<RelayMetrics>,
    ) -> Self {
        Self {
            io,
            progress,
            client,
            metrics,
            batch: Batch::default(),
            keep_alive_after: KEEP_ALIVE_INTERVAL + KEEP_ALIVE_JITTER.mul_f64(rand::random()),
            last_write: Instant::now(),
        }
    }

    /// Runs until the connection is to end.
    pub(super) async fn run(mut self) -> CloseReason {
        let reason = self
            .run_until_closed()
            .await
            .unwrap_or_else(|failure| failure);
        if reason == CloseReason::WriteStalled {
            self.metrics.write_timeouts.increment();
        }
        reason
    }

    async fn run_until_closed(&mut self) -> Result<CloseReason, CloseReason> {
        let mut batches = 0;
        loop {
            self.client.queue.take(&mut self.batch, Instant::now());
            match self.batch.closing() {
                Some(CloseReason::Draining) => return self.say_goodbye().await,
                Some(reason) => return Ok(reason),
                None => {}
            }
            if self.batch.is_written() {
                self.flush().await?;
                self.idle().await;
                batches = 0;
                continue;
            }
            self.write_batch().await?;
            batches += 1;
            if batches % BATCHES_PER_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Waits for something to write; owes the client a keep-alive when nothing comes.
    async fn idle(&mut self) {
        loop {
            let due = self.last_write + self.keep_alive_after;
            tokio::select! {
                biased;
                () = self.client.queue.changed() => return,
                () = sleep_until(due) => {
                    self.client.queue.shrink();
                    self.batch.shrink();
                    self.client.queue.push_keep_alive();
                }
            }
        }
    }

    async fn write_batch(&mut self) -> Result<(), CloseReason> {
        while !self.batch.is_written() {
            let slices = self.batch.slices();
            let written = guard(&self.progress, self.io.write_vectored(&slices)).await?;
            drop(slices);
            if written == 0 {
                return Err(CloseReason::Io(io::ErrorKind::WriteZero));
            }
            self.batch.advance(written);
        }
        self.last_write = Instant::now();
        self.batch.finish(self.metrics);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), CloseReason> {
        guard(&self.progress, self.io.flush()).await
    }

    /// What waits, and the notice of the drain.
    async fn say_goodbye(&mut self) -> Result<CloseReason, CloseReason> {
        self.batch.push_restarting(Restarting {
            reconnect_in: RESTART_RECONNECT_IN,
            try_for: RESTART_TRY_FOR,
        });
        self.write_batch().await?;
        self.flush().await?;
        Ok(CloseReason::Draining)
    }
}

impl<W> Drop for Writer<'_, W> {
    /// What was taken from the queue and perhaps not written is lost; the writer may end anywhere.
    fn drop(&mut self) {
        self.batch.fail(self.metrics);
    }
}

/// Runs a write to its end, as long as the transport takes a byte now and then.
async fn guard<T>(
    progress: &Progress,
    write: impl Future<Output = io::Result<T>>,
) -> Result<T, CloseReason> {
    let mut write = pin!(write);
    loop {
        let before = progress.bytes();
        match timeout(WRITE_STALL_TIMEOUT, write.as_mut()).await {
            Ok(result) => return result.map_err(|error| CloseReason::Io(error.kind())),
            Err(_) if progress.bytes() == before => return Err(CloseReason::WriteStalled),
            Err(_) => {}
        }
    }
}
