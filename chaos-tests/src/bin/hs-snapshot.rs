//! What a snapshot of a large tailnet costs: building, streaming, installing and starting from it,
//! beside reading and decoding the same bytes; and that nobody stands for election meanwhile.

#![allow(clippy::print_stdout, reason = "the figures are for standard output")]

use std::env;
use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use hydrascale_benches::load::Registrations;
use hydrascale_chaos_tests::clients::Program;
use hydrascale_chaos_tests::cluster::{Cluster, Options};
use hydrascale_chaos_tests::log::Mark;
use hydrascale_chaos_tests::{Context, Scenario, runner};

const LIMIT: Duration = Duration::from_secs(3600);
/// How many nodes the tailnet has, when not the usual number.
const NODES_VARIABLE: &str = "HYDRASCALE_SNAPSHOT_NODES";
const NODES: usize = 100_000;
const CLIENTS: usize = 64;
/// Of load between two looks at the number of nodes.
const STEP: Duration = Duration::from_secs(5);
/// Small enough that the last snapshot holds nearly all nodes, and that a new replica needs one.
const SNAPSHOT_EVERY: u64 = 5_000;
/// A snapshot under way ends within this.
const BUILD_LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    runner::main(
        "snapshot figures",
        &[Scenario::new(
            "a snapshot of a large tailnet",
            LIMIT,
            &[Program::Server],
            |context| snapshot(context).boxed_local(),
        )],
    )
}

async fn snapshot(context: Context) -> Result<()> {
    let options = Options {
        snapshot_every: Some(SNAPSHOT_EVERY),
        ..Options::PRODUCTION
    };
    let mut cluster = Cluster::start_with(&context, 3, options).await?;
    let term = cluster.term().await?;
    let nodes = fill(&context, &cluster).await?;
    context.measured("nodes", nodes);

    built(&context, &cluster).await?;
    floor(&context, &cluster).await?;
    installed(&context, &mut cluster).await?;
    for replica in cluster.replicas() {
        let peak = peak_bytes(replica.pid().context("a replica ended")?)?;
        let what = format!("peak memory of {}", replica.name());
        context.measured(&what, format!("{} MiB", peak >> 20));
    }
    restarted(&context, &mut cluster).await?;
    let elections = cluster.term().await? - term;
    context.measured("elections", elections);
    ensure!(elections == 0, "{elections} elections without a reason");
    Ok(())
}

/// Registers nodes until there are enough, and until a snapshot that holds them is begun.
async fn fill(context: &Context, cluster: &Cluster) -> Result<usize> {
    let wanted = match env::var(NODES_VARIABLE) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{NODES_VARIABLE}={text}"))?,
        Err(_) => NODES,
    };
    let auth_key = cluster.create_auth_key("people").await?;
    let replicas = cluster.replicas().iter();
    let servers: Vec<_> = replicas.map(|replica| replica.client_address()).collect();
    let begin = Instant::now();
    let mut registered = 0;
    // The last snapshot holds as many as are wanted.
    while registered < wanted + usize::try_from(SNAPSHOT_EVERY)? {
        let load = Registrations {
            servers: servers.clone(),
            auth_key: auth_key.clone(),
            clients: CLIENTS,
            seconds: STEP,
            seed: rand::random(),
        };
        registered += load.run().await?.registered;
    }
    let took = begin.elapsed();
    context.measured(
        "registering them",
        format!("{took:.0?} with {CLIENTS} clients"),
    );
    Ok(registered)
}

/// What each replica says of the last snapshot it made under that load.
async fn built(context: &Context, cluster: &Cluster) -> Result<()> {
    for replica in cluster.replicas() {
        let is_built = |line: &str| line.contains("snapshot built");
        let log = replica.log()?;
        log.wait_for("a snapshot", Mark::START, BUILD_LIMIT, is_built)
            .await?;
        let lines = log.lines_since(Mark::START, is_built);
        let last = lines.last().context("no snapshot was built")?;
        let name = replica.name();
        context.measured(&format!("build on {name}"), figures(&last.text)?);
    }
    Ok(())
}

/// The same rows, read from a file and decoded, by a process of its own.
async fn floor(context: &Context, cluster: &Cluster) -> Result<()> {
    let file = context.scratch().join("tailnet.backup");
    let name = file.to_str().context("a path that is text")?;
    let asked = cluster.replica(0)?;
    let begin = Instant::now();
    asked.command(&["backup", "create", name]).await?;
    context.measured("backup to a file", format!("{:.0?}", begin.elapsed()));
    let begin = Instant::now();
    asked.command(&["backup", "verify", name]).await?;
    let bytes = fs::metadata(&file)?.len();
    context.measured(
        "reading and decoding a file with the same rows",
        format!("{:.0?}, {} KiB", begin.elapsed(), bytes >> 10),
    );
    Ok(())
}

/// A new replica gets everything by a snapshot.
async fn installed(context: &Context, cluster: &mut Cluster) -> Result<()> {
    let begin = Instant::now();
    let index = cluster.grow().await?;
    let took = begin.elapsed();
    let log = cluster.replica(index)?.log()?;
    for what in ["snapshot received", "snapshot installed"] {
        let lines = log.lines_since(Mark::START, |line| line.contains(what));
        let last = lines
            .last()
            .with_context(|| format!("{what}: never happened"))?;
        context.measured(what, figures(&last.text)?);
    }
    context.measured("empty replica to a vote", format!("{took:.1?}"));
    Ok(())
}

/// A replica that does not lead ends and starts again.
async fn restarted(context: &Context, cluster: &mut Cluster) -> Result<()> {
    let follower = (cluster.leader().await? + 1) % 3;
    cluster.terminate(follower).await?;
    let took = cluster.up(follower).await?;
    context.measured("start to readiness", format!("{took:.1?}"));
    Ok(())
}

/// The figures of a line such as `snapshot built bytes=123 took_ms=45`.
fn figures(line: &str) -> Result<String> {
    let field = |name: &str| {
        let value = line.split_whitespace().find_map(|word| {
            let value = word.strip_prefix(name)?.strip_prefix('=')?;
            value.parse::<f64>().ok()
        });
        value.with_context(|| format!("no {name} in: {line}"))
    };
    let (kib, took) = (field("bytes")? / 1024.0, field("took_ms")?);
    Ok(format!("{took:.0} ms, {kib:.0} KiB"))
}

/// The most memory that a process ever had.
fn peak_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.context("no VmHWM")?.trim().parse::<u64>()? * 1024)
}
