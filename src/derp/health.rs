//! Whether clients should come here: what STUN answers hang on.
//!
//! A client measures relays by STUN and stays with one that answers, even when the relay behind it
//! is dead. So STUN must fall silent before the relay does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The relay's health; all clones show the same.
#[derive(Clone, Debug, Default)]
pub struct RelayHealth(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    accepting: AtomicBool,
    full: AtomicBool,
    quiet: AtomicBool,
}

impl RelayHealth {
    /// Whether the relay accepts connections, has room, and was not told to be quiet.
    pub fn is_healthy(&self) -> bool {
        let flags = &self.0;
        flags.accepting.load(Ordering::Relaxed)
            && !flags.full.load(Ordering::Relaxed)
            && !flags.quiet.load(Ordering::Relaxed)
    }

    /// The accept loop runs, or not any more.
    pub(crate) fn set_accepting(&self, accepting: bool) {
        self.0.accepting.store(accepting, Ordering::Relaxed);
    }

    /// The limit of connections is reached, or not any more.
    pub(crate) fn set_full(&self, full: bool) {
        self.0.full.store(full, Ordering::Relaxed);
    }

    /// The relay wants no new clients: it is about to drain.
    pub(crate) fn set_quiet(&self, quiet: bool) {
        self.0.quiet.store(quiet, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healthy_needs_accepting_room_and_no_drain() {
        let health = RelayHealth::default();
        assert!(!health.is_healthy(), "not before the relay serves");
        let clone = health.clone();
        clone.set_accepting(true);
        assert!(health.is_healthy());
        health.set_full(true);
        assert!(!clone.is_healthy());
        health.set_full(false);
        health.set_quiet(true);
        assert!(!health.is_healthy());
    }
}
