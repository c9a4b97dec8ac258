//! A policy that is set on one replica opens and closes ports between real clients that poll the
//! others, and says how long that takes.

#![allow(missing_docs, reason = "a test")]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use hydrascale_chaos_tests::balancer::Balancer;
use hydrascale_chaos_tests::clients::{Caddy, Launch, Program, SINGLE_PORT};
use hydrascale_chaos_tests::cluster::Cluster;
use hydrascale_chaos_tests::{Context, Scenario, homes, http, runner};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(180);
const NEEDS: &[Program] = &[Program::Server, Program::Haproxy, Program::Caddy];
/// The first exchange between two nodes, their path found on the way.
const REACH_LIMIT: Duration = Duration::from_secs(40);
/// A policy takes effect in well under a second.
const EFFECT_LIMIT: Duration = Duration::from_secs(15);
/// When nodes that were hidden meet again, both may begin a WireGuard handshake at once and void each
/// other's; they try again after 5 s, when the same may happen.
const MEET_LIMIT: Duration = Duration::from_secs(40);
/// An answer over an open path takes milliseconds, even on a busy machine this much at most.
const ANSWER_LIMIT: Duration = Duration::from_millis(250);
/// Asks again after this long while a path is shut: what is dropped there is not sent again for long.
const ASK_AGAIN: Duration = Duration::from_millis(50);
const ROUNDS: usize = 10;
/// First of the users that clients run as.
const FIRST_USER: u32 = 2101;
const LOCAL_PORT: u16 = 18_101;

/// The nodes go on seeing each other, but one port is shut.
const PORT_SHUT: &str = r#"{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:80"]}]}"#;
/// They may not even know of each other.
const ALL_SHUT: &str = r#"{"acls": []}"#;
const OPEN: &str = r#"{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:80,81"]}]}"#;
/// Refused: its own test fails.
const FAILS_ITS_TEST: &str = r#"{
    "acls": [],
    "tests": [{"src": "people@", "accept": ["100.64.0.1:81"]}],
}"#;

fn main() -> ExitCode {
    runner::main(
        "policy",
        &[
            Scenario::new(
                "a policy set on one replica opens and shuts a port between nodes on the others",
                LIMIT,
                NEEDS,
                |context| ports(context, PORT_SHUT).boxed_local(),
            ),
            Scenario::new(
                "a policy set on one replica hides nodes on the others from each other and back",
                LIMIT,
                NEEDS,
                |context| ports(context, ALL_SHUT).boxed_local(),
            ),
        ],
    )
}

/// Two nodes on two replicas, of which one asks the other; policies are set on the third.
struct Pair {
    context: Context,
    cluster: Cluster,
    _balancer: Balancer,
    _server: Caddy,
    client: Caddy,
    path: SocketAddr,
}

impl Pair {
    async fn start(context: Context) -> Result<Self> {
        let cluster = Cluster::start(&context, 3).await?;
        let balancer = Balancer::start(&context).await?;
        let auth_key = cluster.create_auth_key("people").await?;
        let launch = |hostname: &str, number: usize| -> Result<Launch> {
            let user = FIRST_USER + u32::try_from(number)?;
            homes::pin(user, number, 3)?;
            Ok(Launch {
                hostname: hostname.to_owned(),
                control_url: Balancer::url(),
                auth_key: auth_key.clone(),
                user,
                scratch: context.scratch().to_owned(),
            })
        };
        balancer.steer(|replica| replica == 1).await?;
        let server = Caddy::start(&launch("one", 1)?, &[])?;
        server.wait_up().await?;
        balancer.steer(|replica| replica == 2).await?;
        let single = format!("one:{SINGLE_PORT}");
        let dials = [("one", LOCAL_PORT), (&*single, LOCAL_PORT + 1)];
        let client = Caddy::start(&launch("two", 2)?, &dials)?;
        client.wait_up().await?;
        let path = client.address_of(&single)?;
        let took = client.reach("one", REACH_LIMIT).await?;
        context.step(&format!("without a policy one is reached after {took:.1?}"));
        Ok(Self {
            context,
            cluster,
            _balancer: balancer,
            _server: server,
            client,
            path,
        })
    }

    /// Sets a policy by the command line on the first replica.
    async fn set(&self, text: &str) -> Result<()> {
        let file = self.context.scratch().join("policy.hujson");
        std::fs::write(&file, text)?;
        let file = file.to_str().context("the folder's name is text")?;
        let replica = self.cluster.replica(0)?;
        replica.command(&["policy", "set", "--file", file]).await?;
        Ok(())
    }

    /// Sets a policy, and gives the time from the start of the command to the first request that
    /// fares as wanted. Requests follow each other without pause.
    async fn effect(&self, text: &str, opens: bool) -> Result<Duration> {
        let begin = Instant::now();
        let watch = async {
            loop {
                let asked = begin.elapsed();
                let limit = if opens { ASK_AGAIN } else { ANSWER_LIMIT };
                let answered = self.answers(limit).await;
                if answered == opens {
                    // What is shut showed when it was asked for, not when patience ended.
                    return if opens { begin.elapsed() } else { asked };
                }
            }
        };
        let both = async { tokio::join!(self.set(text), watch) };
        let limit = if opens { MEET_LIMIT } else { EFFECT_LIMIT };
        let (set, effect) = timeout(limit, both)
            .await
            .with_context(|| format!("no effect within {limit:?} of {text}"))?;
        set.map(|()| effect)
    }

    async fn answers(&self, limit: Duration) -> bool {
        let answer = http::get(self.path, "/", limit).await;
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// A policy that fails its own test changes nothing.
    async fn check_refusal(&self) -> Result<()> {
        let replica = self.cluster.replica(0)?;
        let before = replica.command(&["policy", "history"]).await?;
        let refused = self.set(FAILS_ITS_TEST).await;
        ensure!(refused.is_err(), "a policy that fails its own test is set");
        let after = replica.command(&["policy", "history"]).await?;
        ensure!(before == after, "a refused policy left a version behind");
        let open = || self.answers(ANSWER_LIMIT);
        let opened = async { while !open().await {} };
        timeout(EFFECT_LIMIT, opened)
            .await
            .context("a refused policy shut the port")
    }
}

async fn ports(context: Context, shut: &str) -> Result<()> {
    let pair = Pair::start(context).await?;
    let mut opened = Vec::new();
    let mut closed = Vec::new();
    for _ in 0..ROUNDS {
        closed.push(pair.effect(shut, false).await?);
        opened.push(pair.effect(OPEN, true).await?);
    }
    pair.check_refusal().await?;
    pair.client.reach("one", REACH_LIMIT).await?;
    let context = &pair.context;
    context.measured("from the command to the shut port", summary(&mut closed));
    context.measured("from the command to the open port", summary(&mut opened));
    Ok(())
}

fn summary(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let worst = times.last().copied().unwrap_or_default();
    format!("median {median:.0?}, worst {worst:.0?} of {}", times.len())
}
