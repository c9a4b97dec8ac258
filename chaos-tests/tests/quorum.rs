//! Two of three replicas are gone: nothing can be changed, which clients are told, and everything that
//! needs no change goes on.

#![allow(missing_docs, reason = "a test")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::FutureExt as _;
use hydrascale_chaos_tests::balancer::Balancer;
use hydrascale_chaos_tests::clients::{self, Caddy, Launch, Program};
use hydrascale_chaos_tests::cluster::Cluster;
use hydrascale_chaos_tests::observer::{Observer, Peer};
use hydrascale_chaos_tests::requests::{Loop, Samples};
use hydrascale_chaos_tests::{Context, Scenario, homes, runner, wait};

const LIMIT: Duration = Duration::from_secs(240);
const NEEDED: &[Program] = &[Program::Server, Program::Haproxy, Program::Caddy];
const REACH_LIMIT: Duration = Duration::from_secs(40);
const EVERY: Duration = Duration::from_millis(100);
/// Longer without any answer is no path that works all the time.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// Two packets lost one after another at the start of a connection cost 3 s.
const REQUEST_LIMIT: Duration = Duration::from_secs(8);
/// Idle clients measure relays about every 25 s.
const STUN_LIMIT: Duration = Duration::from_secs(60);
/// Until the replica knows that it has no leader.
const REFUSAL_LIMIT: Duration = Duration::from_secs(30);
/// Until clients are warned: 9 s without a leader with these timers, and some for a busy machine.
const WARNING_LIMIT: Duration = Duration::from_secs(30);
const WARNING: &str = "Control plane degraded";
/// Requests over the relay below which nothing was shown.
const REQUESTS_MIN: usize = 100;
/// Until so many were made.
const REQUESTS_LIMIT: Duration = Duration::from_secs(60);
/// Until a change goes through again.
const CHANGE_LIMIT: Duration = Duration::from_secs(30);
const FIRST_USER: u32 = 2601;
const STUN_ANSWERS: &str = "stun_addrfamily_total";
/// The one that is left.
const SURVIVOR: usize = 2;

fn main() -> ExitCode {
    runner::main(
        "quorum",
        &[Scenario::new(
            "a replica that is left alone relays, answers STUN, and says that it cannot change anything",
            LIMIT,
            NEEDED,
            |context| alone(context).boxed_local(),
        )],
    )
}

async fn alone(context: Context) -> Result<()> {
    let mut cluster = Cluster::start(&context, 3).await?;
    let balancer = Balancer::start(&context).await?;
    balancer.steer(|replica| replica == SURVIVOR).await?;
    let auth_key = cluster.create_auth_key("people").await?;
    let launch = |hostname: &str, user: u32| -> Result<Launch> {
        homes::pin(user, SURVIVOR, cluster.size())?;
        homes::forbid_direct_paths(user)?;
        Ok(Launch {
            hostname: hostname.to_owned(),
            control_url: Balancer::url(),
            auth_key: auth_key.clone(),
            user,
            scratch: context.scratch().to_owned(),
        })
    };
    let one = Caddy::start(&launch("one", FIRST_USER)?, &[("two", 18_001)])?;
    let two = Caddy::start(&launch("two", FIRST_USER + 1)?, &[("one", 18_002)])?;
    for caddy in [&one, &two] {
        caddy.wait_up().await?;
    }
    one.reach("two", REACH_LIMIT).await?;
    two.reach("one", REACH_LIMIT).await?;
    let survivor = cluster.replica(SURVIVOR)?.client_address();
    let observer = Observer::start("observer", &[survivor], &auth_key).await?;
    let both = |peers: &BTreeMap<String, Peer>| peers.len() == 2;
    observer.wait_for("the others", REACH_LIMIT, both).await?;
    let early = observer.warnings();
    ensure!(early.is_empty(), "warned of nothing: {early:?}");

    let marks = [&one, &two].map(|caddy| (caddy.log(), caddy.log().mark()));
    for other in 0..SURVIVOR {
        cluster.kill(other).await?;
    }
    let relayed = Loop::start(one.address_of("two")?, "/", EVERY, REQUEST_LIMIT);
    clients_are_warned(&context, &observer).await?;
    changes_are_refused(&context, &cluster).await?;
    stun_goes_on(&context, &cluster).await?;
    let enough = async || (relayed.made() >= REQUESTS_MIN).then_some(());
    let enough = wait::until("requests without a quorum", REQUESTS_LIMIT, enough).await;
    check_relayed(&context, &relayed.finish().await?)?;
    enough?;

    for other in 0..SURVIVOR {
        cluster.up(other).await?;
    }
    let mut tried = 0;
    let changes = async || {
        tried += 1;
        let name = format!("somebody{tried}");
        let replica = cluster.replica(SURVIVOR).ok()?;
        replica.command(&["users", "create", &name]).await.ok()
    };
    wait::until("a change", CHANGE_LIMIT, changes).await?;
    let calm = async || observer.warnings().is_empty().then_some(());
    wait::until("the end of the warning", WARNING_LIMIT, calm).await?;
    for (log, mark) in marks {
        let again = log.lines_since(mark, clients::registered);
        ensure!(again.is_empty(), "a client registered again: {again:?}");
        let loops = clients::poll_loops(log, mark);
        ensure!(loops.is_empty(), "a client polls in a loop: {loops:?}");
    }
    cluster.check_alive()
}

/// Real clients keep what they are warned of to themselves, so a client of ours tells.
async fn clients_are_warned(context: &Context, observer: &Observer) -> Result<()> {
    let warned = async || {
        let mut titles = observer.warnings().into_values();
        titles.any(|title| title == WARNING).then_some(())
    };
    let ((), took) = wait::until("a warning", WARNING_LIMIT, warned).await?;
    let figure = format!("{took:.1?} after the quorum was lost");
    context.measured(&format!("clients are told `{WARNING}`"), figure);
    Ok(())
}

async fn changes_are_refused(context: &Context, cluster: &Cluster) -> Result<()> {
    let replica = cluster.replica(SURVIVOR)?;
    let refused = async || {
        let asked = replica.command(&["users", "create", "nobody"]).await;
        let said = format!("{:#}", asked.err()?);
        said.contains("no leader").then_some(said)
    };
    let (said, _) = wait::until("a clear refusal", REFUSAL_LIMIT, refused).await?;
    context.step(&format!("a change is refused: {said}"));
    Ok(())
}

/// Waits until clients have measured the replica that is left.
async fn stun_goes_on(context: &Context, cluster: &Cluster) -> Result<()> {
    let replica = cluster.replica(SURVIVOR)?;
    let before = replica.metric(STUN_ANSWERS).await?;
    let begin = Instant::now();
    let measured = async || {
        let now = replica.metric(STUN_ANSWERS).await.ok()?;
        (now > before).then_some(())
    };
    wait::until("STUN answers", STUN_LIMIT, measured).await?;
    let figure = format!("{:.0?} after the quorum was lost", begin.elapsed());
    context.measured("first STUN answer", figure);
    Ok(())
}

fn check_relayed(context: &Context, samples: &Samples) -> Result<()> {
    let figure = format!(
        "{} requests, slowest {:.0?}",
        samples.len(),
        samples.slowest()
    );
    context.measured("relayed path without a quorum", figure);
    let failures = samples.failures();
    ensure!(failures.is_empty(), "the relayed path failed: {failures:?}");
    let longest = samples.longest_wait();
    ensure!(longest < WAIT_MAX, "nothing was relayed for {longest:?}");
    Ok(())
}
