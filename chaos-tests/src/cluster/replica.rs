//! One replica as a process: its folder, its configuration, its life and deaths.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::process::Command;

use super::{CLIENT_PORT, METRICS_PORT, Options, READY_LIMIT, config};
use crate::{
    http, links,
    log::{Log, Mark},
    netns,
    netns::replica_address,
    process::{Process, Signal},
    wait,
};

/// A replica drains its streams and hands over leadership within this.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// One command of the command line, with the start of its process.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// One request of a probe.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// A replica, running or not.
pub struct Replica {
    index: usize,
    name: String,
    folder: PathBuf,
    program: PathBuf,
    process: Option<Process>,
    starts: usize,
    /// Its own hosts file, if it has one.
    hosts: Option<PathBuf>,
    /// What its wall clock shows, if that is not the machine's.
    clock: Option<PathBuf>,
}

/// What replicas are called.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// Runs a program that sees the file `$1` as `/etc/hosts`, as the same process.
const WITH_HOSTS: &str = "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";

/// Stands in front of the C library and asks a file what time it is (package faketime).
const CLOCK_LIBRARIES: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
];
/// Runs a program in whose sight nobody has left anything in shared memory, as the same process: a killed
/// one leaves what the library made there under its id, where the next with that id would meet it.
const WITH_EMPTY_MEMORY: &str = "mount -t tmpfs tmpfs /dev/shm && exec \"$@\"";
/// How often it looks at the file.
const CLOCK_SECONDS: &str = "FAKETIME_CACHE_DURATION=1";
/// A clock that never goes back goes on as the machine's: no machine is known to do otherwise.
const CLOCK_WALL_ONLY: &str = "DONT_FAKE_MONOTONIC=1";
/// Times of files are left alone.
const CLOCK_FILES: &str = "NO_FAKE_STAT=1";

impl Replica {
    /// Writes the configuration of replica `index` into a folder of its own below `root`.
    pub(super) fn prepare(
        root: &Path,
        index: usize,
        program: &Path,
        options: &Options,
    ) -> Result<Self> {
        let name = NAMES.get(index).context("six replicas at most")?;
        let folder = root.join(name);
        fs::create_dir(&folder)?;
        let mut names = String::new();
        if options.proxied {
            names += &links::hosts(index, &NAMES)?;
        }
        if let Some(count) = options.expect {
            names += &config::peers_hosts(count);
        }
        let hosts = (!names.is_empty()).then(|| folder.join("hosts"));
        if let Some(file) = &hosts {
            fs::write(file, names)?;
        }
        let clock = options.own_clock.then(|| folder.join("clock"));
        ensure!(
            clock.is_none() || Self::clock_library().is_some(),
            "clocks need {}: install the package faketime",
            CLOCK_LIBRARIES.join(" or ")
        );
        if let Some(mib) = options.disk_mib {
            let data = folder.join("data");
            fs::create_dir(&data)?;
            netns::mount_small(&data, mib)?;
        }
        let replica = Self {
            index,
            name: (*name).to_owned(),
            hosts,
            clock,
            folder,
            program: program.to_owned(),
            process: None,
            starts: 0,
        };
        replica.configure(options)?;
        Ok(replica)
    }

    /// Writes its configuration, which the next start reads.
    pub(super) fn configure(&self, options: &Options) -> Result<()> {
        let text = config::text(self.index, &self.name, &self.folder, options);
        fs::write(self.folder.join("config.yaml"), text).context("write the configuration")
    }

    /// `a`, `b`, ...
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its configuration, data, socket and log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Makes its wall clock show something else, in the words of `libfaketime`.
    ///
    /// # Errors
    /// When it has the machine's clock.
    pub fn set_clock(&self, text: &str) -> Result<()> {
        let file = self.clock.as_ref().context("a replica without own clock")?;
        let new = file.with_extension("new");
        fs::write(&new, text)?;
        // The replica reads it at any moment.
        Ok(fs::rename(&new, file)?)
    }

    /// Makes it join with this token when it is started without data. The one that made the cluster
    /// was configured without.
    pub(super) fn write_token(&self, token: &str) -> Result<()> {
        fs::write(self.folder.join("join-token"), token)?;
        let file = self.folder.join("config.yaml");
        let config = fs::read_to_string(&file)?;
        if !config.contains("join_token_file") {
            let named = config.replace(
                "\ncluster:\n",
                "\ncluster:\n  join_token_file: join-token\n",
            );
            fs::write(file, named)?;
        }
        Ok(())
    }

    /// Empties its data folder.
    pub(super) fn wipe(&self) -> Result<()> {
        for entry in fs::read_dir(self.data())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The last line with an error that its last process wrote.
    ///
    /// # Errors
    /// When there is no log.
    pub fn last_complaint(&self) -> Result<Option<String>> {
        let is_complaint = |line: &str| {
            ["error", "ERROR", "Error", "panicked at"]
                .iter()
                .any(|word| line.contains(word))
        };
        let last = self.log()?.lines_since(Mark::START, is_complaint).pop();
        Ok(last.map(|line| line.text.to_string()))
    }

    /// Its address for everything.
    pub fn ip(&self) -> Ipv4Addr {
        replica_address(self.index)
    }

    /// Where it serves clients.
    pub fn client_address(&self) -> SocketAddr {
        SocketAddr::from((self.ip(), CLIENT_PORT))
    }

    /// Where it serves whoever is on its machine.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("replica.sock")
    }

    /// Whether the process has been started and not been ended by the test.
    pub const fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Whether the process ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.process
            .as_mut()
            .is_some_and(|process| process.try_status().is_some())
    }

    /// Takes note that the process has ended by itself, as it was meant to.
    pub(super) fn forget(&mut self) {
        self.process = None;
    }

    /// Starts the process without waiting for it.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "replica {} runs already", self.name);
        if self.clock.is_some() {
            self.set_clock("+0 x1.00")?;
        }
        self.starts += 1;
        let mut command = self.launcher();
        command
            .arg("serve")
            .arg("--config")
            .arg(self.folder.join("config.yaml"));
        let log = self.folder.join(format!("log.{}", self.starts));
        self.process = Some(Process::start(
            &format!("replica {}", self.name),
            command,
            &log,
        )?);
        Ok(())
    }

    /// What starts the program.
    fn launcher(&self) -> Command {
        let Some(hosts) = &self.hosts else {
            return Command::new(&self.program);
        };
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", WITH_HOSTS, "sh"]);
        command.arg(hosts);
        if let Some(clock) = &self.clock {
            // Data that is in memory must stay in sight.
            if !self.folder.starts_with("/dev/shm") {
                command.args(["sh", "-c", WITH_EMPTY_MEMORY, "sh"]);
            }
            command.args(["env", CLOCK_SECONDS, CLOCK_WALL_ONLY, CLOCK_FILES]);
            command.arg(format!(
                "LD_PRELOAD={}",
                Self::clock_library().unwrap_or_default()
            ));
            command.arg(format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()));
        }
        command.arg(&self.program);
        command
    }

    /// Waits until it says that it is ready, and how long that took.
    ///
    /// # Errors
    /// When it ends or does not become ready in time.
    pub async fn wait_ready(&mut self) -> Result<Duration> {
        // Whether the client port wants TLS or not.
        let socket = self.socket();
        let process = self
            .process
            .as_mut()
            .context("the replica is not running")?;
        let what = format!("{} is ready", process.name());
        let ready = wait::until(&what, READY_LIMIT, async || {
            let answer = http::get_local(&socket, "/health/ready", PROBE_LIMIT).await;
            let ready = answer.is_ok_and(|answer| answer.status == 200);
            let ended = process.try_status();
            (ready || ended.is_some()).then_some(ended)
        });
        let (ended, took) = ready
            .await
            .with_context(|| format!("see {}", self.folder.display()))?;
        ensure!(
            ended.is_none(),
            "replica {} ended: see {}",
            self.name,
            self.folder.display()
        );
        Ok(took)
    }

    /// Kills it as a crash would.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the replica is not running")?;
        process.kill().await
    }

    /// Asks it to end and waits until it has drained.
    ///
    /// # Errors
    /// When it does not end in time or ends with an error.
    pub async fn terminate(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the replica is not running")?;
        let status = process.terminate(DRAIN_LIMIT).await?;
        ensure!(
            status.success(),
            "replica {} ended with {status}",
            self.name
        );
        Ok(())
    }

    /// Sends a signal, such as one that freezes it.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        self.process
            .as_ref()
            .context("the replica is not running")?
            .signal(signal)
            .await
    }

    /// What the running process has written.
    ///
    /// # Errors
    /// When it is not running.
    pub fn log(&self) -> Result<&Log> {
        Ok(self
            .process
            .as_ref()
            .context("the replica is not running")?
            .log())
    }

    /// Lines of the running process's log behind `mark` that hold; none when it is down.
    pub fn count_lines(&self, mark: Mark, holds: impl Fn(&str) -> bool) -> usize {
        self.process
            .as_ref()
            .map_or(0, |process| process.log().lines_since(mark, holds).len())
    }

    /// Runs the command line against this replica and gives its JSON.
    ///
    /// # Errors
    /// With what the command complained about.
    pub async fn command(&self, words: &[&str]) -> Result<Value> {
        let mut command = Command::new(&self.program);
        command
            .args(words)
            .args(["--output", "json", "--force"])
            .arg("--config")
            .arg(self.folder.join("config.yaml"))
            .kill_on_drop(true);
        let done = tokio::time::timeout(COMMAND_LIMIT, command.output());
        let words = words.join(" ");
        let done = done
            .await
            .with_context(|| format!("`{words}` takes {COMMAND_LIMIT:?}"))??;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(
            done.status.success(),
            "`{words}` on {}: {}",
            self.name,
            said.trim()
        );
        serde_json::from_slice(&done.stdout).with_context(|| format!("`{words}` on {}", self.name))
    }

    /// All its metrics, as text.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> Result<String> {
        let address = self.metrics_address();
        Ok(http::get(address, "/metrics", PROBE_LIMIT).await?.body)
    }

    /// Where it shows its metrics.
    pub fn metrics_address(&self) -> SocketAddr {
        SocketAddr::from((self.ip(), METRICS_PORT))
    }

    fn clock_library() -> Option<&'static str> {
        CLOCK_LIBRARIES
            .into_iter()
            .find(|path| Path::new(path).exists())
    }

    /// The sum of a metric over its labels; zero when there is none.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        Ok(sum_of(&self.metrics().await?, name))
    }
}

/// The sum of a metric over its labels in a text of metrics; zero when there is none.
pub fn sum_of(metrics: &str, name: &str) -> f64 {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let starts_value = rest.starts_with(' ') || rest.starts_with('{');
        if starts_value {
            rest.rsplit(' ').next()?.parse::<f64>().ok()
        } else {
            None
        }
    });
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_no_other_is_taken() {
        let text =
            "# TYPE x_total counter\nx_total{a=\"1\"} 2\nx_total{a=\"2\"} 3\nx_total_y 7\nz 1\n";
        assert!((sum_of(text, "x_total") - 5.0).abs() < f64::EPSILON);
        assert!((sum_of(text, "z") - 1.0).abs() < f64::EPSILON);
        assert!(sum_of(text, "absent").abs() < f64::EPSILON);
    }
}
