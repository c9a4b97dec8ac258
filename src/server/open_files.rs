//! The limit on open files, which bounds how many clients a replica can hold.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Below this a replica runs out of files before it runs out of anything else.
const WARN_BELOW: u64 = 8192;

/// Raises the soft limit to the hard one: the soft one is often 1024, for programs that use
/// `select(2)`. Go programs, and so headscale, do the same.
pub(super) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit on open files cannot be raised");
    }
    let files = getrlimit(Resource::Nofile).current;
    if let Some(files) = files.filter(|files| *files < WARN_BELOW) {
        tracing::warn!(
            files,
            "the limit on open files is low, each client takes one; raise it (systemd: LimitNOFILE)"
        );
    }
}
