//! Times as tables show them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::time::OffsetDateTime;

use crate::types::Timestamp;

use super::table::Cell;
use super::value::Value;

/// The machine's clock.
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// When something of this life ends, as a request says it.
pub(super) fn after(life: Duration) -> String {
    now().saturating_add(life).to_string()
}

/// The time in a member; `None` when it is absent or Go's zero time.
pub(super) fn of(value: &Value, name: &str) -> Option<Timestamp> {
    value
        .text(name)
        .parse()
        .ok()
        .filter(|time: &Timestamp| !time.is_go_zero())
}

/// `2006-01-02 15:04:05`, in UTC; empty when absent.
pub(super) fn shown(value: &Value, name: &str) -> String {
    of(value, name).map(format).unwrap_or_default()
}

/// An expiry: green when it lies ahead, red when it has passed.
pub(super) fn expiry(value: &Value, name: &str, absent: &str) -> Cell {
    match of(value, name) {
        Some(at) => Cell::judged(format(at), at > now()),
        None if value.text(name).is_empty() => absent.into(),
        None => Cell::judged("0001-01-01 00:00:00", false),
    }
}

fn format(at: Timestamp) -> String {
    let seconds = at.unix_ms().div_euclid(1000);
    let Ok(time) = OffsetDateTime::from_unix_timestamp(seconds) else {
        return at.to_string();
    };
    format!(
        "{} {:02}:{:02}:{:02}",
        time.date(),
        time.hour(),
        time.minute(),
        time.second()
    )
}
