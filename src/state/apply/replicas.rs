//! Replicas: announced, dead, removed; and the DERP region that each relay is given for good.

use hydrascale_proto::state::v1::{Refusal, RefusalCode, RemoveReplica, ReplicaDown, ReplicaUp};

use super::super::convert::{relay_from_proto, timestamp};
use super::super::{Replica, names};
use super::{Txn, Verdict, done, invalid, refuse};
use crate::types::{RegionId, ReplicaId, Timestamp};

/// The first region id for relays of one's own. By convention such regions end at 999; a cluster
/// that replaced a hundred replicas goes on above, because an id never changes hands.
const FIRST_REGION: u16 = 900;

impl Txn<'_> {
    /// A replica started or came back. Sessions of its earlier incarnations ended, at the latest
    /// now.
    pub(super) fn replica_up(&mut self, op: &ReplicaUp) -> Verdict {
        let id = ReplicaId(op.replica_id);
        for text in [&op.name, &op.version, &op.config_digest] {
            names::check_text(text)?;
        }
        let old = self
            .state
            .replicas
            .get(&id)
            .map(|replica| (**replica).clone());
        if let Some(old) = &old {
            check_successor(old, op.incarnation)?;
        }
        let relay = op.relay.as_ref().map(relay_from_proto).transpose()?;
        let old_region = old.as_ref().and_then(|old| old.region_id);
        let region_id = match (&op.relay, old_region) {
            (Some(relay), None) => Some(self.free_region(relay.wanted_region_id)?),
            (_, region) => region,
        };
        let retired = old
            .as_ref()
            .and_then(|old| old.relay.as_ref().or(old.retired_relay.as_ref()))
            .cloned();
        let replica = Replica {
            id,
            incarnation: op.incarnation,
            name: op.name.clone(),
            version: op.version.clone(),
            levels: (op.level_min, op.level_max),
            config_digest: op.config_digest.clone(),
            retired_relay: retired.filter(|_| relay.is_none()),
            relay,
            region_id,
            down_since: None,
            removed_at: None,
            ended: old
                .map(|old| self.ended_incarnations(&old, op.incarnation))
                .unwrap_or_default(),
        };
        self.put_replica(replica);
        Ok(done(region_id.map_or(0, |id| u64::from(id.0))))
    }

    /// Earlier incarnations of which sessions are left, and when they ended.
    fn ended_incarnations(&self, old: &Replica, now_runs: u64) -> Vec<(u64, Timestamp)> {
        let mut ended = old.ended.clone();
        if now_runs != old.incarnation {
            let now = self.now();
            ended.push((old.incarnation, old.down_since.unwrap_or(now)));
        }
        let sessions = || self.state.index.sessions_by_replica.of(old.id);
        ended.retain(|(incarnation, _)| {
            let mut left = sessions().filter_map(|node| self.state.session(*node));
            left.any(|session| session.incarnation == *incarnation)
        });
        ended
    }

    fn free_region(&self, wanted: u32) -> Result<RegionId, Refusal> {
        let wanted = u16::try_from(wanted)
            .map_err(|_| invalid(format!("wanted_region_id {wanted} is above 65535")))?;
        let is_free = |id: &RegionId| !self.state.index.replica_by_region.contains_key(id);
        let wanted = Some(RegionId(wanted)).filter(|id| id.0 != 0 && is_free(id));
        let lowest = || (FIRST_REGION..=u16::MAX).map(RegionId).find(is_free);
        let used_up = || refuse(RefusalCode::Precondition, "DERP region ids are used up");
        wanted.or_else(lowest).ok_or_else(used_up)
    }

    /// The leader counts a replica as dead. Ignored when it runs again as another incarnation.
    pub(super) fn replica_down(&mut self, op: &ReplicaDown) -> Verdict {
        let replica = self.existing_replica(op.replica_id)?;
        if replica.incarnation == op.incarnation && replica.down_since.is_none() {
            let now = self.now();
            let down_since = Some(timestamp(op.last_heard_ms).map_or(now, |heard| heard.min(now)));
            self.put_replica(Replica {
                down_since,
                ..replica
            });
        }
        Ok(done(op.replica_id))
    }

    /// A replica left for good. Its row stays, because neither its id nor its region is given away.
    pub(super) fn remove_replica(&mut self, op: &RemoveReplica) -> Verdict {
        let replica = self.existing_replica(op.replica_id)?;
        let now = self.now();
        self.put_replica(Replica {
            removed_at: Some(now),
            down_since: replica.down_since.or(Some(now)),
            retired_relay: replica.relay.or(replica.retired_relay),
            relay: None,
            ..replica
        });
        Ok(done(op.replica_id))
    }

    fn existing_replica(&self, id: u64) -> Result<Replica, Refusal> {
        let missing = || refuse(RefusalCode::NotFound, format!("replica {id} is not known"));
        self.state
            .replica(ReplicaId(id))
            .map(|row| (**row).clone())
            .ok_or_else(missing)
    }
}

fn check_successor(old: &Replica, incarnation: u64) -> Result<(), Refusal> {
    let id = old.id;
    if old.removed_at.is_some() {
        return Err(refuse(
            RefusalCode::Precondition,
            format!("replica {id} was removed: clear its data folder and join again"),
        ));
    }
    if incarnation < old.incarnation {
        return Err(refuse(
            RefusalCode::Precondition,
            format!(
                "replica {id} ran as incarnation {} already and says {incarnation}: its data folder \
                 is an old copy or another process uses its id; join again with an empty one",
                old.incarnation
            ),
        ));
    }
    Ok(())
}
