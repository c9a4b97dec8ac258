//! A YAML document as a tree that remembers lines and the text of its scalars.
//!
//! Scalars stay text: the type that a key wants decides how its value is read, so that `0770` is a
//! file mode and `1.10` a name where those are wanted.

use serde_saphyr::Spanned;

use crate::yaml::{Raw, written};

/// A value and the line that it stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) value: Value,
    /// Counted from 1; 0 = not from a file.
    pub(super) line: usize,
}

/// The kinds of values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Scalar(String),
    List(Vec<Tree>),
    Map(Vec<Entry>),
}

/// One `key: value` of a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// In lower case: keys are case-insensitive.
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) tree: Tree,
}

/// Why a document could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TreeError {
    pub(super) line: usize,
    pub(super) key: String,
    pub(super) problem: String,
}

impl Tree {
    /// An empty mapping.
    pub(super) const fn empty() -> Self {
        Self {
            value: Value::Map(Vec::new()),
            line: 0,
        }
    }

    /// A scalar that comes from no file.
    pub(super) fn scalar(text: &str) -> Self {
        Self {
            value: Value::Scalar(text.to_owned()),
            line: 0,
        }
    }

    /// Reads a document; an empty one is an empty mapping.
    pub(super) fn parse(text: &str) -> Result<Self, TreeError> {
        if text
            .lines()
            .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
        {
            return Ok(Self::empty());
        }
        let raw: Spanned<Raw> = serde_saphyr::from_str(text).map_err(|error| {
            let error = error.without_snippet();
            let line = error
                .location()
                .map_or(0, |location| to_line(location.line()));
            let problem = format!("is not valid YAML: {}", one_line(&error.to_string()));
            TreeError {
                line,
                key: String::new(),
                problem,
            }
        })?;
        build(raw, text, "")
    }

    /// The value under `path` (`a.b.c`, lower case); null counts as absent.
    pub(super) fn find(&self, path: &str) -> Option<&Self> {
        let mut tree = self;
        for part in path.split('.') {
            let Value::Map(entries) = &tree.value else {
                return None;
            };
            tree = &entries.iter().find(|entry| entry.key == part)?.tree;
        }
        (tree.value != Value::Null).then_some(tree)
    }
}

fn to_line(line: u64) -> usize {
    usize::try_from(line).unwrap_or(0)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn build(raw: Spanned<Raw>, source: &str, path: &str) -> Result<Tree, TreeError> {
    let line = to_line(raw.referenced.line());
    let as_written = |shown: String| written(source, &raw.defined).unwrap_or(shown);
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Text(text) => Value::Scalar(text),
        // A scalar that serde takes for another type gets its text back.
        Raw::Bool(flag) => Value::Scalar(as_written(flag.to_string())),
        Raw::Number(shown) => Value::Scalar(as_written(shown)),
        Raw::List(items) => Value::List(
            items
                .into_iter()
                .map(|item| build(item, source, path))
                .collect::<Result<_, _>>()?,
        ),
        Raw::Map(pairs) => Value::Map(build_map(pairs, source, path)?),
    };
    Ok(Tree { value, line })
}

fn build_map(
    pairs: Vec<(Spanned<String>, Spanned<Raw>)>,
    source: &str,
    path: &str,
) -> Result<Vec<Entry>, TreeError> {
    let mut entries: Vec<Entry> = Vec::with_capacity(pairs.len());
    for (name, raw) in pairs {
        let key = name.value.to_lowercase();
        let key_path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        let line = to_line(name.referenced.line());
        if let Some(earlier) = entries.iter().find(|entry| entry.key == key) {
            let problem = format!(
                "is set twice, first in line {}; keep one (keys are case-insensitive)",
                earlier.line
            );
            return Err(TreeError {
                line,
                key: key_path,
                problem,
            });
        }
        let tree = build(raw, source, &key_path)?;
        entries.push(Entry { key, line, tree });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<'a>(tree: &'a Tree, path: &str) -> &'a str {
        match &tree.find(path).unwrap().value {
            Value::Scalar(text) => text,
            other @ (Value::Null | Value::List(_) | Value::Map(_)) => panic!("{other:?}"),
        }
    }

    #[test]
    fn scalars_keep_their_text_and_their_line() {
        let tree =
            Tree::parse("# c\nA:\n  Mode: 0770\n  name: 1.10\n  on: yes\n  q: \"x\"\n").unwrap();
        assert_eq!(text(&tree, "a.mode"), "0770");
        assert_eq!(text(&tree, "a.name"), "1.10");
        assert_eq!(text(&tree, "a.on"), "yes");
        assert_eq!(text(&tree, "a.q"), "x");
        assert_eq!(tree.find("a.name").unwrap().line, 4);
    }

    #[test]
    fn null_is_absent_and_an_empty_file_is_an_empty_mapping() {
        assert!(Tree::parse("a:\nb: ~\n").unwrap().find("a").is_none());
        assert_eq!(Tree::parse("# nothing\n\n").unwrap(), Tree::empty());
    }

    #[test]
    fn a_key_in_two_cases_is_set_twice() {
        let error = Tree::parse("dns:\n  magic_dns: true\n  Magic_DNS: false\n").unwrap_err();
        assert_eq!((error.line, error.key.as_str()), (3, "dns.magic_dns"));
    }

    #[test]
    fn broken_yaml_names_the_line() {
        let error = Tree::parse("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(error.line >= 2, "{error:?}");
        assert!(!error.problem.contains('\n'), "{error:?}");
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_the_parser(text in "\\PC{0,200}") {
            let _ = Tree::parse(&text);
        }

        #[test]
        fn no_yaml_like_text_panics_the_parser(text in "[a-c:\\-\\[\\]{}&*!|>'\" \n#0-9.]{0,80}") {
            let _ = Tree::parse(&text);
        }
    }
}
