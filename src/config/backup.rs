//! The `backup:` block: backups that this replica makes by itself.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::Reader;

/// Shorter, and a replica would do little else.
const INTERVAL_MIN: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_secs(24 * 3600);
const KEEP: usize = 7;
const KEEP_MAX: usize = 10_000;

/// Backups that are made regularly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupConfig {
    /// Where they go (`backup.directory`), on the disk of this replica.
    pub directory: PathBuf,
    /// From one to the next (`backup.interval`), default a day.
    pub interval: Duration,
    /// How many are kept (`backup.keep`), default 7.
    pub keep: usize,
}

impl BackupConfig {
    /// `None` without a directory.
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let directory = reader.path("backup.directory");
        let interval = reader.duration("backup.interval");
        let keep = reader.integer("backup.keep", 1, KEEP_MAX);
        let Some(directory) = directory else {
            if interval.is_some() || keep.is_some() {
                reader.fail_key("backup.directory", "must be set: it says where backups go");
            }
            return None;
        };
        let interval = interval.unwrap_or(INTERVAL);
        if interval < INTERVAL_MIN {
            reader.fail_key("backup.interval", "must be a minute or more");
        }
        Some(Self {
            directory,
            interval,
            keep: keep.unwrap_or(KEEP),
        })
    }
}
