//! The figures of README's table: durable registrations, failover time, memory per idle stream.

#![allow(clippy::print_stdout, reason = "the table is for standard output")]

use std::fs;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::FutureExt as _;
use hydrascale_benches::client::{CAPVER, Connection, Identity, Registration, fetch_server_key};
use hydrascale_benches::load::{Registrations, Streams, millis, sync_rate};
use hydrascale_chaos_tests::clients::Program;
use hydrascale_chaos_tests::cluster::{Cluster, Options};
use hydrascale_chaos_tests::{Context, Scenario, runner};

const LIMIT: Duration = Duration::from_secs(900);
const SECONDS: Duration = Duration::from_secs(10);
const CLIENTS: [usize; 3] = [1, 16, 64];
const LEADER_KILLS: usize = 20;
const STREAMS: usize = 1000;
/// Until the memory of freshly opened streams has settled.
const SETTLE: Duration = Duration::from_secs(10);
/// One attempt to register while the cluster has no leader.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    runner::main(
        "figures",
        &[
            Scenario::new(
                "durable registrations",
                LIMIT,
                &[Program::Server],
                |context| registrations(context).boxed_local(),
            ),
            Scenario::new("failover", LIMIT, &[Program::Server], |context| {
                failover(context).boxed_local()
            }),
            Scenario::new("idle streams", LIMIT, &[Program::Server], |context| {
                idle_streams(context).boxed_local()
            }),
        ],
    )
}

fn servers(cluster: &Cluster) -> Vec<SocketAddr> {
    cluster
        .replicas()
        .iter()
        .map(|replica| replica.client_address())
        .collect()
}

async fn registrations(context: Context) -> Result<()> {
    let disk = sync_rate(context.scratch(), SECONDS)?;
    context.measured(
        "fdatasync of this disk",
        format!("{:.0}/s", disk.per_second),
    );
    let cluster = Cluster::start_with(&context, 3, Options::PRODUCTION).await?;
    let auth_key = cluster.create_auth_key("people").await?;
    for clients in CLIENTS {
        let load = Registrations {
            servers: servers(&cluster),
            auth_key: auth_key.clone(),
            clients,
            seconds: SECONDS,
            seed: rand::random(),
        };
        let rate = load.run().await?;
        context.measured(
            &format!("registrations with {clients} clients on 3 replicas"),
            format!(
                "{:.0}/s, median {}, p99 {}",
                rate.per_second,
                millis(rate.median),
                millis(rate.p99)
            ),
        );
    }
    Ok(())
}

/// From the kill of the leader to the next acknowledged registration on a replica that lives.
async fn failover(context: Context) -> Result<()> {
    let mut cluster = Cluster::start_with(&context, 3, Options::PRODUCTION).await?;
    let auth_key = cluster.create_auth_key("people").await?;
    let key = fetch_server_key(cluster.replica(0)?.client_address()).await?;
    let mut gaps = Vec::new();
    for kill in 0..LEADER_KILLS {
        let leader = cluster.leader().await?;
        let survivor = (leader + 1) % cluster.size();
        let server = cluster.replica(survivor)?.client_address();
        let begin = Instant::now();
        cluster.kill(leader).await?;
        let identity = Identity::generate(&mut rand::rng());
        let registration = Registration {
            auth_key: auth_key.clone(),
            hostname: format!("after-{kill}"),
            ..Registration::default()
        };
        loop {
            let attempt = tokio::time::timeout(ATTEMPT_LIMIT, async {
                let mut connection = Connection::open(server, &key, &identity, CAPVER).await?;
                connection.register(&registration).await
            });
            if attempt
                .await
                .is_ok_and(|answer| answer.is_ok_and(|answer| answer.authorized))
            {
                break;
            }
        }
        gaps.push(begin.elapsed());
        cluster.up(leader).await?;
    }
    gaps.sort();
    let median = gaps.get(gaps.len() / 2).context("gaps")?;
    let worst = gaps.last().context("gaps")?;
    let figure = format!("median {median:.0?}, worst {worst:.0?} of {LEADER_KILLS}");
    context.measured(
        "kill -9 of the leader to the next acknowledged registration",
        figure,
    );
    Ok(())
}

async fn idle_streams(context: Context) -> Result<()> {
    let cluster = Cluster::start_with(&context, 3, Options::PRODUCTION).await?;
    let auth_key = cluster.create_auth_key("people").await?;
    let before = resident_bytes(&cluster)?;
    let mut streams = Streams::open(&servers(&cluster), &auth_key, STREAMS, rand::random()).await?;
    tokio::time::sleep(SETTLE).await;
    streams.check()?;
    let grown = resident_bytes(&cluster)?.saturating_sub(before);
    let each = grown
        .checked_div(u64::try_from(STREAMS)?)
        .unwrap_or_default();
    context.measured(
        &format!("memory of {STREAMS} idle streams on 3 replicas"),
        format!("{} MiB in all, {} KiB per stream", grown >> 20, each >> 10),
    );
    Ok(())
}

/// Resident memory of all replicas.
fn resident_bytes(cluster: &Cluster) -> Result<u64> {
    let mut sum = 0;
    for pid in cluster
        .replicas()
        .iter()
        .filter_map(|replica| replica.pid())
    {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .context("no VmRSS")?;
        sum += kib.trim().parse::<u64>()? * 1024;
    }
    Ok(sum)
}
