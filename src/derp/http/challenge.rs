//! The challenge of `/generate_204`: shows a client that no captive portal answers in our place.

/// The longest challenge that is echoed.
const BYTES_MAX: usize = 64;

/// The value of `X-Tailscale-Response` for a challenge, if it is one that may be echoed.
pub(super) fn response(challenge: &str) -> Option<String> {
    let is_harmless = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
    let fits = (1..=BYTES_MAX).contains(&challenge.len());
    (fits && challenge.bytes().all(is_harmless)).then(|| format!("response {challenge}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_short_and_harmless_challenges_are_echoed() {
        assert_eq!(
            response("ts_relay.example:1-2").unwrap(),
            "response ts_relay.example:1-2"
        );
        for refused in ["", "a b", "é", "a\tb", &"x".repeat(65)] {
            assert_eq!(response(refused), None, "{refused:?}");
        }
    }
}
