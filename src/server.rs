//! The composition root: binds listeners early, builds each part in dependency order, serves, and
//! drains in the opposite order.

mod backups;
mod boot;
mod bootstrap;
mod client_port;
mod clock;
mod http;
mod local_socket;
mod mesh;
mod metrics;
mod open_files;
mod policy_file;
mod relay;
mod sealing;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hydrascale_proto::state::v1 as pb;
use hydrascale_raft::{FEATURE_LEVELS, Keyring, Replica, SealingKeys};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub use self::boot::BootError;
pub(crate) use self::boot::raft_config;
use self::client_port::ClientPort;
pub(crate) use self::clock::now;
use self::metrics::{MetricsSources, metrics_router};
use self::policy_file::PolicyFile;
pub use self::policy_file::PolicyFileError;
pub use self::tls::ClientTlsError;
use crate::api::{self, ApiState};
use crate::cluster::{
    Announcement, Cluster, Machine, Unwelcome, spawn_announcer, spawn_member_clerk, spawn_presence,
    spawn_route_approval,
};
use crate::config::Config;
use crate::control::{self, Control, ControlMetrics, ControlOptions, ToolchainInfo, VersionInfo};
use crate::derp::{
    BootstrapDns, RelayHandle, RelayKeyError, RelayListener, RelayServer, ResolvedNames, TlsError,
};
use crate::netmap::NetmapConfig;
use crate::session::MapStreams;
use crate::stun::{StunServer, StunSockets};
use crate::tasks::Tasks;
use crate::types::ReplicaId;

/// Before anything else, nodes get this long to choose another home than the relay that stops: they
/// measure all relays anew, which takes up to 5 s, and tell it.
const HOMES_LEAVE: Duration = Duration::from_secs(8);
/// Peers that were told of a new home a moment ago may have a packet for the old one under way.
const HOMES_SETTLE: Duration = Duration::from_millis(500);
/// Relayed connections are closed one after another over this time when the replica drains.
const RELAY_DRAIN: Duration = Duration::from_secs(2);
/// What is left of the relay after that is cut off.
const RELAY_END: Duration = Duration::from_secs(1);
/// Clients get this long to leave before the consensus layer stops under them.
const CLIENT_DRAIN: Duration = Duration::from_secs(12);

/// The consensus layer hands leadership over and closes its store in this time, unless the machine is
/// very slow.
const CONSENSUS_END: Duration = Duration::from_secs(5);
/// Who asks a replica to stop should wait this long before it kills it.
pub(crate) const STOP_MAX: Duration = HOMES_LEAVE
    .saturating_add(HOMES_SETTLE)
    .saturating_add(CLIENT_DRAIN)
    .saturating_add(RELAY_END)
    .saturating_add(CONSENSUS_END);

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
    Fatal(String),
}

/// Ports and the socket, bound before anything else so that a mistake shows at once.
struct Bound {
    client: ClientPort,
    metrics: Option<TcpListener>,
    relay: RelayListener,
    stun: StunSockets,
    socket: UnixListener,
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
    let bound = bind(&config).await?;
    // A replica may wait long for others that form its cluster: who comes meanwhile is refused, and does
    // not hang.
    let bound = Some(bound).filter(|_| config.cluster.bootstrap.is_none());
    let machine = Arc::new(Machine::new());
    let Some(replica) = begin(&config, peer, machine.clone(), &stop).await? else {
        return Ok(());
    };
    let bound = match bound {
        Some(bound) => bound,
        None => bind(&config).await?,
    };
    let cluster = Cluster::new(
        Arc::new(replica.clone()),
        machine,
        ReplicaId(replica.id().0),
        replica.incarnation(),
    );
    // Relay and STUN come before catching up: clients without a direct path need them most.
    let mut tasks = JoinSet::new();
    let names = bootstrap::spawn(config.server_url.host(), &cluster, &mut tasks);
    let relay = relay::start(&config, bound.relay, &cluster, names.clone())?;
    mesh::spawn(&replica, relay.handle(), &mut tasks);
    let mut stun = StunServer::start(bound.stun, &relay.handle().health());
    let keyring = replica.keyring().clone();
    let unwelcome = spawn_cluster_tasks(
        &config,
        &cluster,
        &relay.handle(),
        &keyring.keys(),
        &mut tasks,
    )?;

    let reload_policy = Arc::new(Notify::new());
    let unreadable = sealing::spawn(
        config.cluster.sealing_key_file.clone(),
        keyring.clone(),
        &cluster,
        reload,
        reload_policy.clone(),
        &mut tasks,
    );
    let backups = backups::spawn(&config, &cluster, &mut tasks);
    let refused = policy_file::spawn(policy_file, &cluster, reload_policy, &mut tasks);

    let doors = Doors {
        client: bound.client,
        tls,
        socket: bound.socket,
    };
    let clients = serve_clients(&config, doors, &cluster, (names, keyring), &mut tasks)?;
    if let Some(listener) = bound.metrics {
        let sources = MetricsSources {
            cluster: cluster.clone(),
            replica: replica.clone(),
            relay: relay.handle().metrics(),
            stun: stun.metrics(),
            streams: clients.streams.clone(),
            control: clients.metrics.clone(),
            backups,
        };
        tasks.spawn(http::serve(listener, metrics_router(sources)));
    }
    tracing::info!(replica.id = replica.id().0, "replica serves");

    let tasks = Tasks::new("the replica", tasks);
    let first_end = first_end(&tasks, &cluster, &clients);
    let outcome = tokio::select! {
        // Tells more than the end of the task does that found out.
        biased;
        () = stop.cancelled() => Ok(()),
        fatal = replica.fatal() => Err(ServeError::Fatal(fatal.to_string())),
        Ok(fatal) = unwelcome => Err(ServeError::Fatal(fatal.to_string())),
        Ok(refused) = refused => Err(refused.into()),
        Ok(sealed) = unreadable => Err(BootError::from(sealed).into()),
        reason = first_end => Err(ServeError::Fatal(reason)),
        reason = relay.ended() => Err(ServeError::Fatal(reason)),
        () = stun.ended() => Err(ServeError::Fatal("a STUN listener ended".to_owned())),
    };
    if outcome.is_ok() {
        leave_homes(&cluster).await;
    }
    drain(clients.control, relay, &replica).await;
    stun.shutdown().await;
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
        fatal = replica.fatal() => return Err(ServeError::Fatal(fatal.to_string())),
        () = replica.formed() => return Ok(Some(replica)),
        () = stop.cancelled() => {}
    }
    replica.shutdown().await;
    Ok(None)
}

/// Where clients and administrators come in.
struct Doors {
    client: ClientPort,
    tls: Option<TlsAcceptor>,
    socket: UnixListener,
}

/// What serves them.
struct ClientSide {
    control: Control,
    streams: MapStreams,
    metrics: ControlMetrics,
}

fn serve_clients(
    config: &Config,
    doors: Doors,
    cluster: &Cluster,
    (names, keyring): (Arc<ResolvedNames>, Keyring),
    tasks: &mut JoinSet<()>,
) -> Result<ClientSide, ServeError> {
    let streams = MapStreams::new(cluster.clone(), NetmapConfig::from(config), now);
    let metrics = ControlMetrics::default();
    let options = ControlOptions {
        noise_key: sealing::noise_key_source(keyring),
        bootstrap_names: Arc::new(move || names.addresses()),
        trusted_proxies: config.listeners.trusted_proxies.clone(),
        ..ControlOptions::new(config.server_url.as_str(), version())
    };
    let control = Control::new(cluster.clone(), streams.clone(), options, metrics.clone());
    let remote = ApiState::remote(cluster, &streams, config.policy.mode);
    let router = control::router(control.clone()).merge(api::router(remote));
    let addr = config.listeners.client;
    let client_port = doors.client.open();
    let client_port =
        client_port.map_err(|source| cannot_listen("the client port", addr, source))?;
    tasks.spawn(control::serve(
        control.clone(),
        client_port,
        doors.tls,
        control::with_security_headers(router),
    ));
    let local = ApiState::local(cluster, &streams, config.policy.mode);
    let local = control::router(control.clone()).merge(api::router(local));
    tasks.spawn(http::serve(doors.socket, local));
    Ok(ClientSide {
        control,
        streams,
        metrics,
    })
}

/// Waits for a task to end that should run as long as the replica: a replica that has lost one must
/// not look alive.
async fn first_end(tasks: &Tasks, cluster: &Cluster, clients: &ClientSide) -> String {
    tokio::select! {
        reason = tasks.ended() => reason,
        reason = cluster.ended() => reason,
        reason = clients.streams.ended() => reason,
        reason = clients.control.ended() => reason,
    }
}

async fn bind(config: &Config) -> Result<Bound, ServeError> {
    let listeners = &config.listeners;
    let metrics = match listeners.metrics {
        Some(addr) => Some(listen("metrics", addr).await?),
        None => None,
    };
    let relay_addr = config.derp.listen;
    let stun_addr = config.derp.stun_listen;
    Ok(Bound {
        client: ClientPort::claim(listeners.client)
            .map_err(|source| cannot_listen("the client port", listeners.client, source))?,
        metrics,
        relay: RelayListener::bind(relay_addr)
            .map_err(|source| cannot_listen("the relay", relay_addr, source))?,
        stun: StunSockets::bind(stun_addr)
            .map_err(|source| cannot_listen("STUN", stun_addr, source))?,
        socket: local_socket::bind(&listeners.unix_socket, listeners.unix_socket_mode)
            .await
            .map_err(|source| ServeError::Socket {
                path: listeners.unix_socket.clone(),
                source,
            })?,
    })
}

async fn listen(what: &'static str, addr: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(addr)
        .await
        .map_err(|source| cannot_listen(what, addr, source))
}

const fn cannot_listen(what: &'static str, addr: SocketAddr, source: io::Error) -> ServeError {
    ServeError::Listen { what, addr, source }
}

/// Starts what keeps the cluster's records of this replica and its nodes true.
fn spawn_cluster_tasks(
    config: &Config,
    cluster: &Cluster,
    relay: &RelayHandle,
    keys: &SealingKeys,
    tasks: &mut JoinSet<()>,
) -> Result<oneshot::Receiver<Unwelcome>, ServeError> {
    let up = pb::ReplicaUp {
        replica_id: cluster.replica_id().0,
        incarnation: cluster.incarnation(),
        name: config.cluster.replica_name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        level_min: FEATURE_LEVELS.min,
        level_max: config.cluster.feature_level_max,
        config_digest: config.shared_digest(),
        relay: Some(relay::announcement(config, relay)),
    };
    let announcement = Announcement {
        init: boot::init_tailnet(config, keys)?,
        up,
    };
    let unwelcome = spawn_announcer(cluster.clone(), announcement, relay.cert_name(), tasks);
    spawn_presence(
        cluster.clone(),
        config.cluster.timing_multiplier,
        now,
        tasks,
    );
    spawn_route_approval(cluster.clone(), tasks);
    spawn_member_clerk(cluster.clone(), tasks);
    relay::spawn_drainer(cluster.clone(), relay.clone(), tasks);
    // A relay that is open to everybody has nobody to send away.
    if config.derp.verify_clients {
        relay::spawn_evictor(cluster.clone(), relay.clone(), tasks);
    }
    Ok(unwelcome)
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

/// Lets nodes find another home while their present one still works.
async fn leave_homes(cluster: &Cluster) {
    let homes = cluster.homes_here();
    if homes == 0 {
        return;
    }
    tracing::info!(homes, "replica is about to stop");
    cluster.send_homes_away(HOMES_LEAVE).await;
    tracing::info!(homes = cluster.homes_here(), "nodes have left its relay");
    tokio::time::sleep(HOMES_SETTLE).await;
}

/// Sends everybody elsewhere, hands leadership over, and closes the store.
async fn drain(control: Control, relay: RelayServer, replica: &Replica) {
    tracing::info!("replica drains");
    relay.handle().set_quiet(true);
    let clients = tokio::time::timeout(CLIENT_DRAIN, control.shut_down());
    let (left, _) = tokio::join!(clients, relay.drain(RELAY_DRAIN));
    if left.is_err() {
        tracing::warn!("some clients did not leave in time");
    }
    relay.shutdown(RELAY_END).await;
    replica.shutdown().await;
    tracing::info!("replica stopped");
}
