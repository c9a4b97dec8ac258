//! Bringing a replica up: identity, storage, network, and only then consensus.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::StartError;
use super::open::{bind, open_storage, read_credentials, read_identity, unreadable};
use super::stop::{Inner, Stops};
use crate::core::{
    Consensus, Core, Disk, Probes, READ_QUEUE, ReadRequest, Window, certify, initial_status,
    observe, probe, reconcile, seek_admission, serve_reads, watch_disk, watch_leader,
};
use crate::counters::Counters;
use crate::fatal_slot::FatalSlot;
use crate::identity::{Folder, Identity, IdentityError};
use crate::invite::JoinService;
use crate::network::{
    AddressBook, Connections, Dialer, Ends, Guard, Incarnations, Lanes, LeaderContact, Listener,
    NetworkFactory, Opener, PeerService, Services,
};
use crate::planted::{self, PLANTED_BUG};
use crate::storage::{OpenError, Storage, StorageConfig};
use crate::timing::{MULTIPLIERS, Timing};
use crate::tls::{Credentials, PeerName, Tls};
use crate::type_config::Member;
use crate::{FEATURE_LEVELS, Levels, ReplicaConfig, StateMachine};

pub(super) async fn start(
    config: ReplicaConfig,
    listener: TcpListener,
    machine: Arc<dyn StateMachine>,
) -> Result<Inner, StartError> {
    check_config(&config)?;
    planted::announce().map_err(|reason| StartError::Config {
        field: PLANTED_BUG,
        reason,
    })?;
    let overrides = config.dial_overrides.clone();
    let patience = Timing::new(config.timing_multiplier).connect();
    let open = |name: &PeerName, tls: &Tls, addresses: &AddressBook| {
        let (name, tls) = (name.clone(), tls.clone());
        let dialer = Dialer::new(name, tls, addresses.clone(), overrides, patience);
        Arc::new(dialer) as Opener
    };
    let prepared = prepare(config, machine, open, Storage::open).await?;
    serve(&prepared, listener);
    run(prepared).await
}

/// Starts a replica on a simulated disk and network.
#[cfg(test)]
pub(super) async fn start_simulated(
    config: ReplicaConfig,
    disk: Arc<dyn crate::engine::Engine>,
    host: crate::simulation::Host,
    machine: Arc<dyn StateMachine>,
) -> Result<Inner, StartError> {
    let reach = Arc::new(host.clone());
    let open = move |_: &PeerName, _: &Tls, _: &AddressBook| reach as Opener;
    let open_store =
        move |settings: &StorageConfig, machine| Storage::open_on(disk, settings, machine);
    let prepared = prepare(config, machine, open, open_store).await?;
    host.serve(connections(&prepared));
    run(prepared).await
}

/// A replica whose consensus does not run yet.
struct Prepared {
    core: Arc<Core>,
    storage: Storage,
    stops: Stops,
    tasks: TaskTracker,
    read_requests: mpsc::Receiver<ReadRequest>,
}

async fn prepare(
    config: ReplicaConfig,
    machine: Arc<dyn StateMachine>,
    open: impl FnOnce(&PeerName, &Tls, &AddressBook) -> Opener,
    open_store: impl FnOnce(&StorageConfig, Arc<dyn StateMachine>) -> Result<Storage, OpenError>
    + Send
    + 'static,
) -> Result<Prepared, StartError> {
    let folder = Folder::new(&config.data_dir);
    let identity = read_identity(&folder)?;
    let credentials = read_credentials(&folder, &identity)?;
    let fatal = FatalSlot::new();
    let counters = Arc::new(Counters::default());
    let bound = {
        let identity = identity.clone();
        move |settings: &StorageConfig| bind(open_store(settings, machine)?, &identity)
    };
    let mut storage = open_storage(&config, &identity, &fatal, &counters, bound).await?;
    check_seal(&config, &storage);
    if !identity.has_store {
        let marked = folder.mark_store(&identity);
        marked.map_err(|error| unreadable(folder.path(), error))?;
    }
    let stops = Stops::default();
    let (reads, read_requests) = mpsc::channel(READ_QUEUE);
    let parts = Parts {
        config,
        folder,
        identity,
        fatal,
        counters,
        reads,
        stopping: stops.stopping.clone(),
    };
    let core = Arc::new(build_core(parts, credentials, open, &mut storage).await?);
    Ok(Prepared {
        core,
        storage,
        stops,
        tasks: TaskTracker::new(),
        read_requests,
    })
}

/// Says that the cluster's secrets cannot be read, as far as is known here: what the log holds behind
/// that may have sealed them under another key, which only a leader can tell.
fn check_seal(config: &ReplicaConfig, storage: &Storage) {
    let records = storage.records().load_full();
    let keys = config.keyring.keys();
    let cluster = records.cluster();
    if let Some(Err(error)) = cluster.map(|cluster| keys.check(&cluster.ca_private_key)) {
        tracing::warn!(%error, "this replica ends unless the cluster has another key in use by now");
    }
}

/// What there is before consensus.
struct Parts {
    config: ReplicaConfig,
    folder: Folder,
    identity: Identity,
    fatal: FatalSlot,
    counters: Arc<Counters>,
    reads: mpsc::Sender<ReadRequest>,
    stopping: CancellationToken,
}

/// Builds everything around consensus, which does not run yet.
async fn build_core(
    parts: Parts,
    credentials: Credentials,
    open: impl FnOnce(&PeerName, &Tls, &AddressBook) -> Opener,
    storage: &mut Storage,
) -> Result<Core, StartError> {
    let Parts {
        config,
        folder,
        identity,
        fatal,
        counters,
        reads,
        stopping,
    } = parts;
    let timing = Timing::new(config.timing_multiplier);
    let addresses = AddressBook::default();
    for peer in &identity.peers {
        addresses.list(peer.replica_id, &peer.addr);
    }
    let name = PeerName::new(identity.cluster_id.clone(), identity.replica_id);
    let incarnation = storage.incarnation();
    let incarnations = Incarnations::default();
    let tls = Tls::new(&credentials).map_err(|error| unreadable(folder.path(), error))?;
    let open = open(&name, &tls, &addresses);
    let advertised = config.advertise_addr.clone();
    let lanes = Lanes::new(
        name.clone(),
        incarnation,
        advertised,
        (open, addresses.clone()),
        incarnations.clone(),
        fatal.clone(),
        storage.records(),
    );
    let network = NetworkFactory::new(lanes.clone(), timing, Arc::clone(&counters));
    let raft = build_consensus(&config, &identity, timing, network, storage).await?;
    let barred = Arc::new(ArcSwap::from_pointee(BTreeSet::new()));
    Ok(Core {
        status: initial_status(&identity, incarnation, timing.reachable_within()),
        guard: Guard::new(
            name,
            Arc::clone(&barred),
            addresses,
            incarnations,
            Arc::clone(&counters),
            config.levels,
        ),
        applied: storage.applied(),
        records: storage.records(),
        replicated_ms: storage.now_ms(),
        snapshots: Some(storage.snapshots()).into(),
        contact: LeaderContact::new(),
        probes: Probes::default(),
        disk: Disk::default(),
        window: Window::default(),
        membership: tokio::sync::Mutex::new(()),
        stopping,
        tls,
        credentials: ArcSwap::from_pointee(credentials),
        hold: OnceLock::new(),
        identity,
        incarnation,
        config,
        timing,
        folder,
        raft,
        lanes,
        barred,
        counters,
        fatal,
        reads,
    })
}

async fn build_consensus(
    config: &ReplicaConfig,
    identity: &Identity,
    timing: Timing,
    network: NetworkFactory,
    storage: &mut Storage,
) -> Result<Consensus, StartError> {
    let settings = timing
        .consensus(config)
        .map_err(|error| StartError::Config {
            field: "timing_multiplier",
            reason: error.to_string(),
        })?;
    let machine = storage
        .machine_store()
        .ok_or_else(|| StartError::Consensus("the state machine was given away already".into()))?;
    let log = storage.log_store();
    let built = Consensus::build(identity.replica_id, settings, network, log, machine).await;
    built.map_err(|fatal| StartError::Consensus(fatal.to_string().into()))
}

fn check_config(config: &ReplicaConfig) -> Result<(), StartError> {
    let bad = |field, reason: String| Err(StartError::Config { field, reason });
    if !MULTIPLIERS.contains(&config.timing_multiplier) {
        let (least, most) = (MULTIPLIERS.start(), MULTIPLIERS.end());
        return bad("timing_multiplier", format!("it must be {least} to {most}"));
    }
    if config.name.is_empty() {
        return bad("name", "a replica needs a name".to_owned());
    }
    if !config.advertise_addr.contains(':') {
        return bad("advertise_addr", "it must be host:port".to_owned());
    }
    let Levels { min, max } = config.levels;
    if min > max || min < FEATURE_LEVELS.min || max > FEATURE_LEVELS.max {
        return bad(
            "feature_level_max",
            format!("this version supports feature levels {FEATURE_LEVELS}"),
        );
    }
    if config.snapshot_every == 0 {
        return bad("snapshot_every", "it must be at least 1".to_owned());
    }
    Ok(())
}

/// Serves the peer listener; requests wait in consensus' queue until it runs.
fn serve(prepared: &Prepared, listener: TcpListener) {
    let core = &prepared.core;
    let counters = Arc::clone(&core.counters);
    let serving = connections(prepared);
    Listener::new(core.tls.clone(), serving, core.timing, counters).spawn(listener);
}

fn connections(prepared: &Prepared) -> Connections {
    let Prepared {
        core, tasks, stops, ..
    } = prepared;
    let ends = Ends {
        drain: stops.serving.clone(),
        close: stops.closing.clone(),
    };
    let peer = PeerService::new(Arc::clone(core));
    let join = JoinService::new(Arc::clone(core));
    let services = Services::new(peer, join, core.incarnation, Arc::clone(&core.counters));
    Connections::new(services, core.timing, tasks, &ends)
}

/// Starts consensus and the tasks around it.
async fn run(prepared: Prepared) -> Result<Inner, StartError> {
    let Prepared {
        core,
        storage,
        stops,
        tasks,
        read_requests,
    } = prepared;
    let inner = Inner::new(core, storage, tasks, stops);
    let core = &inner.core;
    core.raft.run();
    initialize_first(core).await?;
    let stopping = &core.stopping;
    let tasks = &inner.tasks;
    spawn(tasks, stopping, observe(Arc::clone(core)));
    spawn(tasks, stopping, probe(Arc::clone(core)));
    spawn(tasks, stopping, watch_disk(Arc::clone(core)));
    spawn(tasks, stopping, reconcile(Arc::clone(core)));
    spawn(tasks, stopping, certify(Arc::clone(core)));
    spawn(tasks, stopping, watch_leader(Arc::clone(core)));
    spawn(
        tasks,
        stopping,
        serve_reads(Arc::clone(core), read_requests),
    );
    spawn(tasks, stopping, seek_admission(Arc::clone(core)));
    Ok(inner)
}

/// The first replica of a new cluster begins as its only voter.
async fn initialize_first(core: &Core) -> Result<(), StartError> {
    let unreadable = |error: IdentityError| unreadable(core.folder.path(), error);
    let failed = |error: String| StartError::Consensus(error.into());
    if core
        .folder
        .bootstrap(&core.identity)
        .map_err(unreadable)?
        .is_none()
    {
        return Ok(());
    }
    let initialized = core.raft.is_initialized().await;
    if initialized.map_err(|fatal| failed(fatal.to_string()))? {
        return Ok(());
    }
    let member = Member {
        name: core.config.name.clone(),
        addr: core.config.advertise_addr.clone(),
    };
    let members = BTreeMap::from([(core.id(), member)]);
    core.raft
        .initialize(members)
        .await
        .map_err(|error| failed(error.to_string()))
}

fn spawn(
    tasks: &TaskTracker,
    stopping: &CancellationToken,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let stopping = stopping.clone();
    tasks.spawn(async move {
        stopping.run_until_cancelled_owned(task).await;
    });
}
