//! Simulated replicas: each with a disk that forgets at a crash what was not synced.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::disk::Disk;
use super::machine::{Ledger, Lists};
use super::network::{Host, Hub};
use super::secrets::Secrets;
use super::{chance, check_promise, note, random, violation};
use crate::engine::sim::SimEngine;
use crate::storage::meta;
use crate::tls::PeerName;
use crate::type_config::Member;
use crate::{Clock, DiskFailure, Fatal, Replica, ReplicaConfig};

/// The replicas of one simulation.
pub(super) struct Cluster {
    pub(super) hub: Hub,
    pub(super) ledger: Arc<Mutex<Ledger>>,
    nodes: Mutex<BTreeMap<u64, Node>>,
    /// Snapshots installed by processes that are gone.
    installs: AtomicU64,
    secrets: Secrets,
    folder: TempDir,
}

/// A replica's disk, and its process if it runs.
struct Node {
    disk: Arc<SimEngine>,
    folder: PathBuf,
    starts: u64,
    is_starting: bool,
    /// How far its clock is ahead, milliseconds.
    clock_ahead: u64,
    running: Option<Running>,
}

/// A process.
#[derive(Clone)]
pub(super) struct Running {
    pub(super) replica: Replica,
    pub(super) machine: Arc<Lists>,
    pub(super) host: Host,
    disk: Arc<Disk>,
}

impl Cluster {
    /// Starts `size` replicas that all vote.
    pub(super) async fn start(size: u64) -> Arc<Self> {
        let mut folder = tempfile::Builder::new();
        folder.prefix("simulation-");
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() {
            folder.tempdir_in(memory)
        } else {
            folder.tempdir()
        };
        let folder = folder.expect("a temporary folder");
        let cluster = Arc::new(Self {
            secrets: Secrets::create(CLUSTER, folder.path()),
            hub: Hub::default(),
            ledger: Arc::default(),
            nodes: Mutex::default(),
            installs: AtomicU64::new(0),
            folder,
        });
        for id in 1..=size {
            cluster.create(id, size);
        }
        for id in 1..=size {
            cluster.boot(id).await;
        }
        let members = (1..=size).map(|id| (id, member(id))).collect();
        let first = cluster.running(1).expect("it has just started");
        let initialized = first
            .replica
            .core()
            .raft
            .initialize::<BTreeMap<_, _>>(members);
        initialized.await.expect("a new cluster can be initialized");
        cluster.secrets.record(&first.replica).await;
        cluster
    }

    fn create(&self, id: u64, size: u64) {
        let folder = self.folder.path().join(format!("{id}-0"));
        self.secrets.certify(id, &folder);
        let peers = (1..=size).filter(|peer| *peer != id);
        let peers = peers.map(|peer| format!(r#"{{"replica_id":{peer},"addr":"r{peer}:1"}}"#));
        let peers = peers.collect::<Vec<_>>().join(",");
        let identity =
            format!(r#"{{"cluster_id":"{CLUSTER}","replica_id":{id},"peers":[{peers}]}}"#);
        fs::write(folder.join("identity.json"), identity).expect("an identity");
        let node = Node {
            disk: Arc::default(),
            folder,
            starts: 0,
            is_starting: false,
            clock_ahead: random(0..500),
            running: None,
        };
        self.nodes.lock().insert(id, node);
    }

    /// Starts a replica on what its disk holds, unless it runs.
    pub(super) async fn boot(&self, id: u64) {
        let (disk, config) = {
            let mut nodes = self.nodes.lock();
            let node = nodes.get_mut(&id).expect("a replica of the cluster");
            if node.running.is_some() || node.is_starting {
                return;
            }
            node.is_starting = true;
            check_promise(id, meta::vote(&*node.disk).ok().flatten());
            node.starts += 1;
            let mut config = config(id, node);
            config.keyring = self.secrets.keyring();
            let opened = Disk::open(id, Arc::clone(&node.disk), &node.folder);
            (Arc::new(opened), config)
        };
        let host = Host {
            hub: self.hub.clone(),
            name: PeerName::new(CLUSTER, id),
            gone: CancellationToken::new(),
        };
        let machine = Arc::new(Lists::new(Arc::clone(&self.ledger)));
        let shown: Arc<Lists> = Arc::clone(&machine);
        let engine: Arc<Disk> = Arc::clone(&disk);
        note(&[1, id]);
        let started = Replica::start_simulated(config, engine, host.clone(), shown).await;
        let mut nodes = self.nodes.lock();
        let node = nodes.get_mut(&id).expect("a replica of the cluster");
        node.is_starting = false;
        match started {
            Ok(replica) => {
                disk.arm();
                node.running = Some(Running {
                    replica,
                    machine,
                    host,
                    disk,
                });
            }
            Err(error) => violation(format!(
                "restart: replica {id} does not start: {}",
                crate::chain(&error)
            )),
        }
    }

    /// Takes a replica's power: of what was not synced, its disk keeps some prefix.
    pub(super) fn crash(&self, id: u64, keep: Keep) {
        let mut nodes = self.nodes.lock();
        let Some(node) = nodes.get_mut(&id) else {
            return;
        };
        let Some(running) = node.running.take() else {
            return;
        };
        let installed = running.replica.metrics().snapshots_installed;
        self.installs.fetch_add(installed, Ordering::Relaxed);
        running.host.vanish();
        running.disk.cut_power();
        let unsynced = node.disk.unsynced();
        let kept = match keep {
            Keep::Nothing => 0,
            Keep::Some => usize::try_from(random(0..unsynced as u64 + 1)).unwrap_or(0),
            Keep::Everything => unsynced,
        };
        note(&[2, id, unsynced as u64, kept as u64]);
        node.disk = Arc::new(node.disk.crash(kept));
        let folder = self.folder.path().join(format!("{id}-{}", node.starts));
        copy(&node.folder, &folder).expect("the folder can be copied");
        node.folder = folder;
        node.clock_ahead = random(0..500);
        // What is left of the process is cleared away; nothing that it does has any effect.
        tokio::spawn(async move { running.replica.abort().await });
    }

    /// A replica's process.
    pub(super) fn running(&self, id: u64) -> Option<Running> {
        self.nodes.lock().get(&id)?.running.clone()
    }

    /// All processes.
    pub(super) fn all_running(&self) -> Vec<Running> {
        let nodes = self.nodes.lock();
        nodes
            .values()
            .filter_map(|node| node.running.clone())
            .collect()
    }

    /// Snapshots installed so far.
    pub(super) fn installs(&self) -> u64 {
        let running = self.all_running();
        let installed = running
            .iter()
            .map(|one| one.replica.metrics().snapshots_installed);
        installed.sum::<u64>() + self.installs.load(Ordering::Relaxed)
    }

    /// All replicas, running or not.
    pub(super) fn ids(&self) -> Vec<u64> {
        self.nodes.lock().keys().copied().collect()
    }

    /// Those without a process.
    pub(super) fn down(&self) -> Vec<u64> {
        let nodes = self.nodes.lock();
        let down = nodes.iter().filter(|(_, node)| node.running.is_none());
        down.map(|(id, _)| *id).collect()
    }

    /// Who leads, as far as some replica knows.
    pub(super) fn leader(&self) -> Option<u64> {
        let running = self.all_running();
        let leads = |one: &&Running| one.replica.status().borrow().is_leader();
        running.iter().rfind(leads).map(|one| one.replica.id().0)
    }

    /// Replicas whose power is gone already, in the middle of something.
    pub(super) fn powerless(&self) -> Vec<u64> {
        let running = self.all_running();
        let powerless = running.iter().filter(|one| one.disk.is_powerless());
        powerless.map(|one| one.replica.id().0).collect()
    }

    /// Finds replicas that ended by themselves, without a reason of the simulation's making.
    pub(super) fn check_fatal(&self) {
        for one in self.all_running() {
            let Some(fatal) = one.replica.core().fatal.reported() else {
                continue;
            };
            if !one.disk.is_powerless() && fatal != Fatal::Replaced {
                let id = one.replica.id();
                violation(format!("no fatal: replica {id} ended: {fatal}"));
            }
        }
    }
}

/// What a disk keeps of the unsynced at a crash.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keep {
    Nothing,
    Some,
    Everything,
}

impl Keep {
    pub(super) fn draw() -> Self {
        match random(0..4) {
            0 => Self::Everything,
            1 => Self::Some,
            _ => Self::Nothing,
        }
    }
}

fn member(id: u64) -> Member {
    Member {
        name: format!("r{id}"),
        addr: format!("r{id}:1"),
    }
}

fn config(id: u64, node: &Node) -> ReplicaConfig {
    let mut config = ReplicaConfig::new(&node.folder, format!("r{id}"), format!("r{id}:1"));
    config.snapshot_every = 15;
    config.log_kept = 5;
    config.request_timeout = Duration::from_secs(3);
    config.disk_failure = DiskFailure::Report;
    config.sync_append = chance(10);
    let ahead = Duration::from_millis(node.clock_ahead);
    let beginning = super::BEGINNING.with(|beginning| *beginning);
    config.clock = Clock::new(move || {
        let passed = Instant::now().saturating_duration_since(beginning);
        SystemTime::UNIX_EPOCH + CLOCK + passed + ahead
    });
    config
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

const CLUSTER: &str = "simulation";
/// When every simulation begins.
const CLOCK: Duration = Duration::from_secs(1_700_000_000);
