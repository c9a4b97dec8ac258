//! Simulated replicas: each on a machine of its own, with a disk that forgets at a crash what was not
//! synced.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use turmoil::Sim;

use super::machine::Ledger;
use super::network::{Hub, PORT, host_name};
use super::process::Running;
use super::secrets::Secrets;
use super::{chance, millis, note, random, violation};
use crate::Fatal;
use crate::engine::sim::SimEngine;
use crate::type_config::Member;

/// The replicas of one simulation.
pub(super) struct Cluster {
    pub(super) hub: Hub,
    pub(super) ledger: Arc<Mutex<Ledger>>,
    nodes: Mutex<BTreeMap<u64, Node>>,
    /// What is to be done to machines between two steps.
    orders: Mutex<Vec<Order>>,
    /// Snapshots installed by processes that are gone.
    installs: AtomicU64,
    pub(super) secrets: Secrets,
    folder: TempDir,
}

/// A replica's disk, and its process if it runs.
pub(super) struct Node {
    pub(super) disk: Arc<SimEngine>,
    pub(super) folder: PathBuf,
    /// How often it has crashed.
    crashes: u64,
    /// Whether its machine runs a process, or is about to.
    pub(super) is_up: bool,
    /// How many starts were ordered, and the last that has begun.
    ordered: u64,
    begun: u64,
    /// How far its clock is ahead.
    pub(super) clock_ahead: Duration,
    pub(super) running: Option<Running>,
}

impl Node {
    /// Which start its machine is to run, if any; what belongs to an earlier one does not count.
    pub(super) fn start(&self) -> Option<u64> {
        (self.is_up && self.begun == self.ordered).then_some(self.begun)
    }
}

/// What only the simulation itself can do to a machine.
enum Order {
    /// Its process ends; its disk keeps so much of what was not synced.
    Stop { id: u64, keep: Keep },
    /// Its replica starts.
    Start(u64),
}

impl Cluster {
    /// Makes `size` replicas that all vote, none of which runs, with their machines.
    pub(super) fn create(size: u64, sim: &mut Sim<'_>) -> Arc<Self> {
        let mut folder = tempfile::Builder::new();
        // Random names are the same in each of these processes.
        let prefix = format!("simulation-{}-", std::process::id());
        folder.prefix(&prefix);
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
            orders: Mutex::default(),
            installs: AtomicU64::new(0),
            folder,
        });
        for id in 1..=size {
            cluster.create_node(id, size);
            let on_machine = Arc::clone(&cluster);
            sim.host(host_name(id), move || {
                Arc::clone(&on_machine).run_machine(id)
            });
            cluster.hub.list(id, sim.lookup(host_name(id)));
        }
        cluster
    }

    /// Starts all replicas and makes them one cluster.
    pub(super) async fn form(&self) {
        let ids = self.ids();
        for id in &ids {
            self.boot(*id).await;
        }
        let members: BTreeMap<_, _> = ids.into_iter().map(|id| (id, member(id))).collect();
        let initializing = self.ask(1, |first| async move {
            let raft = &first.replica.core().raft;
            let initialized = raft.initialize::<BTreeMap<_, _>>(members).await;
            initialized.expect("a new cluster can be initialized");
        });
        initializing.await.expect("it has just started");
        let init = self.secrets.init();
        let recording = self.ask(1, |first| async move {
            let recorded = first.replica.core().propose_admin(init).await;
            recorded.expect("a new cluster can be recorded");
        });
        recording.await.expect("nothing has crashed yet");
    }

    fn create_node(&self, id: u64, size: u64) {
        let folder = self.folder.path().join(format!("{id}-0"));
        self.secrets.certify(id, &folder);
        let peers = (1..=size).filter(|peer| *peer != id);
        let peers = peers.map(|peer| format!(r#"{{"replica_id":{peer},"addr":"r{peer}:{PORT}"}}"#));
        let peers = peers.collect::<Vec<_>>().join(",");
        let identity =
            format!(r#"{{"cluster_id":"{CLUSTER}","replica_id":{id},"peers":[{peers}]}}"#);
        fs::write(folder.join("identity.json"), identity).expect("an identity");
        let node = Node {
            disk: Arc::default(),
            folder,
            crashes: 0,
            is_up: false,
            ordered: 0,
            begun: 0,
            clock_ahead: millis(0..500),
            running: None,
        };
        self.nodes.lock().insert(id, node);
    }

    /// Has a replica do something, as [`Running::ask`]; nothing comes of it if it does not run.
    pub(super) async fn ask<T, F>(
        &self,
        id: u64,
        what: impl FnOnce(Running) -> F + Send + 'static,
    ) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.running(id)?.ask(what).await
    }

    /// Looks at a replica, or changes something about it.
    pub(super) fn with_node<T>(&self, id: u64, use_it: impl FnOnce(&mut Node) -> T) -> Option<T> {
        self.nodes.lock().get_mut(&id).map(use_it)
    }

    /// Starts a replica on what its disk holds, unless it runs; returns when it does.
    pub(super) async fn boot(&self, id: u64) {
        self.start(id);
        // One that crashes meanwhile is not waited for.
        let starting = |node: &mut Node| node.is_up && node.running.is_none();
        let up = async {
            while self.with_node(id, starting) == Some(true) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        if timeout(START_MAX, up).await.is_err() {
            violation(format!(
                "restart: replica {id} has not started after {START_MAX:?}"
            ));
        }
    }

    /// Begins to start a replica, unless it runs.
    pub(super) fn start(&self, id: u64) {
        let start = self.with_node(id, |node| {
            let starts = !node.is_up;
            node.is_up = true;
            node.ordered += u64::from(starts);
            starts
        });
        if start == Some(true) {
            self.orders.lock().push(Order::Start(id));
        }
    }

    /// Takes a replica's power, also while it starts: of what was not synced, its disk keeps some
    /// prefix.
    pub(super) fn crash(&self, id: u64, keep: Keep) {
        let stopped = self.with_node(id, |node| {
            let was_up = std::mem::replace(&mut node.is_up, false);
            (was_up, node.running.take())
        });
        let Some((true, running)) = stopped else {
            return;
        };
        if let Some(running) = running {
            let installed = running.replica.metrics().snapshots_installed;
            self.installs.fetch_add(installed, Ordering::Relaxed);
        }
        self.orders.lock().push(Order::Stop { id, keep });
    }

    /// Does between two steps what was ordered since the last.
    pub(super) fn step(&self, sim: &mut Sim<'_>) {
        let orders = std::mem::take(&mut *self.orders.lock());
        for order in orders {
            match order {
                Order::Start(id) => {
                    self.with_node(id, |node| node.begun = node.ordered);
                    sim.bounce(host_name(id));
                }
                Order::Stop { id, keep } => {
                    // First: what a process does as it ends comes too late.
                    self.with_node(id, |node| self.forget_unsynced(id, node, keep));
                    self.stop(sim, id);
                }
            }
        }
        self.hub.step(sim);
    }

    fn forget_unsynced(&self, id: u64, node: &mut Node, keep: Keep) {
        let unsynced = node.disk.unsynced();
        let kept = match keep {
            Keep::Nothing => 0,
            Keep::Some => usize::try_from(random(0..unsynced as u64 + 1)).unwrap_or(0),
            Keep::Everything => unsynced,
        };
        note(&[2, id, unsynced as u64, kept as u64]);
        node.disk = Arc::new(node.disk.crash(kept));
        node.crashes += 1;
        let folder = self.folder.path().join(format!("{id}-{}", node.crashes));
        copy(&node.folder, &folder).expect("the folder can be copied");
        node.folder = folder;
        node.clock_ahead = millis(0..500);
    }

    fn stop(&self, sim: &mut Sim<'_>, id: u64) {
        if chance(50) {
            self.hub.power_off(sim, id);
        } else {
            sim.crash(host_name(id));
            // The machine finds that its replica is not to run.
            sim.bounce(host_name(id));
        }
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

    /// How often replicas have crashed.
    pub(super) fn crashes(&self) -> u64 {
        self.nodes.lock().values().map(|node| node.crashes).sum()
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

pub(super) fn member(id: u64) -> Member {
    Member {
        name: host_name(id),
        addr: format!("r{id}:{PORT}"),
    }
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

/// The name of every simulated cluster.
pub(super) const CLUSTER: &str = "simulation";
/// A start that takes longer does not come to its end.
const START_MAX: Duration = Duration::from_secs(10);
