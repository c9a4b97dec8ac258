//! The beginning of a cluster with the state of another: rows that are there get a new cluster id, a
//! new authority, and one member whose log begins where the old one ended.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use hydrascale_proto::raft::v1 as pb;
use hydrascale_proto::raft::v1::ClusterRow;
use prost::Message;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::codec::{self, CodecError, StoredMembership};
use crate::core::AUTHORITY_KEY;
use crate::engine::{Engine, EngineError, KeyRange, Read, Table, WriteBatch};
use crate::identity::{Folder, Identity};
use crate::machine_store::install;
use crate::machine_store::load::{self, LoadError, Position};
use crate::records::{ClusterRecords, RecordsError};
use crate::snapshot::{SnapshotError, SnapshotStore, build_snapshot};
use crate::storage::meta::MetaError;
use crate::storage::{OpenError, meta, snapshot_dir};
use crate::tls::{Authority, PeerName, ReplicaKey, SignError};
use crate::{ReplicaConfig, Row, RowWrite, StateMachine, UnsealError};

/// Who a new cluster and its first replica are.
pub(super) struct Founded {
    pub(super) cluster_id: String,
    pub(super) replica_id: u64,
}

/// Makes the rows and the position in `engine`, the store below `folder`, the beginning of a new
/// cluster. The identity comes last: until then the folder is nobody's.
///
/// The first replica behaves as if it had led alone and written the entry that made it the only
/// member: its id, like every joiner's, is the index of that entry, and so greater than any id that
/// was ever given. The next entry is the leader's own, so that no joiner gets the same.
pub(super) fn found(
    config: &ReplicaConfig,
    folder: &Folder,
    engine: &Arc<dyn Engine>,
    machine: &dyn StateMachine,
) -> Result<Founded, LineageError> {
    let position = Position::read(&**engine)?;
    let records = rows(&**engine)?;
    let (begin, old) = behind(&position, &records)?;
    let cluster_id = Uuid::new_v4().to_string();
    let authority = Authority::create(&cluster_id, OffsetDateTime::now_utc())?;
    let keys = config.keyring.keys();
    let ca_key = keys.seal(keys.current(), AUTHORITY_KEY, authority.key_pkcs8())?;
    let own = ClusterRow {
        cluster_id: cluster_id.clone(),
        ca_certificate: authority.certificate().to_vec().into(),
        ca_private_key: ca_key.into(),
        ..ClusterRow::default()
    };
    let mut batch = WriteBatch::new();
    for write in ClusterRecords::succeed(&records, &own, &old, position.now_ms) {
        match write {
            RowWrite::Delete(key) => batch.delete(Table::Cluster, key),
            RowWrite::Put(row) => batch.put(Table::Cluster, row.key, row.value),
        }
    }
    let position = alone(config, &begin, position.now_ms)?;
    batch.put(
        Table::StateMeta,
        meta::POSITION,
        position.to_proto().encode_to_vec(),
    );
    put_own_facts(&mut batch, &cluster_id, &begin);
    install::clear(&**engine, Table::Dedup)?;
    engine.write(batch)?;
    load::load(&**engine, machine)?;
    let snapshots = SnapshotStore::open(
        Arc::clone(engine),
        snapshot_dir(folder.path()),
        config.levels,
        Arc::default(),
    )?;
    build_snapshot(&snapshots, &*engine.view())?;
    drop(snapshots);
    engine.close()?;
    settle(folder, &authority, &cluster_id, begin.replica_id)?;
    Ok(Founded {
        cluster_id,
        replica_id: begin.replica_id,
    })
}

/// The place in the log of the entry that makes the one member, and the replicas that it comes after.
fn behind(
    position: &Position,
    records: &[Row],
) -> Result<(pb::LogId, BTreeSet<u64>), LineageError> {
    let records = ClusterRecords::load(records.iter().cloned())?;
    let mut old: BTreeSet<u64> = records.given().collect();
    old.extend(position.membership.membership().nodes().map(|(id, _)| *id));
    let last = position.index().max(old.last().copied().unwrap_or(0));
    let replica_id = last.checked_add(1).ok_or(LineageError::Exhausted)?;
    let term = position
        .applied
        .map_or(0, |id| id.committed_leader_id().term);
    let begin = pb::LogId {
        term: term.checked_add(1).ok_or(LineageError::Exhausted)?,
        replica_id,
        index: replica_id,
    };
    Ok((begin, old))
}

fn rows(engine: &dyn Read) -> Result<Vec<Row>, EngineError> {
    let rows = engine.rows(Table::Cluster, KeyRange::all());
    rows.map(|row| row.map(|(key, value)| Row { key, value }))
        .collect()
}

/// Where the state stands once it belongs to the one member.
fn alone(config: &ReplicaConfig, begin: &pb::LogId, now_ms: i64) -> Result<Position, CodecError> {
    let membership = codec::membership_from_proto(pb::Membership {
        configs: vec![pb::VoterSet {
            replica_ids: vec![begin.replica_id],
        }],
        members: vec![pb::Member {
            replica_id: begin.replica_id,
            name: config.name.clone(),
            addr: config.advertise_addr.clone(),
        }],
    })?;
    let log_id = codec::log_id_from_proto(*begin);
    Ok(Position {
        applied: Some(log_id),
        membership: StoredMembership::new(Some(log_id), membership),
        now_ms,
    })
}

/// As a replica leaves them that led alone and has purged its log to the end.
fn put_own_facts(batch: &mut WriteBatch, cluster_id: &str, begin: &pb::LogId) {
    let vote = pb::Vote {
        term: begin.term,
        replica_id: begin.replica_id,
        committed: true,
    };
    batch.put(Table::Meta, meta::CLUSTER_ID, cluster_id.to_owned());
    batch.put(Table::Meta, meta::VOTE, vote.encode_to_vec());
    batch.put(Table::Meta, meta::COMMITTED, begin.encode_to_vec());
    batch.put(Table::Meta, meta::LAST_PURGED, begin.encode_to_vec());
    let key = meta::fact_key(meta::REPLICA_ID);
    batch.put(Table::Meta, key, begin.replica_id.to_be_bytes().to_vec());
}

fn settle(
    folder: &Folder,
    authority: &Authority,
    cluster_id: &str,
    replica_id: u64,
) -> Result<(), LineageError> {
    let key = ReplicaKey::create()?;
    let name = PeerName::new(cluster_id.to_owned(), replica_id);
    let certificate = authority.sign(&name, &key.public_key(), OffsetDateTime::now_utc())?;
    let identity = Identity {
        cluster_id: cluster_id.to_owned(),
        replica_id,
        peers: Vec::new(),
        has_store: true,
        removed: false,
        expect: 0,
    };
    Ok(folder.settle_alone(&identity, authority, &key, &certificate)?)
}

/// Why no new cluster was begun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineageError {
    /// The database of the folder.
    #[error("database")]
    Engine(#[from] EngineError),
    /// The store cannot be opened or made.
    #[error("store")]
    Open(#[from] OpenError),
    /// The state is not understood.
    #[error("state")]
    Load(#[from] LoadError),
    /// The cluster's records are not understood.
    #[error("records")]
    Records(#[from] RecordsError),
    /// The position is not understood.
    #[error("position")]
    Position(#[from] CodecError),
    /// The first snapshot.
    #[error("snapshot")]
    Snapshot(#[from] SnapshotError),
    /// Keys or certificates.
    #[error("certificates")]
    Certificates(#[from] SignError),
    /// The authority's key cannot be sealed.
    #[error(transparent)]
    Seal(#[from] UnsealError),
    /// A row of the log.
    #[error("log")]
    Log(#[from] MetaError),
    /// Small files of the folder.
    #[error("folder")]
    Io(#[from] io::Error),
    /// Only a damaged file gets there.
    #[error("its log index or term is the last one possible")]
    Exhausted,
}
