//! Counters of what happened since the replica started.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// The live counters.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($(#[doc = $doc])+ pub(crate) $name: Counter,)+
        }

        /// Counters since the replica started; plain numbers for the caller to export.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct ReplicaMetrics {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Counters {
            /// The present values.
            pub(crate) fn snapshot(&self) -> ReplicaMetrics {
                ReplicaMetrics { $($name: self.$name.value(),)+ }
            }
        }

        impl ReplicaMetrics {
            /// Every counter by name, for an exporter.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)+].into_iter()
            }
        }
    };
}

counters! {
    /// Commands proposed by this replica that were answered.
    proposals_applied,
    /// Commands proposed by this replica that certainly did not apply.
    proposals_failed,
    /// Commands proposed by this replica whose outcome stayed unknown.
    proposals_unknown,
    /// Commands refused because they were too large.
    proposals_too_large,
    /// Attempts beyond a command's first.
    proposal_retries,
    /// Commands that had to wait because too many were in flight.
    proposals_delayed,
    /// Commands that this replica sent to the leader.
    forwards_sent,
    /// Commands that other replicas sent to this one.
    forwards_received,
    /// Forwarded commands refused because too many were in flight here.
    forwards_refused,
    /// Linearizable reads asked for.
    reads,
    /// Questions to the leader that answered them.
    read_rounds,
    /// Linearizable reads that failed.
    reads_failed,
    /// Peer connections accepted, handshake finished.
    connections_accepted,
    /// Peer connections dropped because too many were open or shaking hands.
    connections_refused,
    /// TLS handshakes that failed or took too long.
    handshakes_failed,
    /// Requests refused because identity or addressee did not fit.
    requests_refused,
    /// Requests that could not be understood.
    requests_malformed,
    /// Snapshots sent completely.
    snapshots_sent,
    /// Snapshots received and handed to consensus.
    snapshots_received,
    /// Snapshots refused or broken off while receiving.
    snapshots_refused,
    /// Join requests answered with a certificate.
    joins_granted,
    /// Join requests refused.
    joins_refused,
    /// Join requests turned away because too many were under way.
    joins_busy,
    /// Join tokens that were not made, because the most that are kept exist.
    join_tokens_refused,
    /// Times that this replica became leader.
    leaderships,
    /// Times that this replica set out to hand leadership over because its clock was off.
    clock_handovers,
    /// Times this replica asked for the leadership because the leader's process was gone.
    successions,
    /// Appends to the log.
    log_appends,
    /// Syncs of the log; appends and votes share them.
    log_syncs,
    /// Time spent in them, microseconds.
    log_sync_micros,
    /// Commands that were applied before and got their first answer again.
    commands_repeated,
    /// Commands refused because their answer was no longer kept.
    commands_stale,
    /// Proposers forgotten because too many others came after them.
    proposers_evicted,
    /// Snapshots built.
    snapshots_built,
    /// Snapshots put off because another one was being built or the disk was nearly full.
    snapshots_put_off,
    /// Snapshots installed.
    snapshots_installed,
}

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds some.
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The present value.
    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
