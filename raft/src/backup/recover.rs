//! Recovering from a lost quorum: what one stopped replica has becomes a new cluster with that replica
//! alone. Nothing proves that it has everything that was acknowledged, so that it is said what may be
//! missing before it is done.
//!
//! The old store is only read. The new one is made beside it and then exchanged with it, so that a
//! crash at any moment leaves one of them in place, or an exchange that the next call finishes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::join_all;
use openraft::EntryPayload;

use super::company::{self, Heard};
use super::lineage::{self, LineageError};
use crate::codec::Membership;
use crate::engine::{Engine, EngineError, KeyRange, Read, Table, WriteBatch};
use crate::fatal::Fatal;
use crate::identity::{Folder, Identity, IdentityError};
use crate::machine_store::MachineStore;
use crate::machine_store::load::{self, Position};
use crate::network::{AddressBook, Dialer, Incarnations, Lanes};
use crate::replica::Cause;
use crate::snapshot::SnapshotStore;
use crate::storage::{self, OpenError, meta};
use crate::timing::Timing;
use crate::tls::{PeerName, Tls};
use crate::type_config::Command;
use crate::{Levels, ReplicaConfig, ReplicaId, StateMachine};

/// What a stopped replica has, and what may be missing in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Its cluster (UUID).
    pub cluster_id: String,
    /// Its id.
    pub replica: ReplicaId,
    /// The other members of the newest membership in its log.
    pub others: Vec<LostMember>,
    /// Last log index that it has applied.
    pub applied_index: u64,
    /// Last log index that it knows to be committed.
    pub committed_index: u64,
    /// Last log index that it has. What is behind the committed one may have been confirmed to
    /// somebody, or to nobody.
    pub last_index: u64,
    /// Term of that entry.
    pub last_term: u64,
    /// When a leader took the newest command in its log, milliseconds since the Unix epoch.
    pub last_change_ms: i64,
    /// The leader that it followed last, and that one's term.
    pub leader: Option<(ReplicaId, u64)>,
}

/// A member that a recovery gives up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostMember {
    /// Its id.
    pub id: ReplicaId,
    /// Its name.
    pub name: String,
    /// `host:port` of its peer listener.
    pub addr: String,
    /// Whether it votes.
    pub voter: bool,
    /// What was heard from there just now.
    pub heard: Heard,
}

/// A replica that goes on alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The new cluster's id (UUID).
    pub cluster_id: String,
    /// The replica's new id.
    pub replica: ReplicaId,
    /// The folder in which the old identity and store are.
    pub kept: PathBuf,
}

/// Looks at the stopped replica of `config` and asks the other members whether they are there.
///
/// # Errors
/// The folder is of no replica that could be recovered, or the replica runs.
pub async fn examine(config: &ReplicaConfig) -> Result<Loss, RecoverError> {
    let folder = Folder::new(&config.data_dir);
    let identity = read_identity(&folder)?;
    let (mut loss, incarnation) = {
        let (folder, identity, levels) = (folder.clone(), identity.clone(), config.levels);
        let looking = tokio::task::spawn_blocking(move || look(&folder, &identity, levels));
        looking
            .await
            .map_err(|error| RecoverError::failed(&config.data_dir, error))??
    };
    let lanes = lanes(config, &folder, &identity, incarnation)?;
    let timing = Timing::new(config.timing_multiplier);
    let heard = loss.others.iter().map(|other| {
        company::listen(
            &lanes,
            &config.dial_overrides,
            other.id.0,
            &other.addr,
            timing,
        )
    });
    let heard = join_all(heard).await;
    for (other, heard) in loss.others.iter_mut().zip(heard) {
        other.heard = heard;
    }
    Ok(loss)
}

/// Makes the stopped replica of `config` the only one of a new cluster, with all that is in its log.
/// Offline; blocks on the disk. Whoever calls has made sure, with [`examine`], that nobody else is
/// there. `accept` says, once `machine` has all that the new cluster begins with, whether a replica can
/// start on that. One that was broken off has been accepted, and is finished.
///
/// # Errors
/// The folder is of no replica that could be recovered, the replica runs, its log holds what `machine`
/// does not understand, or `accept` refuses. The old store is then where it was.
pub fn recover(
    config: &ReplicaConfig,
    machine: &Arc<dyn StateMachine>,
    accept: impl FnOnce() -> Result<(), Cause>,
) -> Result<Recovered, RecoverError> {
    let folder = Folder::new(&config.data_dir);
    let making = Folder::new(config.data_dir.join(MAKING));
    let failed = |error: LineageError| RecoverError::failed(&config.data_dir, error);
    let io = |error: io::Error| failed(error.into());
    if !is_broken_off(config)? {
        let identity = read_identity(&folder)?;
        // Nobody starts the old replica, or recovers it as well, until it has lost its identity.
        let locked = storage::open_stopped(folder.path(), &identity.cluster_id, config.levels);
        let old = locked.map_err(|error| failed(error.into()))?;
        let identity = read_identity(&folder)?;
        make(config, &*old, &making, &identity, machine).map_err(failed)?;
        if let Err(source) = accept() {
            // What stays is removed by the next attempt.
            let _ = fs::remove_dir_all(making.path());
            return Err(RecoverError::refused(&config.data_dir, source));
        }
        let kept = making.kept_as(&folder).map_err(io)?;
        folder.give_up_identity(&making, &kept).map_err(io)?;
    }
    let made = making.identity().map_err(RecoverError::identity)?;
    let made = made.ok_or_else(|| RecoverError::nobody(&config.data_dir))?;
    let kept = making.kept_as(&folder).map_err(io)?;
    folder.exchange(&making, &kept).map_err(io)?;
    Ok(Recovered {
        cluster_id: made.cluster_id,
        replica: ReplicaId(made.replica_id),
        kept,
    })
}

/// Whether an earlier [`recover`] has made everything and did not come to its end.
///
/// # Errors
/// The folder cannot be read.
pub fn is_broken_off(config: &ReplicaConfig) -> Result<bool, RecoverError> {
    let read = |folder: Folder| folder.identity().map_err(RecoverError::identity);
    let own = read(Folder::new(&config.data_dir))?;
    let made = read(Folder::new(config.data_dir.join(MAKING)))?;
    Ok(own.is_none() && made.is_some())
}

fn read_identity(folder: &Folder) -> Result<Identity, RecoverError> {
    let identity = folder.identity().map_err(RecoverError::identity)?;
    let identity = identity.ok_or_else(|| RecoverError::nobody(folder.path()))?;
    if identity.removed {
        return Err(RecoverError::Removed {
            path: folder.path().to_owned(),
        });
    }
    Ok(identity)
}

fn look(folder: &Folder, identity: &Identity, levels: Levels) -> Result<(Loss, u64), RecoverError> {
    let failed = |error: LineageError| RecoverError::failed(folder.path(), error);
    let opened = storage::open_stopped(folder.path(), &identity.cluster_id, levels);
    let engine = opened.map_err(|error| failed(error.into()))?;
    let read = || -> Result<(Loss, u64), LineageError> {
        let incarnation = engine.value(Table::Meta, meta::INCARNATION)?;
        let incarnation = incarnation.and_then(|row| row.as_ref().try_into().ok());
        Ok((
            loss_of(&*engine, identity)?,
            incarnation.map_or(0, u64::from_le_bytes),
        ))
    };
    let (loss, incarnation) = read().map_err(failed)?;
    if loss.others.is_empty() {
        return Err(RecoverError::Alone {
            path: folder.path().to_owned(),
            replica: loss.replica,
        });
    }
    Ok((loss, incarnation))
}

fn loss_of(engine: &dyn Read, identity: &Identity) -> Result<Loss, LineageError> {
    let position = Position::read(engine)?;
    let mut last = position.applied;
    let mut last_change_ms = position.now_ms;
    let mut membership: Membership = position.membership.membership().clone();
    for entry in storage::log_behind(engine, position.applied) {
        let entry = entry?;
        last = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(Command(proposal)) => {
                last_change_ms = last_change_ms.max(proposal.stamped_ms);
            }
            EntryPayload::Membership(newer) => membership = newer,
        }
    }
    let voters: Vec<u64> = membership.voter_ids().collect();
    let others = membership.nodes().map(|(id, member)| LostMember {
        id: ReplicaId(*id),
        name: member.name.clone(),
        addr: member.addr.clone(),
        voter: voters.contains(id),
        heard: Heard::Nothing {
            reason: "not asked".to_owned(),
        },
    });
    let vote = meta::vote(engine).map_err(OpenError::from)?;
    let committed = meta::log_id(engine, meta::COMMITTED).map_err(OpenError::from)?;
    let applied_index = position.index();
    Ok(Loss {
        cluster_id: identity.cluster_id.clone(),
        replica: ReplicaId(identity.replica_id),
        others: others
            .filter(|other| other.id.0 != identity.replica_id)
            .collect(),
        applied_index,
        committed_index: committed.map_or(0, |id| id.index()).max(applied_index),
        last_index: last.map_or(0, |id| id.index()),
        last_term: last.map_or(0, |id| id.committed_leader_id().term),
        last_change_ms,
        leader: vote
            .filter(|vote| vote.committed)
            .map(|vote| (ReplicaId(vote.leader_id.node_id), vote.leader_id.term)),
    })
}

/// Connections as the replica itself would make them.
fn lanes(
    config: &ReplicaConfig,
    folder: &Folder,
    identity: &Identity,
    incarnation: u64,
) -> Result<Lanes, RecoverError> {
    let credentials = folder.credentials().map_err(RecoverError::identity)?;
    let tls = Tls::new(&credentials).map_err(|error| RecoverError::failed(folder.path(), error))?;
    let name = PeerName::new(identity.cluster_id.clone(), identity.replica_id);
    let addresses = AddressBook::default();
    let dialer = Dialer::new(
        name.clone(),
        tls,
        addresses.clone(),
        config.dial_overrides.clone(),
        Timing::new(config.timing_multiplier).connect(),
    );
    Ok(Lanes::new(
        name,
        incarnation,
        config.advertise_addr.clone(),
        (Arc::new(dialer), addresses),
        Incarnations::default(),
        crate::fatal_slot::FatalSlot::new(),
        Arc::default(),
    ))
}

/// Makes the new store beside the old one.
fn make(
    config: &ReplicaConfig,
    old: &dyn Read,
    making: &Folder,
    identity: &Identity,
    machine: &Arc<dyn StateMachine>,
) -> Result<(), LineageError> {
    match fs::remove_dir_all(making.path()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    making.create()?;
    making.keep_as(&format!("lost-{}", identity.cluster_id))?;
    let engine: Arc<dyn Engine> = Arc::new(storage::create(making.path())?);
    copy_state(old, &*engine)?;
    replay(old, making, &engine, Arc::clone(machine), config.levels)?;
    lineage::found(config, making, &engine, &**machine)?;
    Ok(())
}

fn copy_state(old: &dyn Read, new: &dyn Engine) -> Result<(), EngineError> {
    let mut batch = WriteBatch::new();
    for table in Table::REPLICATED {
        for row in old.rows(table, KeyRange::all()) {
            let (key, value) = row?;
            batch.put(table, key, value);
            if batch.bytes() >= COPY_BYTES {
                new.write(std::mem::take(&mut batch))?;
            }
        }
    }
    new.write(batch)
}

/// Applies what `old`'s log holds behind the copied state.
fn replay(
    old: &dyn Read,
    making: &Folder,
    engine: &Arc<dyn Engine>,
    machine: Arc<dyn StateMachine>,
    levels: Levels,
) -> Result<(), LineageError> {
    let loaded = load::load(&**engine, &*machine)?;
    let snapshots = storage::snapshot_dir(making.path());
    let snapshots = SnapshotStore::open(Arc::clone(engine), snapshots, levels, Arc::default())?;
    let mut store = MachineStore::new(
        Arc::clone(engine),
        machine,
        Arc::new(snapshots),
        loaded,
        levels,
        Fatal::new(Arc::new(|_: &str, _: &str| ())),
        Arc::default(),
    );
    Ok(store.replay(old)?)
}

/// Why a replica was not recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The folder is nobody's.
    #[error("data folder {} is of no replica: there is nothing to recover", path.display())]
    Nobody {
        /// The folder.
        path: PathBuf,
    },
    /// The cluster has removed the replica.
    #[error(
        "data folder {} is of a replica that its cluster has removed for good: it may lack \
         everything that came after; recover another one",
        path.display()
    )]
    Removed {
        /// The folder.
        path: PathBuf,
    },
    /// It needs nobody else.
    #[error(
        "replica {replica} in {} is the only one of its cluster: it has its quorum alone; start it \
         with `serve`",
        path.display()
    )]
    Alone {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        replica: ReplicaId,
    },
    /// No replica could start on what it has.
    #[error("the replica in {} is not recovered and stays as it was", path.display())]
    Refused {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: Cause,
    },
    /// Identity or certificates cannot be read.
    #[error("identity of the data folder")]
    Identity(#[source] Cause),
    /// The stores.
    #[error("the replica in {} cannot be recovered (one that runs must be stopped first)", path.display())]
    Failed {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: Cause,
    },
}

impl RecoverError {
    fn failed(path: &Path, source: impl Into<Cause>) -> Self {
        Self::Failed {
            path: path.to_owned(),
            source: source.into(),
        }
    }

    fn refused(path: &Path, source: Cause) -> Self {
        Self::Refused {
            path: path.to_owned(),
            source,
        }
    }

    fn identity(error: IdentityError) -> Self {
        Self::Identity(error.into())
    }

    fn nobody(path: &Path) -> Self {
        Self::Nobody {
            path: path.to_owned(),
        }
    }
}

/// Below the data folder: the new store while it is made.
const MAKING: &str = "recovering";
/// Bytes of rows copied together.
const COPY_BYTES: usize = 1 << 20;
