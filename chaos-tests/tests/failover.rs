//! Replicas are killed under traffic: established paths never fail, clients move to another
//! replica without logging in again, and nobody sees anybody go offline.

#![allow(missing_docs, reason = "a test")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use hydrascale_benches::client::{CAPVER, Connection, Identity, Registration, fetch_server_key};
use hydrascale_chaos_tests::balancer::Balancer;
use hydrascale_chaos_tests::clients::{self, Ark, Caddy, Forwarder, Launch, Program};
use hydrascale_chaos_tests::cluster::{Cluster, Options};
use hydrascale_chaos_tests::flood::Flood;
use hydrascale_chaos_tests::log::{Log, Mark};
use hydrascale_chaos_tests::observer::{Observer, What};
use hydrascale_chaos_tests::requests::{Loop, Samples};
use hydrascale_chaos_tests::{Context, Scenario, homes, runner, wait};

const LIMIT: Duration = Duration::from_secs(420);
const EVERYTHING: &[Program] = &[
    Program::Server,
    Program::Haproxy,
    Program::Caddy,
    Program::Forwarder,
    Program::Ark,
];
const REACH_LIMIT: Duration = Duration::from_secs(40);
/// Go clients stream from another replica within this.
const MOVE_LIMIT: Duration = Duration::from_secs(5);
/// Whoever is between two streams has one again within this.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// A relayed path is usable again within this: clients find a new home when their relay is gone.
const RELAY_LIMIT: Duration = Duration::from_secs(60);
/// Longer than any grace after which a node is called offline (25 s after a dead replica).
const FLAP_WINDOW: Duration = Duration::from_secs(32);
const EVERY: Duration = Duration::from_millis(100);
/// A request that takes longer than this has failed, for a user: two packets lost one after another
/// at the start of a connection cost 3 s.
const REQUEST_LIMIT: Duration = Duration::from_secs(8);
/// Longer without any answer is no path that works all the time.
const DIRECT_MAX: Duration = Duration::from_secs(3);
/// Real clients in the tailnet, each with one map stream through the balancer.
const CLIENTS: f64 = 6.0;
/// Map streams of the whole tailnet: those, and one of an observer per replica.
const STREAMS: f64 = CLIENTS + 3.0;
/// Until every client streams before the next kill.
const WHOLE_LIMIT: Duration = Duration::from_secs(30);
const FIRST_USER: u32 = 2001;
const MAP_STREAMS: &str = "hydrascale_map_streams";
const LAST_LOG_INDEX: &str = "hydrascale_raft_last_log_index";
const PURGED_INDEX: &str = "hydrascale_raft_purged_index";

fn main() -> ExitCode {
    runner::main(
        "failover",
        &[
            Scenario::new(
                "replicas killed one after another under traffic interrupt nobody",
                LIMIT,
                EVERYTHING,
                |context| kills(context).boxed_local(),
            ),
            Scenario::new(
                "a replica that was away for longer than the log is kept catches up",
                LIMIT,
                &[Program::Server],
                |context| snapshot(context).boxed_local(),
            ),
            Scenario::new(
                "a killed replica refuses clients that dial again, it never takes and drops them",
                LIMIT,
                &[Program::Server],
                |context| refuse(context).boxed_local(),
            ),
        ],
    )
}

struct Tailnet {
    context: Context,
    cluster: Cluster,
    balancer: Balancer,
    direct: [Caddy; 2],
    relayed: [Caddy; 2],
    forwarder: Forwarder,
    _ark: Ark,
    observers: Vec<Observer>,
}

impl Tailnet {
    async fn start(context: &Context) -> Result<Self> {
        let cluster = Cluster::start(context, 3).await?;
        let balancer = Balancer::start(context).await?;
        let auth_key = cluster.create_auth_key("people").await?;
        let addresses: Vec<_> = cluster
            .replicas()
            .iter()
            .map(|one| one.client_address())
            .collect();
        let mut observers = Vec::new();
        for first in 0..addresses.len() {
            let mut servers = addresses.clone();
            servers.rotate_left(first);
            let hostname = format!("watcher-{first}");
            observers.push(Observer::start(&hostname, &servers, &auth_key).await?);
        }
        // All polls on one replica that does not lead, to be killed first.
        let holder = (cluster.leader().await? + 1) % cluster.size();
        balancer.steer(|replica| replica == holder).await?;
        let mut users = FIRST_USER..;
        let mut launch = |hostname: &str, home: usize, relay_only: bool| -> Result<Launch> {
            let user = users.next().context("a user")?;
            homes::pin(user, home, 3)?;
            if relay_only {
                homes::forbid_direct_paths(user)?;
            }
            Ok(Launch {
                hostname: hostname.to_owned(),
                control_url: Balancer::url(),
                auth_key: auth_key.clone(),
                user,
                scratch: context.scratch().to_owned(),
            })
        };
        let one = Caddy::start(&launch("one", 0, false)?, &[("two", 18_001)])?;
        let two = Caddy::start(&launch("two", 1, false)?, &[("one", 18_002)])?;
        let three = Caddy::start(&launch("three", 0, true)?, &[("four", 18_003)])?;
        let four = Caddy::start(&launch("four", 2, true)?, &[("three", 18_004)])?;
        for caddy in [&one, &two, &three, &four] {
            caddy.wait_up().await?;
        }
        let five = launch("five", 1, false)?;
        let forwarder = Forwarder::start(Program::Forwarder, &five, "one", 18_005).await?;
        let ark = Ark::start(&launch("six", 2, false)?).await?;
        Ok(Self {
            context: context.clone(),
            cluster,
            balancer,
            direct: [one, two],
            relayed: [three, four],
            forwarder,
            _ark: ark,
            observers,
        })
    }

    /// Every path is found before anything is killed.
    async fn establish(&self) -> Result<()> {
        let [one, two] = &self.direct;
        one.reach("two", REACH_LIMIT).await?;
        two.reach("one", REACH_LIMIT).await?;
        self.forwarder.reach(REACH_LIMIT).await?;
        let [three, four] = &self.relayed;
        three.reach("four", REACH_LIMIT).await?;
        four.reach("three", REACH_LIMIT).await?;
        for log in [one.log(), two.log(), self.forwarder.log()] {
            let found = clients::direct_path_found;
            log.wait_for("a direct path", Mark::START, REACH_LIMIT, found)
                .await?;
        }
        Ok(())
    }

    /// The logs of the Go clients, by name.
    fn go_logs(&self) -> BTreeMap<&str, &Log> {
        let caddies = self.direct.iter().chain(&self.relayed);
        let mut logs: BTreeMap<&str, &Log> = caddies
            .map(|caddy| (caddy.hostname(), caddy.log()))
            .collect();
        logs.insert("five", self.forwarder.log());
        logs
    }

    /// Id and addresses of every node.
    async fn identities(&self) -> Result<BTreeMap<String, (String, Vec<IpAddr>)>> {
        let nodes = self.cluster.wait_equal(Duration::from_secs(20)).await?;
        Ok(nodes
            .into_iter()
            .map(|node| (node.hostname, (node.id, node.addresses)))
            .collect())
    }
}

async fn kills(context: Context) -> Result<()> {
    let mut tailnet = Tailnet::start(&context).await?;
    tailnet.establish().await?;
    tailnet.balancer.steer(|_| true).await?;
    let identities = tailnet.identities().await?;
    context.step("all paths are established");

    let begin = Instant::now();
    let direct = Loop::start(
        tailnet.direct[0].address_of("two")?,
        "/",
        EVERY,
        REQUEST_LIMIT,
    );
    let forwarded = Loop::start(tailnet.forwarder.address(), "/", EVERY, REQUEST_LIMIT);
    let [three, four] = &tailnet.relayed;
    let there = Loop::start(three.address_of("four")?, "/", EVERY, REQUEST_LIMIT);
    let back = Loop::start(four.address_of("three")?, "/", EVERY, REQUEST_LIMIT);

    let mut windows = Vec::new();
    let holder = holder_of_polls(&tailnet.cluster).await?;
    windows.push(kill_one(&mut tailnet, "the holder of the polls", holder).await?);
    let leader = tailnet.cluster.leader().await?;
    windows.push(kill_one(&mut tailnet, "the leader", leader).await?);
    for index in 0..tailnet.cluster.size() {
        windows.push(kill_one(&mut tailnet, "the next in turn", index).await?);
    }
    tokio::time::sleep(FLAP_WINDOW).await;

    for (name, requests) in [("direct", direct), ("forwarded", forwarded)] {
        let samples = requests.finish().await?;
        context.measured(
            &format!("{name} path under kills"),
            format!(
                "{} requests, slowest {:.0?}",
                samples.len(),
                samples.slowest()
            ),
        );
        let failures = samples.failures();
        ensure!(failures.is_empty(), "the {name} path failed: {failures:?}");
        let longest = samples.longest_wait();
        ensure!(longest < DIRECT_MAX, "the {name} path: {longest:?}");
    }
    report_relay_gaps(&context, "three to four", &there.finish().await?, &windows)?;
    report_relay_gaps(&context, "four to three", &back.finish().await?, &windows)?;
    check_no_flap(&tailnet, begin)?;
    let now = tailnet.identities().await?;
    ensure!(
        now == identities,
        "ids or addresses changed:\n{identities:?}\n{now:?}"
    );
    tailnet.cluster.check_alive()?;
    tailnet.balancer.check()
}

async fn snapshot(context: Context) -> Result<()> {
    const SNAPSHOT_EVERY: u64 = 100;
    const JOINS: usize = 400;
    const AT_ONCE: usize = 8;
    const PURGED_LIMIT: Duration = Duration::from_secs(5);
    let options = Options {
        snapshot_every: Some(SNAPSHOT_EVERY),
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(&context, 3, options).await?;
    let auth_key = cluster.create_auth_key("people").await?;
    let held = cluster.replica(2)?.metric(LAST_LOG_INDEX).await?;
    cluster.kill(2).await?;
    let server = cluster.replica(0)?.client_address();
    let key = fetch_server_key(server).await?;
    let join = async |number: usize| -> Result<()> {
        let identity = Identity::generate(&mut rand::rng());
        let mut connection = Connection::open(server, &key, &identity, CAPVER).await?;
        let registration = Registration {
            auth_key: auth_key.clone(),
            hostname: format!("n{number}"),
            ..Registration::default()
        };
        let registered = connection.register(&registration).await?;
        ensure!(
            registered.authorized,
            "n{number} was refused: {}",
            registered.error
        );
        Ok(())
    };
    stream::iter((0..JOINS).map(join))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    // A leader keeps what it is just trying to send.
    let leader = cluster.replica(cluster.leader().await?)?;
    let purged = async || {
        let index = leader.metric(PURGED_INDEX).await.ok()?;
        (index > held).then_some(())
    };
    wait::until("the log lacks what it needs", PURGED_LIMIT, purged).await?;
    let ready = cluster.up(2).await?;
    let nodes = cluster.wait_equal(Duration::from_secs(30)).await?;
    ensure!(nodes.len() == JOINS, "{} nodes of {JOINS}", nodes.len());
    let received = cluster
        .replica(2)?
        .metric("hydrascale_raft_snapshots_received_total")
        .await?;
    ensure!(received >= 1.0, "it caught up, but not from a snapshot");
    context.measured(
        "a replica that needs a snapshot is ready after",
        format!("{ready:.1?}"),
    );
    cluster.check_alive()
}

async fn refuse(context: Context) -> Result<()> {
    const KILLS: usize = 5;
    const CONNECTIONS: usize = 500;
    let mut cluster = Cluster::start(&context, 1).await?;
    let server = cluster.replica(0)?.client_address();
    for _ in 0..KILLS {
        let flood = Flood::start(server, CONNECTIONS).await?;
        let redials = flood.redial(Duration::from_secs(20));
        let (redials, ()) = futures::try_join!(redials, cluster.kill(0))?;
        ensure!(redials.dropped == 0, "{redials:?}");
        cluster.up(0).await?;
    }
    cluster.check_alive()
}

/// One kill: what was killed, and the time from the kill until it was back and caught up.
struct Window {
    what: String,
    begin: Instant,
    end: Instant,
}

async fn kill_one(tailnet: &mut Tailnet, what: &str, index: usize) -> Result<Window> {
    let context = tailnet.context.clone();
    tailnet.cluster.note_term(false).await?;
    wait_whole(tailnet, WHOLE_LIMIT).await?;
    let held = tailnet.cluster.replica(index)?.metric(MAP_STREAMS).await?;
    let marks: BTreeMap<String, Mark> = tailnet
        .go_logs()
        .iter()
        .map(|(name, log)| ((*name).to_owned(), log.mark()))
        .collect();
    let what = format!("{what} ({})", tailnet.cluster.replica(index)?.name());
    let begin = Instant::now();
    tailnet.cluster.kill(index).await?;
    // Clients learn of it when the process is gone.
    let gone = Instant::now();
    tokio::time::sleep(MOVE_LIMIT).await;
    // Each may be between two streams when it is looked at.
    let whole = wait_whole(tailnet, LOOK_LIMIT).await;
    whole.with_context(|| format!("after a kill of {what}, which held {held}"))?;
    let mut moved = Vec::new();
    for (name, log) in tailnet.go_logs() {
        let mark = marks.get(name).copied().unwrap_or_default();
        let registered = log.lines_since(mark, clients::registered);
        ensure!(
            registered.is_empty(),
            "{name} registered again: {registered:?}"
        );
        let opened = log.lines_since(mark, clients::stream_opened);
        // The stream of this one was elsewhere: all are there.
        let Some(opened) = opened.first().map(|line| line.at) else {
            continue;
        };
        let netmaps = log.lines_since(mark, clients::netmap_received);
        let served = netmaps.iter().find(|line| line.at > opened);
        let served = served.with_context(|| format!("{name} has no stream"))?;
        let took = served.at.saturating_duration_since(gone);
        ensure!(took < MOVE_LIMIT, "{name} has a stream after {took:?} only");
        moved.push(took);
    }
    context.measured(
        &format!("clients with a new stream after a kill of {what}"),
        format!(
            "{} of {held} streams, slowest after {:.1?}",
            moved.len(),
            moved.iter().max().unwrap_or(&Duration::ZERO)
        ),
    );
    let ready = tailnet.cluster.up(index).await?;
    let equal = Instant::now();
    tailnet.cluster.wait_equal(Duration::from_secs(20)).await?;
    context.step(&format!(
        "it was ready again after {ready:.1?} and equal {:.1?} later",
        equal.elapsed()
    ));
    tailnet.cluster.note_term(true).await?;
    wait_relayed(tailnet).await?;
    Ok(Window {
        what,
        begin,
        end: Instant::now(),
    })
}

/// Everybody streams from some replica.
async fn wait_whole(tailnet: &Tailnet, limit: Duration) -> Result<()> {
    let whole = async || (streams(&tailnet.cluster).await.ok()? >= STREAMS).then_some(());
    let whole = wait::until("everybody streams", limit, whole);
    whole.await.map(drop)
}

/// Relayed paths work again, so that the next kill starts from a whole tailnet.
async fn wait_relayed(tailnet: &Tailnet) -> Result<()> {
    let [three, four] = &tailnet.relayed;
    three.reach("four", RELAY_LIMIT).await?;
    four.reach("three", RELAY_LIMIT).await?;
    // All clients are back on their pinned homes before the next relay goes.
    let observer = tailnet.observers.first().context("an observer")?;
    let homes: BTreeMap<String, u64> = observer
        .peers()
        .into_values()
        .map(|peer| (peer.name, peer.home))
        .collect();
    tailnet.context.step(&format!("homes: {homes:?}"));
    Ok(())
}

/// Map streams on all running replicas.
async fn streams(cluster: &Cluster) -> Result<f64> {
    let mut streams = 0.0;
    for (_, replica) in cluster.running() {
        streams += replica.metric(MAP_STREAMS).await?;
    }
    Ok(streams)
}

/// The replica that holds the map streams of all clients.
async fn holder_of_polls(cluster: &Cluster) -> Result<usize> {
    for (index, replica) in cluster.running() {
        if replica.metric(MAP_STREAMS).await? >= CLIENTS {
            return Ok(index);
        }
    }
    bail!("no replica holds all polls")
}

fn report_relay_gaps(
    context: &Context,
    path: &str,
    samples: &Samples,
    windows: &[Window],
) -> Result<()> {
    let waits = samples.waits();
    for window in windows {
        let during = window.begin..window.end;
        let during = waits.iter().filter(|wait| during.contains(&wait.since));
        let gap = during.map(|wait| wait.took).max().unwrap_or_default();
        let figure = format!("{gap:.1?} without an answer");
        context.measured(
            &format!("relayed path {path}, kill of {}", window.what),
            figure,
        );
        ensure!(
            gap < RELAY_LIMIT,
            "relayed path {path}, kill of {}: {gap:?}",
            window.what
        );
    }
    Ok(())
}

/// Nobody who watched was told that a client had gone offline.
fn check_no_flap(tailnet: &Tailnet, since: Instant) -> Result<()> {
    for observer in &tailnet.observers {
        let events = observer.events_since(since);
        let flap = events
            .iter()
            .find(|event| matches!(event.what, What::Offline | What::Left));
        if let Some(flap) = flap {
            bail!(
                "{} went {:?} {:.1?} after the start",
                flap.peer,
                flap.what,
                flap.at - since
            );
        }
    }
    Ok(())
}
