//! A cluster of one in memory: the same machine and the same handle over a log that is a mutex.
//! For tests of what stands above the cluster.

mod lagging;
mod members;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use hydrascale_proto::state::v1::{self as pb, command::Op};
use hydrascale_raft::{ApplyContext, StateMachine};
use parking_lot::Mutex;

use self::members::LocalMembers;
use super::{
    Cluster, ClusterStatus, Consensus, FeatureLevels, Machine, MemberStatus, ProposeError,
    ReadError, Role,
};
use crate::types::{ReplicaId, Timestamp};

/// Without a leader for longer than this the log lacks one, as the consensus of a real replica.
const LEADERLESS_AFTER: Duration = Duration::from_secs(3);

/// An empty tailnet with short times, for tests that look at something else.
#[cfg(test)]
pub(crate) fn plain_tailnet() -> pb::InitTailnet {
    pb::InitTailnet {
        settings: Some(pb::Settings {
            ipv4_prefix: "100.64.0.0/10".to_owned(),
            ephemeral_inactivity_ms: 120_000,
            login_ttl_ms: 900_000,
            session_grace_ms: 10_000,
            replica_grace_ms: 25_000,
            ..pb::Settings::default()
        }),
        noise_private_key: vec![1; 32].into(),
        secret_pepper: vec![2; 32].into(),
    }
}

/// Drives the in-memory log of [`Cluster::local`]: its clock and whether it takes changes.
#[derive(Clone)]
pub struct LocalControl {
    log: Arc<LocalLog>,
}

struct LocalLog {
    machine: Arc<Machine>,
    /// What was committed.
    entries: Mutex<Vec<(ApplyContext, Bytes)>>,
    now_ms: AtomicI64,
    available: AtomicBool,
    /// Changes are made, and their proposers do not learn it.
    forgetful: AtomicBool,
    cut_off: AtomicBool,
    /// Committed entries that no replica has applied yet.
    behind: AtomicU64,
    /// Who is a member.
    members: Mutex<LocalMembers>,
    /// When the leader went, by the log's clock.
    leaderless_since_ms: AtomicI64,
}

impl Cluster {
    /// A cluster of one in memory, with an empty tailnet made from `init` at time `now`.
    ///
    /// # Errors
    /// When the state machine refuses `init`.
    pub async fn local(
        init: pb::InitTailnet,
        now: Timestamp,
    ) -> Result<(Self, LocalControl), ProposeError> {
        let machine = Arc::new(Machine::new());
        let log = Arc::new(LocalLog {
            machine: Arc::clone(&machine),
            entries: Mutex::default(),
            now_ms: AtomicI64::new(now.unix_ms()),
            available: AtomicBool::new(true),
            forgetful: AtomicBool::new(false),
            cut_off: AtomicBool::new(false),
            behind: AtomicU64::new(0),
            members: Mutex::new(LocalMembers::new()),
            leaderless_since_ms: AtomicI64::new(now.unix_ms()),
        });
        let control = LocalControl { log };
        let cluster = control.handle(ReplicaId(1));
        cluster.propose(Op::InitTailnet(init)).await?;
        cluster.propose(LocalControl::up(ReplicaId(1))).await?;
        Ok((cluster, control))
    }
}

impl LocalControl {
    /// Another replica on the same log.
    ///
    /// # Errors
    /// When there is no leader.
    pub async fn join(&self, id: ReplicaId) -> Result<Cluster, ProposeError> {
        let cluster = self.handle(id);
        cluster.propose(Self::up(id)).await?;
        self.log.members.lock().members.insert(id);
        Ok(cluster)
    }

    /// A handle on the log as a replica that nobody has heard of.
    pub fn handle(&self, id: ReplicaId) -> Cluster {
        let consensus = Arc::clone(&self.log) as Arc<dyn Consensus>;
        Cluster::new(consensus, Arc::clone(&self.log.machine), id, 1)
    }

    /// What announces a replica.
    pub fn up(id: ReplicaId) -> Op {
        Op::ReplicaUp(pb::ReplicaUp {
            replica_id: id.0,
            incarnation: 1,
            name: format!("local-{id}"),
            level_min: 1,
            level_max: 1,
            ..Default::default()
        })
    }

    /// Makes all replicas believe that no other answers, or stops that.
    pub fn set_cut_off(&self, cut_off: bool) {
        self.log.cut_off.store(cut_off, Ordering::Relaxed);
    }

    /// Makes all replicas lag so many entries behind a leader that works; zero stops that.
    pub fn set_behind(&self, entries: u64) {
        self.log.behind.store(entries, Ordering::Relaxed);
    }

    /// Makes every change from now on without telling its proposer, or stops that.
    pub fn set_forgetful(&self, forgetful: bool) {
        self.log.forgetful.store(forgetful, Ordering::Relaxed);
    }

    /// Moves the log's clock forward.
    pub fn advance(&self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.log.now_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// The time that the next command is stamped with.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.log.now_ms.load(Ordering::Relaxed))
    }

    /// Takes the leader away, or gives it back. How long it has been away is measured by the log's
    /// clock.
    pub fn set_available(&self, available: bool) {
        let now_ms = self.log.now_ms.load(Ordering::Relaxed);
        self.log
            .leaderless_since_ms
            .store(now_ms, Ordering::Relaxed);
        self.log.available.store(available, Ordering::Relaxed);
    }
}

impl LocalLog {
    fn leaderless_ms(&self) -> u64 {
        if self.available.load(Ordering::Relaxed) {
            return 0;
        }
        let now_ms = self.now_ms.load(Ordering::Relaxed);
        let since_ms = self.leaderless_since_ms.load(Ordering::Relaxed);
        u64::try_from(now_ms - since_ms).unwrap_or(0)
    }

    fn commit(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        if !self.available.load(Ordering::Relaxed) {
            return Err(ProposeError::Unavailable {
                reason: "there is no leader".to_owned(),
            });
        }
        let mut entries = self.entries.lock();
        let ctx = ApplyContext {
            index: entries.len() as u64 + 1,
            now_ms: self.now_ms.load(Ordering::Relaxed),
        };
        let effects =
            self.machine
                .apply(&ctx, &command)
                .map_err(|error| ProposeError::Unknown {
                    reason: error.to_string(),
                })?;
        self.machine.publish(ctx.index);
        entries.push((ctx, command));
        if self.forgetful.load(Ordering::Relaxed) {
            return Err(ProposeError::Unknown {
                reason: "the answer was lost".to_owned(),
            });
        }
        Ok(effects.outcome)
    }
}

impl Consensus for LocalLog {
    fn propose(&self, command: Bytes, _level: u32) -> BoxFuture<'_, Result<Bytes, ProposeError>> {
        async move { self.commit(command) }.boxed()
    }

    fn read_index(&self) -> BoxFuture<'_, Result<u64, ReadError>> {
        async move {
            let reason = if !self.available.load(Ordering::Relaxed) {
                "there is no leader"
            } else if self.behind.load(Ordering::Relaxed) > 0 {
                "this replica is behind"
            } else {
                return Ok(self.machine.applied_index());
            };
            Err(ReadError {
                reason: reason.to_owned(),
            })
        }
        .boxed()
    }

    fn status(&self) -> ClusterStatus {
        let available = self.available.load(Ordering::Relaxed);
        let cut_off = self.cut_off.load(Ordering::Relaxed);
        let members = self.members.lock();
        let member = |id: &ReplicaId| MemberStatus {
            id: id.0,
            name: if id.0 == 1 {
                "local".to_owned()
            } else {
                format!("local-{id}")
            },
            voter: !members.learners.contains(id),
            non_voting: members.learners.contains(id),
            applied_index: Some(self.machine.applied_index()),
            reachable: id.0 == 1 || !cut_off,
            feature_levels: Some(FeatureLevels { min: 1, max: 2 }),
            ..Default::default()
        };
        ClusterStatus {
            cluster_id: "local".to_owned(),
            replica_id: 1,
            incarnation: 1,
            role: if available && members.leader.0 == 1 {
                Role::Leader
            } else {
                Role::Follower
            },
            leader: available.then_some(members.leader.0),
            term: 1,
            committed_index: self.machine.applied_index() + self.behind.load(Ordering::Relaxed),
            applied_index: self.machine.applied_index(),
            leaderless_ms: self.leaderless_ms(),
            cut_off,
            quorum: available,
            membership_index: members.index,
            removed: members.removed.iter().map(|id| id.0).collect(),
            members: members.members.iter().map(member).collect(),
            feature_level: Some(members.level),
            ..Default::default()
        }
    }

    fn lacks_leader(&self) -> Option<Duration> {
        let without = Duration::from_millis(self.leaderless_ms());
        (without > LEADERLESS_AFTER).then_some(without)
    }
}
