//! Replicas that act as the version before are drained and then upgraded one after another under real
//! clients, and the cluster is raised to the new version's feature level: no request fails, nobody
//! registers again or is seen to go offline, and what goes through relays is held up for less than a
//! second by each step.

#![allow(missing_docs, reason = "a test")]

use std::ops::Range;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use hydrascale_chaos_tests::balancer::Balancer;
use hydrascale_chaos_tests::clients::{self, Caddy, Launch, Program};
use hydrascale_chaos_tests::cluster::{Cluster, Options};
use hydrascale_chaos_tests::log::{Log, Mark};
use hydrascale_chaos_tests::observer::{Observer, What};
use hydrascale_chaos_tests::requests::{Loop, Samples};
use hydrascale_chaos_tests::{Context, Scenario, homes, runner, wait};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(300);
const PROGRAMS: &[Program] = &[Program::Server, Program::Haproxy, Program::Caddy];
const REACH_LIMIT: Duration = Duration::from_secs(40);
const HOMES_LIMIT: Duration = Duration::from_secs(30);
/// A replica stays drained for so long that some streams leave it, which they do within 15 s. That
/// all do is the claim of another test.
const DRAINED: Duration = Duration::from_secs(6);
const SETTLED_LIMIT: Duration = Duration::from_secs(20);
const EVERY: Duration = Duration::from_millis(50);
/// A request that takes longer than this has failed, for a user: two packets lost one after another
/// at the start of a connection cost 3 s.
const REQUEST_LIMIT: Duration = Duration::from_secs(8);
/// Longer than the grace after which a node whose stream was closed is called offline (10 s).
const FLAP_WINDOW: Duration = Duration::from_secs(12);
/// What a relayed path may be held up for: less than this by each step. What holds up the direct
/// path at the same moment, in which no replica has a part, does the machine, and does not count.
const HELD_UP_MAX: Duration = Duration::from_secs(1);
/// Longer without any answer is no path that works all the time.
const DIRECT_MAX: Duration = Duration::from_secs(3);
const REPLICAS: usize = 3;
/// Replicas begin as the version before.
const OLD: &str = "\n  feature_level_max: 1";
const NEW: &str = "";
/// Other relays, to which each has a stream.
const LINKS: f64 = 2.0;
/// Each is connected to its home at least, and so known to every relay, here or elsewhere.
const CLIENTS: f64 = 4.0;
const FIRST_USER: u32 = 2001;

fn main() -> ExitCode {
    runner::main(
        "rolling",
        &[Scenario::new(
            "a rolling drain and a rolling upgrade interrupt nobody",
            LIMIT,
            PROGRAMS,
            |context| roll(context).boxed_local(),
        )],
    )
}

async fn roll(context: Context) -> Result<()> {
    let mut tailnet = Tailnet::start(&context).await?;
    tailnet.establish().await?;
    let traffic = Traffic::start(&tailnet)?;
    let marks = tailnet.marks();
    let begin = Instant::now();

    let mut steps = Vec::new();
    for index in 0..REPLICAS {
        steps.push(tailnet.drain(index).await?);
    }
    for index in 0..REPLICAS {
        steps.push(tailnet.upgrade(index).await?);
    }
    steps.push(tailnet.raise().await?);
    tokio::time::sleep(FLAP_WINDOW).await;
    let ends: Vec<Instant> = steps.iter().skip(1).map(|step| step.begin).collect();
    let ends = ends.into_iter().chain([Instant::now()]);
    let windows: Vec<Window> = steps.into_iter().zip(ends).map(Step::until).collect();

    traffic.judge(&context, &windows).await?;
    tailnet.check_no_flap(begin)?;
    tailnet.check_registered_once(&marks)?;
    tailnet.cluster.check_alive()?;
    tailnet.balancer.check()
}

/// A client, and whom it asks through which local port.
struct Member {
    name: &'static str,
    /// The replica that it calls home at first.
    home: usize,
    relay_only: bool,
    peer: &'static str,
    port: u16,
}

const MEMBERS: [Member; 4] = [
    Member::new("one", 0, false, "two", 18_001),
    Member::new("two", 1, false, "one", 18_002),
    Member::new("three", 0, true, "four", 18_003),
    Member::new("four", 2, true, "three", 18_004),
];

impl Member {
    const fn new(
        name: &'static str,
        home: usize,
        relay_only: bool,
        peer: &'static str,
        port: u16,
    ) -> Self {
        Self {
            name,
            home,
            relay_only,
            peer,
            port,
        }
    }
}

struct Tailnet {
    context: Context,
    cluster: Cluster,
    balancer: Balancer,
    direct: [Caddy; 2],
    relayed: [Caddy; 2],
    observer: Observer,
}

impl Tailnet {
    async fn start(context: &Context) -> Result<Self> {
        let options = Options {
            cluster_lines: OLD,
            ..Options::default()
        };
        let cluster = Cluster::start_with(context, REPLICAS, options).await?;
        let balancer = Balancer::start(context).await?;
        let auth_key = cluster.create_auth_key("people").await?;
        let replicas = cluster.replicas().iter();
        let addresses: Vec<_> = replicas.map(|one| one.client_address()).collect();
        let observer = Observer::start("watcher", &addresses, &auth_key).await?;
        let launch = async |user: u32, member: &Member| -> Result<Caddy> {
            homes::pin(user, member.home, REPLICAS)?;
            if member.relay_only {
                homes::forbid_direct_paths(user)?;
            }
            let launch = Launch {
                hostname: member.name.to_owned(),
                control_url: Balancer::url(),
                auth_key: auth_key.clone(),
                user,
                scratch: context.scratch().to_owned(),
            };
            let caddy = Caddy::start(&launch, &[(member.peer, member.port)])?;
            caddy.wait_up().await?;
            Ok(caddy)
        };
        let [one, two, three, four] = &MEMBERS;
        let one = launch(FIRST_USER, one).await?;
        let two = launch(FIRST_USER + 1, two).await?;
        let three = launch(FIRST_USER + 2, three).await?;
        let four = launch(FIRST_USER + 3, four).await?;
        Ok(Self {
            context: context.clone(),
            cluster,
            balancer,
            direct: [one, two],
            relayed: [three, four],
            observer,
        })
    }

    /// Every path is found before anything is touched; then clients may choose any home.
    async fn establish(&self) -> Result<()> {
        let [one, two] = &self.direct;
        one.reach("two", REACH_LIMIT).await?;
        two.reach("one", REACH_LIMIT).await?;
        let [three, four] = &self.relayed;
        three.reach("four", REACH_LIMIT).await?;
        four.reach("three", REACH_LIMIT).await?;
        // Clients look for a direct path while there is traffic.
        let direct = async || {
            one.reach("two", REACH_LIMIT).await.ok()?;
            let found = |log: &Log| log.lines_since(Mark::START, clients::direct_path_found);
            let both = [one, two]
                .iter()
                .all(|caddy| !found(caddy.log()).is_empty());
            both.then_some(())
        };
        wait::until("a direct path", REACH_LIMIT, direct).await?;
        for (user, member) in (FIRST_USER..).zip(&MEMBERS) {
            homes::unpin(user, member.home, REPLICAS)?;
        }
        self.context.step("all paths are established");
        Ok(())
    }

    fn logs(&self) -> impl Iterator<Item = (&str, &Log)> {
        let caddies = self.direct.iter().chain(&self.relayed);
        caddies.map(|caddy| (caddy.hostname(), caddy.log()))
    }

    fn marks(&self) -> Vec<Mark> {
        self.logs().map(|(_, log)| log.mark()).collect()
    }

    /// Drains a replica until nobody streams from it or calls it home, and undrains it.
    async fn drain(&mut self, index: usize) -> Result<Step> {
        let what = format!("drain of {}", self.describe(index).await?);
        self.cluster.note_term(false).await?;
        let led = self.cluster.leader().await? == index;
        let asked = (index + 1) % REPLICAS;
        let id = self.cluster.id_of(index).await?;
        let begin = Instant::now();
        let words = ["cluster", "drain", &id, "--wait", "0s"];
        self.cluster.replica(asked)?.command(&words).await?;
        let no_homes = async || {
            let member = self.announced(asked, &id).await?;
            (member["homes"] == 0).then_some(())
        };
        let ((), homes) = wait::until("every home has moved", HOMES_LIMIT, no_homes).await?;
        tokio::time::sleep(DRAINED).await;
        let left = self.announced(asked, &id).await.context("its status")?;
        let words = ["cluster", "undrain", &id];
        self.cluster.replica(asked)?.command(&words).await?;
        self.context.step(&format!(
            "{what}: homes moved after {homes:.1?}, {} streams left after {:.1?}",
            left["streams"],
            begin.elapsed()
        ));
        self.settle().await?;
        // A drained leader hands over.
        self.cluster.note_term(led).await?;
        Ok(Step { what, begin })
    }

    /// Stops a replica by SIGTERM, once that is safe, and starts it as the new version.
    async fn upgrade(&mut self, index: usize) -> Result<Step> {
        let what = format!("upgrade of {}", self.describe(index).await?);
        self.cluster.note_term(false).await?;
        self.cluster.wait_restartable(index).await?;
        let begin = Instant::now();
        self.cluster.terminate(index).await?;
        let stopped = begin.elapsed();
        self.cluster.configure(index, NEW)?;
        let ready = self.cluster.up(index).await?;
        let joined = self.relays_joined().await?;
        self.context.step(&format!(
            "{what}: stopped after {stopped:.1?}, ready {ready:.1?} after its start, relays joined \
             {joined:.1?} later"
        ));
        self.settle().await?;
        self.cluster.note_term(true).await?;
        Ok(Step { what, begin })
    }

    /// Raises the cluster to the feature level of the new version.
    async fn raise(&self) -> Result<Step> {
        let before = self.cluster.status(0).await?;
        ensure!(before["featureLevel"] == 1, "raised before: {before}");
        let begin = Instant::now();
        let level = self.cluster.finalize_upgrade(0).await?;
        ensure!(level == 2, "raised to {level}");
        self.settle().await?;
        self.context.step(&format!(
            "feature level {level} after {:.1?}",
            begin.elapsed()
        ));
        let what = "the raise of the feature level".to_owned();
        Ok(Step { what, begin })
    }

    /// The name of a replica and whose home and leader it is.
    async fn describe(&self, index: usize) -> Result<String> {
        let name = self.cluster.replica(index)?.name();
        let id = self.cluster.id_of(index).await?;
        let asked = (index + 1) % REPLICAS;
        let region = self.announced(asked, &id).await.context("its status")?["regionId"].as_u64();
        let peers = self.observer.peers();
        let at_home = peers.values().filter(|peer| Some(peer.home) == region);
        let at_home: Vec<&str> = at_home.map(|peer| peer.name.as_str()).collect();
        let leads = if self.cluster.leader().await? == index {
            ", which leads"
        } else {
            ""
        };
        Ok(format!("{name} (home of {at_home:?}{leads})"))
    }

    /// What the cluster knows of replica `id`, as the replica `asked` tells.
    async fn announced(&self, asked: usize, id: &str) -> Option<Value> {
        let status = self.cluster.status(asked).await.ok()?;
        let is_it = |member: &&Value| member["id"].as_u64() == id.parse().ok();
        let member = status["members"].as_array()?.iter().find(is_it)?;
        Some(member["announced"].clone())
    }

    /// Everybody is seen online, with all replicas in the same state.
    async fn settle(&self) -> Result<()> {
        self.cluster.wait_equal(SETTLED_LIMIT).await?;
        let all = |peers: &std::collections::BTreeMap<String, _>| peers.len() == 4;
        let seen = self.observer.wait_for("all are there", SETTLED_LIMIT, all);
        seen.await?;
        self.relays_joined().await.map(drop)
    }

    /// Waits until every relay streams to every other and knows of so many connections as there are
    /// clients at least.
    async fn relays_joined(&self) -> Result<Duration> {
        let joined = async || {
            for replica in self.cluster.replicas() {
                let metric = async |name| replica.metric(name).await.ok();
                let links = metric("derp_mesh_links").await?;
                let here = metric("derp_clients_local").await?;
                let elsewhere = metric("derp_clients_remote").await?;
                if links < LINKS || here + elsewhere < CLIENTS {
                    return None;
                }
            }
            Some(())
        };
        let joined = wait::until("the relays are joined", SETTLED_LIMIT, joined);
        joined.await.map(|((), took)| took)
    }

    /// Nobody was told that a client had gone offline or was gone.
    fn check_no_flap(&self, since: Instant) -> Result<()> {
        let events = self.observer.events_since(since);
        let is_flap = |what| matches!(what, What::Offline | What::Left);
        let flaps: Vec<_> = events.iter().filter(|event| is_flap(event.what)).collect();
        ensure!(flaps.is_empty(), "somebody was seen to go: {flaps:?}");
        Ok(())
    }

    fn check_registered_once(&self, marks: &[Mark]) -> Result<()> {
        for ((name, log), mark) in self.logs().zip(marks) {
            let again = log.lines_since(*mark, clients::registered);
            ensure!(again.is_empty(), "{name} registered again: {again:?}");
        }
        Ok(())
    }
}

/// What was done to a replica, and from when on.
struct Step {
    what: String,
    begin: Instant,
}

/// The time from one step to the next: what comes late counts too.
struct Window {
    what: String,
    during: Range<Instant>,
}

impl Step {
    fn until((step, end): (Self, Instant)) -> Window {
        Window {
            what: step.what,
            during: step.begin..end,
        }
    }
}

/// Requests over every path.
struct Traffic {
    direct: Loop,
    there: Loop,
    back: Loop,
}

impl Traffic {
    fn start(tailnet: &Tailnet) -> Result<Self> {
        let start = |from: &Caddy, to: &str| -> Result<Loop> {
            Ok(Loop::start(from.address_of(to)?, "/", EVERY, REQUEST_LIMIT))
        };
        let [three, four] = &tailnet.relayed;
        let [one, _] = &tailnet.direct;
        Ok(Self {
            direct: start(one, "two")?,
            there: start(three, "four")?,
            back: start(four, "three")?,
        })
    }

    /// No request failed, and relayed ones waited only so long.
    async fn judge(self, context: &Context, windows: &[Window]) -> Result<()> {
        let paths = [
            ("direct", self.direct.finish().await?),
            ("three to four", self.there.finish().await?),
            ("four to three", self.back.finish().await?),
        ];
        for (path, samples) in &paths {
            context.measured(&format!("path {path}"), summary(samples));
        }
        let [(_, direct), relayed @ ..] = &paths;
        let stalls = direct.waits();
        let mut worst = None;
        for (path, samples) in relayed {
            for Window { what, during } in windows {
                let held = samples.held_up(during, EVERY, &stalls);
                let what = format!("path {path} held up by {what}");
                context.measured(&what, format!("{held:.0?}"));
                worst = worst.max(Some((held, what)));
            }
        }
        for (path, samples) in &paths {
            let failures = samples.failures();
            ensure!(failures.is_empty(), "the path {path} failed: {failures:?}");
        }
        let longest = direct.longest_wait();
        ensure!(longest < DIRECT_MAX, "direct path: {longest:?}");
        let (longest, what) = worst.context("something was done")?;
        ensure!(longest < HELD_UP_MAX, "{what}: {longest:?}");
        Ok(())
    }
}

fn summary(samples: &Samples) -> String {
    format!(
        "{} requests, {} failed, slowest {:.0?}",
        samples.len(),
        samples.failures().len(),
        samples.slowest()
    )
}
