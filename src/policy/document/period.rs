//! Durations as Go reads and prints them.

use std::time::Duration;

/// A duration with a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Period {
    pub(super) is_negative: bool,
    pub(super) length: Duration,
}

const UNITS: [(&str, f64); 8] = [
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("μs", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
];
/// Go's durations are 64-bit nanoseconds, about 292 years.
const SECONDS_MAX: f64 = 9_223_372_036.0;

/// Reads `1h30m`, `-5s`, `0`.
pub(super) fn parse_period(text: &str) -> Result<Period, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_negative = text.starts_with('-');
    let mut seconds = 0.0;
    let mut rest = unsigned;
    if rest == "0" {
        rest = "";
    } else if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(|| format!("time: missing unit in duration {text:?}"))?;
        let (number, tail) = rest.split_at(digits);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let known = UNITS.iter().find(|(name, _)| *name == unit);
        let Some((_, scale)) = known else {
            return Err(format!("time: unknown unit {unit:?} in duration {text:?}"));
        };
        seconds += number * scale;
        rest = tail;
    }
    if seconds > SECONDS_MAX {
        return Err(invalid());
    }
    Ok(Period {
        is_negative: is_negative && seconds > 0.0,
        length: Duration::from_secs_f64(seconds),
    })
}

/// Prints as Go does: `168h0m1s`, `-1m0s`, `0s`.
pub(super) fn go_duration(period: &Period) -> String {
    let sign = if period.is_negative { "-" } else { "" };
    let total = period.length.as_secs();
    let (hours, minutes, seconds) = (total / 3600, total / 60 % 60, total % 60);
    let nanos = period.length.subsec_nanos();
    let mut fraction = String::new();
    if nanos > 0 {
        let digits = format!("{nanos:09}");
        fraction = format!(".{}", digits.trim_end_matches('0'));
    }
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}{fraction}s"),
        (0, _) => format!("{sign}{minutes}m{seconds}{fraction}s"),
        _ => format!("{sign}{hours}h{minutes}m{seconds}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_printed_as_go_does() {
        let shown = |text| parse_period(text).map(|period| go_duration(&period));
        assert_eq!(shown("168h1s").unwrap(), "168h0m1s");
        assert_eq!(shown("200h").unwrap(), "200h0m0s");
        assert_eq!(shown("-1m").unwrap(), "-1m0s");
        assert_eq!(shown("0s").unwrap(), "0s");
        assert_eq!(shown("0").unwrap(), "0s");
        assert_eq!(shown("1.5h").unwrap(), "1h30m0s");
        assert_eq!(shown("abc").unwrap_err(), "time: invalid duration \"abc\"");
        assert!(shown("5").unwrap_err().contains("missing unit"));
        assert!(shown("5d").unwrap_err().contains("unknown unit"));
        assert!(shown("").is_err());
        assert!(shown("99999999999h").is_err());
    }
}
