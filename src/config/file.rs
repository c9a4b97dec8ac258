//! Finding and reading the configuration file: the only IO of this module.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, ConfigErrors, Origin};
use super::tree::Tree;

/// Names that the file may have in a folder of the search path, in order.
const FILE_NAMES: [&str; 3] = ["config.yaml", "config.yml", "config.json"];

/// Variables that name the file, in order.
const FILE_VARIABLES: [&str; 2] = ["HYDRASCALE_CONFIG", "HEADSCALE_CONFIG"];

/// Largest file that is read: far above any real configuration, and small enough to parse at once.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a process brings along: its environment variables and the name of its host.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    host_name: Option<String>,
}

impl Environment {
    /// The variables as the process got them; `host_name` is the default for
    /// `cluster.replica_name`.
    pub fn new(
        variables: impl IntoIterator<Item = (String, String)>,
        host_name: Option<String>,
    ) -> Self {
        Self {
            variables: variables.into_iter().collect(),
            host_name,
        }
    }

    /// The variable's value; an empty one counts as unset, as in headscale.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// The name of the host, when known.
    pub fn host_name(&self) -> Option<&str> {
        self.host_name.as_deref().filter(|name| !name.is_empty())
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }
}

/// A configuration file's content, or nothing.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: Option<PathBuf>,
    pub(super) tree: Tree,
}

impl Source {
    /// Parses `text` as the content of `path`.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, ConfigErrors> {
        let tree = Tree::parse(text).map_err(|error| ConfigError {
            origin: Origin::File {
                path: path.to_owned(),
                line: error.line,
            },
            key: error.key,
            value: None,
            problem: error.problem,
        })?;
        Ok(Self {
            path: Some(path.to_owned()),
            tree,
        })
    }
}

/// The file that would be read: `explicit`, else the one named by a variable, else the first
/// that exists in `/etc/hydrascale`, `/etc/headscale`, `~/.hydrascale`, `~/.headscale` and `.`.
pub fn find_config_file(environment: &Environment, explicit: Option<&Path>) -> Option<PathBuf> {
    if let Some(path) = explicit {
        return Some(path.to_owned());
    }
    if let Some(path) = FILE_VARIABLES
        .iter()
        .find_map(|name| environment.variable(name))
    {
        return Some(PathBuf::from(path));
    }
    search_path(environment)
        .iter()
        .flat_map(|folder| FILE_NAMES.map(|name| folder.join(name)))
        .find(|path| path.is_file())
}

pub(super) fn read(
    environment: &Environment,
    explicit: Option<&Path>,
) -> Result<Source, ConfigErrors> {
    let Some(path) = find_config_file(environment, explicit) else {
        return Ok(Source {
            path: None,
            tree: Tree::empty(),
        });
    };
    let text = read_text(&path).map_err(|problem| ConfigError {
        origin: Origin::File {
            path: path.clone(),
            line: 0,
        },
        key: String::new(),
        value: None,
        problem,
    })?;
    Source::parse(&path, &text)
}

fn read_text(path: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| {
        format!("cannot be read: {error}; check the path given by --config or the environment")
    };
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!(
            "has {size} bytes; a configuration has at most {FILE_BYTES_MAX}"
        ));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

fn search_path(environment: &Environment) -> Vec<PathBuf> {
    let mut folders = vec![
        PathBuf::from("/etc/hydrascale"),
        PathBuf::from("/etc/headscale"),
    ];
    if let Some(home) = environment.variable("HOME") {
        folders.extend([".hydrascale", ".headscale"].map(|name| Path::new(home).join(name)));
    }
    folders.push(PathBuf::from("."));
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment::new(
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned())),
            None,
        )
    }

    #[test]
    fn the_flag_beats_the_variable_and_the_variable_beats_the_search() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(".headscale")).unwrap();
        let found = folder.path().join(".headscale/config.yml");
        std::fs::write(&found, "").unwrap();
        let home = folder.path().to_str().unwrap();

        let searched = find_config_file(&environment(&[("HOME", home)]), None);
        assert_eq!(searched, Some(found));
        let named = environment(&[("HOME", home), ("HEADSCALE_CONFIG", "/a.yaml")]);
        assert_eq!(
            find_config_file(&named, None),
            Some(PathBuf::from("/a.yaml"))
        );
        let flagged = find_config_file(&named, Some(Path::new("b.yaml")));
        assert_eq!(flagged, Some(PathBuf::from("b.yaml")));
    }

    #[test]
    fn a_named_file_that_is_missing_is_an_error_of_one_line() {
        let error = read(
            &Environment::default(),
            Some(Path::new("/nonexistent/c.yaml")),
        );
        let text = error.unwrap_err().to_string();
        assert!(
            text.starts_with("/nonexistent/c.yaml: cannot be read: "),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1);
    }
}
