//! Three replicas that act as the version before are upgraded one after the other while nodes
//! register: nothing acknowledged is lost, one goes a step back before the feature level is raised,
//! and after that the version before does not start and says why.

#![allow(missing_docs, reason = "a test")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use hydrascale_chaos_tests::clients::Program;
use hydrascale_chaos_tests::cluster::{Cluster, Options, check_addresses};
use hydrascale_chaos_tests::load::{Load, check_kept};
use hydrascale_chaos_tests::{Context, Scenario, runner, wait};

const LIMIT: Duration = Duration::from_secs(240);
/// Until a status is as it should be.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// Until a replica has everything.
const EQUAL_LIMIT: Duration = Duration::from_secs(30);
/// A run in which almost nothing was registered proves nothing.
const REGISTERED_MIN: usize = 50;
/// What the version before supports.
const OLD: &str = "\n  auto_upgrade: false\n  feature_level_max: 1";
const NEW: &str = "\n  auto_upgrade: false";

fn main() -> ExitCode {
    runner::main(
        "upgrade",
        &[Scenario::new(
            "replicas are upgraded one by one under load, and one goes a step back",
            LIMIT,
            &[Program::Server],
            |context| drill(context).boxed_local(),
        )],
    )
}

async fn drill(context: Context) -> Result<()> {
    let options = Options {
        cluster_lines: OLD,
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(&context, 3, options).await?;
    let auth_key = cluster.create_auth_key("people").await?;
    let load = Load::start(cluster.replica(0)?.client_address(), auth_key);
    for index in 1..3 {
        load.serve(cluster.replica(index)?.client_address());
    }
    let begin = Instant::now();

    for index in 0..3 {
        wait_phase(&cluster, if index == 0 { "finished" } else { "rolling" }).await?;
        restart(&mut cluster, index, NEW).await?;
    }
    wait_phase(&cluster, "raising").await?;
    context.step("all replicas run the new version at the level before");

    restart(&mut cluster, 1, OLD).await?;
    let refused = cluster.finalize_upgrade(2).await;
    let reason = refused.err().context("raised past an old replica")?;
    let reason = format!("{reason:#}");
    ensure!(
        reason.contains("(b) supports no feature level above 1"),
        "{reason}"
    );
    restart(&mut cluster, 1, NEW).await?;
    wait_phase(&cluster, "raising").await?;
    context.step("one went a step back and came again");

    let raised = cluster.finalize_upgrade(2).await?;
    ensure!(raised == 2, "raised to {raised}");
    wait_phase(&cluster, "finished").await?;
    context.measured(
        "rolling upgrade of three replicas with a step back",
        format!("{:.1?}", begin.elapsed()),
    );

    cluster.terminate(0).await?;
    cluster.configure(0, OLD)?;
    let told = |line: &str| {
        line.contains("the cluster has feature level 2") && line.contains("start it with")
    };
    cluster.start_in_vain(0, told).await?;
    cluster.configure(0, NEW)?;
    cluster.up(0).await?;
    context.step("the version before has refused to start");
    finish(&context, &mut cluster, load).await
}

/// Stops a replica, as soon as it is safe, and starts it with another configuration.
async fn restart(cluster: &mut Cluster, index: usize, lines: &'static str) -> Result<()> {
    cluster.wait_restartable(index).await?;
    cluster.terminate(index).await?;
    cluster.configure(index, lines)?;
    cluster.up(index).await.map(drop)
}

/// Waits until all replicas see the upgrade there.
async fn wait_phase(cluster: &Cluster, phase: &str) -> Result<()> {
    let there = async || {
        for index in 0..3 {
            let status = cluster.status(index).await.ok()?;
            if status["upgrade"]["phase"] != phase {
                return None;
            }
        }
        Some(())
    };
    let what = format!("the upgrade is {phase}");
    wait::until(&what, SETTLE_LIMIT, there).await.map(drop)
}

/// All replicas have the same, and whatever was acknowledged.
async fn finish(context: &Context, cluster: &mut Cluster, load: Load) -> Result<()> {
    let acknowledged = load.finish().await?;
    let nodes = cluster.wait_equal(EQUAL_LIMIT).await?;
    check_addresses(&nodes)?;
    check_kept(&acknowledged, &nodes)?;
    ensure!(
        acknowledged.len() >= REGISTERED_MIN,
        "only {} registrations: nothing was shown",
        acknowledged.len()
    );
    context.measured(
        "registrations acknowledged and kept through the upgrade",
        acknowledged.len().to_string(),
    );
    cluster.check_alive()
}
