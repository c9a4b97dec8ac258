//! A replica that serves: its parts, what ends it, and how they stop.

use std::sync::Arc;
use std::time::Duration;

use hydrascale_proto::state::v1 as pb;
use hydrascale_raft::{FEATURE_LEVELS, Keyring, Replica, SealingKeys, UnsealError};
use tokio::net::UnixListener;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::client_port::ClientPort;
use super::doors::{Doors, cannot_listen};
use super::metrics::{MetricsSources, metrics_router};
use super::policy_file::{self, PolicyFile, PolicyFileError};
use super::{
    BootError, ServeError, backups, boot, bootstrap, http, mesh, now, relay, sealing, version,
};
use crate::api::{self, ApiState};
use crate::cluster::{
    Announcement, Cluster, Machine, Unwelcome, spawn_announcer, spawn_member_clerk, spawn_presence,
    spawn_route_approval,
};
use crate::config::Config;
use crate::control::{self, Control, ControlMetrics, ControlOptions};
use crate::derp::{BootstrapDns, RelayHandle, RelayServer, ResolvedNames};
use crate::netmap::NetmapConfig;
use crate::session::MapStreams;
use crate::stun::StunServer;
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

/// What is read again when the process is asked to.
pub(super) struct Files {
    pub(super) policy: Option<PolicyFile>,
    pub(super) reload: Arc<Notify>,
}

/// Everything that serves. It stops abruptly when dropped.
pub(super) struct Running {
    replica: Replica,
    cluster: Cluster,
    relay: RelayServer,
    stun: StunServer,
    clients: ClientSide,
    tasks: Tasks,
    unwelcome: oneshot::Receiver<Unwelcome>,
    policy_refused: oneshot::Receiver<PolicyFileError>,
    unreadable: oneshot::Receiver<UnsealError>,
}

impl Running {
    /// Builds the parts in the order of what they need, and lets everybody in.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub(super) fn start(
        config: &Config,
        (replica, machine): (Replica, Arc<Machine>),
        doors: Doors,
        tls: Option<TlsAcceptor>,
        files: Files,
    ) -> Result<Self, ServeError> {
        let (id, incarnation) = (ReplicaId(replica.id().0), replica.incarnation());
        let cluster = Cluster::new(Arc::new(replica.clone()), machine, id, incarnation);
        // Relay and STUN come before catching up: clients without a direct path need them most.
        let mut tasks = JoinSet::new();
        let names = bootstrap::spawn(config.server_url.host(), &cluster, &mut tasks);
        let relay = relay::start(config, doors.relay, &cluster, names.clone())?;
        mesh::spawn(&replica, relay.handle(), &mut tasks);
        let stun = StunServer::start(doors.stun, &relay.handle().health());
        let keyring = replica.keyring().clone();
        let keys = keyring.keys();
        let unwelcome = spawn_cluster_tasks(config, &cluster, &relay.handle(), &keys, &mut tasks)?;
        let reload_policy = Arc::new(Notify::new());
        let unreadable = sealing::spawn(
            config.cluster.sealing_key_file.clone(),
            keyring.clone(),
            &cluster,
            files.reload,
            reload_policy.clone(),
            &mut tasks,
        );
        let backups = backups::spawn(config, &cluster, &mut tasks);
        let policy_refused = policy_file::spawn(files.policy, &cluster, reload_policy, &mut tasks);
        let entrance = Entrance {
            client: doors.client,
            tls,
            socket: doors.socket,
        };
        let clients = serve_clients(config, entrance, &cluster, (names, keyring), &mut tasks)?;
        if let Some(listener) = doors.metrics {
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
        tracing::info!(replica.id = id.0, "replica serves");
        let tasks = Tasks::new("the replica", tasks);
        Ok(Self {
            replica,
            cluster,
            relay,
            stun,
            clients,
            tasks,
            unwelcome,
            policy_refused,
            unreadable,
        })
    }

    /// Waits until it is told to stop, or cannot go on.
    ///
    /// # Errors
    /// Why it cannot.
    pub(super) async fn until_end(&mut self, stop: &CancellationToken) -> Result<(), ServeError> {
        let first_end = first_end(&self.tasks, &self.cluster, &self.clients);
        tokio::select! {
            // Tells more than the end of the task does that found out.
            biased;
            () = stop.cancelled() => Ok(()),
            fatal = self.replica.fatal() => Err(ServeError::Ended(fatal)),
            Ok(fatal) = &mut self.unwelcome => Err(ServeError::Fatal(fatal.to_string())),
            Ok(refused) = &mut self.policy_refused => Err(refused.into()),
            Ok(sealed) = &mut self.unreadable => Err(BootError::from(sealed).into()),
            reason = first_end => Err(ServeError::Fatal(reason)),
            reason = self.relay.ended() => Err(ServeError::Fatal(reason)),
            () = self.stun.ended() => Err(ServeError::Fatal("a STUN listener ended".to_owned())),
        }
    }

    /// Lets nodes find another home while their present one still works.
    pub(super) async fn leave_homes(&self) {
        let homes = self.cluster.homes_here();
        if homes == 0 {
            return;
        }
        tracing::info!(homes, "replica is about to stop");
        self.cluster.send_homes_away(HOMES_LEAVE).await;
        tracing::info!(
            homes = self.cluster.homes_here(),
            "nodes have left its relay"
        );
        tokio::time::sleep(HOMES_SETTLE).await;
    }

    /// Sends everybody elsewhere, hands leadership over, and closes the store.
    pub(super) async fn drain(self) {
        tracing::info!("replica drains");
        self.relay.handle().set_quiet(true);
        let clients = tokio::time::timeout(CLIENT_DRAIN, self.clients.control.shut_down());
        let (left, ()) = tokio::join!(clients, self.relay.drain(RELAY_DRAIN));
        if left.is_err() {
            tracing::warn!("some clients did not leave in time");
        }
        self.relay.shutdown(RELAY_END).await;
        self.replica.shutdown().await;
        self.stun.shutdown().await;
        tracing::info!("replica stopped");
    }
}

/// Where clients and administrators come in.
struct Entrance {
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
    entrance: Entrance,
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
    let client_port = entrance.client.open();
    let client_port =
        client_port.map_err(|source| cannot_listen("the client port", addr, source))?;
    tasks.spawn(control::serve(
        control.clone(),
        client_port,
        entrance.tls,
        control::with_security_headers(router),
    ));
    let local = ApiState::local(cluster, &streams, config.policy.mode);
    let local = control::router(control.clone()).merge(api::router(local));
    tasks.spawn(http::serve(entrance.socket, local));
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
