//! A cluster of real replica processes on addresses of their own.

mod config;
mod members;
mod replica;
mod state;

use std::{env, fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::try_join_all;
use serde_json::Value;
use tokio::time::sleep;

pub use config::{Options, TIMING_MULTIPLIER, Tls};
pub use replica::{Replica, sum_of};
pub use state::{Node, check_addresses, nodes_of};

use crate::{Context, certificate, netns, wait};

/// Port of every replica for clients, and of the balancer.
pub const CLIENT_PORT: u16 = 8080;
const METRICS_PORT: u16 = 9090;
/// Port of every replica for the others.
pub const PEER_PORT: u16 = 7443;
const RELAY_PORT: u16 = 8443;
/// From the start of a process to readiness, elections and a snapshot included, on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long a command is repeated, and how often.
const INSIST_LIMIT: Duration = Duration::from_secs(45);
const INSIST_EVERY: Duration = Duration::from_millis(500);
/// Until a leader is known again after one was lost.
const LEADER_LIMIT: Duration = Duration::from_secs(30);

/// The path of the executable under test, when it is not the one of this build.
pub(crate) const SERVER: &str = "HYDRASCALE_BIN";

/// Where the executable under test is.
pub fn server_program() -> PathBuf {
    env::var_os(SERVER).map_or_else(built_server, PathBuf::from)
}

/// Beside this executable, or one folder above it: tests are in `target/debug/deps`.
fn built_server() -> PathBuf {
    let own = env::current_exe().unwrap_or_default();
    let folders = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("hydrascale"));
    let found = folders.clone().find(|path| path.is_file());
    found.or_else(|| folders.last()).unwrap_or_default()
}

/// Whether a command failed for what a busy machine does, and may be asked for again.
fn is_slowness(error: &anyhow::Error) -> bool {
    const WORDS: [&str; 5] = [
        "does not answer",
        "did not answer",
        "would take no changes any more",
        "no leader",
        "did not take over",
    ];
    let said = format!("{error:#}");
    WORDS.iter().any(|words| said.contains(words))
}

/// Replicas that form one cluster. They end when it is dropped.
pub struct Cluster {
    context: Context,
    replicas: Vec<Replica>,
    program: PathBuf,
    options: Options,
    term: u64,
}

impl Cluster {
    /// Makes a cluster of `size` replicas: the first by `cluster init`, the others by join tokens.
    ///
    /// # Errors
    /// When one does not start or join.
    pub async fn start(context: &Context, size: usize) -> Result<Self> {
        Self::start_with(context, size, Options::default()).await
    }

    /// As [`Cluster::start`], with other options than the usual ones.
    ///
    /// # Errors
    /// When one does not start or join.
    pub async fn start_with(context: &Context, size: usize, options: Options) -> Result<Self> {
        let mut cluster = Self::prepare(context, size, options)?;
        let first = cluster.replica(0)?;
        first.command(&["cluster", "init"]).await?;
        cluster.up(0).await?;
        for index in 1..size {
            cluster.join(index).await?;
        }
        cluster.note_term(true).await?;
        context.step(&format!("{size} replicas are up"));
        Ok(cluster)
    }

    /// Replicas with a configuration and without data.
    fn prepare(context: &Context, size: usize, options: Options) -> Result<Self> {
        // A copy, so that a build in the meantime does not change what is tested.
        let program = context.scratch().join("hydrascale");
        let built = server_program();
        fs::copy(&built, &program).with_context(|| format!("copy {}", built.display()))?;
        // Written now, not when replicas wait for the same disk.
        fs::File::open(&program)?.sync_all()?;
        if options.tls != Tls::Nowhere {
            certificate::make(context.scratch(), &netns::FRONT.to_string())?;
        }
        let replicas: Result<Vec<Replica>> = (0..size)
            .map(|index| Replica::prepare(context.scratch(), index, &program, &options))
            .collect();
        Ok(Self {
            context: context.clone(),
            replicas: replicas?,
            program,
            options,
            term: 0,
        })
    }

    async fn join(&mut self, index: usize) -> Result<()> {
        let (asked, replica) = self.running().next().context("no replica runs")?;
        let made = replica
            .command(&["cluster", "join-token", "create"])
            .await?;
        let token = made["joinToken"].as_str();
        let token = token.with_context(|| format!("no token in {made}"))?;
        self.replica(index)?.write_token(token)?;
        self.up(index).await?;
        // Membership is complete before the next one comes.
        let count = self.running().count();
        let settled = async || {
            let status = self.status(asked).await.ok()?;
            let members = status["members"].as_array()?;
            let placed = members
                .iter()
                .filter(|member| member["voter"] == true || member["nonVoting"] == true);
            (placed.count() == count).then_some(())
        };
        let what = format!("{count} replicas that vote or are not to");
        wait::until(&what, READY_LIMIT, settled).await.map(drop)
    }

    /// How many replicas it has, running or not.
    pub const fn size(&self) -> usize {
        self.replicas.len()
    }

    /// Replica `index`.
    ///
    /// # Errors
    /// When there is none.
    pub fn replica(&self, index: usize) -> Result<&Replica> {
        self.replicas
            .get(index)
            .with_context(|| format!("no replica {index}"))
    }

    /// All of them.
    pub fn replicas(&self) -> &[Replica] {
        &self.replicas
    }

    /// Starts a replica and waits until it is ready; says how long that took.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn up(&mut self, index: usize) -> Result<Duration> {
        let replica = self.replica_mut(index)?;
        replica.start()?;
        replica.wait_ready().await
    }

    /// Kills a replica as a crash would.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn kill(&mut self, index: usize) -> Result<()> {
        self.context.step(&format!(
            "kill -9 of replica {}",
            self.replica(index)?.name()
        ));
        self.replica_mut(index)?.kill().await
    }

    /// Starts a replica without waiting.
    ///
    /// # Errors
    /// When it runs already.
    pub fn start_replica(&mut self, index: usize) -> Result<()> {
        self.replica_mut(index)?.start()
    }

    /// Waits until a started replica is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn wait_ready(&mut self, index: usize) -> Result<Duration> {
        self.replica_mut(index)?.wait_ready().await
    }

    /// Asks a replica to drain and end.
    ///
    /// # Errors
    /// When it does not end well.
    pub async fn terminate(&mut self, index: usize) -> Result<()> {
        self.replica_mut(index)?.terminate().await
    }

    fn replica_mut(&mut self, index: usize) -> Result<&mut Replica> {
        self.replicas
            .get_mut(index)
            .with_context(|| format!("no replica {index}"))
    }

    /// What `cluster status` says on a replica.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self, index: usize) -> Result<Value> {
        self.replica(index)?.command(&["cluster", "status"]).await
    }

    /// The replica that leads, as a running one knows it.
    ///
    /// # Errors
    /// When none is known in time.
    pub async fn leader(&self) -> Result<usize> {
        let known = async || {
            for (index, _) in self.running() {
                let status = self.status(index).await.ok()?;
                if status["role"] == "leader" {
                    return Some(index);
                }
            }
            None
        };
        let (leader, _) = wait::until("a leader", LEADER_LIMIT, known).await?;
        Ok(leader)
    }

    /// The replicas whose process runs.
    pub fn running(&self) -> impl Iterator<Item = (usize, &Replica)> {
        self.replicas
            .iter()
            .enumerate()
            .filter(|(_, replica)| replica.is_up())
    }

    /// The term, as the leader knows it.
    ///
    /// # Errors
    /// When no replica answers.
    pub async fn term(&self) -> Result<u64> {
        let status = self.status(self.leader().await?).await?;
        status["term"].as_u64().context("no term")
    }

    /// Compares the term with the last one noted. An election that no test asked for is reported:
    /// it is no failure, but somebody should know.
    ///
    /// # Errors
    /// When no replica answers.
    pub async fn note_term(&mut self, asked_for: bool) -> Result<()> {
        let term = self.term().await?;
        if term != self.term && !asked_for {
            let (before, elections) = (self.term, term.saturating_sub(self.term));
            self.context.measured(
                "elections that nobody asked for",
                format!("{elections} (term {before} to {term})"),
            );
        }
        self.term = term;
        Ok(())
    }

    /// Creates a user and a reusable auth key of its own.
    ///
    /// # Errors
    /// When a command is refused.
    pub async fn create_auth_key(&self, user: &str) -> Result<String> {
        let (_, replica) = self.running().next().context("no replica runs")?;
        let made = replica.command(&["users", "create", user]).await?;
        let id = made["id"]
            .as_str()
            .with_context(|| format!("no id in {made}"))?;
        let words = [
            "preauthkeys",
            "create",
            "--user",
            id,
            "--reusable",
            "--expiration",
            "24h",
        ];
        let made = replica.command(&words).await?;
        Ok(made["key"]
            .as_str()
            .with_context(|| format!("no key in {made}"))?
            .to_owned())
    }

    /// Creates an API key.
    ///
    /// # Errors
    /// When that is refused.
    pub async fn create_api_key(&self) -> Result<String> {
        let (_, replica) = self.running().next().context("no replica runs")?;
        let made = replica.command(&["apikeys", "create"]).await?;
        let key = made.as_str().or_else(|| made["apiKey"].as_str());
        Ok(key.with_context(|| format!("no key in {made}"))?.to_owned())
    }

    /// Runs a command that may be repeated on one replica, again while a busy machine is too slow for it:
    /// another replica does not answer a probe in time, or there is no leader just then.
    ///
    /// # Errors
    /// What the command complained about at last.
    pub async fn insist(&self, index: usize, words: &[&str]) -> Result<Value> {
        let begin = std::time::Instant::now();
        loop {
            match self.replica(index)?.command(words).await {
                Err(error) if is_slowness(&error) && begin.elapsed() < INSIST_LIMIT => {
                    self.context.step(&format!("again, because {error:#}"));
                    sleep(INSIST_EVERY).await;
                }
                done => return done,
            }
        }
    }

    /// Waits until every running replica lists the same nodes; gives the list.
    ///
    /// # Errors
    /// When they still differ after `limit`, or one still does not answer.
    pub async fn wait_equal(&self, limit: Duration) -> Result<Vec<Node>> {
        let begin = std::time::Instant::now();
        loop {
            match self.equal_nodes().await {
                Err(_) if begin.elapsed() < limit => sleep(INSIST_EVERY).await,
                done => return done,
            }
        }
    }

    async fn equal_nodes(&self) -> Result<Vec<Node>> {
        let dump =
            async |replica: &Replica| Ok((replica.name().to_owned(), state::dump(replica).await?));
        let dumps: Result<Vec<_>> = try_join_all(self.running().map(|(_, one)| dump(one))).await;
        let dumps = dumps?;
        let (name, first) = dumps.first().context("no replica runs")?;
        if let Some((other, dump)) = dumps.iter().find(|(_, dump)| dump != first) {
            bail!("{name} and {other} differ: {}", first.difference(dump));
        }
        nodes_of(&first.nodes)
    }

    /// Fails when a replica that should run has ended.
    ///
    /// # Errors
    /// With the replica's name.
    pub fn check_alive(&mut self) -> Result<()> {
        for replica in self.replicas.iter_mut().filter(|replica| replica.is_up()) {
            ensure!(
                !replica.has_ended(),
                "replica {} ended by itself",
                replica.name()
            );
        }
        Ok(())
    }
}
