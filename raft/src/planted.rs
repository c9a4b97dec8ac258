//! Known bugs to be planted on purpose: whoever tests this project must find each of them.
//!
//! None is in any build but those of this crate's tests, where each simulation chooses one or none,
//! and those with the feature `planted-bugs`, where the variable [`PLANTED_BUG`] of the environment
//! chooses for the whole process.

/// Names the bug to plant, in builds with the feature `planted-bugs`.
pub const PLANTED_BUG: &str = "HYDRASCALE_PLANTED_BUG";

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A vote is answered before it is durable.
    VoteNotSynced,
    /// An append is acknowledged before it is durable.
    AckBeforeStoring,
    /// Applying reads the local clock.
    ApplyNotDeterministic,
    /// A command that was applied before is applied again.
    NoDedup,
    /// A leader answers reads without asking a quorum.
    StaleLease,
    /// A snapshot's position is not of the view that its rows are from.
    SnapshotMetaRace,
    /// An install leaves no marker that a restart would find.
    InstallMarkerNotStored,
    /// Whoever proposes a node chooses its address, and applying takes that as it is. Planted in
    /// the state machine above this crate.
    AddressByProposer,
}

impl Bug {
    /// Every bug.
    pub const ALL: [Self; 8] = [
        Self::VoteNotSynced,
        Self::AckBeforeStoring,
        Self::ApplyNotDeterministic,
        Self::NoDedup,
        Self::StaleLease,
        Self::SnapshotMetaRace,
        Self::InstallMarkerNotStored,
        Self::AddressByProposer,
    ];

    /// The name that chooses it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::VoteNotSynced => "vote-not-synced",
            Self::AckBeforeStoring => "ack-before-storing",
            Self::ApplyNotDeterministic => "apply-not-deterministic",
            Self::NoDedup => "no-dedup",
            Self::StaleLease => "stale-lease",
            Self::SnapshotMetaRace => "snapshot-meta-race",
            Self::InstallMarkerNotStored => "install-marker-not-stored",
            Self::AddressByProposer => "address-by-proposer",
        }
    }

    /// The bug of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| bug.name() == name)
    }
}

/// Whether `bug` is planted: never, in a build without planted bugs.
#[cfg(not(any(test, feature = "planted-bugs")))]
pub const fn is_planted(_: Bug) -> bool {
    false
}

/// Whether `bug` is planted in this process, or in this simulation.
#[cfg(any(test, feature = "planted-bugs"))]
pub fn is_planted(bug: Bug) -> bool {
    #[cfg(test)]
    if crate::simulation::planted() == Some(bug) {
        return true;
    }
    #[cfg(feature = "planted-bugs")]
    if environment::chosen().is_ok_and(|chosen| chosen == Some(bug)) {
        return true;
    }
    false
}

/// Says loudly which bug the environment has planted in this process.
///
/// # Errors
/// The environment names a bug that there is not; the text lists those that there are.
pub(crate) fn announce() -> Result<(), String> {
    #[cfg(feature = "planted-bugs")]
    if let Some(bug) = environment::chosen()? {
        tracing::warn!(
            "PLANTED BUG: {} is in this process because {PLANTED_BUG} says so. It will lose or \
             falsify data. Never run this build for anything but the proof of a test",
            bug.name()
        );
    }
    Ok(())
}

#[cfg(feature = "planted-bugs")]
mod environment {
    use std::sync::OnceLock;

    use super::{Bug, PLANTED_BUG};

    static CHOSEN: OnceLock<Result<Option<Bug>, String>> = OnceLock::new();

    /// What the environment has chosen; an empty variable chooses nothing.
    pub(super) fn chosen() -> Result<Option<Bug>, String> {
        let read = || match std::env::var_os(PLANTED_BUG) {
            Some(name) if !name.is_empty() => parse(&name.to_string_lossy()).map(Some),
            Some(_) | None => Ok(None),
        };
        CHOSEN.get_or_init(read).clone()
    }

    fn parse(name: &str) -> Result<Bug, String> {
        Bug::named(name).ok_or_else(|| {
            let names = Bug::ALL.map(Bug::name).join(", ");
            format!("there is no bug {name:?} to plant; choose one of {names}, or unset it")
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_bug_is_chosen_by_its_name_and_an_unknown_name_lists_all() {
            for bug in Bug::ALL {
                assert_eq!(parse(bug.name()), Ok(bug));
            }
            let refused = parse("no-such-bug").unwrap_err();
            assert!(refused.contains("\"no-such-bug\"") && refused.contains("stale-lease"));
        }
    }
}
