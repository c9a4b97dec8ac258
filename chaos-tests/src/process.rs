//! A child process with its log.

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::process::{Child, ChildStdin, Command};

use crate::log::Log;

/// A signal that a test sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ask to read its files again.
    Hangup,
    /// Ask to end.
    Term,
    /// End at once.
    Kill,
    /// Freeze.
    Stop,
    /// Thaw.
    Continue,
}

impl Signal {
    const fn option(self) -> &'static str {
        match self {
            Self::Hangup => "-HUP",
            Self::Term => "-TERM",
            Self::Kill => "-KILL",
            Self::Stop => "-STOP",
            Self::Continue => "-CONT",
        }
    }
}

/// A running child. Killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    pid: u32,
    log: Log,
}

impl Process {
    /// Starts `command`; what it writes goes to `log_file`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, mut command: Command, log_file: &Path) -> Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {name}: {:?}", command.as_std()))?;
        let pid = child.id().context("the child has no pid")?;
        let log = Log::new(log_file);
        log.follow(child.stdout.take().context("no stdout")?)?;
        log.follow(child.stderr.take().context("no stderr")?)?;
        Ok(Self {
            name: name.to_owned(),
            child,
            pid,
            log,
        })
    }

    /// What a test calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// What it has written.
    pub const fn log(&self) -> &Log {
        &self.log
    }

    /// Its input, until taken.
    pub const fn stdin(&mut self) -> Option<&mut ChildStdin> {
        self.child.stdin.as_mut()
    }

    /// How it ended, if it did.
    pub fn try_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal by its process id.
    ///
    /// # Errors
    /// When it is gone already.
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        let sent = Command::new("kill")
            .arg(signal.option())
            .arg(self.pid.to_string())
            .output()
            .await
            .context("kill")?;
        if !sent.status.success() {
            bail!(
                "{signal:?} to {}: {}",
                self.name,
                String::from_utf8_lossy(&sent.stderr).trim()
            );
        }
        Ok(())
    }

    /// Kills it at once and waits until the kernel has let go of it.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn kill(&mut self) -> Result<()> {
        // `Child::kill` waits, too; an already ended child is no error.
        self.child
            .kill()
            .await
            .with_context(|| format!("kill {}", self.name))
    }

    /// Asks it to end and waits.
    ///
    /// # Errors
    /// When it has not ended after `limit`.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::Term).await?;
        match tokio::time::timeout(limit, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("{} has not ended {limit:?} after SIGTERM", self.name),
        }
    }
}
