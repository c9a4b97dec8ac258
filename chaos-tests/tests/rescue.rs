//! A cluster is lost and comes back: from a backup, on empty folders, and from one replica of three.
//! Nothing that was acknowledged before is lost, and clients go on without a new registration.

#![allow(missing_docs, reason = "a test")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use hydrascale_benches::client::{CAPVER, Connection, Identity, Registration, fetch_server_key};
use hydrascale_chaos_tests::clients::Program;
use hydrascale_chaos_tests::cluster::{Cluster, check_addresses};
use hydrascale_chaos_tests::{Context, Scenario, runner, wait};

const LIMIT: Duration = Duration::from_secs(300);
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// Until a replica has everything.
const EQUAL_LIMIT: Duration = Duration::from_secs(30);
/// Registrations before the backup.
const REGISTERED: usize = 30;

fn main() -> ExitCode {
    let scenario = |name, run| Scenario::new(name, LIMIT, &[Program::Server], run);
    runner::main(
        "rescue",
        &[
            scenario("a lost cluster is restored from its backup", |context| {
                restored(context).boxed_local()
            }),
            scenario(
                "one replica of three goes on after a lost quorum",
                |context| recovered(context).boxed_local(),
            ),
        ],
    )
}

/// Registers a node with the replica `index`; gives its identity.
async fn register(cluster: &Cluster, index: usize, auth_key: &str, name: &str) -> Result<Identity> {
    let server = cluster.replica(index)?.client_address();
    let key = fetch_server_key(server).await?;
    let identity = Identity::generate(&mut rand::rng());
    let mut connection = Connection::open(server, &key, &identity, CAPVER).await?;
    let registration = Registration {
        auth_key: auth_key.to_owned(),
        hostname: name.to_owned(),
        ..Registration::default()
    };
    let answer = connection.register(&registration).await?;
    ensure!(answer.authorized, "{name} was refused: {}", answer.error);
    Ok(identity)
}

async fn restored(context: Context) -> Result<()> {
    let mut cluster = Cluster::start(&context, 3).await?;
    let auth_key = cluster.create_auth_key("people").await?;
    let mut nodes = Vec::new();
    for turn in 0..REGISTERED {
        nodes.push(register(&cluster, turn % 3, &auth_key, &format!("n{turn}")).await?);
    }
    let server = cluster.replica(2)?.client_address();
    let server_key = fetch_server_key(server).await?;

    let file = context.scratch().join("tailnet.backup");
    let name = file.to_str().context("a path")?;
    let begin = Instant::now();
    // Others register meanwhile; whether they are in the backup is open.
    let late = async {
        for turn in 0..REGISTERED {
            register(&cluster, turn % 3, &auth_key, &format!("late{turn}")).await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let create = ["backup", "create", name];
    let (made, late) = tokio::join!(cluster.replica(1)?.command(&create), late);
    let (made, ()) = (made?, late?);
    context.measured("backup under writes", format!("{:.1?}", begin.elapsed()));
    let api_key = cluster.replica(0)?.command(&["apikeys", "list"]).await?;
    let verified = cluster
        .replica(2)?
        .command(&["backup", "verify", name])
        .await?;
    ensure!(verified == made, "{verified} and {made} differ");

    for index in 0..3 {
        cluster.kill(index).await?;
    }
    let begin = Instant::now();
    cluster.restore(0, &file).await?;
    for index in 1..3 {
        cluster.rejoin(index).await?;
    }
    cluster.wait_voters(0, 3, SETTLE_LIMIT).await?;
    context.measured(
        "from nothing to three replicas",
        format!("{:.1?}", begin.elapsed()),
    );

    let status = cluster.status(0).await?;
    ensure!(
        status["clusterId"] != made["clusterId"],
        "the cluster's id is the old one"
    );
    ensure!(
        fetch_server_key(server).await? == server_key,
        "the Noise key is another one"
    );
    let listed = cluster.wait_equal(EQUAL_LIMIT).await?;
    check_addresses(&listed)?;
    for node in &nodes {
        let key = node.node_key();
        ensure!(
            listed.iter().any(|listed| listed.node_key == key),
            "{key} was acknowledged before the backup and is lost"
        );
    }
    let kept = cluster.replica(2)?.command(&["apikeys", "list"]).await?;
    ensure!(kept == api_key, "API keys: {kept} instead of {api_key}");
    // Who registered before the backup streams again, with the keys of before.
    for (turn, node) in nodes.iter().enumerate() {
        let server = cluster.replica(turn % 3)?.client_address();
        let mut connection = Connection::open(server, &server_key, node, CAPVER).await?;
        let mut stream = connection.stream(&format!("n{turn}")).await?;
        let first = tokio::time::timeout(SETTLE_LIMIT, stream.next()).await??;
        let first = first.with_context(|| format!("n{turn} was sent nothing"))?;
        ensure!(
            first["Node"]["MachineAuthorized"] == true,
            "n{turn}: {first}"
        );
    }
    register(&cluster, 1, &auth_key, "after").await?;
    let again = cluster
        .replica(0)?
        .command(&["backup", "restore", name])
        .await;
    let refused = format!(
        "{:#}",
        again.err().context("restored over a running replica")?
    );
    ensure!(refused.contains("choose an empty folder"), "{refused}");
    cluster.check_alive()
}

async fn recovered(context: Context) -> Result<()> {
    let mut cluster = Cluster::start(&context, 3).await?;
    let auth_key = cluster.create_auth_key("people").await?;
    let mut nodes = Vec::new();
    for turn in 0..REGISTERED {
        nodes.push(register(&cluster, turn % 3, &auth_key, &format!("n{turn}")).await?);
    }
    cluster.wait_equal(EQUAL_LIMIT).await?;
    let recover = ["cluster", "recover", "--unsafe"];
    let running = refusal(&cluster, &recover).await?;
    ensure!(running.contains("must be stopped first"), "{running}");

    cluster.kill(0).await?;
    let company = refusal(&cluster, &recover).await?;
    ensure!(company.contains("still answers"), "{company}");
    for index in [1, 2] {
        cluster.kill(index).await?;
    }
    let made = cluster.replica(0)?.command(&recover).await?;
    let kept = made["kept"].as_str().context("no kept folder")?;
    ensure!(
        std::path::Path::new(kept).join("identity.json").exists(),
        "{kept} is empty"
    );
    cluster.up(0).await?;
    let alone = refusal(&cluster, &recover).await?;
    ensure!(alone.contains("must be stopped first"), "{alone}");

    // Whoever comes back from the old cluster is told that it is no more.
    cluster.start_replica(2)?;
    let mark = cluster.replica(2)?.log()?.mark();
    let told = async || {
        let replica = cluster.replica(2).ok()?;
        let said = replica.count_lines(mark, |line| line.contains("cluster is no more"));
        (said > 0).then_some(())
    };
    wait::until("the old replica is told", SETTLE_LIMIT, told).await?;
    cluster.kill(2).await?;
    for index in [1, 2] {
        cluster.rejoin(index).await?;
    }
    cluster.wait_voters(0, 3, SETTLE_LIMIT).await?;
    let listed = cluster.wait_equal(EQUAL_LIMIT).await?;
    check_addresses(&listed)?;
    for node in &nodes {
        let key = node.node_key();
        ensure!(
            listed.iter().any(|listed| listed.node_key == key),
            "{key} is lost"
        );
    }
    register(&cluster, 1, &auth_key, "after").await?;
    cluster.check_alive()
}

/// Why a command on the first replica is refused.
async fn refusal(cluster: &Cluster, words: &[&str]) -> Result<String> {
    let done = cluster.replica(0)?.command(words).await;
    let refused = done
        .err()
        .with_context(|| format!("{words:?} was not refused"))?;
    Ok(format!("{refused:#}"))
}
