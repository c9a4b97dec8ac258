//! What is wrong with a policy, and where.

use std::fmt;

use super::text::Position;

/// Errors beyond this many are counted, not kept: a file made by a machine can have one in each
/// line, and nobody reads them all.
const ERRORS_MAX: usize = 100;

/// One thing that is wrong, or that somebody should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// Where.
    pub at: Position,
    /// What; the words of Tailscale's service where it has some.
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

impl std::error::Error for PolicyError {}

/// Everything that is wrong with a policy, in the order of the text; shown one a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyErrors {
    errors: Vec<PolicyError>,
    /// Beyond [`ERRORS_MAX`].
    more: usize,
}

impl PolicyErrors {
    /// The errors; those beyond what a person reads are only counted.
    pub fn iter(&self) -> impl Iterator<Item = &PolicyError> {
        self.errors.iter()
    }

    /// Whether nothing is wrong.
    pub const fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// Adds an error.
    pub fn push(&mut self, at: Position, message: impl Into<String>) {
        if self.errors.len() < ERRORS_MAX {
            let message = message.into();
            self.errors.push(PolicyError { at, message });
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// The errors in the order of the text, or the value if there are none.
    ///
    /// # Errors
    /// Itself, unless it is empty.
    pub fn or<T>(mut self, value: T) -> Result<T, Self> {
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
    fn errors_are_shown_one_a_line_in_the_order_of_the_text() {
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
