//! Known bugs to be planted on purpose: whoever tests this project must find each of them.
//!
//! None is in any build but that of the tests, where each simulation chooses one or none.

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
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
}

#[cfg(test)]
impl Bug {
    /// Every bug.
    pub(crate) const ALL: [Self; 7] = [
        Self::VoteNotSynced,
        Self::AckBeforeStoring,
        Self::ApplyNotDeterministic,
        Self::NoDedup,
        Self::StaleLease,
        Self::SnapshotMetaRace,
        Self::InstallMarkerNotStored,
    ];

    /// The name that chooses it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::VoteNotSynced => "vote-not-synced",
            Self::AckBeforeStoring => "ack-before-storing",
            Self::ApplyNotDeterministic => "apply-not-deterministic",
            Self::NoDedup => "no-dedup",
            Self::StaleLease => "stale-lease",
            Self::SnapshotMetaRace => "snapshot-meta-race",
            Self::InstallMarkerNotStored => "install-marker-not-stored",
        }
    }

    /// The bug of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| bug.name() == name)
    }
}

/// Whether `bug` is planted: never, outside of tests.
#[cfg(not(test))]
pub(crate) const fn is_planted(_: Bug) -> bool {
    false
}

/// Whether `bug` is planted in this simulation.
#[cfg(test)]
pub(crate) fn is_planted(bug: Bug) -> bool {
    crate::simulation::planted() == Some(bug)
}
