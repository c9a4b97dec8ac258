//! Text that reaches clients inside a netmap.

/// The text without characters that JSON must escape. tailscale-rs borrows strings from the message
/// and drops the whole map stream at the first escape, so one host name with a quote in it would
/// cut off every such client of the tailnet.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .filter(|c| !matches!(c, '"' | '\\') && !c.is_control())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotes_backslashes_and_control_characters_go_and_the_rest_stays() {
        assert_eq!(plain("Zoë's \"Mac\\Book\"\n\u{7f}<>&"), "Zoë's MacBook<>&");
    }

    proptest! {
        #[test]
        fn plain_text_is_written_without_escapes(text in any::<String>()) {
            let json = serde_json::to_string(&plain(&text)).unwrap();
            prop_assert!(!json.contains('\\'));
        }
    }
}
