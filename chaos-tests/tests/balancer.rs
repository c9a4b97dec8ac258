//! The balancer's configuration in `deploy/` works with the replicas' as shipped, and with TLS in
//! either place that its comments name: an official client joins through it, and its checks find
//! every replica ready.

#![allow(missing_docs, reason = "a test")]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use futures::FutureExt as _;
use hydrascale_chaos_tests::balancer::Balancer;
use hydrascale_chaos_tests::clients::{Caddy, Launch, Program};
use hydrascale_chaos_tests::cluster::{Cluster, Options, Tls};
use hydrascale_chaos_tests::{Context, Scenario, runner, wait};

const LIMIT: Duration = Duration::from_secs(120);
const FAST_LIMIT: Duration = Duration::from_secs(30);
const NEEDS: &[Program] = &[Program::Server, Program::Haproxy, Program::Caddy];
const USER: u32 = 2001;

fn main() -> ExitCode {
    runner::main(
        "balancer",
        &[
            Scenario::new(
                "a client joins over plain HTTP, as shipped",
                LIMIT,
                NEEDS,
                |context| join(context, Tls::Nowhere).boxed_local(),
            ),
            Scenario::new(
                "a client joins over TLS that the replicas end",
                LIMIT,
                NEEDS,
                |context| join(context, Tls::Replicas).boxed_local(),
            ),
            Scenario::new(
                "a client joins over TLS that the balancer ends",
                LIMIT,
                NEEDS,
                |context| join(context, Tls::Balancer).boxed_local(),
            ),
        ],
    )
}

async fn join(context: Context, tls: Tls) -> Result<()> {
    let options = Options {
        tls,
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(&context, 3, options).await?;
    let mut balancer = Balancer::start_with(&context, tls).await?;
    balancer.wait_checked().await?;
    let launch = Launch {
        hostname: "one".to_owned(),
        control_url: tls.url(),
        auth_key: cluster.create_auth_key("people").await?,
        user: USER,
        scratch: context.scratch().to_owned(),
    };
    let caddy = Caddy::start(&launch, &[])?;
    caddy.wait_up().await?;
    if tls == Tls::Replicas {
        let fast = async || (fast_starts(&cluster).await.ok()? >= 1.0).then_some(());
        wait::until(
            "the client starts a relay connection fast",
            FAST_LIMIT,
            fast,
        )
        .await?;
    }
    cluster.check_alive()?;
    balancer.check()
}

/// Relay connections on which a client did not wait for the answer, since the relay's certificate told
/// it the key.
async fn fast_starts(cluster: &Cluster) -> Result<f64> {
    let mut sum = 0.0;
    for replica in cluster.replicas() {
        sum += replica.metric("derp_fast_starts_total").await?;
    }
    Ok(sum)
}
