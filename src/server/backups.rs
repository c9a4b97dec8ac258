//! Backups that the replica makes by itself: when, under which names, and which old ones go.

use std::fs;
use std::io::{self, BufReader, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use hydrascale_raft::chain;
use time::OffsetDateTime;
use tokio::runtime::Handle;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;

use super::now;
use crate::backup::{NewFile, check};
use crate::cluster::{BackupBytes, Cluster};
use crate::config::{BackupConfig, Config};
use crate::derp::Sample;
use crate::types::Timestamp;

/// After one that failed.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// The clock is looked at this often: a machine that slept makes up for it soon.
const LOOK_EVERY: Duration = Duration::from_secs(30);
const SUFFIX: &str = ".backup";

/// What became of the backups since the start.
#[derive(Debug, Default)]
pub(super) struct BackupMetrics {
    written: AtomicU64,
    failed: AtomicU64,
    last_written_at: AtomicU64,
}

impl BackupMetrics {
    pub(super) fn samples(&self) -> Vec<Sample> {
        let sample = |name, help, is_gauge, value: &AtomicU64| Sample {
            name,
            help,
            labels: &[],
            is_gauge,
            value: value.load(Ordering::Relaxed),
        };
        vec![
            sample(
                "backups_written",
                "Scheduled backups written",
                false,
                &self.written,
            ),
            sample(
                "backups_failed",
                "Scheduled backups that failed",
                false,
                &self.failed,
            ),
            sample(
                "backup_last_written_seconds",
                "When the last scheduled backup was written, seconds since the Unix epoch; 0: none yet",
                true,
                &self.last_written_at,
            ),
        ]
    }
}

/// Starts the task that makes them, if the configuration wants any.
pub(super) fn spawn(
    config: &Config,
    cluster: &Cluster,
    tasks: &mut JoinSet<()>,
) -> Arc<BackupMetrics> {
    let metrics = Arc::new(BackupMetrics::default());
    if let Some(wanted) = &config.backup {
        let schedule = Schedule {
            config: wanted.clone(),
            prefix: format!("hydrascale-{}-", config.cluster.replica_name),
        };
        tasks.spawn(run(schedule, cluster.clone(), Arc::clone(&metrics)));
    }
    metrics
}

async fn run(schedule: Schedule, cluster: Cluster, metrics: Arc<BackupMetrics>) {
    loop {
        let due = match schedule.newest() {
            Ok(newest) => newest.map(|at| at.saturating_add(schedule.config.interval)),
            // The attempt says what is wrong with the folder.
            Err(_) => None,
        };
        if due.is_some_and(|due| due > now()) {
            sleep(LOOK_EVERY).await;
            continue;
        }
        match schedule.make(&cluster).await {
            Ok(path) => {
                metrics.written.fetch_add(1, Ordering::Relaxed);
                let at = u64::try_from(now().unix_ms() / 1000).unwrap_or(0);
                metrics.last_written_at.store(at, Ordering::Relaxed);
                tracing::info!(path = %path.display(), "backup written");
            }
            Err(reason) => {
                metrics.failed.fetch_add(1, Ordering::Relaxed);
                let directory = schedule.config.directory.display().to_string();
                tracing::error!(directory, error = reason, "backup failed");
                sleep(RETRY_AFTER).await;
            }
        }
    }
}

#[derive(Clone)]
struct Schedule {
    config: BackupConfig,
    /// How the names of this replica's backups begin.
    prefix: String,
}

impl Schedule {
    async fn make(&self, cluster: &Cluster) -> Result<PathBuf, String> {
        let confirmed = cluster.linearizable().await;
        confirmed.map_err(|error| error.to_string())?;
        let bytes = cluster.backup().map_err(|error| error.to_string())?;
        let path = self.config.directory.join(self.name(now()));
        let schedule = self.clone();
        let runtime = Handle::current();
        let written = spawn_blocking(move || {
            let written = schedule.write(bytes, &path, &runtime);
            written.map(|()| path)
        });
        written.await.map_err(|error| error.to_string())?
    }

    /// Writes a backup, reads it back whole, and lets old ones go then.
    fn write(
        &self,
        mut bytes: BackupBytes,
        path: &std::path::Path,
        runtime: &Handle,
    ) -> Result<(), String> {
        let disk = |error: io::Error| error.to_string();
        fs::create_dir_all(&self.config.directory).map_err(disk)?;
        let mut file = NewFile::create(path).map_err(disk)?;
        while let Some(chunk) = runtime.block_on(bytes.next()) {
            let chunk = chunk.map_err(|error| chain(&error))?;
            file.write_all(&chunk).map_err(disk)?;
        }
        let written = file.reopen().map_err(disk)?;
        check(BufReader::new(written)).map_err(|error| chain(&error))?;
        file.finish().map_err(disk)?;
        for old in outdated(self.names().map_err(disk)?, self.config.keep) {
            fs::remove_file(self.config.directory.join(old)).map_err(disk)?;
        }
        Ok(())
    }

    fn name(&self, at: Timestamp) -> String {
        let at = OffsetDateTime::from_unix_timestamp(at.unix_ms().div_euclid(1000));
        let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        format!(
            "{}{:04}{:02}{:02}T{:02}{:02}{:02}Z{SUFFIX}",
            self.prefix,
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second()
        )
    }

    /// The backups of this replica in the folder.
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.config.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if self.is_own(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Whether a file has a name of this replica's making.
    fn is_own(&self, name: &str) -> bool {
        let middle = name
            .strip_prefix(&self.prefix)
            .and_then(|name| name.strip_suffix(SUFFIX));
        middle.is_some_and(|at| {
            at.len() == STAMP.len()
                && at
                    .bytes()
                    .zip(STAMP.bytes())
                    .all(|(byte, form)| match form {
                        b'0' => byte.is_ascii_digit(),
                        other => byte == other,
                    })
        })
    }

    /// When the newest was finished.
    fn newest(&self) -> io::Result<Option<Timestamp>> {
        let Some(newest) = self.names()?.into_iter().max() else {
            return Ok(None);
        };
        let at = fs::metadata(self.config.directory.join(newest))?.modified()?;
        let since = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        Ok(Some(Timestamp::from_unix_ms(ms)))
    }
}

/// The form of the time in a name.
const STAMP: &str = "00000000T000000Z";

/// The oldest names, all but the newest `keep`; names sort as their times do.
fn outdated(mut names: Vec<String>, keep: usize) -> Vec<String> {
    names.sort_unstable();
    names.truncate(names.len().saturating_sub(keep));
    names
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use tempfile::TempDir;

    use super::*;

    fn schedule(folder: &TempDir, keep: usize) -> Schedule {
        let config = BackupConfig {
            directory: folder.path().join("backups"),
            interval: Duration::from_secs(3600),
            keep,
        };
        Schedule {
            config,
            prefix: "hydrascale-r1-".to_owned(),
        }
    }

    #[test]
    fn names_sort_as_times_do_and_only_own_ones_are_pruned() {
        let folder = TempDir::new().unwrap();
        let schedule = schedule(&folder, 2);
        let name = |seconds: i64| schedule.name(Timestamp::from_unix_ms(seconds * 1000));
        assert_eq!(name(1_763_743_000), "hydrascale-r1-20251121T163640Z.backup");
        let names: Vec<String> = [9, 1_000_000_000, 86_400].map(name).to_vec();
        assert!(names.iter().all(|name| schedule.is_own(name)));
        assert_eq!(outdated(names.clone(), 2), [name(9)]);
        assert_eq!(outdated(names, 3), [""; 0]);
        for other in [
            "hydrascale-r1-b-20251121T163640Z.backup",
            "hydrascale-r1-before-upgrade.backup",
            "hydrascale-r2-20251121T163640Z.backup",
            "hydrascale-r1-20251121T163640Z.backup.old",
        ] {
            assert!(!schedule.is_own(other), "{other}");
        }
    }

    #[tokio::test]
    async fn a_backup_that_is_not_whole_gets_no_name_and_costs_no_old_one() {
        let folder = TempDir::new().unwrap();
        let schedule = schedule(&folder, 1);
        let old = schedule
            .config
            .directory
            .join(schedule.name(Timestamp::from_unix_ms(0)));
        fs::create_dir_all(&schedule.config.directory).unwrap();
        fs::write(&old, "kept").unwrap();
        let path = schedule.config.directory.join(schedule.name(now()));
        let runtime = Handle::current();
        let written = spawn_blocking(move || {
            let half: BackupBytes = stream::iter([Ok("half".into())]).boxed();
            let written = schedule.write(half, &path, &runtime);
            (written, schedule.names().unwrap())
        });
        let (written, names) = written.await.unwrap();
        assert!(written.unwrap_err().contains("cannot be used"));
        assert_eq!(names.len(), 1);
        assert!(old.exists());
    }
}
