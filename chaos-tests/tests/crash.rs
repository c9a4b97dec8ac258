//! Replicas are killed at random moments while nodes register: what was acknowledged stays, no
//! address is given twice, and all replicas agree in the end.

#![allow(missing_docs, reason = "a test")]

use std::collections::BTreeMap;
use std::env;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt as _;
use hydrascale_benches::client::{CAPVER, Connection, Identity, Registration, fetch_server_key};
use hydrascale_chaos_tests::clients::Program;
use hydrascale_chaos_tests::cluster::{self, Cluster, Node};
use hydrascale_chaos_tests::{Context, Scenario, runner};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::RwLock;
use tokio::task::JoinSet;

/// How many times something is killed.
const ROUNDS: &str = "HYDRASCALE_CRASH_ROUNDS";
const ROUNDS_DEFAULT: usize = 20;
/// A round takes some seconds; the rest is for elections on a busy machine.
const ROUND_LIMIT: Duration = Duration::from_secs(60);
/// Nodes that register at the same time.
const REGISTRARS: usize = 4;
/// Between two registrations of one registrar, so that 200 rounds stay below some ten thousand nodes.
const PAUSE: Duration = Duration::from_millis(25);
/// After this a registration's outcome is unknown and it is tried again, elsewhere.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Until a replica that was down has everything.
const EQUAL_LIMIT: Duration = Duration::from_secs(30);
/// A run in which almost nothing was registered proves nothing.
const REGISTERED_PER_ROUND_MIN: usize = 3;

fn main() -> ExitCode {
    let limit = ROUND_LIMIT * u32::try_from(rounds().unwrap_or(ROUNDS_DEFAULT)).unwrap_or(u32::MAX);
    runner::main(
        "crash",
        &[Scenario::new(
            "no acknowledged registration is lost when replicas are killed",
            limit,
            &[Program::Server],
            |context| crashes(context).boxed_local(),
        )],
    )
}

fn rounds() -> Result<usize> {
    match env::var(ROUNDS) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{ROUNDS} must be a number: {text:?}")),
        Err(_) => Ok(ROUNDS_DEFAULT),
    }
}

/// What the registrars know: hostname by node key.
#[derive(Default)]
struct Known {
    /// Registrations that were acknowledged.
    acknowledged: BTreeMap<String, String>,
    /// All that was ever sent.
    sent: BTreeMap<String, String>,
    /// Answers that no healthy cluster gives.
    wrong: Vec<String>,
}

type Shared = Arc<Mutex<Known>>;

async fn crashes(context: Context) -> Result<()> {
    let rounds = rounds()?;
    let mut random = StdRng::seed_from_u64(context.seed());
    let mut cluster = Cluster::start(&context, 3).await?;
    let auth_key = cluster.create_auth_key("people").await?;
    let servers: Vec<SocketAddr> = cluster
        .replicas()
        .iter()
        .map(|replica| replica.client_address())
        .collect();
    let known = Shared::default();
    let stop = Arc::new(AtomicBool::new(false));
    let traffic = Arc::new(RwLock::new(()));
    let mut registrars = JoinSet::new();
    for number in 0..REGISTRARS {
        let registrar = Registrar {
            number,
            servers: servers.clone(),
            auth_key: auth_key.clone(),
            random: StdRng::seed_from_u64(random.random()),
            known: Arc::clone(&known),
            stop: Arc::clone(&stop),
            traffic: Arc::clone(&traffic),
        };
        registrars.spawn(registrar.run());
    }
    for round in 1..=rounds {
        let acknowledged = count(&known);
        let during = || format!("round {round}");
        crash_round(&mut cluster, &mut random)
            .await
            .with_context(during)?;
        // Nothing registers while the replicas are compared.
        let quiet = traffic.write().await;
        let nodes = cluster.wait_equal(EQUAL_LIMIT).await.with_context(during)?;
        drop(quiet);
        let more = count(&known) - acknowledged;
        context.step(&format!(
            "round {round}: {more} more acknowledged, {} nodes",
            nodes.len()
        ));
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = registrars.join_next().await {
        ended??;
    }
    let nodes = cluster.wait_equal(EQUAL_LIMIT).await?;
    let known = known.lock().unwrap_or_else(PoisonError::into_inner);
    check(&known, &nodes)?;
    let registered = known.acknowledged.len();
    ensure!(
        registered >= rounds * REGISTERED_PER_ROUND_MIN,
        "only {registered} registrations in {rounds} rounds: nothing was shown"
    );
    context.measured(
        "registrations acknowledged and kept",
        format!("{registered} over {rounds} rounds of kills"),
    );
    Ok(())
}

fn count(known: &Shared) -> usize {
    known
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .acknowledged
        .len()
}

/// Kills one, two or all replicas at a random moment and starts them again.
async fn crash_round(cluster: &mut Cluster, random: &mut StdRng) -> Result<()> {
    tokio::time::sleep(Duration::from_millis(random.random_range(0..1500))).await;
    let victims = match random.random_range(0..10) {
        0..6 => 1,
        6..8 => 2,
        _ => cluster.size(),
    };
    let mut order: Vec<usize> = (0..cluster.size()).collect();
    order.shuffle(random);
    order.truncate(victims);
    for index in &order {
        cluster.kill(*index).await?;
    }
    tokio::time::sleep(Duration::from_millis(random.random_range(0..1500))).await;
    for index in &order {
        cluster.start_replica(*index)?;
    }
    for index in &order {
        cluster.wait_ready(*index).await?;
    }
    cluster.check_alive()
}

struct Registrar {
    number: usize,
    servers: Vec<SocketAddr>,
    auth_key: String,
    random: StdRng,
    known: Shared,
    stop: Arc<AtomicBool>,
    /// Held for reading while something is registered.
    traffic: Arc<RwLock<()>>,
}

impl Registrar {
    async fn run(mut self) -> Result<()> {
        let server = *self.servers.first().context("a server")?;
        let key = fetch_server_key(server).await.context("the server's key")?;
        for serial in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let hostname = format!("n{}-{serial}", self.number);
            let identity = Identity::generate(&mut self.random);
            self.note(|known| known.sent.insert(identity.node_key(), hostname.clone()));
            // As a client would: the same registration again until it is answered.
            while !self.stop.load(Ordering::Relaxed) {
                if self.register(&key, &identity, &hostname).await {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Whether this attempt was answered.
    async fn register(&mut self, key: &[u8; 32], identity: &Identity, hostname: &str) -> bool {
        let traffic = Arc::clone(&self.traffic);
        let _moving = traffic.read().await;
        let place = self.random.random_range(0..self.servers.len());
        let Some(server) = self.servers.get(place).copied() else {
            return false;
        };
        let registration = Registration {
            auth_key: self.auth_key.clone(),
            hostname: hostname.to_owned(),
            ..Registration::default()
        };
        let attempt = tokio::time::timeout(ANSWER_LIMIT, async {
            let mut connection = Connection::open(server, key, identity, CAPVER).await?;
            connection.register(&registration).await
        });
        // No answer: the outcome is unknown.
        let Ok(Ok(answer)) = attempt.await else {
            return false;
        };
        if answer.authorized && answer.error.is_empty() {
            self.note(|known| {
                known
                    .acknowledged
                    .insert(identity.node_key(), hostname.to_owned())
            });
        } else {
            self.note(|known| known.wrong.push(format!("{hostname}: {answer:?}")));
        }
        true
    }

    fn note<T>(&self, note: impl FnOnce(&mut Known) -> T) {
        note(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Everything acknowledged is there, once, with addresses of its own; nothing else is.
fn check(known: &Known, nodes: &[Node]) -> Result<()> {
    if let Some(wrong) = known.wrong.first() {
        bail!("{} wrong answers, the first: {wrong}", known.wrong.len());
    }
    let mut listed: BTreeMap<&str, &Node> = BTreeMap::new();
    for node in nodes {
        let twice = listed.insert(&node.node_key, node);
        ensure!(twice.is_none(), "{} is listed twice", node.hostname);
        ensure!(
            known.sent.contains_key(&node.node_key),
            "{} was never sent",
            node.hostname
        );
    }
    for (node_key, hostname) in &known.acknowledged {
        ensure!(
            listed.contains_key(node_key.as_str()),
            "{hostname} was acknowledged and is lost"
        );
    }
    cluster::check_addresses(nodes)
}
