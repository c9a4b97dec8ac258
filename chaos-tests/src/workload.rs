//! What clients do while faults are installed. Each workload asks for certain things, records every
//! invocation and completion, and judges nothing: that is the checkers' work.

mod api;
mod netmap;
mod nodes;
mod policy;
mod sessions;
mod users;

use std::{
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::task::JoinSet;

use crate::{
    history::{Answer, Op, Recorder},
    outcome::{Outcome, Request, classify},
};
use api::{Api, Reply};

/// Between two operations of one client, at most. Eight clients ask some hundred times a second.
const PAUSE_MAX: Duration = Duration::from_millis(80);
/// For an answer to what is no part of the history.
const INSIST_LIMIT: Duration = Duration::from_secs(15);

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Workload {
    /// Users are renamed and looked up: registers.
    Users,
    /// The same with reads that ask for whatever the replica has: such a run must come out red, or
    /// the harness sees nothing.
    UsersStale,
    /// The policy is read, compared and swapped.
    Policy,
    /// Nodes race for single-use keys, register again after silence, and are deleted.
    Nodes,
    /// A node is renamed while others follow it by their map streams.
    Netmap,
    /// Nodes connect, move between replicas and leave.
    Sessions,
    /// The same, of nodes that offer the same routes, which are granted and taken away.
    Routes,
    /// All of these at once.
    All,
}

impl Workload {
    /// The name in commands and histories.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::UsersStale => "users-stale",
            Self::Policy => "policy",
            Self::Nodes => "nodes",
            Self::Netmap => "netmap",
            Self::Sessions => "sessions",
            Self::Routes => "routes",
            Self::All => "all",
        }
    }

    /// The workload of this name.
    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::value_variants().iter().copied();
        all.find(|one| one.name() == name)
    }

    /// The checkers that must have something to look at where clients do all of these.
    pub fn checkers(asked: &[Self]) -> Vec<&'static str> {
        let mut names: Vec<&'static str> = Vec::new();
        for one in Self::value_variants() {
            if one.is_in(asked) {
                names.extend(one.own_checkers());
            }
        }
        // The map streams of the one show what the other deletes.
        if Self::Nodes.is_in(asked) && Self::Netmap.is_in(asked) {
            names.push("removed");
        }
        names
    }

    const fn own_checkers(self) -> &'static [&'static str] {
        match self {
            Self::Users | Self::UsersStale => &["linearizable"],
            Self::Policy => &["linearizable", "versions"],
            Self::Nodes => &["single-use", "exactly-once", "kept", "deleted"],
            Self::Netmap => &["linearizable", "monotonic", "caught-up"],
            Self::Sessions => &["sessions"],
            Self::Routes => &["sessions", "one-primary"],
            Self::All => &[],
        }
    }

    /// Whether these are part of what is asked for.
    fn is_in(self, asked: &[Self]) -> bool {
        let in_all = self != Self::UsersStale && asked.contains(&Self::All);
        in_all || asked.contains(&self)
    }
}

/// How the clients reach a replica.
#[derive(Clone, Debug)]
pub struct Target {
    /// The local socket, for the API.
    pub socket: PathBuf,
    /// Where nodes connect.
    pub address: SocketAddr,
    /// The same through a proxy, for the API and for nodes.
    pub door: SocketAddr,
}

impl Target {
    /// Half of the clients come by links that may have faults. Of the others it is known more often
    /// that they were not served at all, which tells the checkers more.
    fn reach(&self, process: u32, api_key: &str) -> (Api, SocketAddr) {
        if process.is_multiple_of(2) {
            (Api::remote(self.door, api_key), self.door)
        } else {
            (Api::local(&self.socket), self.address)
        }
    }
}

/// Running clients.
pub struct Clients {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Result<()>>,
}

impl Clients {
    /// Prepares what the workload needs, on a cluster without faults, and starts its clients.
    ///
    /// # Errors
    /// When the preparation fails.
    pub async fn start(
        workloads: &[Workload],
        targets: &[Target],
        api_key: &str,
        recorder: &Recorder,
        random: &mut StdRng,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let values = Arc::new(AtomicU64::new(1));
        let mut processes = 0;
        let mut client = || {
            processes += 1;
            let reached = targets.iter().map(|one| one.reach(processes, api_key));
            let (apis, addresses) = reached.unzip();
            Client {
                process: processes,
                apis,
                addresses,
                recorder: recorder.clone(),
                random: StdRng::seed_from_u64(random.random()),
                values: Arc::clone(&values),
                stop: Arc::clone(&stop),
            }
        };
        let mut tasks = JoinSet::new();
        if Workload::Users.is_in(workloads) {
            users::spawn("linearizable", &mut client, &mut tasks)
                .await
                .context("prepare users")?;
        }
        if Workload::UsersStale.is_in(workloads) {
            users::spawn("stale", &mut client, &mut tasks)
                .await
                .context("prepare users")?;
        }
        if Workload::Policy.is_in(workloads) {
            policy::spawn(&mut client, &mut tasks)
                .await
                .context("prepare the policy")?;
        }
        if Workload::Nodes.is_in(workloads) {
            nodes::spawn(&mut client, &mut tasks)
                .await
                .context("prepare nodes")?;
        }
        if Workload::Netmap.is_in(workloads) {
            netmap::spawn(&mut client, &mut tasks)
                .await
                .context("prepare map streams")?;
        }
        if Workload::Sessions.is_in(workloads) {
            sessions::spawn(&mut client, &mut tasks)
                .await
                .context("prepare sessions")?;
        }
        if Workload::Routes.is_in(workloads) {
            sessions::spawn_routers(&mut client, &mut tasks)
                .await
                .context("prepare routes")?;
        }
        Ok(Self { stop, tasks })
    }

    /// Lets every client finish its last operation, and the last reads after that.
    ///
    /// # Errors
    /// When a client broke.
    pub async fn finish(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Fails as soon as a client has broken.
    ///
    /// # Errors
    /// With the reason.
    pub fn check(&mut self) -> Result<()> {
        while let Some(ended) = self.tasks.try_join_next() {
            ended??;
        }
        Ok(())
    }
}

/// One client: it has one operation at a time.
struct Client {
    process: u32,
    apis: Vec<Api>,
    addresses: Vec<SocketAddr>,
    recorder: Recorder,
    random: StdRng,
    /// Values that were not written yet.
    values: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Client {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A value that nobody else writes.
    fn fresh(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed)
    }

    /// Chooses a replica.
    fn place(&mut self) -> usize {
        self.random.random_range(0..self.apis.len())
    }

    fn api(&mut self) -> Result<Api> {
        let place = self.place();
        self.apis.get(place).cloned().context("a replica")
    }

    fn address(&mut self) -> Result<SocketAddr> {
        let place = self.place();
        self.addresses.get(place).copied().context("a replica")
    }

    async fn pause(&mut self) {
        let pause = self.random.random_range(Duration::ZERO..PAUSE_MAX);
        tokio::time::sleep(pause).await;
    }

    /// Asks a replica by its API for `op`, and records that. `read` finds the answer in a reply of
    /// which the operation is known to have happened.
    async fn ask(
        &mut self,
        op: Op,
        call: api::Call,
        read: impl FnOnce(&Reply) -> Result<Answer>,
    ) -> Result<Option<Reply>> {
        let request = if call.is_read() {
            Request::Read
        } else {
            Request::Write
        };
        let api = self.api()?;
        let id = self.recorder.invoke(self.process, op);
        let sent = api.send(&call).await;
        let (outcome, answer) = match &sent {
            Ok(reply) => {
                let outcome = classify(request, reply.seen());
                let answer = match outcome {
                    Outcome::Ok => read(reply)?,
                    Outcome::Failed if reply.status == 412 => Answer::Mismatch,
                    Outcome::Failed | Outcome::Unknown => reply.text(),
                };
                (outcome, answer)
            }
            Err(seen) => (classify(request, *seen), Answer::Nothing),
        };
        self.recorder.complete(id, outcome, answer);
        let done = outcome == Outcome::Ok;
        Ok(sent.ok().filter(|_| done))
    }

    /// Asks without recording until it is done: for what happens before faults are installed, or
    /// is no part of the history. It waits for a machine that stalls: the second request for what
    /// the first one has made would be refused.
    async fn insist(&mut self, call: api::Call) -> Result<Reply> {
        loop {
            let last = match self.api()?.send_within(INSIST_LIMIT, &call).await {
                Ok(reply) if reply.status == 200 => return Ok(reply),
                Ok(reply) if reply.status < 500 => bail!("{call:?}: {:?}", reply.text()),
                Ok(reply) => format!("{:?}", reply.text()),
                Err(seen) => format!("{seen:?}"),
            };
            if self.is_stopped() {
                bail!("{call:?}: {last}");
            }
            self.pause().await;
        }
    }
}

/// Spawns `count` clients that do `work`.
fn spawn_each<F>(
    count: usize,
    client: &mut impl FnMut() -> Client,
    tasks: &mut JoinSet<Result<()>>,
    work: impl Fn(Client) -> F,
) where
    F: Future<Output = Result<()>> + Send + 'static,
{
    for _ in 0..count {
        tasks.spawn(work(client()));
    }
}
