//! Backups that the replica makes by itself: when, under which names, and which old ones go.

use std::fs;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
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
            prefix: prefix(&config.cluster.replica_name, &cluster.status().cluster_id),
        };
        tasks.spawn(run(schedule, cluster.clone(), Arc::clone(&metrics)));
    }
    metrics
}

/// Several replicas, and a cluster that was made from a backup, may share a folder.
fn prefix(replica: &str, cluster_id: &str) -> String {
    format!("hydrascale-{replica}-{cluster_id}-")
}

async fn run(schedule: Schedule, cluster: Cluster, metrics: Arc<BackupMetrics>) {
    loop {
        let looking = schedule.clone();
        // A folder on a network may take for ever.
        let is_due = spawn_blocking(move || looking.is_due(now())).await;
        if !is_due.unwrap_or(true) {
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
    fn write(&self, mut bytes: BackupBytes, path: &Path, runtime: &Handle) -> Result<(), String> {
        let disk = |error: io::Error| error.to_string();
        fs::create_dir_all(&self.config.directory).map_err(disk)?;
        self.remove_partial().map_err(disk)?;
        let mut file = NewFile::create(path).map_err(disk)?;
        while let Some(chunk) = runtime.block_on(bytes.next()) {
            let chunk = chunk.map_err(|error| chain(&error))?;
            file.write_all(&chunk).map_err(disk)?;
        }
        let written = file.reopen().map_err(disk)?;
        check(BufReader::new(written)).map_err(|error| chain(&error))?;
        file.finish().map_err(disk)?;
        let written = path.file_name().unwrap_or_default().to_string_lossy();
        for old in outdated(self.names().map_err(disk)?, &written, self.config.keep) {
            fs::remove_file(self.config.directory.join(old)).map_err(disk)?;
        }
        Ok(())
    }

    /// Removes what attempts have left that were killed; those that go on hold a lock.
    fn remove_partial(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.config.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if let Some(meant) = NewFile::meant(&name).filter(|name| self.is_own(name)) {
                // Taken over, and removed unfinished.
                drop(NewFile::create(&self.config.directory.join(meant)));
            }
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

    /// Whether it is time for another. What is wrong with the folder the attempt says.
    fn is_due(&self, now: Timestamp) -> bool {
        match self.newest(now) {
            Ok(Some(newest)) => newest.saturating_add(self.config.interval) <= now,
            Ok(None) | Err(_) => true,
        }
    }

    /// When the newest was finished; what a clock that was ahead has dated later than `now` does not
    /// count.
    fn newest(&self, now: Timestamp) -> io::Result<Option<Timestamp>> {
        let mut newest = None;
        for name in self.names()? {
            let at = fs::metadata(self.config.directory.join(name))?.modified()?;
            let since = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
            let at = Timestamp::from_unix_ms(ms);
            newest = newest.max(Some(at).filter(|at| *at <= now));
        }
        Ok(newest)
    }
}

/// The form of the time in a name.
const STAMP: &str = "00000000T000000Z";

/// The oldest names, all but the newest `keep`, of which `written` is the last. Names sort as their
/// times do; what is dated after `written` is older in truth, and a clock was ahead.
fn outdated(mut names: Vec<String>, written: &str, keep: usize) -> Vec<String> {
    names.sort_unstable_by(|a, b| {
        let place = |name: &str| name <= written;
        (place(a), a).cmp(&(place(b), b))
    });
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
            prefix: prefix("r1", "5f3c"),
        }
    }

    #[test]
    fn names_sort_as_times_do_and_only_own_ones_are_pruned() {
        let folder = TempDir::new().unwrap();
        let schedule = schedule(&folder, 2);
        let name = |seconds: i64| schedule.name(Timestamp::from_unix_ms(seconds * 1000));
        assert_eq!(
            name(1_763_743_000),
            "hydrascale-r1-5f3c-20251121T163640Z.backup"
        );
        let names: Vec<String> = [9, 1_000_000_000, 86_400].map(name).to_vec();
        assert!(names.iter().all(|name| schedule.is_own(name)));
        let written = name(1_000_000_000);
        assert_eq!(outdated(names.clone(), &written, 2), [name(9)]);
        assert_eq!(outdated(names, &written, 3), [""; 0]);
        for other in [
            "hydrascale-r1-20251121T163640Z.backup",
            "hydrascale-r1-77aa-20251121T163640Z.backup",
            "hydrascale-r1-b-5f3c-20251121T163640Z.backup",
            "hydrascale-r1-5f3c-before-upgrade.backup",
            "hydrascale-r2-5f3c-20251121T163640Z.backup",
            "hydrascale-r1-5f3c-20251121T163640Z.backup.old",
        ] {
            assert!(!schedule.is_own(other), "{other}");
        }
    }

    #[test]
    fn after_a_clock_that_was_ahead_backups_go_on_and_the_new_one_stays() {
        let folder = TempDir::new().unwrap();
        let schedule = schedule(&folder, 2);
        fs::create_dir_all(&schedule.config.directory).unwrap();
        let put = |stamp: i64, finished: i64| {
            let name = schedule.name(Timestamp::from_unix_ms(stamp * 1000));
            let file = fs::File::create(schedule.config.directory.join(&name)).unwrap();
            let at = std::time::UNIX_EPOCH + Duration::from_secs(finished.unsigned_abs());
            file.set_modified(at).unwrap();
            name
        };
        let is_due = |at: i64| schedule.is_due(Timestamp::from_unix_ms(at * 1000));
        assert!(is_due(0));
        let ahead = [put(900_000, 900_000), put(990_000, 990_000)];
        assert!(is_due(10_000), "those of the future do not count");
        let written = put(10_000, 10_000);
        assert!(!is_due(10_000) && !is_due(13_599) && is_due(13_600));
        let names = schedule.names().unwrap();
        assert_eq!(outdated(names.clone(), &written, 2), ahead[..1]);
        assert_eq!(outdated(names, &written, 1), ahead);
    }

    #[test]
    fn what_a_killed_backup_has_left_is_removed_by_the_next() {
        let folder = TempDir::new().unwrap();
        let schedule = schedule(&folder, 1);
        let directory = schedule.config.directory.clone();
        fs::create_dir_all(&directory).unwrap();
        let own = schedule.name(Timestamp::from_unix_ms(0));
        let left = directory.join(format!(".{own}.partial"));
        fs::write(&left, "half").unwrap();
        let others = directory.join(format!(".{}.partial", own.replace("5f3c", "77aa")));
        fs::write(&others, "half").unwrap();
        let under_way = schedule.name(Timestamp::from_unix_ms(1000));
        let under_way = NewFile::create(&directory.join(under_way)).unwrap();
        schedule.remove_partial().unwrap();
        assert!(!left.exists() && others.exists());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
        drop(under_way);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
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
