//! Looks keys up: environment over file over an older name of the key. Remembers which keys are
//! known, and collects errors, so that the operator sees all of them at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::duration::parse_go_duration;
use super::error::{ConfigError, ConfigErrors, Notice, Origin};
use super::file::{Environment, Source};
use super::tree::{Tree, Value};

/// Prefixes of overriding variables; the first one that is set wins.
const VARIABLE_PREFIXES: [&str; 2] = ["HYDRASCALE_", "HEADSCALE_"];

/// The part of the file in which an unknown key is an error: these keys are ours alone, so that
/// an unknown one is a slip of the pen and never another version's.
const STRICT_PREFIX: &str = "cluster.";

/// A value that was found, and where.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: Value,
    pub(super) origin: Origin,
}

impl Setting {
    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text) => Some(text.trim()),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// An error about this value.
    pub(super) fn error(&self, problem: impl Display) -> ConfigError {
        ConfigError {
            origin: self.origin.clone(),
            key: self.key.clone(),
            value: self.text().map(str::to_owned),
            problem: problem.to_string(),
        }
    }
}

pub(super) struct Reader<'a> {
    environment: &'a Environment,
    source: Source,
    /// Newer name of a key -> the older one that still counts.
    older: BTreeMap<&'static str, &'static str>,
    known: BTreeSet<String>,
    errors: Vec<ConfigError>,
    notices: Vec<Notice>,
    legacy: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(environment: &'a Environment, source: Source) -> Self {
        let mut reader = Self {
            environment,
            source,
            older: BTreeMap::new(),
            known: BTreeSet::new(),
            errors: Vec::new(),
            notices: Vec::new(),
            legacy: false,
        };
        if reader.source.path.is_none() {
            reader.notice("no configuration file found: defaults and the environment are used");
        }
        reader
    }

    /// The environment that the values come from.
    pub(super) const fn environment(&self) -> &'a Environment {
        self.environment
    }

    /// Lets the older name of a key count where the newer one is absent.
    pub(super) fn add_older_name(&mut self, newer: &'static str, older: &'static str) {
        self.known.insert(older.to_owned());
        self.older.insert(newer, older);
    }

    /// Marks the file as written for headscale 0.22, whose rules were laxer.
    pub(super) const fn set_legacy(&mut self) {
        self.legacy = true;
    }

    pub(super) const fn is_legacy(&self) -> bool {
        self.legacy
    }

    pub(super) fn notice(&mut self, text: impl Into<String>) {
        self.notices.push(Notice(text.into()));
    }

    pub(super) fn fail(&mut self, error: ConfigError) {
        self.errors.push(error);
    }

    /// An error about a key that is absent, or about several keys.
    pub(super) fn fail_key(&mut self, key: &str, problem: impl Display) {
        let path = self.source.path.clone();
        let origin = path.map_or(Origin::Missing, |path| Origin::File { path, line: 0 });
        let problem = problem.to_string();
        self.errors.push(ConfigError {
            origin,
            key: key.to_owned(),
            value: None,
            problem,
        });
    }

    /// What is set under `key`, and marks the key as known.
    pub(super) fn setting(&mut self, key: &str) -> Option<Setting> {
        self.known.insert(key.to_owned());
        if let Some(found) = self.lookup(key) {
            return Some(found);
        }
        let older = *self.older.get(key)?;
        self.lookup(older)
    }

    /// Like [`Self::setting`] without older names and without marking.
    pub(super) fn lookup(&self, key: &str) -> Option<Setting> {
        let upper = key.to_uppercase().replace('.', "_");
        for prefix in VARIABLE_PREFIXES {
            let name = format!("{prefix}{upper}");
            if let Some(text) = self.environment.variable(&name) {
                let value = Tree::scalar(text).value;
                return Some(Setting {
                    key: key.to_owned(),
                    value,
                    origin: Origin::Environment(name),
                });
            }
        }
        let tree = self.source.tree.find(key)?;
        let path = self.source.path.clone().unwrap_or_default();
        let origin = Origin::File {
            path,
            line: tree.line,
        };
        Some(Setting {
            key: key.to_owned(),
            value: tree.value.clone(),
            origin,
        })
    }

    /// A scalar read by `parse`, whose error says what to write instead.
    pub(super) fn parse<T, E: Display>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let setting = self.setting(key)?;
        let Some(text) = setting.text() else {
            self.fail(setting.error("must be a single value, not a list or a mapping"));
            return None;
        };
        if text.is_empty() {
            return None;
        }
        match parse(text) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.fail(setting.error(problem));
                None
            }
        }
    }

    /// Text; empty counts as absent.
    pub(super) fn string(&mut self, key: &str) -> Option<String> {
        self.parse(key, |text| Ok::<_, String>(text.to_owned()))
    }

    pub(super) fn bool(&mut self, key: &str) -> Option<bool> {
        self.parse(key, parse_bool)
    }

    pub(super) fn integer<T>(&mut self, key: &str, low: T, high: T) -> Option<T>
    where
        T: std::str::FromStr + PartialOrd + Display + Copy,
    {
        self.parse(key, |text| {
            text.parse::<T>()
                .ok()
                .filter(|value| (low..=high).contains(value))
                .ok_or_else(|| format!("must be a whole number from {low} to {high}"))
        })
    }

    /// A duration in Go's form.
    pub(super) fn duration(&mut self, key: &str) -> Option<Duration> {
        self.parse(key, parse_go_duration)
    }

    /// A path; a relative one starts at the folder of the configuration file.
    pub(super) fn path(&mut self, key: &str) -> Option<PathBuf> {
        let text = self.string(key)?;
        Some(self.resolve(Path::new(&text)))
    }

    pub(super) fn resolve(&self, path: &Path) -> PathBuf {
        let folder = self.source.path.as_deref().and_then(Path::parent);
        folder.map_or_else(|| path.to_owned(), |folder| folder.join(path))
    }

    /// A list of scalars; text is split at white space, as the environment needs it.
    pub(super) fn list(&mut self, key: &str) -> Vec<String> {
        let Some(setting) = self.setting(key) else {
            return Vec::new();
        };
        match scalars(&setting.value) {
            Some(items) => items,
            None => {
                self.fail(setting.error("must be a list of single values"));
                Vec::new()
            }
        }
    }

    /// A list of scalars, each read by `parse`.
    pub(super) fn parse_list<T, E: Display>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let origin = self.setting(key).map(|setting| setting.origin);
        let mut values = Vec::new();
        for item in self.list(key) {
            match parse(&item) {
                Ok(value) => values.push(value),
                Err(problem) => self.fail(ConfigError {
                    origin: origin.clone().unwrap_or(Origin::Missing),
                    key: key.to_owned(),
                    value: Some(item),
                    problem: problem.to_string(),
                }),
            }
        }
        values
    }

    /// Gives the notices of a reading that looked at some keys only.
    pub(super) fn finish_part(self) -> Result<Vec<Notice>, ConfigErrors> {
        if self.errors.is_empty() {
            Ok(self.notices)
        } else {
            Err(ConfigErrors(self.errors))
        }
    }

    /// Warns about unknown keys and gives the notices.
    pub(super) fn finish(mut self) -> Result<Vec<Notice>, ConfigErrors> {
        let mut unknown = Vec::new();
        let mut misplaced = Vec::new();
        self.walk(&self.source.tree, "", &mut unknown, &mut misplaced);
        for (key, line) in misplaced {
            self.fail_at(&key, line, "must be a mapping of keys".to_owned());
        }
        for (key, line) in unknown {
            let meant = self.nearest(&key);
            if key.starts_with(STRICT_PREFIX) {
                let remedy = meant.map_or_else(
                    || "remove it".to_owned(),
                    |near| format!("did you mean {near}?"),
                );
                self.fail_at(&key, line, format!("is not a known key; {remedy}"));
            } else {
                let meant =
                    meant.map_or_else(String::new, |near| format!("; did you mean {near}?"));
                self.notice(format!(
                    "line {line}: unknown key {key} has no effect{meant}"
                ));
            }
        }
        self.warn_of_variables();
        self.finish_part()
    }

    fn fail_at(&mut self, key: &str, line: usize, problem: String) {
        let path = self.source.path.clone().unwrap_or_default();
        let origin = Origin::File { path, line };
        self.errors.push(ConfigError {
            origin,
            key: key.to_owned(),
            value: None,
            problem,
        });
    }

    fn walk(
        &self,
        tree: &Tree,
        path: &str,
        unknown: &mut Vec<(String, usize)>,
        misplaced: &mut Vec<(String, usize)>,
    ) {
        let Value::Map(entries) = &tree.value else {
            if path.is_empty() || tree.value != Value::Null {
                misplaced.push((path.to_owned(), tree.line));
            }
            return;
        };
        for entry in entries {
            let key = if path.is_empty() {
                entry.key.clone()
            } else {
                format!("{path}.{}", entry.key)
            };
            if self.known.contains(&key) {
                continue;
            }
            let below = format!("{key}.");
            if self
                .known
                .range(below.clone()..)
                .next()
                .is_some_and(|k| k.starts_with(&below))
            {
                self.walk(&entry.tree, &key, unknown, misplaced);
            } else {
                unknown.push((key, entry.line));
            }
        }
    }

    /// The known key beside which an unknown one is a likely slip.
    fn nearest(&self, key: &str) -> Option<String> {
        let (folder, name) = key.rsplit_once('.').unwrap_or(("", key));
        let close = |candidate: &&String| {
            let (other_folder, other) = candidate
                .rsplit_once('.')
                .unwrap_or(("", candidate.as_str()));
            folder == other_folder && edit_distance(name, other) <= 2
        };
        self.known.iter().find(close).cloned()
    }

    fn warn_of_variables(&mut self) {
        let strict = format!("{}CLUSTER_", VARIABLE_PREFIXES[0]);
        let known: BTreeSet<String> = self
            .known
            .iter()
            .map(|key| key.to_uppercase().replace('.', "_"))
            .collect();
        let unknown: Vec<String> = self
            .environment
            .names()
            .filter(|name| name.starts_with(&strict))
            .filter(|name| !known.contains(name.trim_start_matches(VARIABLE_PREFIXES[0])))
            .map(|name| format!("${name} names no known key and has no effect"))
            .collect();
        for text in unknown {
            self.notice(text);
        }
    }
}

/// The scalars of a list, or the words of a text.
pub(super) fn scalars(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::Scalar(text) => Some(text.split_whitespace().map(str::to_owned).collect()),
        Value::List(items) => items
            .iter()
            .map(|item| match &item.value {
                Value::Scalar(text) => Some(text.clone()),
                Value::Null | Value::List(_) | Value::Map(_) => None,
            })
            .collect(),
        Value::Map(_) => None,
    }
}

/// The spellings of YAML 1.1 and of Go's `strconv.ParseBool`.
fn parse_bool(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" | "yes" | "on" => Ok(true),
        "false" | "f" | "0" | "no" | "off" => Ok(false),
        _ => Err("must be true or false"),
    }
}

/// Levenshtein distance; keys are short.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut previous = i;
        let mut last = i + 1;
        for (b, cell) in right.iter().zip(row.iter_mut().skip(1)) {
            let replaced = previous + usize::from(a != *b);
            previous = *cell;
            last = replaced.min(previous + 1).min(last + 1);
            *cell = last;
        }
    }
    row.last()
        .copied()
        .filter(|_| !left.is_empty())
        .unwrap_or(right.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_insertions_deletions_and_replacements() {
        assert_eq!(edit_distance("data_dir", "datadir"), 1);
        assert_eq!(edit_distance("zone", "zone"), 0);
        assert_eq!(edit_distance("abc", "xyz"), 3);
        assert_eq!(edit_distance("", "ab"), 2);
    }

    #[test]
    fn booleans_read_as_go_and_yaml_write_them() {
        assert_eq!(parse_bool("T"), Ok(true));
        assert_eq!(parse_bool("off"), Ok(false));
        assert!(parse_bool("maybe").is_err());
    }
}
