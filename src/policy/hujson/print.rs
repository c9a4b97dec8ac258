//! Values as text again, for tests of the reader.

use std::fmt::Write;

use super::{Kind, Value};

/// The one canonical text of a value: JSON without white space.
pub(in crate::policy) fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write(&mut text, value, &mut || "");
    text
}

/// A text of the same value with what HuJSON allows beside JSON: after each token whatever `filler`
/// says (white space and comments), and commas behind the last elements.
pub(in crate::policy) fn loose(value: &Value, filler: &mut impl FnMut() -> &'static str) -> String {
    let mut text = filler().to_owned();
    write(&mut text, value, filler);
    text
}

fn write<F: FnMut() -> &'static str>(text: &mut String, value: &Value, filler: &mut F) {
    let token = |text: &mut String, token: &str, filler: &mut F| {
        text.push_str(token);
        text.push_str(filler());
    };
    match &value.kind {
        Kind::Null => token(text, "null", filler),
        Kind::Bool(flag) => token(text, &flag.to_string(), filler),
        Kind::Number(number) => token(text, number, filler),
        Kind::String(string) => token(text, &quoted(string), filler),
        Kind::Array(items) => {
            token(text, "[", filler);
            for (number, item) in items.iter().enumerate() {
                if number > 0 {
                    token(text, ",", filler);
                }
                write(text, item, filler);
            }
            close(text, "]", items.is_empty(), filler);
        }
        Kind::Object(members) => {
            token(text, "{", filler);
            for (number, member) in members.iter().enumerate() {
                if number > 0 {
                    token(text, ",", filler);
                }
                token(text, &quoted(&member.key), filler);
                token(text, ":", filler);
                write(text, &member.value, filler);
            }
            close(text, "}", members.is_empty(), filler);
        }
    }
}

fn close(
    text: &mut String,
    bracket: &str,
    is_empty: bool,
    filler: &mut impl FnMut() -> &'static str,
) {
    let extra = filler();
    if !extra.is_empty() && !is_empty {
        text.push(',');
        text.push_str(extra);
    }
    text.push_str(bracket);
    text.push_str(filler());
}

fn quoted(string: &str) -> String {
    let mut text = String::from("\"");
    for c in string.chars() {
        match c {
            '"' | '\\' => {
                text.push('\\');
                text.push(c);
            }
            c if c < ' ' => {
                let code = u32::from(c);
                write!(text, "\\u{code:04x}").unwrap();
            }
            c => text.push(c),
        }
    }
    text.push('"');
    text
}
