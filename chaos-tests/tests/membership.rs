//! A cluster grows, shrinks, loses and replaces a replica, hands leadership around and drains, all
//! while nodes register and stream: no acknowledged registration is lost, nobody is seen to go
//! offline, and what would cost the quorum is refused. Another one has a replica without a vote.

#![allow(missing_docs, reason = "a test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use hydrascale_chaos_tests::clients::Program;
use hydrascale_chaos_tests::cluster::{Cluster, check_addresses};
use hydrascale_chaos_tests::load::{Load, check_kept};
use hydrascale_chaos_tests::log::Mark;
use hydrascale_chaos_tests::observer::{Observer, Peer, What};
use hydrascale_chaos_tests::{Context, Scenario, http, runner, wait};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(420);
/// Until a change of the membership is seen everywhere.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// Until a replica has everything.
const EQUAL_LIMIT: Duration = Duration::from_secs(30);
/// Streams leave a drained replica within 15 s and are recorded elsewhere soon after.
const DRAIN_LIMIT: Duration = Duration::from_secs(25);
/// One request of a probe.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// Longer than any grace after which a node is called offline (25 s after a dead replica).
const FLAP_WINDOW: Duration = Duration::from_secs(32);
const MAP_STREAMS: &str = "hydrascale_map_streams";
/// A run in which almost nothing was registered proves nothing.
const REGISTERED_MIN: usize = 50;

fn main() -> ExitCode {
    runner::main(
        "membership",
        &[
            Scenario::new(
                "a cluster grows, shrinks, replaces a dead replica and drains under load",
                LIMIT,
                &[Program::Server],
                |context| drill(context).boxed_local(),
            ),
            Scenario::new(
                "three empty replicas form a cluster by themselves",
                LIMIT,
                &[Program::Server],
                |context| form(context).boxed_local(),
            ),
            Scenario::new(
                "a replica without a vote serves like any other, and no change waits for it",
                LIMIT,
                &[Program::Server],
                |context| serve_without_vote(context).boxed_local(),
            ),
        ],
    )
}

/// All are started at once, with one configuration but for names and addresses. A machine that comes
/// back without its data is told how to get its place back.
async fn form(context: Context) -> Result<()> {
    let begin = Instant::now();
    let mut cluster = Cluster::form(&context, 3).await?;
    cluster.wait_voters(0, 3, SETTLE_LIMIT).await?;
    context.measured(
        "three voters from nothing",
        format!("{:.1?}", begin.elapsed()),
    );
    cluster.create_auth_key("people").await?;
    cluster.wait_equal(EQUAL_LIMIT).await?;

    cluster.kill(2).await?;
    cluster.start_empty(2)?;
    let ended = async || cluster.has_ended(2).unwrap_or(true).then_some(());
    wait::until("the empty replica gives up", SETTLE_LIMIT, ended).await?;
    let told = |line: &str| line.contains("cluster replace");
    let log = cluster.replica(2)?.log()?;
    log.wait_for("what to do", Mark::START, SETTLE_LIMIT, told)
        .await?;
    cluster.forget(2)
}

async fn drill(context: Context) -> Result<()> {
    let mut cluster = Cluster::start(&context, 1).await?;
    let auth_key = cluster.create_auth_key("people").await?;
    let first = cluster.replica(0)?.client_address();
    let load = Load::start(first, auth_key.clone());

    for _ in 0..4 {
        let index = cluster.grow().await?;
        load.serve(cluster.replica(index)?.client_address());
    }
    cluster.wait_voters(0, 5, SETTLE_LIMIT).await?;
    context.step("one replica has become five");

    let addresses = |cluster: &Cluster, from: usize| -> Vec<SocketAddr> {
        let all = cluster.replicas().iter().cycle().skip(from).take(5);
        all.map(|replica| replica.client_address()).collect()
    };
    let mut observers = Vec::new();
    for number in 0..3 {
        let name = format!("watcher{number}");
        observers.push(Observer::start(&name, &addresses(&cluster, number), &auth_key).await?);
    }
    for observer in &observers {
        let all_online = |peers: &BTreeMap<String, Peer>| {
            peers
                .keys()
                .filter(|name| name.starts_with("watcher"))
                .count()
                == 2
        };
        observer
            .wait_for("the others", SETTLE_LIMIT, all_online)
            .await?;
    }
    let begin = Instant::now();

    transfers(&context, &cluster).await?;
    drain(&context, &cluster).await?;
    replace(&context, &mut cluster).await?;
    shrink(&context, &mut cluster).await?;
    let mut acknowledged = load.finish().await?;
    check_kept(&acknowledged, &cluster.wait_equal(EQUAL_LIMIT).await?)?;

    let load = Load::start(first, auth_key);
    for index in 1..3 {
        load.serve(cluster.replica(index)?.client_address());
    }
    shrink_to_one(&context, &mut cluster).await?;
    tokio::time::sleep(FLAP_WINDOW).await;
    check_no_flap(&observers, begin)?;
    acknowledged.extend(load.finish().await?);
    let nodes = cluster.wait_equal(EQUAL_LIMIT).await?;
    check_addresses(&nodes)?;
    check_kept(&acknowledged, &nodes)?;
    ensure!(
        acknowledged.len() >= REGISTERED_MIN,
        "only {} registrations: nothing was shown",
        acknowledged.len()
    );
    context.measured(
        "registrations acknowledged and kept through changes of the membership",
        acknowledged.len().to_string(),
    );
    cluster.check_alive()
}

fn check_no_flap(observers: &[Observer], begin: Instant) -> Result<()> {
    for observer in observers {
        let mut offline = observer.events_since(begin);
        offline.retain(|event| event.what == What::Offline && event.peer.starts_with("watcher"));
        ensure!(
            offline.is_empty(),
            "somebody was seen to go offline: {offline:?}"
        );
    }
    Ok(())
}

/// Leadership goes once around, as asked of another replica each time.
async fn transfers(context: &Context, cluster: &Cluster) -> Result<()> {
    for to in 0..cluster.size() {
        let id = cluster.id_of(to).await?;
        let asked = (to + 2) % cluster.size();
        let words = ["cluster", "transfer-leader", &id];
        let done = cluster.insist(asked, &words).await?;
        ensure!(is_id(&done["leader"], &id), "{done} instead of {id}");
    }
    context.step("every replica has led");
    Ok(())
}

/// Whether a number of the status is this id.
fn is_id(value: &Value, id: &str) -> bool {
    value.as_u64().map(|value| value.to_string()).as_deref() == Some(id)
}

/// A member as a status shows it.
fn member<'a>(status: &'a Value, id: &str) -> Option<&'a Value> {
    let mut members = status["members"].as_array()?.iter();
    members.find(|member| is_id(&member["id"], id))
}

/// The leader is drained: it hands over, loses its streams, and is not ready until it is undrained.
async fn drain(context: &Context, cluster: &Cluster) -> Result<()> {
    let (leader, asked) = (0, 1);
    let id = cluster.id_of(leader).await?;
    let words = ["cluster", "transfer-leader", &id];
    cluster.insist(asked, &words).await?;
    let held = cluster.replica(leader)?.metric(MAP_STREAMS).await?;
    ensure!(
        held >= 1.0,
        "nobody streams from the replica that is drained"
    );
    let begin = Instant::now();
    let words = ["cluster", "drain", &id, "--wait", "0s"];
    cluster.insist(asked, &words).await?;
    let empty = async || {
        let status = cluster.status(asked).await.ok()?;
        let drained = member(&status, &id)?;
        let left = drained["announced"]["streams"] == 0 && !is_id(&status["leader"], &id);
        left.then_some(())
    };
    wait::until("the drained replica is left", DRAIN_LIMIT, empty).await?;
    context.measured(
        "from the drain of the leader until it is left",
        format!("{:.1?}", begin.elapsed()),
    );
    let words = ["cluster", "undrain", &id];
    cluster.insist(asked, &words).await?;
    Ok(())
}

/// A replica dies and a new one takes its place, on the same machine.
async fn replace(context: &Context, cluster: &mut Cluster) -> Result<()> {
    let dead = 4;
    let id = cluster.id_of(dead).await?;
    cluster.kill(dead).await?;
    let made = cluster.insist(0, &["cluster", "replace", &id]).await?;
    let token = made["joinToken"].as_str().context("no token")?.to_owned();
    let begin = Instant::now();
    cluster.start_anew(dead, &token).await?;
    cluster.wait_voters(0, 5, SETTLE_LIMIT).await?;
    let new = cluster.id_of(dead).await?;
    ensure!(new != id, "the id {id} was given again");
    context.measured(
        "replacement of a dead replica",
        format!("{:.1?}", begin.elapsed()),
    );
    Ok(())
}

/// Five become three: one leaves by itself, and nobody else when it is asked again; one is removed; a
/// third is not let go while another is dead.
async fn shrink(context: &Context, cluster: &mut Cluster) -> Result<()> {
    let words = ["cluster", "leave", "--wait", "20s"];
    cluster.insist(3, &words).await?;
    cluster.wait_removed(3).await?;
    cluster.replica(3)?.command(&words).await?;
    cluster.wait_voters(0, 4, SETTLE_LIMIT).await?;
    let removed = cluster.id_of(4).await?;
    for _ in 0..2 {
        let words = ["cluster", "remove", &removed, "--wait", "20s"];
        cluster.insist(0, &words).await?;
    }
    cluster.wait_removed(4).await?;
    cluster.wait_voters(0, 3, SETTLE_LIMIT).await?;

    let kept = cluster.id_of(1).await?;
    cluster.kill(2).await?;
    cluster.leader().await?;
    let refused = async || {
        let words = ["cluster", "remove", &kept, "--wait", "0s"];
        let refused = cluster.replica(0).ok()?.command(&words).await.err()?;
        let text = format!("{refused:#}");
        text.contains("would take no changes any more")
            .then_some(())
    };
    wait::until("the refusal", SETTLE_LIMIT, refused).await?;
    cluster.up(2).await?;
    cluster.wait_voters(0, 3, SETTLE_LIMIT).await?;
    context.step("five replicas have become three");
    Ok(())
}

/// Three become one: the leader leaves by itself, and the other is removed at once, with the streams
/// that it holds. The last one is not let go and goes on alone.
async fn shrink_to_one(context: &Context, cluster: &mut Cluster) -> Result<()> {
    let begin = Instant::now();
    let (leader, other) = (cluster.id_of(1).await?, cluster.id_of(2).await?);
    let words = ["cluster", "transfer-leader", &leader];
    cluster.insist(0, &words).await?;
    let words = ["cluster", "leave", "--wait", "20s"];
    cluster.insist(1, &words).await?;
    cluster.wait_removed(1).await?;
    cluster.wait_voters(0, 2, SETTLE_LIMIT).await?;
    let words = ["cluster", "remove", &other, "--wait", "0s"];
    cluster.insist(0, &words).await?;
    cluster.wait_removed(2).await?;
    cluster.wait_voters(0, 1, SETTLE_LIMIT).await?;
    context.measured(
        "three replicas have become one",
        format!("{:.1?}", begin.elapsed()),
    );

    let last = cluster.id_of(0).await?;
    let words = ["cluster", "remove", &last, "--wait", "0s"];
    let refused = cluster.replica(0)?.command(&words).await.err();
    let said = format!("{:#}", refused.context("the last voter was let go")?);
    ensure!(said.contains("the last voter"), "it said: {said}");
    let held = count_nodes(cluster).await?;
    let more = async || (count_nodes(cluster).await.ok()? > held).then_some(());
    let registers = wait::until("the last one registers nodes", SETTLE_LIMIT, more);
    registers.await.map(drop)
}

async fn count_nodes(cluster: &Cluster) -> Result<usize> {
    let listed = cluster.replica(0)?.command(&["nodes", "list"]).await?;
    Ok(listed.as_array().context("not a list of nodes")?.len())
}

/// It stays without a vote while one that joins later gets its own. Dead, it costs nothing that the
/// cluster could survive, and a promotion makes it vote.
async fn serve_without_vote(context: Context) -> Result<()> {
    let mut cluster = Cluster::start(&context, 2).await?;
    let auth_key = cluster.create_auth_key("people").await?;
    let far = cluster.grow_non_voting().await?;
    let id = cluster.id_of(far).await?;
    let voter = cluster.grow().await?;
    cluster.wait_equal(EQUAL_LIMIT).await?;
    check_place(&cluster, &id, false).await?;
    let own = cluster.status(far).await?;
    ensure!(own["role"] == "learner", "it is no learner: {own}");
    context.step("a replica that came later votes, the one without a vote has caught up");

    let guest = serve(&cluster, far, &id, &auth_key).await?;
    wait_spare(&cluster, &id, true).await?;
    cluster.kill(far).await?;
    wait_spare(&cluster, &id, false).await?;
    let moved = async || (guest.streams() > 1).then_some(());
    wait::until("its client streams elsewhere", SETTLE_LIMIT, moved).await?;
    // Two of four would be too few, if it counted.
    cluster.kill(voter).await?;
    let changes = async || cluster.create_api_key().await.ok();
    wait::until("a change without it and a voter", SETTLE_LIMIT, changes).await?;
    context.step("changes are made without it and one of three voters");

    cluster.up(voter).await?;
    cluster.up(far).await?;
    check_place(&cluster, &id, false).await?;
    let words = ["cluster", "promote", &id, "--wait", "20s"];
    cluster.replica(0)?.command(&words).await?;
    cluster.wait_voters(0, 4, SETTLE_LIMIT).await?;
    check_place(&cluster, &id, true).await?;
    cluster.wait_equal(EQUAL_LIMIT).await?;
    cluster.check_alive()
}

/// Checks whether a member votes, and that this is what is wanted.
async fn check_place(cluster: &Cluster, id: &str, votes: bool) -> Result<()> {
    let status = cluster.status(0).await?;
    let member = member(&status, id).with_context(|| format!("no replica {id}: {status}"))?;
    ensure!(
        member["voter"] == votes && member["nonVoting"] == !votes,
        "not in its place: {member}"
    );
    Ok(())
}

/// A replica is ready, a node joins and streams through it, and its relay is on the map of everybody.
/// Gives that node, which may go to another replica.
async fn serve(cluster: &Cluster, through: usize, id: &str, auth_key: &str) -> Result<Observer> {
    let replica = cluster.replica(through)?;
    let (here, elsewhere) = (
        replica.client_address(),
        cluster.replica(0)?.client_address(),
    );
    for path in ["/health", "/health/ready"] {
        let answer = http::get(here, path, PROBE_LIMIT).await?;
        ensure!(answer.status == 200, "{path}: {answer:?}");
    }
    let guest = Observer::start("guest", &[here, elsewhere], auth_key).await?;
    let host = Observer::start("host", &[elsewhere], auth_key).await?;
    for (observer, other) in [(&guest, "host"), (&host, "guest")] {
        let is_online = |peer: &Peer| peer.online == Some(true);
        let sees = |peers: &BTreeMap<String, Peer>| peers.get(other).is_some_and(is_online);
        let what = format!("{other} is online");
        observer.wait_for(&what, SETTLE_LIMIT, sees).await?;
    }
    let held = replica.metric(MAP_STREAMS).await?;
    ensure!(held >= 1.0, "nobody streams from it");
    let mapped = async || {
        let status = cluster.status(0).await.ok()?;
        let region = member(&status, id)?["announced"]["regionId"].as_u64()?;
        let known = |observer: &Observer| observer.relays().contains(&region);
        (known(&guest) && known(&host)).then_some(())
    };
    wait::until("its relay is on the map", SETTLE_LIMIT, mapped).await?;
    Ok(guest)
}

/// Waits until it is seen whether the replica without a vote answers, and checks that the cluster would
/// survive the failure of one voter either way.
async fn wait_spare(cluster: &Cluster, id: &str, answers: bool) -> Result<()> {
    let mut last = Value::Null;
    let seen = async || {
        last = cluster.status(0).await.ok()?;
        let spare = last["quorum"] == true && last["toleratedFailures"] == 1;
        (spare && member(&last, id)?["reachable"] == answers).then_some(())
    };
    let waited = wait::until("one voter of three may fail", SETTLE_LIMIT, seen).await;
    waited.map(drop).with_context(|| format!("status {last}"))
}
