//! Durations as Go (`1h30m`) and Prometheus (`180d`) write them.

use std::time::Duration;

/// Text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Nothing, or nothing that starts with a number.
    #[error("is not a duration; write for example {0}")]
    Syntax(&'static str),
    /// A number without a unit, or with an unknown one.
    #[error("needs a unit behind each number; write for example {0}")]
    Unit(&'static str),
    /// Less than nothing.
    #[error("must not be negative")]
    Negative,
    /// More than can be counted.
    #[error("is too long")]
    TooLong,
}

const GO_EXAMPLE: &str = "30s, 10m or 1h30m";
const PROMETHEUS_EXAMPLE: &str = "1h30m, 90d or 1y";

/// Longest first where one unit begins another.
const GO_UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// In the order in which they must appear.
const PROMETHEUS_UNITS: [(&str, u64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Reads Go's form: numbers with units `ns us ms s m h`; a bare whole number means nanoseconds.
///
/// # Errors
/// Says what is wrong; negative durations are refused.
pub fn parse_go_duration(text: &str) -> Result<Duration, DurationError> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix('-') {
        return match parse_go_duration(rest)? {
            Duration::ZERO => Ok(Duration::ZERO),
            _ => Err(DurationError::Negative),
        };
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if let Ok(nanos) = rest.parse::<u64>() {
        return Ok(Duration::from_nanos(nanos));
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, after) = split_number(rest).ok_or(DurationError::Syntax(GO_EXAMPLE))?;
        let (unit, after) = split_unit(after);
        let nanos = GO_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, nanos)| *nanos)
            .ok_or(DurationError::Unit(GO_EXAMPLE))?;
        let part = scaled(number, nanos)?;
        total = total.checked_add(part).ok_or(DurationError::TooLong)?;
        rest = after;
    }
    if text.is_empty() {
        Err(DurationError::Syntax(GO_EXAMPLE))
    } else {
        Ok(total)
    }
}

/// Reads Prometheus' form: whole numbers with units `y w d h m s ms`, largest first; `0` alone is
/// allowed. A year has 365 days.
///
/// # Errors
/// Says what is wrong.
pub fn parse_prometheus_duration(text: &str) -> Result<Duration, DurationError> {
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.starts_with('-') {
        return Err(DurationError::Negative);
    }
    let (mut rest, mut total_ms, mut position) = (text, 0_u64, 0);
    while !rest.is_empty() {
        let (number, after) =
            split_number(rest).ok_or(DurationError::Syntax(PROMETHEUS_EXAMPLE))?;
        let (unit, after) = split_unit(after);
        let offset = PROMETHEUS_UNITS
            .iter()
            .skip(position)
            .position(|(name, _)| *name == unit)
            .ok_or(DurationError::Unit(PROMETHEUS_EXAMPLE))?;
        let (_, unit_ms) = PROMETHEUS_UNITS[position + offset];
        position += offset + 1;
        let number: u64 = number
            .parse()
            .map_err(|_| DurationError::Syntax(PROMETHEUS_EXAMPLE))?;
        total_ms = number
            .checked_mul(unit_ms)
            .and_then(|part| total_ms.checked_add(part))
            .ok_or(DurationError::TooLong)?;
        rest = after;
    }
    if text.is_empty() {
        return Err(DurationError::Syntax(PROMETHEUS_EXAMPLE));
    }
    Ok(Duration::from_millis(total_ms))
}

fn split_number(text: &str) -> Option<(&str, &str)> {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    text.split_at_checked(end)
        .filter(|(number, _)| !number.is_empty())
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| c.is_ascii_digit() || c == '.')
        .unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// `number` (decimal, perhaps with a fraction) times `unit_nanos`.
fn scaled(number: &str, unit_nanos: u64) -> Result<Duration, DurationError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return Err(DurationError::Syntax(GO_EXAMPLE));
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| DurationError::TooLong)?
    };
    let mut nanos = u128::from(whole) * u128::from(unit_nanos);
    let mut place = u128::from(unit_nanos);
    for digit in fraction.chars().filter_map(|c| c.to_digit(10)) {
        place /= 10;
        nanos += u128::from(digit) * place;
    }
    u64::try_from(nanos)
        .map(Duration::from_nanos)
        .map_err(|_| DurationError::TooLong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_read_as_in_go() {
        for (text, nanos) in [
            ("0", 0),
            ("30m", 1_800_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("100ms", 100_000_000),
            ("5µs", 5_000),
            ("800", 800),
        ] {
            assert_eq!(
                parse_go_duration(text),
                Ok(Duration::from_nanos(nanos)),
                "{text}"
            );
        }
    }

    #[test]
    fn go_durations_know_no_days_and_no_negatives() {
        assert_eq!(
            parse_go_duration("180d"),
            Err(DurationError::Unit(GO_EXAMPLE))
        );
        assert_eq!(parse_go_duration("-5s"), Err(DurationError::Negative));
        assert_eq!(
            parse_go_duration(""),
            Err(DurationError::Syntax(GO_EXAMPLE))
        );
        assert_eq!(
            parse_go_duration("99999999999h"),
            Err(DurationError::TooLong)
        );
    }

    #[test]
    fn prometheus_durations_go_from_years_to_milliseconds() {
        let day = 86_400;
        for (text, secs) in [
            ("0", 0),
            ("180d", 180 * day),
            ("1y2w", 379 * day),
            ("1h30m", 5_400),
            ("90s", 90),
        ] {
            assert_eq!(
                parse_prometheus_duration(text),
                Ok(Duration::from_secs(secs)),
                "{text}"
            );
        }
        assert!(parse_prometheus_duration("30m1h").is_err());
        assert!(parse_prometheus_duration("1.5h").is_err());
        assert!(parse_prometheus_duration("12").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_either_parser(text in "\\PC{0,40}") {
            let _ = parse_go_duration(&text);
            let _ = parse_prometheus_duration(&text);
        }
    }
}
