//! The composition root: binds listeners early, builds each part in dependency order, serves, and
//! drains in the opposite order.

mod backups;
mod boot;
mod bootstrap;
mod client_port;
mod clock;
mod doors;
mod http;
mod local_socket;
mod mesh;
mod metrics;
mod open_files;
mod policy_file;
mod relay;
mod running;
mod sealing;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use hydrascale_raft::{Fatal, Replica};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use self::boot::BootError;
pub(crate) use self::boot::raft_config;
pub(crate) use self::clock::now;
use self::doors::{Doors, listen};
use self::policy_file::PolicyFile;
pub use self::policy_file::PolicyFileError;
pub(crate) use self::running::STOP_MAX;
use self::running::{Files, Running};
pub use self::tls::ClientTlsError;
use crate::cluster::Machine;
use crate::config::Config;
use crate::control::{ToolchainInfo, VersionInfo};
use crate::derp::{RelayKeyError, TlsError};

/// Why a replica did not come up, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address is in use or not ours.
    #[error("{what} cannot listen on {addr}")]
    Listen {
        /// For whom.
        what: &'static str,
        /// Where.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The socket for local administration.
    #[error("the local socket {} cannot be made; set unix_socket to a writable place", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The certificate of the client port.
    #[error(transparent)]
    Tls(#[from] ClientTlsError),
    /// The file that the policy comes from.
    #[error(transparent)]
    PolicyFile(#[from] PolicyFileError),
    /// The place in the cluster.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The relay's key.
    #[error("the relay cannot start")]
    RelayKey(#[from] RelayKeyError),
    /// The relay's certificate.
    #[error("the relay cannot start")]
    RelayTls(#[from] TlsError),
    /// The consensus layer or the store gave up.
    #[error("this replica cannot go on: {0}")]
    Ended(Fatal),
    /// A part of the replica ended, or the cluster does not want it.
    #[error("this replica cannot go on: {0}")]
    Fatal(String),
}

impl ServeError {
    /// Whether starting the replica again is of no use, or does harm, until somebody has done what the
    /// error says.
    pub fn outlasts_restart(&self) -> bool {
        match self {
            Self::Ended(fatal) => fatal.outlasts_restart(),
            Self::Boot(error) => error.outlasts_restart(),
            Self::Listen { .. }
            | Self::Socket { .. }
            | Self::Tls(_)
            | Self::PolicyFile(_)
            | Self::RelayKey(_)
            | Self::RelayTls(_)
            | Self::Fatal(_) => false,
        }
    }
}

/// Runs a replica until `stop` is cancelled, then drains it. `reload` makes it read its sealing keys
/// and its policy file again.
///
/// # Errors
/// See [`ServeError`].
pub async fn serve(
    config: Config,
    stop: CancellationToken,
    reload: Arc<Notify>,
) -> Result<(), ServeError> {
    open_files::raise_limit();
    for notice in &config.notices {
        tracing::warn!("{}", notice.0);
    }
    let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
    let policy_file = PolicyFile::open(&config).await?;
    let peer = listen("the replica port", config.cluster.peer_listen).await?;
    let doors = Doors::open(&config).await?;
    // A replica may wait long for others that form its cluster: who comes meanwhile is refused, and does
    // not hang.
    let doors = Some(doors).filter(|_| config.cluster.bootstrap.is_none());
    let machine = Arc::new(Machine::new());
    let Some(replica) = begin(&config, peer, machine.clone(), &stop).await? else {
        return Ok(());
    };
    let doors = match doors {
        Some(doors) => doors,
        None => Doors::open(&config).await?,
    };
    let files = Files {
        policy: policy_file,
        reload,
    };
    let mut running = Running::start(&config, (replica, machine), doors, tls, files)?;
    let outcome = running.until_end(&stop).await;
    if outcome.is_ok() {
        running.leave_homes().await;
    }
    running.drain().await;
    outcome
}

/// Takes the replica's place in its cluster and starts it; returns once the cluster stands. `None` when it
/// was stopped before.
async fn begin(
    config: &Config,
    peer: TcpListener,
    machine: Arc<Machine>,
    stop: &CancellationToken,
) -> Result<Option<Replica>, ServeError> {
    let placed = boot::take_place(&config.cluster, &peer);
    let Some(placed) = stop.run_until_cancelled(placed).await else {
        return Ok(None);
    };
    placed?;
    let replica = boot::start_replica(&config.cluster, peer, machine).await?;
    tokio::select! {
        biased;
        fatal = replica.fatal() => return Err(ServeError::Ended(fatal)),
        () = replica.formed() => return Ok(Some(replica)),
        () = stop.cancelled() => {}
    }
    replica.shutdown().await;
    Ok(None)
}

/// What `/version` and `hydrascale version` say.
pub fn version() -> VersionInfo {
    VersionInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        toolchain: ToolchainInfo {
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            ..ToolchainInfo::default()
        },
        ..VersionInfo::default()
    }
}
