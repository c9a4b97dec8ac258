//! The wall clock, read in the drivers alone.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::types::Timestamp;

/// The present time; the Unix epoch when the clock stands before it.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
