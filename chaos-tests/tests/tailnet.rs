//! One tailnet on three replicas: real clients join through different replicas and reach each
//! other, directly and through relays; everybody sees a new node soon; clients that are too old
//! are told so.

#![allow(missing_docs, reason = "a test")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt as _;
use futures::future::try_join_all;
use hydrascale_benches::client::{CAPVER, Connection, Identity, Registration, fetch_server_key};
use hydrascale_chaos_tests::balancer::Balancer;
use hydrascale_chaos_tests::clients::{self, Ark, Caddy, Forwarder, Launch, Program};
use hydrascale_chaos_tests::cluster::Cluster;
use hydrascale_chaos_tests::log::{Log, Mark};
use hydrascale_chaos_tests::observer::Observer;
use hydrascale_chaos_tests::{Context, Scenario, homes, runner, wait};

const LIMIT: Duration = Duration::from_secs(240);
const EVERYTHING: &[Program] = &[
    Program::Server,
    Program::Haproxy,
    Program::Caddy,
    Program::Forwarder,
    Program::Ark,
];
/// The first exchange between two nodes, their path found on the way.
const REACH_LIMIT: Duration = Duration::from_secs(40);
/// Until a node that joined on one replica is seen from all others, for half of the nodes.
const SEEN_MEDIAN: Duration = Duration::from_secs(1);
/// The same for each: a replica may have to wait for its disk once.
const SEEN_LIMIT: Duration = Duration::from_secs(10);
/// How long a healthy client is watched for asking again and again.
const WATCHED: Duration = Duration::from_secs(61);
const SERVERS: [&str; 2] = ["one", "two"];
const MAP_STREAMS: &str = "hydrascale_map_streams";
/// First of the users that clients run as.
const FIRST_USER: u32 = 2001;

fn main() -> ExitCode {
    runner::main(
        "tailnet",
        &[
            Scenario::new(
                "every pair of clients of which one can serve exchanges HTTP directly",
                LIMIT,
                EVERYTHING,
                |context| pairs(context, Paths::Direct).boxed_local(),
            ),
            Scenario::new(
                "every pair of clients of which one can serve exchanges HTTP through relays",
                LIMIT,
                EVERYTHING,
                |context| pairs(context, Paths::Relayed).boxed_local(),
            ),
            Scenario::new(
                "a node that joins on one replica is seen from the others within a second",
                LIMIT,
                &[Program::Server],
                |context| seen_soon(context).boxed_local(),
            ),
            Scenario::new(
                "a login begun on one replica is approved on another and done on a third",
                LIMIT,
                &[Program::Server],
                |context| login(context).boxed_local(),
            ),
            Scenario::new(
                "a client older than what is served is refused and told so",
                LIMIT,
                &[Program::Server, Program::ForwarderOld],
                |context| too_old(context).boxed_local(),
            ),
        ],
    )
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Paths {
    Direct,
    Relayed,
}

/// Everything that runs in one tailnet of real clients.
struct Tailnet {
    cluster: Cluster,
    _balancer: Balancer,
    caddies: Vec<Caddy>,
    forwarders: Vec<Forwarder>,
    ark: Ark,
    observer: Observer,
}

impl Tailnet {
    async fn start(context: &Context, paths: Paths) -> Result<Self> {
        let cluster = Cluster::start(context, 3).await?;
        let balancer = Balancer::start(context).await?;
        let auth_key = cluster.create_auth_key("people").await?;
        let observer = Observer::start(
            "observer",
            &[cluster.replica(0)?.client_address()],
            &auth_key,
        )
        .await?;
        let mut users = FIRST_USER..;
        let mut launch = |hostname: &str, home: usize| -> Result<Launch> {
            let user = users.next().context("a user")?;
            homes::pin(user, home, 3)?;
            if paths == Paths::Relayed {
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
        // Each joins through another replica than the one before.
        balancer.steer(|replica| replica == 1).await?;
        let one = Caddy::start(&launch("one", 0)?, &[("two", 18_001)])?;
        one.wait_up().await?;
        balancer.steer(|replica| replica == 2).await?;
        let two = Caddy::start(&launch("two", 1)?, &[("one", 18_002)])?;
        two.wait_up().await?;
        balancer.steer(|replica| replica == 0).await?;
        let third = launch("three", 2)?;
        let third = Forwarder::start(Program::Forwarder, &third, "one", 18_003).await?;
        let fourth = launch("four", 2)?;
        let fourth = Forwarder::start(Program::Forwarder, &fourth, "two", 18_004).await?;
        // Forwarders take their order before they join; the observer streams from here, too.
        let joined = async || {
            let streams = cluster.replica(0).ok()?.metric(MAP_STREAMS).await.ok()?;
            (streams >= 3.0).then_some(())
        };
        wait::until("both forwarders join", REACH_LIMIT, joined).await?;
        balancer.steer(|replica| replica == 1).await?;
        let ark = Ark::start(&launch("five", 2)?).await?;
        balancer.steer(|_| true).await?;
        Ok(Self {
            cluster,
            _balancer: balancer,
            caddies: vec![one, two],
            forwarders: vec![third, fourth],
            ark,
            observer,
        })
    }
}

async fn pairs(context: Context, paths: Paths) -> Result<()> {
    let mut tailnet = Tailnet::start(&context, paths).await?;
    let begin = Instant::now();
    check_homes(&tailnet).await?;
    for (caddy, peer) in tailnet.caddies.iter().zip(SERVERS.iter().rev()) {
        let took = caddy.reach(peer, REACH_LIMIT).await?;
        context.step(&format!(
            "{} reached {peer} after {took:.1?}",
            caddy.hostname()
        ));
    }
    forward(&context, &tailnet, paths).await?;
    for peer in SERVERS {
        let took = tailnet.ark.reach(peer, REACH_LIMIT).await?;
        context.step(&format!("ark reached {peer} after {took:.1?}"));
    }
    for caddy in &tailnet.caddies {
        check_path(caddy.hostname(), caddy.log(), paths).await?;
    }
    check_carriers(&tailnet, paths).await?;
    check_spread(&context, &tailnet).await?;
    // Now each forwarder to the other server.
    for forwarder in std::mem::take(&mut tailnet.forwarders) {
        let other = SERVERS.iter().find(|server| **server != forwarder.peer());
        let turned = forwarder.turn_to(other.context("two servers")?).await?;
        tailnet.forwarders.push(turned);
    }
    forward(&context, &tailnet, paths).await?;
    tokio::time::sleep(WATCHED.saturating_sub(begin.elapsed())).await;
    check_no_poll_loops(&tailnet)?;
    tailnet.cluster.check_alive()?;
    tailnet.cluster.note_term(false).await
}

/// Each forwarder reaches the server that it leads to.
async fn forward(context: &Context, tailnet: &Tailnet, paths: Paths) -> Result<()> {
    for forwarder in &tailnet.forwarders {
        let (name, peer) = (forwarder.hostname(), forwarder.peer());
        let took = forwarder.reach(REACH_LIMIT).await?;
        context.step(&format!("{name} reached {peer} after {took:.1?}"));
        check_path(name, forwarder.log(), paths).await?;
    }
    Ok(())
}

/// Every replica holds the map stream of some client.
async fn check_spread(context: &Context, tailnet: &Tailnet) -> Result<()> {
    for (index, replica) in tailnet.cluster.replicas().iter().enumerate() {
        let streams = replica.metric(MAP_STREAMS).await?;
        context.step(&format!(
            "replica {} holds {streams} map streams",
            replica.name()
        ));
        // The observer's is on the first one.
        let clients = if index == 0 { streams - 1.0 } else { streams };
        ensure!(
            clients >= 1.0,
            "no client joined through replica {}",
            replica.name()
        );
    }
    Ok(())
}

/// Every client has the home that it was pinned to: three different ones.
async fn check_homes(tailnet: &Tailnet) -> Result<()> {
    let pinned = [
        ("one", 0),
        ("two", 1),
        ("three", 2),
        ("four", 2),
        ("five", 2),
    ];
    let observer = &tailnet.observer;
    observer
        .wait_for("every peer has a home", Duration::from_secs(30), |peers| {
            pinned
                .iter()
                .all(|(name, _)| peers.get(*name).is_some_and(|peer| peer.home != 0))
        })
        .await?;
    let peers = observer.peers();
    let home = |name: &str| peers.get(name).map(|peer| peer.home);
    for (name, place) in pinned {
        for (other, other_place) in pinned {
            let same = home(name) == home(other);
            ensure!(
                same == (place == other_place),
                "homes are not as pinned: {name} {:?}, {other} {:?}",
                home(name),
                home(other)
            );
        }
    }
    Ok(())
}

/// Relayed: more than one relay has carried traffic. Not all need to: a client answers on the relay
/// that it was asked through.
async fn check_carriers(tailnet: &Tailnet, paths: Paths) -> Result<()> {
    let mut carriers = 0;
    for replica in tailnet.cluster.replicas() {
        let carried = replica
            .metric("derp_packets_sent_kind_total{kind=\"other\"}")
            .await?;
        carriers += usize::from(carried > 0.0);
    }
    let fine = paths == Paths::Direct || carriers > 1;
    ensure!(fine, "{carriers} relays carried traffic, not several");
    Ok(())
}

/// Direct: the client has found a direct path to the peer that it talks to. Relayed: it has found
/// none.
async fn check_path(name: &str, log: &Log, paths: Paths) -> Result<()> {
    let found = || log.lines_since(Mark::START, clients::direct_path_found);
    match paths {
        Paths::Direct => {
            let direct = async || (!found().is_empty()).then_some(());
            let what = format!("{name} found a direct path");
            wait::until(&what, Duration::from_secs(10), direct)
                .await
                .map(drop)
        }
        Paths::Relayed => {
            let found = found();
            ensure!(found.is_empty(), "{name} went direct: {found:?}");
            Ok(())
        }
    }
}

fn check_no_poll_loops(tailnet: &Tailnet) -> Result<()> {
    let caddies = tailnet.caddies.iter().map(Caddy::log);
    for log in caddies.chain(tailnet.forwarders.iter().map(Forwarder::log)) {
        let opened = log.lines_since(Mark::START, clients::stream_opened).len();
        ensure!(
            opened > 0,
            "no map stream seen: see {}",
            log.path().display()
        );
        let loops = clients::poll_loops(log, Mark::START);
        ensure!(
            loops.is_empty(),
            "polls in a loop: see {}",
            log.path().display()
        );
    }
    Ok(())
}

async fn seen_soon(context: Context) -> Result<()> {
    const JOINS: usize = 20;
    let mut cluster = Cluster::start(&context, 3).await?;
    let auth_key = cluster.create_auth_key("people").await?;
    let mut observers = Vec::new();
    for replica in cluster.replicas().iter().skip(1) {
        let hostname = format!("watcher-{}", replica.name());
        observers.push(Observer::start(&hostname, &[replica.client_address()], &auth_key).await?);
    }
    let joining = cluster.replica(0)?.client_address();
    let server_key = fetch_server_key(joining).await?;
    let mut delays = Vec::new();
    for number in 0..JOINS {
        let identity = Identity::generate(&mut rand::rng());
        let hostname = format!("new-{number}");
        let mut connection = Connection::open(joining, &server_key, &identity, CAPVER).await?;
        let registration = Registration {
            auth_key: auth_key.clone(),
            hostname: hostname.clone(),
            ..Registration::default()
        };
        let registered = connection.register(&registration).await?;
        ensure!(
            registered.authorized,
            "{hostname} was refused: {}",
            registered.error
        );
        let what = format!("{hostname} joined");
        let seen = observers.iter().map(|observer| {
            observer.wait_for(&what, SEEN_LIMIT, |peers| peers.contains_key(&hostname))
        });
        let seen = try_join_all(seen).await?;
        delays.extend(seen.into_iter().max());
    }
    delays.sort();
    let median = delays.get(delays.len() / 2).context("delays")?;
    let worst = delays.last().context("delays")?;
    context.measured(
        "a node that joined on a is seen on b and c",
        format!("median {median:.0?}, worst {worst:.0?} of {} joins", JOINS),
    );
    ensure!(*median < SEEN_MEDIAN, "not seen soon: {median:?}");
    cluster.wait_equal(Duration::from_secs(30)).await?;
    cluster.note_term(false).await
}

async fn login(context: Context) -> Result<()> {
    const HOSTNAME: &str = "laptop";
    let mut cluster = Cluster::start(&context, 3).await?;
    cluster.create_auth_key("people").await?;
    let [first, second, third] = cluster.replicas() else {
        bail!("three replicas")
    };
    let key = fetch_server_key(first.client_address()).await?;
    let identity = Identity::generate(&mut rand::rng());
    let asking = Registration {
        hostname: HOSTNAME.to_owned(),
        ..Registration::default()
    };
    let mut connection = Connection::open(first.client_address(), &key, &identity, CAPVER).await?;
    let asked = connection.register(&asking).await?;
    ensure!(!asked.authorized, "let in without a key");
    let id = asked.auth_url.rsplit('/').next().context("a login page")?;

    let waiting = Registration {
        followup: asked.auth_url.clone(),
        ..asking
    };
    let mut connection = Connection::open(third.client_address(), &key, &identity, CAPVER).await?;
    let answer = connection.register(&waiting);
    let approve = async {
        // Held open until somebody approves.
        tokio::time::sleep(Duration::from_secs(1)).await;
        second
            .command(&["auth", "register", "--auth-id", id, "--user", "people"])
            .await
    };
    let begin = Instant::now();
    let (answer, approved) = tokio::try_join!(answer, approve)?;
    ensure!(answer.authorized, "approved, but: {answer:?}");
    ensure!(
        begin.elapsed() >= Duration::from_secs(1),
        "answered before the approval"
    );
    context.step(&format!("approved as {}", approved["givenName"]));
    let nodes = cluster.wait_equal(Duration::from_secs(30)).await?;
    ensure!(nodes.len() == 1, "one node: {nodes:?}");
    cluster.note_term(false).await
}

async fn too_old(context: Context) -> Result<()> {
    let cluster = Cluster::start(&context, 1).await?;
    let auth_key = cluster.create_auth_key("people").await?;
    let launch = Launch {
        hostname: "old".to_owned(),
        control_url: format!("http://{}", cluster.replica(0)?.client_address()),
        auth_key,
        user: FIRST_USER,
        scratch: context.scratch().to_owned(),
    };
    let old = Forwarder::start(Program::ForwarderOld, &launch, "nobody", 18_005).await?;
    let told = |line: &str| line.contains("unsupported client version");
    let log = old.log();
    let line = log
        .wait_for("the old client is told", Mark::START, REACH_LIMIT, told)
        .await?;
    context.step(&line.text);
    let listed = cluster.replica(0)?.command(&["nodes", "list"]).await?;
    ensure!(
        listed.as_array().is_some_and(Vec::is_empty),
        "it is listed: {listed}"
    );
    Ok(())
}
