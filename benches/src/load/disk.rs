use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::quantile;

/// About what one registration writes to the log.
const RECORD_BYTES: usize = 1024;

/// How fast a disk makes small appends durable, one after another.
#[derive(Clone, Copy, Debug)]
pub struct SyncRate {
    /// Appends per second.
    pub per_second: f64,
    /// Half of them took less.
    pub median: Duration,
    /// Ninety-nine of a hundred took less.
    pub p99: Duration,
}

/// Appends and `fdatasync`s in `folder` for so long.
///
/// # Errors
/// When the folder cannot be written.
pub fn sync_rate(folder: &Path, seconds: Duration) -> Result<SyncRate> {
    let path = folder.join("hs-load.sync");
    let mut file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let record = [7u8; RECORD_BYTES];
    let begin = Instant::now();
    let mut took = Vec::new();
    while begin.elapsed() < seconds {
        let one = Instant::now();
        file.write_all(&record)?;
        file.sync_data()?;
        took.push(one.elapsed());
    }
    let elapsed = begin.elapsed();
    std::fs::remove_file(&path)?;
    took.sort();
    #[expect(clippy::cast_precision_loss, reason = "a count below 2^52")]
    let per_second = took.len() as f64 / elapsed.as_secs_f64();
    Ok(SyncRate {
        per_second,
        median: quantile(&took, 0.5),
        p99: quantile(&took, 0.99),
    })
}
