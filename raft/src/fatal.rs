//! What happens when the disk fails under the log: the process ends, nothing is retried.
//!
//! After a failed fsync nobody knows what the page cache still holds, so a second fsync that
//! succeeds proves nothing. The replica stops and its next start reads what the disk really has.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code for a failed disk (`EX_IOERR` of sysexits).
pub(crate) const EXIT_IO_ERROR: i32 = 74;

/// Called once, with the failed step and the error's chain; does not return in production.
pub(crate) type FatalHook = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// The one place where IO errors end the process; shared by everything that writes.
#[derive(Clone)]
pub(crate) struct Fatal {
    failed: Arc<AtomicBool>,
    hook: FatalHook,
}

impl fmt::Debug for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fatal")
            .field("failed", &self.has_failed())
            .finish_non_exhaustive()
    }
}

impl Fatal {
    /// Ends the process through `hook`.
    pub(crate) fn new(hook: FatalHook) -> Self {
        Self {
            failed: Arc::new(AtomicBool::new(false)),
            hook,
        }
    }

    /// Ends the process with [`EXIT_IO_ERROR`].
    pub(crate) fn exit() -> FatalHook {
        Arc::new(|_, _| exit_process())
    }

    /// Reports a failed write or sync; whoever gets control back must answer with an error.
    pub(crate) fn report(&self, step: &'static str, error: &(dyn Error + 'static)) {
        if self.failed.swap(true, Ordering::SeqCst) {
            return;
        }
        let chain = chain(error);
        tracing::error!(step, error = %chain, "disk failed, the replica stops");
        (self.hook)(step, &chain);
    }

    /// Whether an error was reported: nothing may be written or acknowledged any more.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "destructors would flush what the failed disk may have torn"
)]
fn exit_process() {
    std::process::exit(EXIT_IO_ERROR)
}

/// The error and its causes on one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
