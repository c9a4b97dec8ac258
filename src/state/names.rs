//! Names: DNS labels made of host names, and the rules for names that people choose.
//!
//! The label of a node follows Tailscale's `dnsname.SanitizeHostname`; a label that is taken gets
//! `-1`, `-2`, … as in headscale. Unlike there, the label is shortened so that it still fits into
//! 63 bytes with its suffix.

use super::convert::FieldError;

/// The longest DNS label (RFC 1035 §2.3.4).
pub(super) const MAX_LABEL_BYTES: usize = 63;

/// The longest name, address or URL of a user, and the longest host name and tag: all are shown in
/// tables and copied into every netmap.
pub(super) const MAX_TEXT_BYTES: usize = 255;

/// The label of a host whose name has no usable character.
const FALLBACK_LABEL: &str = "node";

/// The DNS label that a host name gives.
pub(super) fn label_of(hostname: &str) -> String {
    let mut name = hostname;
    for suffix in [".local", ".localdomain", ".lan"] {
        name = name.strip_suffix(suffix).unwrap_or(name);
    }
    let bytes = name.as_bytes();
    let bytes = bytes.get(..MAX_LABEL_BYTES).unwrap_or(bytes);
    let start = bytes.iter().position(u8::is_ascii_alphanumeric);
    let end = bytes.iter().rposition(u8::is_ascii_alphanumeric);
    let inner = start
        .zip(end)
        .and_then(|(start, end)| bytes.get(start..=end))
        .unwrap_or_default();
    let label: String = inner.iter().filter_map(|byte| label_char(*byte)).collect();
    if label.is_empty() {
        FALLBACK_LABEL.to_owned()
    } else {
        label
    }
}

fn label_char(byte: u8) -> Option<char> {
    match byte {
        b' ' | b'.' | b'@' | b'_' | b'-' => Some('-'),
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => Some(char::from(byte.to_ascii_lowercase())),
        _ => None,
    }
}

/// The first of `base`, `base-1`, `base-2`, … that is free. `first_free` says from which number on
/// to look, for a base that is never shortened.
pub(super) fn free_label(
    base: &str,
    first_free: impl FnOnce(&str) -> u64,
    is_taken: impl Fn(&str) -> bool,
) -> String {
    if !is_taken(base) {
        return base.to_owned();
    }
    let mut number = if base.len() <= LONGEST_WHOLE_BASE {
        first_free(base)
    } else {
        1
    };
    loop {
        let label = suffixed(base, &number.to_string());
        if !is_taken(&label) {
            return label;
        }
        number += 1;
    }
}

/// A base of this length has room for any number: a dash and the 20 digits of the greatest one.
const LONGEST_WHOLE_BASE: usize = MAX_LABEL_BYTES - 21;

/// The base and the number of a label `base-number`.
pub(super) fn split_number(label: &str) -> Option<(&str, u64)> {
    let (base, digits) = label.rsplit_once('-')?;
    let number: u64 = digits.parse().ok()?;
    (number > 0 && number.to_string() == digits).then_some((base, number))
}

/// Whether the label is the one that the host name gives, with or without a number, so that it
/// follows the host name; an administrator's choice does not.
pub(super) fn is_derived(label: &str, hostname: &str) -> bool {
    let base = label_of(hostname);
    if label == base {
        return true;
    }
    label.rsplit_once('-').is_some_and(|(_, number)| {
        !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
            && suffixed(&base, number) == label
    })
}

fn suffixed(base: &str, number: &str) -> String {
    let room = MAX_LABEL_BYTES.saturating_sub(number.len() + 1);
    format!("{}-{number}", base.get(..room).unwrap_or(base))
}

/// The label that an administrator chose, in lower case.
pub(super) fn chosen_label(name: &str) -> Result<String, FieldError> {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let outside = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    if bytes.len() > MAX_LABEL_BYTES {
        return Err(FieldError(format!(
            "given name is not a valid DNS label: {} bytes are more than {MAX_LABEL_BYTES}",
            bytes.len()
        )));
    }
    if !outside(bytes.first()) || !outside(bytes.last()) || !bytes.iter().all(|b| inside(*b)) {
        return Err(FieldError(format!(
            "given name is not a valid DNS label: {name:?}; use letters, digits and, inside, dashes"
        )));
    }
    Ok(name.to_ascii_lowercase())
}

/// Checks the name of a user.
pub(super) fn check_user_name(name: &str) -> Result<(), FieldError> {
    let error = |text: &str| Err(FieldError(format!("{text}: {name:?}")));
    check_text(name)?;
    if name.len() < 2 {
        return error("username must be at least 2 characters long");
    }
    if !name.starts_with(char::is_alphabetic) {
        return error("username must start with a letter");
    }
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_' | '@');
    if let Some(c) = name.chars().find(|c| !allowed(*c)) {
        return Err(FieldError(format!(
            "username contains invalid character: {c:?} in {name:?}"
        )));
    }
    if name.matches('@').count() > 1 {
        return error("username cannot contain more than one '@'");
    }
    Ok(())
}

/// Checks any text that people see: no quotes, backslashes or control characters, not too long.
pub(super) fn check_text(text: &str) -> Result<(), FieldError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(FieldError(format!(
            "text of {} bytes is longer than the allowed {MAX_TEXT_BYTES}",
            text.len()
        )));
    }
    match text.chars().find(|c| is_unsafe(*c)) {
        Some(c) => Err(FieldError(format!(
            "text contains invalid character: {c:?} in {text:?}; leave it out"
        ))),
        None => Ok(()),
    }
}

fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '"' | '\\')
}

/// A host name as it is stored: clients choose it freely, so what could upset a terminal or a log
/// is left out and the rest is cut to a bounded length.
pub(super) fn stored_hostname(hostname: &str) -> String {
    let mut text = String::new();
    for c in hostname.chars().filter(|c| !is_unsafe(*c)) {
        if text.len() + c.len_utf8() > MAX_TEXT_BYTES {
            break;
        }
        text.push(c);
    }
    text
}

/// headscale's words for tags that somebody may not set.
pub(crate) fn tags_not_permitted(tags: &[&str]) -> String {
    format!(
        "requested tags [{}] are invalid or not permitted",
        tags.join(" ")
    )
}

/// Checks tags and brings them into their stored form: sorted, each once.
pub(super) fn checked_tags(tags: &[String]) -> Result<Vec<String>, FieldError> {
    if tags.len() > MAX_TAGS {
        return Err(FieldError(format!(
            "{} tags are more than {MAX_TAGS}",
            tags.len()
        )));
    }
    for tag in tags {
        check_tag(tag)?;
    }
    let mut tags = tags.to_vec();
    tags.sort();
    tags.dedup();
    Ok(tags)
}

/// Tags that one node or key may have: each is a term of the policy, and real nodes have a few.
const MAX_TAGS: usize = 128;

fn check_tag(tag: &str) -> Result<(), FieldError> {
    check_text(tag)?;
    let error = |text: &str| Err(FieldError(format!("{text}: {tag:?}")));
    match tag.strip_prefix("tag:") {
        None => error("tag must start with the string 'tag:'"),
        Some("") => error("tag must have a name behind 'tag:'"),
        Some(_) if tag.to_lowercase() != tag => error("tag should be lowercase"),
        Some(name) if name.contains(char::is_whitespace) => error("tags must not contain spaces"),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_become_labels_as_in_tailscale() {
        let long = "a".repeat(70);
        let cases = [
            ("Laptop", "laptop"),
            ("My Laptop.local", "my-laptop"),
            ("host.localdomain", "host"),
            ("host.lan.local", "host"),
            ("host.local.lan", "host-local"),
            ("web_1.example.com", "web-1-example-com"),
            ("--edge--", "edge"),
            ("a..b", "a--b"),
            ("Bob's MacBook Pro (2)", "bobs-macbook-pro-2"),
            ("caf\u{e9}-x", "caf-x"),
            ("\u{65e5}\u{672c}", "node"),
            ("", "node"),
            ("...", "node"),
            (".local", "node"),
            ("7", "7"),
            (long.as_str(), &long[..63]),
        ];
        for (hostname, label) in cases {
            assert_eq!(label_of(hostname), label, "{hostname:?}");
        }
    }

    #[test]
    fn the_cut_happens_before_the_ends_are_trimmed() {
        let name = format!("{}-.b", "a".repeat(61));
        assert_eq!(label_of(&name), "a".repeat(61));
    }

    #[test]
    fn taken_labels_get_the_first_free_number_and_stay_labels() {
        let taken = ["web", "web-1", "web-3"];
        let is_taken = |label: &str| taken.contains(&label);
        assert_eq!(free_label("web", |_| 1, is_taken), "web-2");
        assert_eq!(free_label("web", |_| 2, is_taken), "web-2");
        assert_eq!(free_label("db", |_| 1, is_taken), "db");
        let long = "a".repeat(63);
        let label = free_label(&long, |_| 9, |label| label == long);
        assert_eq!(label, format!("{}-1", "a".repeat(61)));
        assert!(is_derived(&label, &long));
    }

    #[test]
    fn numbers_are_split_off_only_in_the_form_in_which_they_are_put_on() {
        assert_eq!(split_number("web-12"), Some(("web", 12)));
        assert_eq!(split_number("web-1-2"), Some(("web-1", 2)));
        for label in [
            "web",
            "web-",
            "web-0",
            "web-01",
            "web-+1",
            "web-99999999999999999999",
        ] {
            assert_eq!(split_number(label), None, "{label}");
        }
    }

    #[test]
    fn only_derived_labels_follow_the_host_name() {
        for (label, hostname, derived) in [
            ("web", "Web.local", true),
            ("web-12", "web", true),
            ("web-x", "web", false),
            ("web-", "web", false),
            ("other", "web", false),
            ("node-2", "\u{65e5}", true),
            ("web-1", "web-1", true),
        ] {
            assert_eq!(is_derived(label, hostname), derived, "{label} {hostname}");
        }
    }

    #[test]
    fn chosen_labels_are_lowered_and_checked() {
        assert_eq!(chosen_label("My-Host1"), Ok("my-host1".to_owned()));
        for name in [
            "",
            "-a",
            "a-",
            "a.b",
            "a b",
            "a\"",
            "a\\",
            "a\u{1b}",
            "\u{e9}",
            &"a".repeat(64),
        ] {
            assert!(chosen_label(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn tags_are_sorted_unique_and_checked() {
        let tags = |tags: &[&str]| -> Vec<String> { tags.iter().map(|t| (*t).into()).collect() };
        assert_eq!(
            checked_tags(&tags(&["tag:web", "tag:db", "tag:web"])),
            Ok(tags(&["tag:db", "tag:web"]))
        );
        for tag in ["web", "tag:", "tag:Web", "tag:a b", "tag:a\"b", "tag:a\n"] {
            let error = checked_tags(&tags(&[tag])).unwrap_err();
            assert!(error.to_string().contains(&format!("{tag:?}")), "{error}");
        }
    }

    #[test]
    fn stored_host_names_are_short_and_safe() {
        assert_eq!(stored_hostname("Bob's \"Mac\"\u{1b}[31m"), "Bob's Mac[31m");
        assert_eq!(stored_hostname(&"\u{e9}".repeat(200)).len(), 254);
    }
}
