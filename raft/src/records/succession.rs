//! What becomes of the records when another cluster begins with this one's state.

use std::collections::BTreeSet;

use hydrascale_proto::raft::v1::{ClusterRow, RemovedReplicaRow};

use super::{
    CLUSTER_KEY, ClusterRecords, NON_VOTING_PREFIX, REMOVED_PREFIX, RENEWAL_PREFIX,
    REPLACEMENT_PREFIX, TOKEN_PREFIX, numbered, put,
};
use crate::{Row, RowWrite};

impl ClusterRecords {
    /// Every replica id that was given to somebody, as far as it is remembered.
    pub(crate) fn given(&self) -> impl Iterator<Item = u64> + '_ {
        let joined = self
            .tokens
            .values()
            .filter_map(|token| token.r#use.as_ref())
            .map(|used| used.replica_id);
        let placed = self.replacements().flat_map(|(old, with)| [old, with]);
        joined
            .chain(placed)
            .chain(self.removed())
            .chain(self.non_voting.iter().copied())
    }

    /// Whether the record under `key` says something of the state, and not of the cluster that keeps
    /// it, its authority and its tokens.
    pub(crate) fn outlives_the_cluster(key: &[u8]) -> bool {
        key != CLUSTER_KEY && !key.starts_with(TOKEN_PREFIX)
    }

    /// The changes that make `rows` the records of a new cluster: `own` is its identity, and the
    /// replicas `old` are gone for good.
    pub(crate) fn succeed(
        rows: &[Row],
        own: &ClusterRow,
        old: &BTreeSet<u64>,
        now_ms: i64,
    ) -> Vec<RowWrite> {
        let of_members = [
            TOKEN_PREFIX,
            NON_VOTING_PREFIX,
            REPLACEMENT_PREFIX,
            RENEWAL_PREFIX,
        ];
        let ended = rows
            .iter()
            .filter(|row| of_members.iter().any(|prefix| row.key.starts_with(prefix)));
        let mut writes: Vec<RowWrite> =
            ended.map(|row| RowWrite::Delete(row.key.clone())).collect();
        writes.push(put(CLUSTER_KEY.into(), own));
        for replica_id in old {
            let row = RemovedReplicaRow {
                replica_id: *replica_id,
                removed_at_ms: now_ms,
            };
            writes.push(put(numbered(REMOVED_PREFIX, *replica_id), &row));
        }
        writes
    }
}
