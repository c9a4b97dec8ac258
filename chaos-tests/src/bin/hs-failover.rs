//! What writers notice of a killed leader, a planned transfer and a killed follower, with production
//! timers and beside etcd with its own; and that nobody stands for election without a reason.

#![allow(clippy::print_stdout, reason = "the figures are for standard output")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::FutureExt as _;
use hydrascale_benches::load::{millis, quantile};
use hydrascale_chaos_tests::clients::Program;
use hydrascale_chaos_tests::cluster::{Cluster, Options};
use hydrascale_chaos_tests::etcd::{self, Etcd};
use hydrascale_chaos_tests::http::Endpoint;
use hydrascale_chaos_tests::writes::{Api, Writer};
use hydrascale_chaos_tests::{Context, Scenario, runner};
use tokio::time::sleep;

const LIMIT: Duration = Duration::from_secs(1800);
/// Of each kind but the last.
const FAULTS: usize = 30;
/// Of followers, whose loss is so short that one slow sync in all windows would be the p99 of fewer.
const FOLLOWER_KILLS: usize = 100;
/// Between two writes of the load.
const EVERY: Duration = Duration::from_millis(10);
/// Of load before a fault, and after it: longer than any of them is noticed. The small ones are noticed
/// within an election timeout, or never; a longer look would see more of the disk.
const BEFORE: Duration = Duration::from_millis(500);
const AFTER: Duration = Duration::from_secs(4);
const AFTER_SMALL: Duration = Duration::from_secs(1);
/// How long nothing happens.
const STEADY: Duration = Duration::from_secs(600);
/// The numbers of two writers differ by more than either writes.
const NUMBERS: usize = 1_000_000;

/// A user, which is one command in the log.
const USER: Api = Api {
    path: "/api/v1/user",
    body: |number| format!(r#"{{"name":"user-{number}"}}"#),
};

fn main() -> ExitCode {
    runner::main(
        "failover figures",
        &[
            Scenario::new("leader kills", LIMIT, &[Program::Server], |context| {
                leader_kills(context).boxed_local()
            }),
            Scenario::new("leader kills of etcd", LIMIT, &[Program::Etcd], |context| {
                leader_kills_of_etcd(context).boxed_local()
            }),
            Scenario::new("planned transfers", LIMIT, &[Program::Server], |context| {
                transfers(context).boxed_local()
            }),
            Scenario::new("follower kills", LIMIT, &[Program::Server], |context| {
                follower_kills(context).boxed_local()
            }),
            Scenario::new("steady load", LIMIT, &[Program::Server], |context| {
                steady(context).boxed_local()
            }),
        ],
    )
}

async fn leader_kills(context: Context) -> Result<()> {
    let mut cluster = Cluster::start_with(&context, 3, Options::PRODUCTION).await?;
    let mut gaps = Vec::new();
    for fault in 0..FAULTS {
        let leader = cluster.leader().await?;
        let survivor = (leader + 1) % cluster.size();
        let load = Writer::start(local(&cluster, survivor)?, USER, fault * NUMBERS, EVERY);
        sleep(BEFORE).await;
        let killed = Instant::now();
        cluster.kill(leader).await?;
        sleep(AFTER).await;
        gaps.push(load.finish().await?.first_after(killed)?);
        cluster.up(leader).await?;
    }
    report(
        &context,
        "kill -9 of the leader to the next acknowledged write",
        gaps,
    );
    Ok(())
}

async fn leader_kills_of_etcd(context: Context) -> Result<()> {
    let mut etcd = Etcd::start(&context).await?;
    let mut gaps = Vec::new();
    for fault in 0..FAULTS {
        let leader = etcd.leader().await?;
        let survivor = Etcd::endpoint((leader + 1) % etcd.size());
        let load = Writer::start(survivor, etcd::PUT, fault * NUMBERS, EVERY);
        sleep(BEFORE).await;
        let killed = Instant::now();
        etcd.kill(leader).await?;
        sleep(AFTER).await;
        gaps.push(load.finish().await?.first_after(killed)?);
        etcd.up(leader)?;
        etcd.wait_ready(leader).await?;
    }
    report(&context, "the same of etcd with its defaults", gaps);
    Ok(())
}

async fn transfers(context: Context) -> Result<()> {
    let cluster = Cluster::start_with(&context, 3, Options::PRODUCTION).await?;
    let mut windows = Windows::default();
    for _ in 0..FAULTS {
        let leader = cluster.leader().await?;
        let (asked, to) = ((leader + 1) % cluster.size(), (leader + 2) % cluster.size());
        let id = cluster.id_of(to).await?;
        let (load, asked) = (local(&cluster, asked)?, cluster.replica(asked)?);
        let words = ["cluster", "transfer-leader", &id];
        let transfer = async { asked.command(&words).await.map(drop) };
        windows.measure(&load, transfer).await?;
    }
    windows.report(&context, "a planned transfer");
    Ok(())
}

async fn follower_kills(context: Context) -> Result<()> {
    let mut cluster = Cluster::start_with(&context, 3, Options::PRODUCTION).await?;
    let mut windows = Windows::default();
    for _ in 0..FOLLOWER_KILLS {
        let leader = cluster.leader().await?;
        let (asked, follower) = ((leader + 1) % cluster.size(), (leader + 2) % cluster.size());
        let load = local(&cluster, asked)?;
        windows.measure(&load, cluster.kill(follower)).await?;
        cluster.up(follower).await?;
        // What it has to catch up with is none of the next window.
        sleep(AFTER).await;
    }
    windows.report(&context, "the kill of a follower");
    Ok(())
}

/// The slowest write from each fault on, and in as much time without one: what the difference is, the
/// fault did; the rest is the disk's.
#[derive(Default)]
struct Windows {
    calm: Vec<Duration>,
    faulty: Vec<Duration>,
}

impl Windows {
    async fn measure(
        &mut self,
        to: &Endpoint,
        fault: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let first = 2 * self.calm.len() * NUMBERS;
        let calm = slowest_since(to, first, async { Ok(()) }).await?;
        self.calm.push(calm);
        let faulty = slowest_since(to, first + NUMBERS, fault).await?;
        self.faulty.push(faulty);
        Ok(())
    }

    fn report(self, context: &Context, fault: &str) {
        let what = format!("slowest write in {AFTER_SMALL:?} of {fault}");
        report(context, &what, self.faulty);
        report(
            context,
            "slowest write in as much time without it",
            self.calm,
        );
    }
}

async fn slowest_since(
    to: &Endpoint,
    first: usize,
    fault: impl Future<Output = Result<()>>,
) -> Result<Duration> {
    let load = Writer::start(to.clone(), USER, first, EVERY);
    sleep(BEFORE).await;
    let begin = Instant::now();
    fault.await?;
    sleep(AFTER_SMALL).await;
    let writes = load.finish().await?;
    ensure!(writes.failed() == 0, "{} writes failed", writes.failed());
    writes.since(begin).slowest()
}

async fn steady(context: Context) -> Result<()> {
    let cluster = Cluster::start_with(&context, 3, Options::PRODUCTION).await?;
    let before = cluster.term().await?;
    let load = Writer::start(local(&cluster, 0)?, USER, 0, EVERY);
    sleep(STEADY).await;
    let writes = load.finish().await?;
    let elections = cluster.term().await? - before;
    context.measured(
        &format!("elections in {STEADY:?} of steady load"),
        format!(
            "{elections}, {} writes, {} failed, slowest {:.0?}",
            writes.0.len(),
            writes.failed(),
            writes.slowest()?
        ),
    );
    ensure!(elections == 0, "{elections} elections without a reason");
    Ok(())
}

fn local(cluster: &Cluster, index: usize) -> Result<Endpoint> {
    Ok(Endpoint::Local(cluster.replica(index)?.socket()))
}

fn report(context: &Context, what: &str, mut found: Vec<Duration>) {
    found.sort_unstable();
    let [p50, p99, slowest] = [0.5, 0.99, 1.0].map(|share| millis(quantile(&found, share)));
    let figure = format!("p50 {p50}, p99 {p99}, slowest {slowest} of {}", found.len());
    context.measured(what, figure);
}
