//! Opens this replica's place in the cluster: the identity in its data folder, one that a join
//! token gives, or a new cluster of one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hydrascale_proto::state::v1 as pb;
use hydrascale_raft::{
    Begun, Bootstrap, BootstrapError, InitError, JoinError, JoinToken, Replica, ReplicaConfig,
    SealingFileError, SealingKeys, StartError, StateMachine, UnsealError,
};
use rand::RngCore;
use tokio::net::TcpListener;

use super::sealing;
use crate::cluster::seal_noise_key;
use crate::config::{ClusterConfig, Config};
use crate::telemetry::continue_trace;
use crate::types::{KeyParseError, MachinePrivateKey};

/// Why a replica could not take its place.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A cluster of one was to be made.
    #[error("no cluster could be made in {}", path.display())]
    Init {
        /// The data folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: InitError,
    },
    /// The join token was to be used.
    #[error("joining with the token in {} failed", path.display())]
    Join {
        /// The token's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: JoinError,
    },
    /// The replicas that expect each other formed no cluster.
    #[error("no cluster could be formed (cluster.bootstrap_expect)")]
    Bootstrap(#[from] BootstrapError),
    /// A file could not be read.
    #[error("{what} {} cannot be read", path.display())]
    Read {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The token's file holds something else.
    #[error("{} holds no join token; make one with `cluster join-token create`", .0.display())]
    Token(PathBuf),
    /// The key's file holds something else.
    #[error("{} holds no Noise private key", path.display())]
    NoiseKey {
        /// The key's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeyParseError,
    },
    /// The sealing keys cannot be used.
    #[error(transparent)]
    Sealing(#[from] SealingFileError),
    /// The tailnet's secrets cannot be sealed or unsealed.
    #[error(transparent)]
    Sealed(#[from] UnsealError),
    /// The replica did not start.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl BootError {
    /// Whether starting the replica again is of no use until somebody has done what the error says.
    pub fn outlasts_restart(&self) -> bool {
        match self {
            Self::Start(error) => error.outlasts_restart(),
            Self::Sealed(_) => true,
            // Tokens, folders and files may come while it tries.
            Self::Init { .. }
            | Self::Join { .. }
            | Self::Bootstrap(_)
            | Self::Read { .. }
            | Self::Token(_)
            | Self::NoiseKey { .. }
            | Self::Sealing(_) => false,
        }
    }
}

/// What the consensus layer needs to know of the configuration.
///
/// # Errors
/// The sealing keys cannot be read.
pub(crate) fn raft_config(config: &ClusterConfig) -> Result<ReplicaConfig, BootError> {
    let mut raft = ReplicaConfig::new(
        &config.data_dir,
        &config.replica_name,
        config.peer_advertise.to_string(),
    );
    raft.timing_multiplier = config.timing_multiplier;
    raft.sync_append = config.sync_append;
    raft.snapshot_every = config.snapshot_every;
    raft.log_kept = config.log_kept;
    raft.continue_trace = continue_trace;
    raft.non_voting = config.non_voting;
    raft.keyring = sealing::keyring(config.sealing_key_file.as_deref())?;
    raft.levels.max = config.feature_level_max;
    raft.auto_upgrade = config.auto_upgrade;
    raft.bootstrap = bootstrap(config)?;
    Ok(raft)
}

/// The secret opens the beginning only: a replica that has its place starts without it.
fn bootstrap(config: &ClusterConfig) -> Result<Option<Bootstrap>, BootError> {
    let Some(wanted) = &config.bootstrap else {
        return Ok(None);
    };
    let secret = match SealingKeys::read(&wanted.secret_file) {
        Ok(secret) => secret,
        Err(error) if Replica::is_initialised(&config.data_dir)? => {
            let error = hydrascale_raft::chain(&error);
            tracing::warn!(
                error,
                "replicas that are still to come are not let in by this one"
            );
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Some(Bootstrap {
        expect: wanted.expect,
        peers: wanted.peers.iter().map(ToString::to_string).collect(),
        secret: Arc::new(secret),
    }))
}

/// Fills an empty data folder: by the join token's cluster, by the one that the replicas form which
/// expect each other, or, where the configuration has no `cluster:` block, by a new cluster of one,
/// which is what somebody expects who comes from headscale.
///
/// # Errors
/// See [`BootError`].
///
/// # Cancel safety
/// The next call goes on where it stopped.
pub(crate) async fn take_place(
    config: &ClusterConfig,
    listener: &TcpListener,
) -> Result<(), BootError> {
    let raft = raft_config(config)?;
    if Replica::is_initialised(&raft.data_dir)? {
        return Ok(());
    }
    if let Some(path) = &config.join_token_file {
        join(&raft, path).await?;
    } else if raft.bootstrap.is_some() {
        match Replica::bootstrap_cluster(&raft, listener).await? {
            Begun::Made(cluster_id) => tracing::info!(cluster_id, "made a new cluster"),
            Begun::Joined(id) => tracing::info!(replica.id = id.0, "joined the new cluster"),
        }
    } else if !config.explicit {
        let path = raft.data_dir.clone();
        let cluster_id =
            Replica::init_cluster(&raft).map_err(|source| BootError::Init { path, source })?;
        tracing::info!(cluster_id, "made a new cluster of one replica");
    }
    Ok(())
}

/// Starts the replica that the data folder holds.
///
/// # Errors
/// See [`BootError`]; a folder that is still empty is one.
pub(crate) async fn start_replica(
    config: &ClusterConfig,
    listener: TcpListener,
    machine: Arc<dyn StateMachine>,
) -> Result<Replica, BootError> {
    Ok(Replica::start(raft_config(config)?, listener, machine).await?)
}

async fn join(raft: &ReplicaConfig, path: &Path) -> Result<(), BootError> {
    let text = read("the join token", path)?;
    let token: JoinToken = text
        .trim()
        .parse()
        .map_err(|_| BootError::Token(path.to_owned()))?;
    let joined = Replica::join_cluster(raft, &token).await;
    let id = joined.map_err(|source| BootError::Join {
        path: path.to_owned(),
        source,
    })?;
    tracing::info!(replica.id = id.0, "joined the cluster");
    Ok(())
}

/// The command that creates the tailnet, should there be none: with headscale's Noise key where
/// its file exists, so that clients go on as if nothing had happened.
///
/// # Errors
/// The key's file exists and cannot be used.
pub(crate) fn init_tailnet(
    config: &Config,
    keys: &SealingKeys,
) -> Result<pb::InitTailnet, BootError> {
    let mut random = rand::rng();
    let imported = config
        .noise_key_import
        .as_deref()
        .map(import_noise_key)
        .transpose()?
        .flatten();
    let key = imported.unwrap_or_else(|| {
        let mut bytes = [0; 32];
        random.fill_bytes(&mut bytes);
        MachinePrivateKey::from_bytes(bytes)
    });
    let mut pepper = vec![0; 32];
    random.fill_bytes(&mut pepper);
    Ok(pb::InitTailnet {
        settings: Some(pb::Settings::from(&config.tailnet.settings())),
        noise_private_key: seal_noise_key(keys, &key)?.into(),
        secret_pepper: pepper.into(),
    })
}

fn import_noise_key(path: &Path) -> Result<Option<MachinePrivateKey>, BootError> {
    if !path.exists() {
        return Ok(None);
    }
    let text = read("the Noise private key", path)?;
    let key = text.trim().parse();
    key.map(Some).map_err(|source| BootError::NoiseKey {
        path: path.to_owned(),
        source,
    })
}

fn read(what: &'static str, path: &Path) -> Result<String, BootError> {
    fs::read_to_string(path).map_err(|source| BootError::Read {
        what,
        path: path.to_owned(),
        source,
    })
}
