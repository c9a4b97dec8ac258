//! The cluster's own records: its identity and certificate authority, its join tokens, what its
//! members are meant to be, the replicas that it has removed. Pure: part of every replica's apply, so the same log gives the same records.

mod authority;
mod level;
mod standing;
mod succession;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hydrascale_proto::raft::v1::{
    Admin, AdminDone, AdminOutcome, ClusterRow, CreateJoinToken, InitCluster, JoinTokenRow,
    JoinTokenUse, LevelRow, NonVotingRow, RaiseLevel, RemovedReplicaRow, RenewalRow,
    ReplacementRow, RevokeJoinToken, UseJoinToken, admin, admin_outcome,
};
use prost::Message;

pub(crate) use self::authority::{BEING_REPLACED, is_replaced};
pub(crate) use self::level::{LevelRowError, level_needed, level_of};
pub(crate) use self::standing::gone;
use crate::{Row, RowWrite};

/// Tokens kept at once, spent ones included. A cluster has a handful of replicas; the bound keeps a
/// script that creates tokens in a loop from growing every snapshot.
const JOIN_TOKENS_MAX: usize = 256;

/// How long a token is remembered after its expiry, so that its late use is told apart from a typo.
const JOIN_TOKEN_REMEMBERED_MS: i64 = 30 * 24 * 3600 * 1000;

/// Where the cluster's identity is recorded.
pub(crate) const CLUSTER_KEY: &[u8] = b"cluster";
const LEVEL_KEY: &[u8] = b"level";
const TOKEN_PREFIX: &[u8] = b"join-token/";
const REMOVED_PREFIX: &[u8] = b"removed/";
const NON_VOTING_PREFIX: &[u8] = b"non-voting/";
const REPLACEMENT_PREFIX: &[u8] = b"replacement/";
const RENEWAL_PREFIX: &[u8] = b"renewal/";

/// Everything the cluster knows about itself besides its membership.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClusterRecords {
    cluster: Option<ClusterRow>,
    /// Absent as long as the level is the first.
    level: Option<LevelRow>,
    tokens: BTreeMap<String, JoinTokenRow>,
    removed: BTreeSet<u64>,
    /// Members that stay learners.
    non_voting: BTreeSet<u64>,
    /// Who takes the place of a replica.
    replacements: BTreeMap<u64, u64>,
    /// Log index of the newest request for a new certificate of a replica.
    renewals: BTreeMap<u64, u64>,
}

impl ClusterRecords {
    /// Rebuilds the records from their stored rows.
    ///
    /// # Errors
    /// A row that this build cannot read; the replica must not go on without it.
    pub(crate) fn load(rows: impl IntoIterator<Item = Row>) -> Result<Self, RecordsError> {
        let mut records = Self::default();
        for row in rows {
            records.load_row(&row)?;
        }
        Ok(records)
    }

    /// Applies one change at log index `index` and replicated time `now_ms`: the rows to store, and
    /// the answer. A refusal changes nothing.
    pub(crate) fn apply(
        &mut self,
        index: u64,
        now_ms: i64,
        admin: &Admin,
    ) -> (Vec<RowWrite>, AdminOutcome) {
        let done = match &admin.op {
            Some(admin::Op::Init(op)) => self.init_cluster(now_ms, op),
            Some(admin::Op::CreateJoinToken(op)) => self.create_join_token(now_ms, op),
            Some(admin::Op::RevokeJoinToken(op)) => self.revoke_join_token(op),
            Some(admin::Op::UseJoinToken(op)) => self.use_join_token(index, now_ms, op),
            Some(admin::Op::RemoveReplica(op)) => Ok(self.remove_replica(now_ms, op)),
            Some(admin::Op::SetVoting(op)) => self.set_voting(op),
            Some(admin::Op::ReplaceReplica(op)) => self.replace_replica(op),
            Some(admin::Op::ResealAuthority(op)) => self.reseal_authority(op),
            Some(admin::Op::RenewCertificates(op)) => Ok(self.renew_certificates(index, op)),
            Some(admin::Op::RotateAuthority(op)) => self.rotate_authority(op),
            Some(admin::Op::AdvanceAuthority(op)) => self.advance_authority(op),
            Some(admin::Op::RaiseLevel(op)) => self.raise_level(now_ms, op),
            None => Err("this build does not know the requested change".to_owned()),
        };
        match done {
            Ok((writes, replica_id)) => (writes, done_outcome(replica_id)),
            Err(reason) => (Vec::new(), refused_outcome(reason)),
        }
    }

    /// The cluster's identity and certificate authority, once the first entry has been applied.
    pub(crate) fn cluster(&self) -> Option<&ClusterRow> {
        self.cluster.as_ref()
    }

    /// The join tokens that are remembered, by id.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = &JoinTokenRow> {
        self.tokens.values()
    }

    fn load_row(&mut self, row: &Row) -> Result<(), RecordsError> {
        let unreadable = |source| RecordsError::Unreadable {
            key: lossy(&row.key),
            source,
        };
        if row.key.as_ref() == CLUSTER_KEY {
            self.cluster = Some(ClusterRow::decode(row.value.clone()).map_err(unreadable)?);
        } else if row.key.as_ref() == LEVEL_KEY {
            self.level = Some(LevelRow::decode(row.value.clone()).map_err(unreadable)?);
        } else if row.key.starts_with(TOKEN_PREFIX) {
            let token = JoinTokenRow::decode(row.value.clone()).map_err(unreadable)?;
            self.tokens.insert(token.id.clone(), token);
        } else if row.key.starts_with(REMOVED_PREFIX) {
            let removed = RemovedReplicaRow::decode(row.value.clone()).map_err(unreadable)?;
            self.removed.insert(removed.replica_id);
        } else if row.key.starts_with(NON_VOTING_PREFIX) {
            let learner = NonVotingRow::decode(row.value.clone()).map_err(unreadable)?;
            self.non_voting.insert(learner.replica_id);
        } else if row.key.starts_with(REPLACEMENT_PREFIX) {
            let replacement = ReplacementRow::decode(row.value.clone()).map_err(unreadable)?;
            self.replacements
                .insert(replacement.replica_id, replacement.with);
        } else if row.key.starts_with(RENEWAL_PREFIX) {
            let renewal = RenewalRow::decode(row.value.clone()).map_err(unreadable)?;
            self.renewals.insert(renewal.replica_id, renewal.index);
        } else {
            return Err(RecordsError::UnknownKey {
                key: lossy(&row.key),
            });
        }
        Ok(())
    }

    fn init_cluster(&mut self, now_ms: i64, op: &InitCluster) -> Applied {
        if let Some(cluster) = &self.cluster {
            // A replica that stopped between proposing and learning of success proposes again.
            if cluster.cluster_id == op.cluster_id {
                return Ok((Vec::new(), 0));
            }
            return Err(format!("this is cluster {} already", cluster.cluster_id));
        }
        let cluster = ClusterRow {
            cluster_id: op.cluster_id.clone(),
            ca_certificate: op.ca_certificate.clone(),
            ca_private_key: op.ca_private_key.clone(),
            ..ClusterRow::default()
        };
        let mut writes = vec![put(Bytes::from_static(CLUSTER_KEY), &cluster)];
        self.cluster = Some(cluster);
        let (raised, _) = self.raise_level(now_ms, &RaiseLevel { to: op.level })?;
        writes.extend(raised);
        Ok((writes, 0))
    }

    fn create_join_token(&mut self, now_ms: i64, op: &CreateJoinToken) -> Applied {
        if op.expires_at_ms <= now_ms {
            return Err("the join token would be expired from the start".to_owned());
        }
        if self.tokens.contains_key(&op.id) {
            return Err(format!("join token {} exists already", op.id));
        }
        if self.is_removed(op.replaces) {
            return Err(gone(op.replaces));
        }
        if let Some(with) = self.replacement_of(op.replaces) {
            return Err(standing::taken(op.replaces, with));
        }
        let remembered = |token: &&JoinTokenRow| is_remembered(token, now_ms);
        if self.tokens.values().filter(remembered).count() >= JOIN_TOKENS_MAX {
            return Err(format!(
                "{JOIN_TOKENS_MAX} join tokens exist, the most that are kept"
            ));
        }
        let mut writes = self.forget_old_tokens(now_ms);
        let token = JoinTokenRow {
            id: op.id.clone(),
            secret_hash: op.secret_hash.clone(),
            expires_at_ms: op.expires_at_ms,
            revoked: false,
            r#use: None,
            replaces: op.replaces,
        };
        writes.push(put(token_key(&token.id), &token));
        self.tokens.insert(token.id.clone(), token);
        Ok((writes, 0))
    }

    fn forget_old_tokens(&mut self, now_ms: i64) -> Vec<RowWrite> {
        let mut writes = Vec::new();
        self.tokens.retain(|id, token| {
            let keep = is_remembered(token, now_ms);
            if !keep {
                writes.push(RowWrite::Delete(token_key(id)));
            }
            keep
        });
        writes
    }

    fn revoke_join_token(&mut self, op: &RevokeJoinToken) -> Applied {
        let Some(token) = self.tokens.get_mut(&op.id) else {
            return Err(format!("join token {} is unknown", op.id));
        };
        if let Some(used) = &token.r#use {
            let joined = used.replica_id;
            return Err(format!(
                "join token {} was used by replica {joined} already: to be rid of that one, run \
                 `cluster remove {joined}`",
                op.id
            ));
        }
        token.revoked = true;
        Ok((vec![put(token_key(&op.id), token)], 0))
    }

    fn use_join_token(&mut self, index: u64, now_ms: i64, op: &UseJoinToken) -> Applied {
        let Some(token) = self.tokens.get(&op.id) else {
            return Err(format!("join token {} is unknown", op.id));
        };
        if token.secret_hash != op.secret_hash {
            return Err(format!("the secret of join token {} is wrong", op.id));
        }
        self.check_joinable(op)?;
        if let Some(used) = &token.r#use {
            // The joiner may not have heard the first answer; its key proves that it is the same.
            if used.public_key == op.public_key {
                return Ok((Vec::new(), used.replica_id));
            }
            let joined = used.replica_id;
            return Err(format!(
                "join token {} was used by replica {joined} already",
                op.id
            ));
        }
        if token.revoked {
            return Err(format!("join token {} was revoked", op.id));
        }
        if token.expires_at_ms <= now_ms {
            return Err(format!("join token {} has expired", op.id));
        }
        let replaced = token.replaces;
        if op.non_voting && replaced != 0 && !self.is_non_voting(replaced) {
            return Err(format!(
                "join token {} gives the place of replica {replaced}, which votes: join without \
                 `--non-voting` (`cluster.non_voting`), and run `cluster demote` then",
                op.id
            ));
        }
        let mut spent = token.clone();
        spent.r#use = Some(JoinTokenUse {
            replica_id: index,
            name: op.name.clone(),
            public_key: op.public_key.clone(),
            used_at_ms: now_ms,
        });
        let mut writes = vec![put(token_key(&op.id), &spent)];
        if spent.replaces != 0 {
            writes.extend(self.note_replacement(spent.replaces, index)?);
        } else if op.non_voting {
            writes.extend(self.note_voting(index, false));
        }
        self.tokens.insert(op.id.clone(), spent);
        Ok((writes, index))
    }
}

/// The rows to write and the replica id to answer with, or why nothing changes.
type Applied = Result<(Vec<RowWrite>, u64), String>;

/// Stored records that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordsError {
    /// The row's bytes are damaged or from an incompatible build.
    #[error("cluster record {key} cannot be read")]
    Unreadable {
        /// The row's key.
        key: String,
        /// Why.
        #[source]
        source: prost::DecodeError,
    },
    /// A newer build wrote a kind of record that this one does not know.
    #[error("cluster record {key} is of an unknown kind")]
    UnknownKey {
        /// The row's key.
        key: String,
    },
}

fn done_outcome(replica_id: u64) -> AdminOutcome {
    AdminOutcome {
        result: Some(admin_outcome::Result::Done(AdminDone { replica_id })),
    }
}

fn refused_outcome(reason: String) -> AdminOutcome {
    AdminOutcome {
        result: Some(admin_outcome::Result::Refused(reason)),
    }
}

fn is_remembered(token: &JoinTokenRow, now_ms: i64) -> bool {
    token.expires_at_ms.saturating_add(JOIN_TOKEN_REMEMBERED_MS) > now_ms
}

fn put(key: Bytes, row: &impl Message) -> RowWrite {
    RowWrite::Put(Row {
        key,
        value: row.encode_to_vec().into(),
    })
}

fn token_key(id: &str) -> Bytes {
    [TOKEN_PREFIX, id.as_bytes()].concat().into()
}

fn numbered(prefix: &[u8], replica_id: u64) -> Bytes {
    [prefix, &replica_id.to_be_bytes()].concat().into()
}

fn lossy(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}
