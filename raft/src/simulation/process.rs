//! What runs on a simulated machine: a replica's process, from its start until the machine stops.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::cluster::{CLUSTER, Cluster, Node, member};
use super::disk::Disk;
use super::machine::Lists;
use super::network::Host;
use super::{chance, check_promise, note, passed, violation};
use crate::storage::meta;
use crate::tls::PeerName;
use crate::type_config::Member;
use crate::{Clock, DiskFailure, Replica, ReplicaConfig};

/// A process.
#[derive(Clone)]
pub(super) struct Running {
    pub(super) replica: Replica,
    pub(super) machine: Arc<Lists>,
    pub(super) disk: Arc<Disk>,
    work: mpsc::Sender<Work>,
}

/// What a process does because somebody asks for it, on its own clock.
type Work = Box<dyn FnOnce(Running) -> BoxFuture<'static, ()> + Send>;

impl Running {
    /// Does something on the process's own clock; nothing comes of it if it crashes before the end.
    pub(super) async fn ask<T, F>(&self, what: impl FnOnce(Self) -> F + Send + 'static) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let work: Work = Box::new(move |running| {
            Box::pin(async move {
                // Who asked may have gone.
                let _ = answer.send(what(running).await);
            })
        });
        self.work.send(work).await.ok()?;
        answered.await.ok()
    }
}

impl Cluster {
    /// What a replica's machine does from its start on: nothing, unless the replica is to run.
    pub(super) async fn run_machine(self: Arc<Self>, id: u64) -> turmoil::Result {
        let starting = self.with_node(id, |node| {
            let start = node.start()?;
            check_promise(id, meta::vote(&*node.disk).ok().flatten());
            let disk = Disk::open(id, Arc::clone(&node.disk), &node.folder);
            Some((start, config(id, node), Arc::new(disk)))
        });
        if let Some((start, mut config, disk)) = starting.flatten() {
            config.keyring = self.secrets.keyring();
            self.run_replica((id, start), config, disk).await;
        }
        pending().await
    }

    async fn run_replica(&self, (id, start): (u64, u64), config: ReplicaConfig, disk: Arc<Disk>) {
        let host = Host {
            hub: self.hub.clone(),
            name: PeerName::new(CLUSTER, id),
        };
        let machine = Arc::new(Lists::new(Arc::clone(&self.ledger)));
        let shown: Arc<Lists> = Arc::clone(&machine);
        let engine: Arc<Disk> = Arc::clone(&disk);
        note(&[1, id]);
        let replica = match Replica::start_simulated(config, engine, host, shown).await {
            Ok(replica) => replica,
            Err(error) => {
                violation(format!(
                    "restart: replica {id} does not start: {}",
                    crate::chain(&error)
                ));
                self.with_node(id, |node| node.is_up = false);
                return;
            }
        };
        disk.arm();
        let (work, mut asked) = mpsc::channel::<Work>(WORK_MAX);
        let running = Running {
            replica,
            machine,
            disk,
            work,
        };
        self.with_node(id, |node| {
            node.running = (node.start() == Some(start)).then(|| running.clone());
        });
        while let Some(work) = asked.recv().await {
            tokio::spawn(work(running.clone()));
        }
    }
}

fn config(id: u64, node: &Node) -> ReplicaConfig {
    let Member { name, addr } = member(id);
    let mut config = ReplicaConfig::new(&node.folder, name, addr);
    config.snapshot_every = 15;
    config.log_kept = 5;
    config.request_timeout = Duration::from_secs(3);
    config.disk_failure = DiskFailure::Report;
    config.sync_append = chance(10);
    let ahead = node.clock_ahead;
    config.clock = Clock::new(move || SystemTime::UNIX_EPOCH + CLOCK + passed() + ahead);
    config
}

/// More than all who ask for something at once.
const WORK_MAX: usize = 64;
/// When every simulation begins.
const CLOCK: Duration = Duration::from_secs(1_700_000_000);
