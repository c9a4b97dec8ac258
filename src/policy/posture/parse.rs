//! Conditions as they are written.

use super::{Comparison, Condition, Kind, Literal, Position, kind};

impl Condition {
    /// Reads a condition; one that could never be decided is an error.
    pub(in crate::policy) fn parse(text: &str, at: Position) -> Result<Self, String> {
        let said = |why: String| format!("posture condition {text:?}: {why}");
        let mut cursor = Cursor { rest: text.trim() };
        let attribute = cursor.attribute().map_err(said)?;
        let comparison = cursor.comparison().map_err(said)?;
        if !cursor.rest.is_empty() {
            return Err(said(format!("unexpected {:?}", cursor.rest)));
        }
        let condition = Self {
            at,
            attribute,
            comparison,
        };
        condition.check().map_err(said)?;
        Ok(condition)
    }

    fn check(&self) -> Result<(), String> {
        let attribute = &self.attribute;
        let Some(kind) = kind(attribute) else {
            return Err(format!("there is no attribute {attribute:?}"));
        };
        if kind == Kind::Any && self.comparison == Comparison::NotSet {
            return Err(format!(
                "{attribute:?} is not set on any device here, so that every device would do"
            ));
        }
        let (literals, needs_order) = self.comparison.literals();
        for literal in literals {
            let fits = match (kind, literal) {
                (Kind::Text, Literal::Text(_)) => !needs_order,
                (Kind::Version, Literal::Text(_)) => true,
                (Kind::Bool, Literal::Bool(_)) => !needs_order,
                (Kind::Any, Literal::Number(_)) => true,
                (Kind::Any, Literal::Text(_) | Literal::Bool(_)) => !needs_order,
                _ => false,
            };
            if !fits {
                return Err(format!("{attribute:?} cannot be compared with that"));
            }
        }
        Ok(())
    }
}

impl Comparison {
    /// What is compared with, and whether that is more than a test for equality.
    fn literals(&self) -> (&[Literal], bool) {
        match self {
            Self::Is(literal) | Self::IsNot(literal) => (std::slice::from_ref(literal), false),
            Self::Below(literal)
            | Self::AtMost(literal)
            | Self::Above(literal)
            | Self::AtLeast(literal) => (std::slice::from_ref(literal), true),
            Self::In(literals) | Self::NotIn(literals) => (literals, false),
            Self::IsSet | Self::NotSet => (&[], false),
        }
    }
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn run(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        let (run, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        run
    }

    fn take(&mut self, token: &str) -> bool {
        let rest = self.rest.strip_prefix(token);
        if let Some(rest) = rest {
            self.rest = rest.trim_start();
        }
        rest.is_some()
    }

    fn attribute(&mut self) -> Result<String, String> {
        let name = self.run(|c| c.is_ascii_alphanumeric() || "_:.-".contains(c));
        match name.split_once(':') {
            Some((space, name)) if !space.is_empty() && !name.is_empty() => {}
            _ => return Err("expected an attribute, as in node:os".to_owned()),
        }
        Ok(name.to_owned())
    }

    fn comparison(&mut self) -> Result<Comparison, String> {
        // Longer operators first.
        for (sign, comparison) in [
            ("==", Comparison::Is as fn(Literal) -> Comparison),
            ("!=", Comparison::IsNot),
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("<", Comparison::Below),
            (">", Comparison::Above),
        ] {
            if self.take(sign) {
                return self.literal().map(comparison);
            }
        }
        let mut word = || self.run(|c| c.is_ascii_alphabetic()).to_ascii_uppercase();
        let words = match word().as_str() {
            "IN" => return self.list().map(Comparison::In),
            first => (first.to_owned(), word()),
        };
        match (words.0.as_str(), words.1.as_str()) {
            ("NOT", "IN") => self.list().map(Comparison::NotIn),
            ("IS", "SET") => Ok(Comparison::IsSet),
            ("NOT", "SET") => Ok(Comparison::NotSet),
            _ => Err(
                "expected one of ==, !=, <, <=, >, >=, IN, NOT IN, IS SET and NOT SET".to_owned(),
            ),
        }
    }

    fn list(&mut self) -> Result<Vec<Literal>, String> {
        if !self.take("[") {
            return Err("expected a list in square brackets".to_owned());
        }
        let mut literals = Vec::new();
        while !self.take("]") {
            literals.push(self.literal()?);
            if !self.take(",") && !self.rest.starts_with(']') {
                return Err("expected ',' or ']'".to_owned());
            }
        }
        Ok(literals)
    }

    fn literal(&mut self) -> Result<Literal, String> {
        for quote in ["'", "\""] {
            if let Some(rest) = self.rest.strip_prefix(quote) {
                let Some((text, rest)) = rest.split_once(quote) else {
                    return Err("text without an end".to_owned());
                };
                self.rest = rest.trim_start();
                return Ok(Literal::Text(text.to_owned()));
            }
        }
        let word = self.run(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        match word {
            "true" => Ok(Literal::Bool(true)),
            "false" => Ok(Literal::Bool(false)),
            // Numbers only: Rust would read `inf` and `nan`, too.
            _ if word.contains(|c: char| c.is_ascii_digit()) => match word.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(Literal::Number(number)),
                _ => Err(format!("{word:?} is not a number")),
            },
            _ => Err("expected a text in quotes, a number, true or false".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Comparison, String> {
        Condition::parse(text, Position::default()).map(|condition| condition.comparison)
    }

    fn text(text: &str) -> Literal {
        Literal::Text(text.to_owned())
    }

    #[test]
    fn every_operator_is_read_in_any_case_and_spacing() {
        use Comparison::{AtLeast, Below, In, Is, IsNot, IsSet, NotIn, NotSet};
        assert_eq!(read("node:os=='linux'"), Ok(Is(text("linux"))));
        assert_eq!(read("  node:os != \"js\" "), Ok(IsNot(text("js"))));
        assert_eq!(read("node:tsVersion >= '1.40'"), Ok(AtLeast(text("1.40"))));
        assert_eq!(
            read("custom:score < -2.5"),
            Ok(Below(Literal::Number(-2.5)))
        );
        assert_eq!(
            read("ip:country in ['CA', 'US',]"),
            Ok(In(vec![text("CA"), text("US")]))
        );
        assert_eq!(read("node:os NOT IN []"), Ok(NotIn(vec![])));
        assert_eq!(read("custom:tier is  set"), Ok(IsSet));
        assert_eq!(read("node:tsStateEncrypted NOT SET"), Ok(NotSet));
    }

    #[test]
    fn what_cannot_be_decided_is_refused() {
        let refused = |text: &str| read(text).unwrap_err();
        assert!(refused("os == 'linux'").contains("expected an attribute"));
        assert!(refused("node:shoe == 'linux'").contains("there is no attribute"));
        assert!(refused("node:os < 'linux'").contains("cannot be compared"));
        assert!(refused("node:os == true").contains("cannot be compared"));
        assert!(refused("node:tsVersion > 1.40").contains("cannot be compared"));
        assert!(refused("custom:tier > 'a'").contains("cannot be compared"));
        assert!(refused("ip:country NOT SET").contains("every device would do"));
        assert!(refused("node:os = 'linux'").contains("expected one of"));
        assert!(refused("node:os == 'linux").contains("without an end"));
        assert!(refused("node:os == linux").contains("expected a text"));
        assert!(refused("node:os == 'linux' and").contains("unexpected"));
        assert!(refused("custom:x == nan").contains("expected a text"));
    }

    proptest! {
        #[test]
        fn no_text_panics_the_reader(text in r#"(node:os|custom:x)?[ <>=!'"\[\],A-Zé0-9.-]{0,40}"#) {
            let _ = read(&text);
        }
    }
}
