//! The leader's watch: counts replicas as dead that stay silent, and lets replicated time pass when
//! something is due.

use std::collections::BTreeMap;
use std::time::Duration;

use hydrascale_proto::state::v1::{self as pb, command::Op};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::{Cluster, ClusterStatus, Role};
use crate::types::{ReplicaId, Timestamp};

/// How often the leader looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Silence after which a replica counts as dead, times the timing multiplier. Its nodes keep their
/// online state for the rest of the grace time (DESIGN 4.4).
const DOWN_AFTER: Duration = Duration::from_secs(10);
/// However slow the machine is: before the grace of a replica's nodes is over (25 s), so that they never
/// stay online for longer than it.
const DOWN_AFTER_MAX: Duration = Duration::from_secs(20);

/// Starts the watch; it acts only while this replica leads.
pub fn spawn_presence(
    cluster: Cluster,
    timing_multiplier: u32,
    clock: fn() -> Timestamp,
    tasks: &mut JoinSet<()>,
) {
    tasks.spawn(async move {
        let mut watch = Watch::new(down_after(timing_multiplier));
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let status = cluster.status();
            let silent = watch.silent(&status, Instant::now());
            if status.role != Role::Leader {
                continue;
            }
            for (id, silence) in silent {
                declare_down(&cluster, id, silence).await;
            }
            if cluster
                .state()
                .next_deadline()
                .is_some_and(|deadline| deadline <= clock())
            {
                report(
                    "tick",
                    cluster.propose(Op::Tick(pb::Tick {})).await.map(drop),
                );
            }
        }
    });
}

fn down_after(timing_multiplier: u32) -> Duration {
    (DOWN_AFTER * timing_multiplier).min(DOWN_AFTER_MAX)
}

async fn declare_down(cluster: &Cluster, id: ReplicaId, silence: Duration) {
    let state = cluster.state();
    let Some(replica) = state
        .replica(id)
        .filter(|replica| replica.down_since.is_none())
    else {
        return;
    };
    tracing::warn!(
        replica.id = id.0,
        "replica does not answer and counts as dead"
    );
    let down = pb::ReplicaDown {
        replica_id: id.0,
        incarnation: replica.incarnation,
        last_heard_ms: None,
        silence_ms: Some(u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)),
    };
    report(
        "replica down",
        cluster.propose(Op::ReplicaDown(down)).await.map(drop),
    );
}

fn report(what: &'static str, result: Result<(), super::ProposeError>) {
    if let Err(error) = result {
        tracing::debug!(%error, what, "leader's watch will try again");
    }
}

/// When each replica was last heard of, since this replica leads.
struct Watch {
    down_after: Duration,
    leading_since: Option<Instant>,
    heard: BTreeMap<u64, Instant>,
}

impl Watch {
    const fn new(down_after: Duration) -> Self {
        Self {
            down_after,
            leading_since: None,
            heard: BTreeMap::new(),
        }
    }

    /// The members that stayed silent for too long, and for how long. A new leader starts all its
    /// timers afresh.
    fn silent(&mut self, status: &ClusterStatus, now: Instant) -> Vec<(ReplicaId, Duration)> {
        if status.role != Role::Leader {
            self.leading_since = None;
            self.heard.clear();
            return Vec::new();
        }
        let since = *self.leading_since.get_or_insert(now);
        let mut silent = Vec::new();
        for member in status
            .members
            .iter()
            .filter(|member| member.id != status.replica_id)
        {
            let heard = self.heard.entry(member.id).or_insert(since);
            if let Some(ms) = member.last_contact_ms
                && let Some(at) = now.checked_sub(Duration::from_millis(ms))
            {
                *heard = (*heard).max(at);
            }
            let silence = now.duration_since(*heard);
            if silence > self.down_after {
                silent.push((ReplicaId(member.id), silence));
            }
        }
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemberStatus;
    use super::*;

    #[test]
    fn a_replica_on_slow_machines_counts_as_dead_before_its_nodes_grace_is_over() {
        assert_eq!(down_after(1), Duration::from_secs(10));
        assert_eq!(down_after(10), Duration::from_secs(20));
    }

    fn leader_of(last_contact_ms: Option<u64>) -> ClusterStatus {
        let other = MemberStatus {
            id: 2,
            last_contact_ms,
            voter: true,
            ..Default::default()
        };
        let me = MemberStatus {
            id: 1,
            voter: true,
            ..Default::default()
        };
        ClusterStatus {
            replica_id: 1,
            role: Role::Leader,
            members: vec![me, other],
            ..Default::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_leader_waits_a_whole_interval_before_it_declares_anybody_dead() {
        let mut watch = Watch::new(Duration::from_secs(10));
        let start = Instant::now();
        assert!(watch.silent(&leader_of(None), start).is_empty());
        assert!(
            watch
                .silent(&leader_of(None), start + Duration::from_secs(9))
                .is_empty()
        );
        let late = watch.silent(&leader_of(None), start + Duration::from_secs(11));
        assert_eq!(late, vec![(ReplicaId(2), Duration::from_secs(11))]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_resets_the_timer_and_losing_the_lead_forgets_all() {
        let mut watch = Watch::new(Duration::from_secs(10));
        let start = Instant::now();
        watch.silent(&leader_of(Some(0)), start);
        let later = start + Duration::from_secs(30);
        assert!(watch.silent(&leader_of(Some(100)), later).is_empty());
        let follower = ClusterStatus {
            role: Role::Follower,
            ..leader_of(None)
        };
        assert!(
            watch
                .silent(&follower, later + Duration::from_secs(60))
                .is_empty()
        );
        assert!(
            watch
                .silent(&leader_of(None), later + Duration::from_secs(61))
                .is_empty()
        );
    }
}
