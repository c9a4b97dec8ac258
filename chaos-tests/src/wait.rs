//! Waiting for something to become true, with an end.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks. Short against everything that is measured with it.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks until `look` finds something, and says how long that took.
///
/// # Errors
/// After `limit`, naming `what`.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> Result<(T, Duration)> {
    let begin = Instant::now();
    loop {
        if let Some(found) = look().await {
            return Ok((found, begin.elapsed()));
        }
        if begin.elapsed() >= limit {
            bail!("not within {limit:?}: {what}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
