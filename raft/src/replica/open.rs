//! Opening what a data folder holds: the identity, the certificates, the store, and whether they belong
//! together.

use std::path::Path;
use std::sync::Arc;

use super::StartError;
use crate::blocking;
use crate::counters::Counters;
use crate::fatal::{Fatal as StorageFailure, FatalHook};
use crate::fatal_slot::FatalSlot;
use crate::identity::{Folder, Identity, IdentityError};
use crate::storage::{OpenError, Storage, StorageConfig, meta};
use crate::tls::{Credentials, PeerName};
use crate::{DiskFailure, Fatal, InitError, ReplicaConfig, ReplicaId};

/// Whether the folder holds the identity of a replica.
pub(super) fn is_initialised(data_dir: &Path) -> Result<bool, StartError> {
    let folder = Folder::new(data_dir);
    let identity = folder
        .identity()
        .map_err(|error| unreadable(folder.path(), error))?;
    if identity.is_none() && folder.is_half_filled() {
        let path = folder.path().to_owned();
        return Err(StartError::HalfRestored(InitError::HalfRestored { path }));
    }
    Ok(identity.is_some())
}

/// Whose folder it is.
///
/// # Errors
/// It is nobody's, or of a replica that was removed.
pub(super) fn read_identity(folder: &Folder) -> Result<Identity, StartError> {
    let read = |error: IdentityError| unreadable(folder.path(), error);
    let identity = folder.identity().map_err(read)?;
    let identity = identity.ok_or_else(|| StartError::NoIdentity {
        path: folder.path().to_owned(),
    })?;
    if identity.removed {
        return Err(StartError::Removed {
            path: folder.path().to_owned(),
            replica: ReplicaId(identity.replica_id),
        });
    }
    Ok(identity)
}

/// What the replica proves itself with.
///
/// # Errors
/// It is another replica's.
pub(super) fn read_credentials(
    folder: &Folder,
    identity: &Identity,
) -> Result<Credentials, StartError> {
    let read = |error: IdentityError| unreadable(folder.path(), error);
    let credentials = folder.credentials().map_err(read)?;
    let expected = PeerName::new(identity.cluster_id.clone(), identity.replica_id);
    match PeerName::of(&credentials.certificate) {
        Ok(name) if name == expected => Ok(credentials),
        Ok(name) => Err(StartError::ForeignFolder {
            path: folder.path().to_owned(),
            reason: format!("its identity is {expected}, its certificate is {name}'s"),
        }),
        Err(error) => Err(unreadable(folder.path(), error)),
    }
}

/// Opens the store as `open` does.
pub(super) async fn open_storage(
    config: &ReplicaConfig,
    identity: &Identity,
    fatal: &FatalSlot,
    counters: &Arc<Counters>,
    open: impl FnOnce(&StorageConfig) -> Result<Storage, Opening> + Send + 'static,
) -> Result<Storage, StartError> {
    let settings = StorageConfig {
        sync_append: config.sync_append,
        cluster_id: Some(identity.cluster_id.clone()),
        on_fatal: disk_hook(config.disk_failure, fatal.clone()),
        counters: Arc::clone(counters),
        levels: config.levels,
        ..StorageConfig::new(&config.data_dir)
    };
    let opening = blocking::run(move || open(&settings));
    let opened = opening.await.map_err(|error| StartError::Storage {
        path: config.data_dir.clone(),
        source: error.into(),
    })?;
    opened.map_err(|error| match error {
        Opening::Foreign(reason) => StartError::ForeignFolder {
            path: config.data_dir.clone(),
            reason,
        },
        Opening::Failed(error @ OpenError::WrongCluster { .. }) => StartError::ForeignFolder {
            path: config.data_dir.clone(),
            reason: error.to_string(),
        },
        Opening::Failed(OpenError::Level(error)) => StartError::Level(error),
        Opening::Failed(error) if error.is_damage() => StartError::Damaged {
            path: config.data_dir.clone(),
            source: error.into(),
        },
        Opening::Failed(error) => StartError::Storage {
            path: config.data_dir.clone(),
            source: error.into(),
        },
    })
}

/// Why a store was not opened.
pub(super) enum Opening {
    /// It is another replica's.
    Foreign(String),
    /// It cannot be read.
    Failed(OpenError),
}

impl From<OpenError> for Opening {
    fn from(error: OpenError) -> Self {
        Self::Failed(error)
    }
}

/// Binds an open store to the identity, or finds that it is bound to another.
pub(super) fn bind(storage: Storage, identity: &Identity) -> Result<Storage, Opening> {
    storage
        .bind_cluster(&identity.cluster_id)
        .map_err(Opening::Failed)?;
    let own = identity.replica_id.to_be_bytes();
    let stored = storage
        .fact(meta::REPLICA_ID)
        .map_err(|error| Opening::Failed(error.into()))?;
    match stored {
        None if identity.has_store => {
            let reason = format!(
                "replica {} has run before and its store is gone: with an empty one it could undo \
                 what it has acknowledged; remove the replica from the cluster, empty the folder \
                 and join anew",
                identity.replica_id
            );
            return Err(Opening::Foreign(reason));
        }
        None => storage
            .put_facts(&[(meta::REPLICA_ID, &own)])
            .map_err(Opening::Failed)?,
        Some(stored) if stored.as_ref() == own => {}
        Some(_) => {
            let reason = format!(
                "its identity is replica {}, its store is another replica's",
                identity.replica_id
            );
            return Err(Opening::Foreign(reason));
        }
    }
    let recorded = storage
        .records()
        .load()
        .cluster()
        .map(|cluster| cluster.cluster_id.clone());
    match recorded {
        Some(recorded) if recorded != identity.cluster_id => Err(Opening::Foreign(format!(
            "its identity is of cluster {}, its state is of cluster {recorded}",
            identity.cluster_id
        ))),
        Some(_) | None => Ok(storage),
    }
}

fn disk_hook(on_failure: DiskFailure, fatal: FatalSlot) -> FatalHook {
    let report = move |step: &str, reason: &str| {
        fatal.report(Fatal::Storage {
            reason: format!("{step}: {reason}"),
        });
    };
    match on_failure {
        DiskFailure::Report => Arc::new(report),
        DiskFailure::ExitProcess => {
            let exit = StorageFailure::exit();
            Arc::new(move |step, reason| {
                report(step, reason);
                exit(step, reason);
            })
        }
    }
}

/// A folder whose content cannot be used.
pub(super) fn unreadable(path: &Path, source: impl Into<super::Cause>) -> StartError {
    StartError::Identity {
        path: path.to_owned(),
        source: source.into(),
    }
}
