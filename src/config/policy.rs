//! Where the policy comes from.

use std::path::PathBuf;

use super::reader::Reader;

/// The `policy:` part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyConfig {
    /// `policy.mode`; absent = a file if one is named. headscale takes it for a file even then, and
    /// so refuses policies from a command line that has no other way.
    pub mode: PolicyMode,
    /// `policy.path`; absent = no file, which leaves in force what is.
    pub path: Option<PathBuf>,
}

/// Who sets the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyMode {
    /// Whoever edits the file `policy.path` of a replica and sends it SIGHUP.
    File,
    /// The command line and the API.
    Database,
}

impl PolicyConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let path = reader.path("policy.path");
        let given = reader.parse("policy.mode", |text| match text {
            "file" => Ok(PolicyMode::File),
            "database" => Ok(PolicyMode::Database),
            _ => Err("must be file or database"),
        });
        let named = match path {
            Some(_) => PolicyMode::File,
            None => PolicyMode::Database,
        };
        let mode = given.unwrap_or(named);
        if mode == PolicyMode::Database && path.is_some() {
            reader.notice("policy.path: no effect: policy.mode is database");
        }
        Self { mode, path }
    }
}
