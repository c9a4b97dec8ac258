//! What is wrong with a configuration, and what the operator should know about it.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// Counted from 1; 0 = the file as a whole.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// Nowhere: the value is missing.
    Missing,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: 0 } => write!(f, "{}: ", path.display()),
            Self::File { path, line } => write!(f, "{}:{line}: ", path.display()),
            Self::Environment(name) => write!(f, "${name}: "),
            Self::Missing => Ok(()),
        }
    }
}

/// One mistake: a single line that names the key, the value and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where the value came from.
    pub origin: Origin,
    /// Path of the key, `a.b.c`; empty when the file as a whole is meant.
    pub key: String,
    /// The offending value, unless it is missing, secret or not a scalar.
    pub value: Option<String>,
    /// What is wrong and what to write instead.
    pub problem: String,
}

/// Longest part of a value that an error repeats, so that the line stays readable.
const VALUE_CHARS_MAX: usize = 120;

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        if let Some(value) = &self.value {
            let shown: String = value.chars().take(VALUE_CHARS_MAX).collect();
            write!(f, "{shown:?} ")?;
        }
        f.write_str(&self.problem)
    }
}

/// All mistakes of a configuration, at least one; displayed one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

/// Something that the operator should know, although the configuration is usable: one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice(pub String);

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
