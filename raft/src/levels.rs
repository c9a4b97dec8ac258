//! Feature levels: one number for everything that replicas of two versions must agree on, which is
//! what commands mean, what a snapshot holds and what an RPC says.
//!
//! A program supports a range of levels. The cluster has one, among its replicated records, which is
//! raised when all members can follow and never lowered. Nothing above it is proposed, written into
//! a snapshot or sent, so that a program of the level before understands everything until then.
//!
//! | level | brought |
//! |---|---|
//! | 1 | what the first version speaks |
//! | 2 | the recorded level itself (`RaiseLevel`, its row, the header of a file), and new keys |
//!
//! New keys: resealing the authority's and the Noise key, certificates that are renewed on request,
//! another authority.

use std::fmt;

/// The levels that this program supports.
pub const FEATURE_LEVELS: Levels = Levels { min: 1, max: 2 };

/// The level of a cluster that has recorded none.
pub(crate) const FIRST: u32 = 1;

/// A range of feature levels, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// The lowest.
    pub min: u32,
    /// The highest.
    pub max: u32,
}

impl Levels {
    /// Whether a level is in the range.
    pub fn includes(self, level: u32) -> bool {
        (self.min..=self.max).contains(&level)
    }

    /// Whether a program with this range can be a replica of a cluster at `active`.
    ///
    /// # Errors
    /// It is too old or too new, and what to do.
    pub(crate) fn check(self, active: u32) -> Result<(), LevelError> {
        if active > self.max {
            Err(LevelError::TooOld {
                active,
                supported: self,
            })
        } else if active < self.min {
            Err(LevelError::TooNew {
                active,
                supported: self,
            })
        } else {
            Ok(())
        }
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.min == self.max {
            true => write!(f, "{}", self.min),
            false => write!(f, "{} to {}", self.min, self.max),
        }
    }
}

/// A program that cannot be a replica of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// The cluster has been raised above what it supports.
    #[error(
        "the cluster has feature level {active}, which is never lowered, and this replica supports \
         {supported}: start it with the version that the other replicas run, and without a \
         `cluster.feature_level_max` below {active}"
    )]
    TooOld {
        /// Level of the cluster.
        active: u32,
        /// What the program supports.
        supported: Levels,
    },
    /// The cluster is below what it supports: a version was skipped.
    #[error(
        "the cluster has feature level {active} and this replica supports {supported}: upgrade all \
         replicas to a version in between and finish that upgrade first"
    )]
    TooNew {
        /// Level of the cluster.
        active: u32,
        /// What the program supports.
        supported: Levels,
    },
}

/// The level that a message states: 0 is what a program of level 1 leaves out.
pub(crate) fn stated(level: u32) -> u32 {
    level.max(FIRST)
}

/// As a message states it.
pub(crate) fn to_state(level: u32) -> u32 {
    if level == FIRST { 0 } else { level }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_fits_a_cluster_within_its_range_and_says_which_way_it_does_not() {
        let levels = Levels { min: 2, max: 3 };
        assert_eq!([levels.check(2), levels.check(3)], [Ok(()), Ok(())]);
        let old = levels.check(4).unwrap_err().to_string();
        assert!(old.contains("level 4") && old.contains("2 to 3"), "{old}");
        let new = levels.check(1).unwrap_err().to_string();
        assert!(new.contains("in between"), "{new}");
    }

    #[test]
    fn the_first_level_is_not_written() {
        assert_eq!([to_state(1), to_state(2)], [0, 2]);
        assert_eq!([stated(0), stated(1), stated(2)], [1, 1, 2]);
    }
}
