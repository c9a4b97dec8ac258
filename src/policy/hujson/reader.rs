//! The reader: one pass, one character ahead.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

use super::{DEPTH_MAX, Kind, Member, PolicyError, Position, TEXT_BYTES_MAX, Value};

pub(super) struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    at: Position,
    depth: usize,
}

type Read<T> = Result<T, PolicyError>;

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Read<Self> {
        let reader = Self {
            rest: text.chars().peekable(),
            at: Position { line: 1, column: 1 },
            depth: 0,
        };
        if text.len() > TEXT_BYTES_MAX {
            let length = text.len();
            return reader.fail(format!(
                "the text has {length} bytes, {TEXT_BYTES_MAX} are allowed"
            ));
        }
        Ok(reader)
    }

    /// Whether the first value is an object, or there is none.
    pub(super) fn begins(&mut self) -> bool {
        self.skip().is_err() || matches!(self.rest.peek(), None | Some('{'))
    }

    pub(super) fn document(&mut self) -> Read<Option<Value>> {
        self.skip()?;
        if self.rest.peek().is_none() {
            return Ok(None);
        }
        let value = self.value()?;
        self.skip()?;
        match self.rest.peek() {
            None => Ok(Some(value)),
            Some(_) => self.fail("unexpected text after the policy"),
        }
    }

    fn fail<T>(&self, message: impl Into<String>) -> Read<T> {
        Err(PolicyError {
            at: self.at,
            message: format!("parsing HuJSON: {}", message.into()),
        })
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.next()?;
        if next == '\n' {
            self.at.line = self.at.line.saturating_add(1);
            self.at.column = 1;
        } else {
            self.at.column = self.at.column.saturating_add(1);
        }
        Some(next)
    }

    /// Takes the next character if it is this one.
    fn take(&mut self, wanted: char) -> bool {
        let found = self.rest.peek() == Some(&wanted);
        if found {
            self.next();
        }
        found
    }

    /// White space and comments.
    fn skip(&mut self) -> Read<()> {
        loop {
            match self.rest.peek() {
                Some(' ' | '\t' | '\r' | '\n') => {
                    self.next();
                }
                Some('/') => self.comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn comment(&mut self) -> Read<()> {
        self.next();
        if self.take('/') {
            while self.next().is_some_and(|next| next != '\n') {}
            return Ok(());
        }
        if !self.take('*') {
            return self.fail("expected a comment after '/'");
        }
        while let Some(next) = self.next() {
            if next == '*' && self.take('/') {
                return Ok(());
            }
        }
        self.fail("comment without an end")
    }

    fn value(&mut self) -> Read<Value> {
        let at = self.at;
        let kind = match self.rest.peek().copied() {
            Some('{') => Kind::Object(self.nested(Self::object)?),
            Some('[') => Kind::Array(self.nested(Self::array)?),
            Some('"') => Kind::String(self.string()?),
            Some('-' | '0'..='9') => Kind::Number(self.number()?),
            Some('a'..='z') => self.word()?,
            Some(other) => return self.fail(format!("unexpected character {other:?}")),
            None => return self.fail("unexpected end of the text"),
        };
        Ok(Value { at, kind })
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<T> {
        if self.depth >= DEPTH_MAX {
            return self.fail(format!("nested deeper than {DEPTH_MAX} levels"));
        }
        self.depth += 1;
        self.next();
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn object(&mut self) -> Read<Vec<Member>> {
        let mut members: Vec<Member> = Vec::new();
        let mut seen = BTreeSet::new();
        loop {
            self.skip()?;
            if self.take('}') {
                return Ok(members);
            }
            let at = self.at;
            if self.rest.peek() != Some(&'"') {
                return self.fail("expected a key in double quotes or '}'");
            }
            let key = self.string()?;
            if !seen.insert(key.clone()) {
                let message = format!("parsing HuJSON: duplicate object key {key:?}");
                return Err(PolicyError { at, message });
            }
            self.skip()?;
            if !self.take(':') {
                return self.fail("expected ':' after the key");
            }
            self.skip()?;
            let value = self.value()?;
            members.push(Member { at, key, value });
            if self.ends('}')? {
                return Ok(members);
            }
        }
    }

    fn array(&mut self) -> Read<Vec<Value>> {
        let mut items = Vec::new();
        loop {
            self.skip()?;
            if self.take(']') {
                return Ok(items);
            }
            items.push(self.value()?);
            if self.ends(']')? {
                return Ok(items);
            }
        }
    }

    /// What follows an element: the end, or a comma.
    fn ends(&mut self, close: char) -> Read<bool> {
        self.skip()?;
        if self.take(close) {
            return Ok(true);
        }
        if self.take(',') {
            return Ok(false);
        }
        self.fail(format!("expected ',' or '{close}'"))
    }

    fn word(&mut self) -> Read<Kind> {
        let at = self.at;
        let mut word = String::new();
        while let Some(next) = self.rest.next_if(char::is_ascii_lowercase) {
            self.at.column = self.at.column.saturating_add(1);
            word.push(next);
        }
        match word.as_str() {
            "null" => Ok(Kind::Null),
            "true" => Ok(Kind::Bool(true)),
            "false" => Ok(Kind::Bool(false)),
            _ => Err(PolicyError {
                at,
                message: format!("parsing HuJSON: unexpected word {word:?}"),
            }),
        }
    }

    fn number(&mut self) -> Read<String> {
        let at = self.at;
        let mut text = String::new();
        let part = |c: &char| matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E');
        while let Some(next) = self.rest.next_if(part) {
            self.at.column = self.at.column.saturating_add(1);
            text.push(next);
        }
        if serde_json::from_str::<serde_json::Number>(&text).is_err() {
            let message = format!("parsing HuJSON: invalid number {text:?}");
            return Err(PolicyError { at, message });
        }
        Ok(text)
    }

    fn string(&mut self) -> Read<String> {
        self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escape()?),
                Some(c) if c < ' ' => return self.fail("control character in a string"),
                Some(c) => text.push(c),
                None => return self.fail("string without an end"),
            }
        }
    }

    fn escape(&mut self) -> Read<char> {
        match self.next() {
            Some(c @ ('"' | '\\' | '/')) => Ok(c),
            Some('b') => Ok('\u{8}'),
            Some('f') => Ok('\u{c}'),
            Some('n') => Ok('\n'),
            Some('r') => Ok('\r'),
            Some('t') => Ok('\t'),
            Some('u') => self.unicode(),
            _ => self.fail("invalid escape in a string"),
        }
    }

    /// `\uXXXX`, or two of them for a character beyond the first plane.
    fn unicode(&mut self) -> Read<char> {
        let high = self.hex()?;
        let code = if (0xd800..0xdc00).contains(&high) && self.take('\\') && self.take('u') {
            let low = self.hex()?;
            if !(0xdc00..0xe000).contains(&low) {
                return self.fail("invalid surrogate pair in a string");
            }
            0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)
        } else {
            high
        };
        match char::from_u32(code) {
            Some(c) => Ok(c),
            None => self.fail("invalid escape in a string"),
        }
    }

    fn hex(&mut self) -> Read<u32> {
        let mut value = 0;
        for _ in 0..4 {
            let Some(digit) = self.next().and_then(|c| c.to_digit(16)) else {
                return self.fail("invalid escape in a string");
            };
            value = value * 16 + digit;
        }
        Ok(value)
    }
}
