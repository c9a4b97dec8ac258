//! The lines that a process has written, each with its time of arrival.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};

use crate::wait;

/// Kept in memory per process. A debugging client writes some hundred lines a second at worst;
/// the file has the rest.
const LINES_MAX: usize = 500_000;

/// One line and when it came.
#[derive(Clone, Debug)]
pub struct Line {
    /// When the harness read it.
    pub at: Instant,
    /// Without the line's end.
    pub text: Arc<str>,
}

/// A place in a log, to look only at what comes behind it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark(usize);

impl Mark {
    /// Before the first line.
    pub const START: Self = Self(0);
}

/// A growing log. Clones share it.
#[derive(Clone, Debug)]
pub struct Log {
    path: PathBuf,
    lines: Arc<std::sync::Mutex<Vec<Line>>>,
}

impl Log {
    /// A log that is also written to `path`.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            lines: Arc::default(),
        }
    }

    /// Where the whole text is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads `stream` to its end in the background.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn follow(&self, stream: impl AsyncRead + Unpin + Send + 'static) -> Result<()> {
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&self.path);
        let file = file.with_context(|| format!("log file {}", self.path.display()))?;
        // A disk that stalls for seconds holds up this stream, and nothing else that runs here.
        let mut file = tokio::fs::File::from_std(file);
        let log = self.clone();
        tokio::spawn(async move {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while reader
                .read_until(b'\n', &mut line)
                .await
                .is_ok_and(|read| read > 0)
            {
                let text = String::from_utf8_lossy(&line);
                log.push(text.trim_end().into());
                // A full disk costs the file, not the test.
                let _ = file.write_all(&line).await;
                line.clear();
            }
            let _ = file.flush().await;
        });
        Ok(())
    }

    fn push(&self, text: Arc<str>) {
        let mut lines = self.lock();
        if lines.len() < LINES_MAX {
            lines.push(Line {
                at: Instant::now(),
                text,
            });
        }
    }

    /// The place behind the newest line.
    pub fn mark(&self) -> Mark {
        Mark(self.lock().len())
    }

    /// The lines behind `mark` that hold.
    pub fn lines_since(&self, mark: Mark, holds: impl Fn(&str) -> bool) -> Vec<Line> {
        let lines = self.lock();
        lines
            .iter()
            .skip(mark.0)
            .filter(|line| holds(&line.text))
            .cloned()
            .collect()
    }

    /// Waits for a line behind `mark` that holds.
    ///
    /// # Errors
    /// After `limit`, naming `what` and the log's file.
    pub async fn wait_for(
        &self,
        what: &str,
        mark: Mark,
        limit: Duration,
        holds: impl Fn(&str) -> bool,
    ) -> Result<Line> {
        let looked = wait::until(what, limit, async || {
            let lines = self.lock();
            lines
                .iter()
                .skip(mark.0)
                .find(|line| holds(&line.text))
                .cloned()
        });
        let (line, _) = looked
            .await
            .with_context(|| format!("see {}", self.path.display()))?;
        Ok(line)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Line>> {
        self.lines
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
