//! HTTP/2 pings: the cheapest way to notice a client that is gone, and what keeps the connection
//! alive in balancers and NATs.

use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

/// Between an answer and the next ping: below the idle limits of common balancers.
const INTERVAL: Duration = Duration::from_secs(25);
/// For the answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Ends when the client leaves a ping unanswered.
///
/// The first ping comes after a random part of the interval, so that clients that connected
/// together are not pinged together.
pub(super) async fn until_silent(pings: Option<PingPong>) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    sleep(INTERVAL.mul_f64(rand::random())).await;
    loop {
        match timeout(TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_pong)) => sleep(INTERVAL).await,
            // The connection itself reports why.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}
