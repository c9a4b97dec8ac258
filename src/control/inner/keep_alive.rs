//! HTTP/2 pings: the cheapest way to notice a client that is gone, and what keeps the connection
//! alive in balancers and NATs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

/// Between an answer and the next ping: below the idle limits of common balancers.
const INTERVAL: Duration = Duration::from_secs(25);
/// For the answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Counts the pieces of large frames that the connection has taken after their first. Cloning shares
/// the count.
#[derive(Clone, Debug, Default)]
pub(in crate::control) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Notes another piece.
    pub(in crate::control) fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Ends when the client leaves a ping unanswered, unless a large frame is on its way to it: over a
/// thin line the ping arrives long after it was sent.
///
/// The first ping comes after a random part of the interval, so that clients that connected
/// together are not pinged together.
pub(super) async fn until_silent(pings: Option<PingPong>, progress: &Progress) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    sleep(INTERVAL.mul_f64(rand::random())).await;
    loop {
        let mut pong = std::pin::pin!(pings.ping(Ping::opaque()));
        loop {
            let before = progress.count();
            match timeout(TIMEOUT, &mut pong).await {
                Ok(Ok(_pong)) => break,
                // The connection itself reports why.
                Ok(Err(_)) => std::future::pending().await,
                Err(_) if progress.count() != before => {}
                Err(_) => return,
            }
        }
        sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    use tokio::task::JoinSet;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_is_silent_once_it_neither_answers_nor_takes_anything() {
        let (near, far) = duplex(16 * 1024);
        let handshakes = tokio::join!(h2::server::handshake(far), h2::client::handshake(near));
        let mut server = handshakes.0.unwrap();
        // Nobody drives it: it answers nothing.
        let _client = handshakes.1.unwrap();
        let pings = server.ping_pong();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { while server.accept().await.is_some() {} });
        let progress = Progress::default();
        let taken = progress.clone();
        let start = Instant::now();
        tasks.spawn(async move {
            for _ in 0..20 {
                sleep(TIMEOUT / 2).await;
                taken.note();
            }
        });
        until_silent(pings, &progress).await;
        let silent = start.elapsed();
        assert!(
            silent >= 10 * TIMEOUT && silent <= 13 * TIMEOUT,
            "{silent:?}"
        );
    }
}
