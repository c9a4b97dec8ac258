//! The kinds of faults, and what a run with them must have seen.

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Nemesis {
    /// Kills a replica, as many as may fail, or all.
    Kill,
    /// Kills the leader.
    KillLeader,
    /// Freezes a replica.
    Pause,
    /// Freezes the leader.
    PauseLeader,
    /// Parts a minority from the majority.
    Halves,
    /// Parts the leader from all others.
    IsolateLeader,
    /// A replica hears the others, or is heard by them, but not both.
    OneWay,
    /// Each replica reaches its two neighbours only.
    Ring,
    /// The leader reaches one replica only, without which the others are no majority.
    Bridge,
    /// Delays or throttles all links of a replica.
    Slow,
    /// Cuts the connections of a replica after some bytes, again and again.
    Cut,
    /// Resets the connections of a replica.
    Reset,
    /// Holds back, resets, delays, throttles or cuts what passes between clients and a replica.
    Clients,
    /// Sets the wall clock of a replica, and makes it run faster or slower.
    Clock,
    /// A fresh replica joins, loses its vote, gets it again and is removed, with a kill in between.
    Churn,
    /// Hands leadership on twice a second.
    Transfer,
    /// Keeps a replica away until it must be sent a snapshot.
    Snapshot,
    /// Restarts all replicas, one after the other.
    Restart,
    /// A fault of links, one of clients' links and one of a process at once.
    Combined,
    /// Fills the disk of a replica, then frees it.
    DiskFull,
    /// Flips bits in a file of a stopped replica.
    BitFlip,
    /// Cuts off the end of a file of a stopped replica.
    Torn,
}

impl Nemesis {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::Kill,
        Self::KillLeader,
        Self::Pause,
        Self::PauseLeader,
        Self::Halves,
        Self::IsolateLeader,
        Self::OneWay,
        Self::Ring,
        Self::Bridge,
        Self::Slow,
        Self::Cut,
        Self::Reset,
        Self::Clients,
        Self::Clock,
        Self::Churn,
        Self::Transfer,
        Self::Snapshot,
        Self::Restart,
        Self::Combined,
        Self::DiskFull,
        Self::BitFlip,
        Self::Torn,
    ];

    /// The name in commands and histories.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillLeader => "kill-leader",
            Self::Pause => "pause",
            Self::PauseLeader => "pause-leader",
            Self::Halves => "halves",
            Self::IsolateLeader => "isolate-leader",
            Self::OneWay => "one-way",
            Self::Ring => "ring",
            Self::Bridge => "bridge",
            Self::Slow => "slow",
            Self::Cut => "cut",
            Self::Reset => "reset",
            Self::Clients => "clients",
            Self::Clock => "clock",
            Self::Churn => "churn",
            Self::Transfer => "transfer",
            Self::Snapshot => "snapshot",
            Self::Restart => "restart",
            Self::Combined => "combined",
            Self::DiskFull => "disk-full",
            Self::BitFlip => "bit-flip",
            Self::Torn => "torn",
        }
    }

    /// The nemesis of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    /// Whether another replica must lead after it, of so many voters: a run in which none of its
    /// faults has changed that has shown nothing.
    pub const fn changes_leader(self, voters: usize) -> bool {
        match self {
            Self::KillLeader
            | Self::PauseLeader
            | Self::IsolateLeader
            | Self::Transfer
            | Self::Restart => true,
            // With the bridge the leader of three has a majority.
            Self::Bridge => voters > 3,
            Self::Kill
            | Self::Pause
            | Self::Halves
            | Self::OneWay
            | Self::Ring
            | Self::Slow
            | Self::Cut
            | Self::Reset
            | Self::Clients
            | Self::Clock
            | Self::Churn
            | Self::Snapshot
            | Self::Combined
            | Self::DiskFull
            | Self::BitFlip
            | Self::Torn => false,
        }
    }

    /// Whether a replica must have installed a snapshot after it.
    pub const fn installs_snapshots(self) -> bool {
        matches!(self, Self::Snapshot)
    }

    /// Whether it damages files: snapshots must be among them.
    pub const fn damages_files(self) -> bool {
        matches!(self, Self::BitFlip | Self::Torn)
    }
}
