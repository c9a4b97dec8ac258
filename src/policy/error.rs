//! What is wrong with a policy file, and where.

use std::fmt;

/// Errors beyond this many are counted, not kept: a machine-made file can have one per line.
const ERRORS_MAX: usize = 100;

/// A place in the text of a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Counts from 1; 0 = the file as a whole.
    pub line: u32,
    /// In characters, counts from 1.
    pub column: u32,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PolicyError {
    /// Where.
    pub at: Position,
    /// What; Tailscale's own words where it has some.
    pub message: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.at.line > 0 {
            write!(f, "line {}, column {}: ", self.at.line, self.at.column)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong with a policy, in the order of the text. Shown one per line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyErrors {
    errors: Vec<PolicyError>,
    more: usize,
}

impl PolicyErrors {
    /// The errors; many more than a person reads are only counted.
    pub fn iter(&self) -> impl Iterator<Item = &PolicyError> {
        self.errors.iter()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    pub(super) fn push(&mut self, at: Position, message: impl Into<String>) {
        if self.errors.len() < ERRORS_MAX {
            let message = message.into();
            self.errors.push(PolicyError { at, message });
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// The errors in the order of the text, or the value if there are none.
    pub(super) fn or<T>(mut self, value: T) -> Result<T, Self> {
        if self.is_empty() {
            return Ok(value);
        }
        self.errors.sort_by_key(|error| error.at);
        Err(self)
    }
}

impl From<PolicyError> for PolicyErrors {
    fn from(error: PolicyError) -> Self {
        Self {
            errors: vec![error],
            more: 0,
        }
    }
}

impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, error) in self.errors.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more errors", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_shown_one_per_line_in_the_order_of_the_text() {
        let mut errors = PolicyErrors::default();
        errors.push(Position { line: 7, column: 2 }, "later");
        errors.push(Position { line: 1, column: 9 }, "earlier");
        let shown = errors.or(()).unwrap_err().to_string();
        assert_eq!(shown, "line 1, column 9: earlier\nline 7, column 2: later");
    }

    #[test]
    fn errors_beyond_the_bound_are_counted() {
        let mut errors = PolicyErrors::default();
        for _ in 0..ERRORS_MAX + 3 {
            errors.push(Position::default(), "x");
        }
        assert!(errors.to_string().ends_with("x\nand 3 more errors"));
    }
}
