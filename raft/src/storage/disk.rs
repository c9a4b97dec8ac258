//! Free disk space, and how little of it is too little.

use std::io;
use std::path::Path;

/// Space on a replica's disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FreeSpace {
    /// What this process may still write.
    pub(crate) available: u64,
    /// Size of the file system.
    pub(crate) total: u64,
}

impl FreeSpace {
    /// Asks the file system that `path` is on.
    ///
    /// # Errors
    /// The path is gone.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let found = rustix::fs::statvfs(path)?;
        Ok(Self {
            available: found.f_bavail.saturating_mul(found.f_frsize),
            total: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }

    /// Too little to take new proposals: this replica should hand leadership over.
    pub(crate) fn is_low(self) -> bool {
        self.available < self.low_mark()
    }

    /// Too little to go on: a write that fails half-way ends the process anyway.
    pub(crate) fn is_critical(self) -> bool {
        self.available < self.low_mark() / CRITICAL_DIVISOR
    }

    /// The smaller of both marks: a small disk must stay usable, a large one need not keep
    /// gigabytes free.
    fn low_mark(self) -> u64 {
        LOW_BYTES.min(self.total / LOW_DIVISOR)
    }
}

/// Room for a full write-ahead log, its flush and a snapshot of a large tailnet.
const LOW_BYTES: u64 = 512 << 20;
/// 5 % of the disk.
const LOW_DIVISOR: u64 = 20;
/// 128 MiB where the low mark is 512 MiB.
const CRITICAL_DIVISOR: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_follow_the_smaller_of_share_and_size() {
        let space = |available, total| FreeSpace { available, total };
        assert!(space(511 << 20, 1 << 40).is_low());
        assert!(!space(512 << 20, 1 << 40).is_low());
        assert!(!space(100 << 20, 1 << 30).is_low());
        assert!(space(51 << 20, 1 << 30).is_low());
        assert!(!space(128 << 20, 1 << 40).is_critical());
        assert!(space(127 << 20, 1 << 40).is_critical());
    }

    #[test]
    fn an_existing_folder_has_a_size_and_a_missing_one_is_an_error() {
        assert!(FreeSpace::of(Path::new("/")).unwrap().total > 0);
        assert!(FreeSpace::of(Path::new("/no such folder")).is_err());
    }
}
