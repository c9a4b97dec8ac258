//! Replicas to start, stop and start again, and a key-value machine to replicate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::{
    AdminError, ApplyContext, Begun, BootstrapError, Clock, DialOverrides, DiskFailure, Effects,
    JoinError, JoinToken, MachineError, Proposed, Replica, ReplicaConfig, ReplicaId, Row, RowWrite,
    StartError, StateMachine, Status,
};

/// Nothing in these tests takes this long unless it is broken.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Keys hold numbers; a command `add KEY N` adds to one and answers with the sum.
#[derive(Debug, Default)]
pub(super) struct Sums {
    sums: Mutex<BTreeMap<String, i64>>,
    /// Replicated time of the last command.
    now_ms: AtomicI64,
}

impl Sums {
    pub(super) fn get(&self, key: &str) -> i64 {
        self.sums.lock().get(key).copied().unwrap_or(0)
    }

    pub(super) fn all(&self) -> BTreeMap<String, i64> {
        self.sums.lock().clone()
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.now_ms.load(Ordering::Relaxed)
    }
}

impl StateMachine for Sums {
    fn load(
        &self,
        _applied: u64,
        rows: &mut dyn Iterator<Item = Result<Row, MachineError>>,
    ) -> Result<(), MachineError> {
        let mut sums = BTreeMap::new();
        for row in rows {
            let row = row?;
            let key = String::from_utf8_lossy(&row.key).into_owned();
            let sum = String::from_utf8_lossy(&row.value)
                .parse()
                .map_err(|_| halted("load"))?;
            sums.insert(key, sum);
        }
        *self.sums.lock() = sums;
        Ok(())
    }

    fn apply(&self, ctx: &ApplyContext, command: &[u8]) -> Result<Effects, MachineError> {
        let text = std::str::from_utf8(command).map_err(|_| halted("apply"))?;
        let (key, addend) = text.split_once(' ').ok_or_else(|| halted("apply"))?;
        let addend: i64 = addend.parse().map_err(|_| halted("apply"))?;
        self.now_ms.store(ctx.now_ms, Ordering::Relaxed);
        let mut sums = self.sums.lock();
        let sum = sums.entry(key.to_owned()).or_default();
        *sum += addend;
        let value = Bytes::from(sum.to_string());
        let row = Row {
            key: Bytes::from(key.to_owned()),
            value: value.clone(),
        };
        Ok(Effects {
            writes: vec![RowWrite::Put(row)],
            outcome: value,
        })
    }

    fn publish(&self, _applied: u64) {}
}

fn halted(step: &str) -> MachineError {
    MachineError {
        message: format!("test machine: {step}"),
        source: None,
    }
}

/// A replica that can be stopped and started again; its address never changes for the others.
pub(super) struct TestReplica {
    pub(super) config: ReplicaConfig,
    pub(super) sums: Arc<Sums>,
    links: DialOverrides,
    running: Option<Replica>,
    _dir: TempDir,
}

impl TestReplica {
    pub(super) fn new(name: &str, overrides: &DialOverrides) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config =
            ReplicaConfig::new(dir.path().join("data"), name, format!("{name}.test:1"));
        config.dial_overrides = overrides.clone();
        config.timing_multiplier = 2;
        config.request_timeout = Duration::from_secs(15);
        config.disk_failure = DiskFailure::Report;
        let links = overrides.clone();
        Self {
            config,
            sums: Arc::default(),
            links,
            running: None,
            _dir: dir,
        }
    }

    /// Starts on a fresh port with an empty machine.
    pub(super) async fn start(&mut self) -> &Replica {
        self.try_start().await.unwrap()
    }

    /// The same, if it starts at all.
    pub(super) async fn try_start(&mut self) -> Result<&Replica, StartError> {
        let listener = self.listen().await;
        self.start_on(listener).await
    }

    async fn listen(&self) -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        self.links.set(self.config.advertise_addr.clone(), addr);
        listener
    }

    async fn start_on(&mut self, listener: TcpListener) -> Result<&Replica, StartError> {
        self.sums = Arc::default();
        let machine: Arc<Sums> = Arc::clone(&self.sums);
        let started = Replica::start(self.config.clone(), listener, machine).await?;
        Ok(self.running.insert(started))
    }

    /// Forms or finds a cluster as it was configured to, and starts.
    pub(super) async fn bootstrap(&mut self) -> Result<Begun, BootstrapError> {
        let listener = self.listen().await;
        let begun = Replica::bootstrap_cluster(&self.config, &listener).await?;
        self.start_on(listener).await.unwrap();
        Ok(begun)
    }

    /// Joins, again while nobody answers in time, which is the same join; it does not start yet.
    pub(super) async fn join(&self, token: &JoinToken) -> ReplicaId {
        let joining = async {
            loop {
                match Replica::join_cluster(&self.config, token).await {
                    Err(JoinError::Unavailable { reason }) => println!("join again: {reason}"),
                    joined => return joined.unwrap(),
                }
                tokio::task::yield_now().await;
            }
        };
        let joined = timeout(PATIENCE, joining).await;
        joined.expect("an answer to the join in time")
    }

    /// Stops as a crash would.
    pub(super) async fn kill(&mut self) {
        let running = self.running.take().unwrap();
        timeout(PATIENCE, running.abort()).await.unwrap();
    }

    /// Stops gently.
    pub(super) async fn stop(&mut self) {
        let running = self.running.take().unwrap();
        timeout(PATIENCE, running.shutdown()).await.unwrap();
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub(super) fn replica(&self) -> &Replica {
        self.running.as_ref().unwrap()
    }

    pub(super) fn id(&self) -> ReplicaId {
        self.replica().id()
    }

    pub(super) async fn add(&self, key: &str, addend: i64) -> Proposed {
        self.replica().propose(add(key, addend)).await.unwrap()
    }

    /// Lets it stand for election because of silence, or not.
    pub(super) fn elect(&self, on_silence: bool) {
        let consensus = &self.replica().core().raft;
        consensus.runtime_config().elect(on_silence);
    }

    /// Waits for a status, and says what it was when it does not come.
    pub(super) async fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let mut status = self.replica().status();
        let reached = timeout(PATIENCE, status.wait_for(|now| wanted(now))).await;
        match reached {
            Ok(now) => now.unwrap().clone(),
            Err(_) => {
                let now = self.replica().status().borrow().clone();
                panic!("{}: {what} not reached: {now:#?}", self.config.name)
            }
        }
    }
}

impl Drop for TestReplica {
    /// The store must be closed before its folder is removed, or it writes the folder again.
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let ending = timeout(PATIENCE, running.abort());
            let _ = tokio::task::block_in_place(|| Handle::current().block_on(ending));
        }
    }
}

pub(super) fn add(key: &str, addend: i64) -> Bytes {
    Bytes::from(format!("{key} {addend}"))
}

/// Replicas of one cluster, and how they reach each other.
pub(super) struct TestCluster {
    pub(super) replicas: Vec<TestReplica>,
    pub(super) overrides: DialOverrides,
}

impl TestCluster {
    /// A running cluster of one.
    pub(super) async fn single() -> Self {
        Self::single_with(|_| {}).await
    }

    /// A running cluster of one, configured by `configure`.
    pub(super) async fn single_with(configure: impl FnOnce(&mut ReplicaConfig)) -> Self {
        let overrides = DialOverrides::default();
        let mut first = TestReplica::new("a", &overrides);
        configure(&mut first.config);
        Replica::init_cluster(&first.config).unwrap();
        first.start().await;
        first.until("leadership", Status::is_leader).await;
        Self {
            replicas: vec![first],
            overrides,
        }
    }

    /// A running cluster of three voters.
    pub(super) async fn three() -> Self {
        Self::three_with(|_| {}).await
    }

    /// A running cluster of three voters, all configured by `configure`.
    pub(super) async fn three_with(configure: impl Fn(&mut ReplicaConfig)) -> Self {
        let mut cluster = Self::single_with(&configure).await;
        for name in ["b", "c"] {
            let mut joiner = cluster.joiner(name);
            configure(&mut joiner.config);
            cluster.join(joiner).await;
        }
        cluster
            .until_all("three voters", |now| {
                voters(now) == 3 && !now.joint && now.leader.is_some()
            })
            .await;
        cluster
    }

    /// A replica that has not joined yet.
    pub(super) fn joiner(&self, name: &str) -> TestReplica {
        TestReplica::new(name, &self.overrides)
    }

    /// Lets a replica in and waits until it votes.
    pub(super) async fn join(&mut self, mut joiner: TestReplica) -> &TestReplica {
        let token = self.token().await;
        let id = joiner.join(&token).await;
        joiner.start().await;
        joiner
            .until("a vote", |now| {
                now.member(id).is_some_and(|own| own.voter) && !now.joint
            })
            .await;
        self.replicas.push(joiner);
        self.replicas.last().unwrap()
    }

    pub(super) async fn token(&self) -> JoinToken {
        let replica = self.running().next().unwrap().replica();
        replica
            .create_join_token(Duration::from_secs(600), None)
            .await
            .unwrap()
    }

    /// The running replicas.
    pub(super) fn running(&self) -> impl Iterator<Item = &TestReplica> {
        self.replicas.iter().filter(|replica| replica.is_running())
    }

    pub(super) async fn until_all(&self, what: &str, wanted: impl Fn(&Status) -> bool + Copy) {
        for replica in self.running() {
            replica.until(what, wanted).await;
        }
    }

    /// Position of the leader, as all running replicas agree.
    pub(super) async fn leader(&self) -> usize {
        let ids: Vec<_> = self.running().map(TestReplica::id).collect();
        let known = |now: &Status| now.leader.is_some_and(|leader| ids.contains(&leader));
        let mut leader = None;
        for replica in self.running() {
            leader = replica.until("a running leader", known).await.leader;
        }
        let is_leader =
            |replica: &TestReplica| replica.is_running() && Some(replica.id()) == leader;
        self.replicas.iter().position(is_leader).unwrap()
    }

    /// Lets one replica lead; a transfer may come to nothing on a slow machine.
    pub(super) async fn lead(&self, at: usize) {
        let replica = self.replicas[at].replica();
        let transferring = async {
            while replica.transfer_leadership(Some(replica.id()), &[]).await != Ok(replica.id()) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, transferring).await.unwrap();
    }

    /// The leader, which stays that on a slow machine too: nobody stands because of silence any more.
    pub(super) async fn lasting_leader(&self) -> usize {
        let leader = self.leader().await;
        for replica in self.running() {
            replica.elect(false);
        }
        leader
    }

    /// Writes until only snapshots hold entry `index`, and returns the last one. A leader keeps what it
    /// is just trying to send, so that no count of writes makes sure of it.
    pub(super) async fn purge(&self, index: u64) -> u64 {
        let purged = |replica: &TestReplica| {
            let status = replica.replica().status();
            status.borrow().purged_index >= index
        };
        let purging = async {
            loop {
                let writer = self.running().next().expect("a running replica");
                let last = writer.add("k", 1).await.index;
                if self.running().all(purged) {
                    return last;
                }
            }
        };
        timeout(PATIENCE, purging).await.expect("a purge")
    }

    /// Waits until every running replica has applied `index`.
    pub(super) async fn applied(&self, index: u64) {
        for replica in self.running() {
            replica
                .replica()
                .wait_applied(index, PATIENCE)
                .await
                .unwrap();
        }
    }
}

/// Asks again while a replica was too slow for a probe.
pub(super) async fn patiently<T>(
    asking: impl AsyncFn() -> Result<T, AdminError>,
) -> Result<T, AdminError> {
    let slow = |reason: &str| {
        reason.contains("does not answer") || reason.contains("would take no changes any more")
    };
    let asked = async {
        loop {
            match asking().await {
                Err(AdminError::Refused { reason }) if slow(&reason) => {
                    tokio::task::yield_now().await
                }
                done => return done,
            }
        }
    };
    timeout(PATIENCE, asked).await.expect("an answer in time")
}

pub(super) fn voters(status: &Status) -> usize {
    status.members.iter().filter(|member| member.voter).count()
}

/// A clock that runs `ahead_ms` ahead of the real one.
pub(super) fn clock_ahead(ahead_ms: u64) -> Clock {
    Clock::new(move || std::time::SystemTime::now() + Duration::from_millis(ahead_ms))
}

/// The reason of a refused join.
pub(super) fn refused(joined: Result<ReplicaId, JoinError>) -> String {
    match joined {
        Err(JoinError::Refused { reason }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}
