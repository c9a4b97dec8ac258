//! The keys of a running cluster rotate under writes: it is sealed, sealed anew under another key, gets
//! new certificates and a new authority. No write fails, nobody stands for election, and afterwards the
//! old key file is of no use.

#![allow(missing_docs, reason = "a test")]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use hydrascale_chaos_tests::clients::Program;
use hydrascale_chaos_tests::cluster::{Cluster, Options, Replica};
use hydrascale_chaos_tests::process::Signal;
use hydrascale_chaos_tests::{Context, Scenario, runner, wait};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(180);
/// Until a change of the keys is seen everywhere.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
const EQUAL_LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);
const KEY_FILE: &str = "sealing.key";
/// A run in which almost nothing was written proves nothing.
const WRITES_MIN: usize = 20;

fn main() -> ExitCode {
    runner::main(
        "rotation",
        &[Scenario::new(
            "sealing key, certificates and authority rotate under writes",
            LIMIT,
            &[Program::Server],
            |context| drill(context).boxed_local(),
        )],
    )
}

async fn drill(context: Context) -> Result<()> {
    let options = Options {
        // A busy machine must not cause the election that this looks for.
        timing_multiplier: 6,
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(&context, 3, options).await?;
    seal(&context, &mut cluster).await?;

    // From here on every write must succeed at its first attempt.
    let stop = Arc::new(AtomicBool::new(false));
    let term = cluster.status(0).await?["term"].clone();
    let begin = Instant::now();
    let writes = write(&cluster, &stop);
    let rotate = async {
        let done = rotate(&context, &cluster).await;
        stop.store(true, Ordering::Relaxed);
        done
    };
    let (written, rotated) = tokio::join!(writes, rotate);
    rotated?;
    let written = written?;
    ensure!(
        written >= WRITES_MIN,
        "only {written} writes: nothing was shown"
    );
    let now = cluster.status(0).await?["term"].clone();
    ensure!(now == term, "an election: term {now} instead of {term}");
    context.measured(
        "writes without a failure while all keys rotated",
        format!("{written} in {:.1} s", begin.elapsed().as_secs_f64()),
    );

    restart_on_new_keys(&context, &mut cluster).await?;
    cluster.wait_equal(EQUAL_LIMIT).await?;
    cluster.check_alive()
}

/// A cluster that ran without key files gets them, one replica after the other.
async fn seal(context: &Context, cluster: &mut Cluster) -> Result<()> {
    let key = new_key(cluster).await?;
    for index in 0..cluster.size() {
        let config = cluster.replica(index)?.folder().join("config.yaml");
        let text = std::fs::read_to_string(&config)?;
        let line = format!("  data_dir: data\n  sealing_key_file: {KEY_FILE}\n");
        std::fs::write(&config, text.replacen("  data_dir: data\n", &line, 1))?;
        cluster.terminate(index).await?;
        let refused = cluster.replica((index + 1) % 3)?;
        let refused = refused.command(&["cluster", "rotate-sealing-key"]).await;
        ensure!(refused.is_err(), "resealed while replica {index} is away");
        cluster.up(index).await?;
    }
    wait_held(cluster, &key).await?;
    let sealed = cluster.replica(1)?;
    let sealed = sealed.command(&["cluster", "rotate-sealing-key"]).await?;
    ensure!(
        sealed["sealingKey"] == key.as_str(),
        "{sealed} instead of {key}"
    );
    context.step("a cluster that ran unsealed is sealed");
    Ok(())
}

/// Rotates everything there is, asking another replica each time.
async fn rotate(context: &Context, cluster: &Cluster) -> Result<()> {
    let key = new_key(cluster).await?;
    for replica in cluster.replicas() {
        replica.signal(Signal::Hangup).await?;
    }
    wait_held(cluster, &key).await?;
    let first = cluster.replica(0)?;
    let sealed = first.command(&["cluster", "rotate-sealing-key"]).await?;
    ensure!(
        sealed["sealingKey"] == key.as_str(),
        "{sealed} instead of {key}"
    );
    context.step("the sealing key has rotated");

    let second = cluster.replica(1)?;
    second.command(&["cluster", "rotate-certificates"]).await?;
    let status = cluster.status(1).await?;
    let members = status["members"].as_array().context("no members")?;
    let is_there = |member: &Value| member["certificate"]["renewing"] == false;
    ensure!(
        members.iter().all(is_there),
        "certificates are due: {status}"
    );
    context.step("every replica has a new certificate");

    let before = status["authority"]["id"].clone();
    let third = cluster.replica(2)?;
    third.command(&["cluster", "rotate-ca"]).await?;
    let authority = cluster.status(2).await?["authority"].clone();
    ensure!(
        authority["id"] != before,
        "the authority is the same: {authority}"
    );
    ensure!(
        authority["oldIsTrusted"] == false,
        "the old one counts: {authority}"
    );
    context.step("the certificate authority has been replaced");
    Ok(())
}

/// Writes through one replica after the other until it is told to stop; how often.
async fn write(cluster: &Cluster, stop: &AtomicBool) -> Result<usize> {
    let mut written = 0;
    for replica in cluster.replicas().iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("user{written}");
        let made = replica.command(&["users", "create", &name]).await;
        made.with_context(|| format!("write {written}"))?;
        written += 1;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(written)
}

/// Only the new key is left in the files, and every replica starts with it, but not without.
async fn restart_on_new_keys(context: &Context, cluster: &mut Cluster) -> Result<()> {
    for index in 0..cluster.size() {
        let file = key_file(cluster.replica(index)?);
        let both = std::fs::read_to_string(&file)?;
        let (new, old) = both.split_once('\n').context("one key")?;
        cluster.terminate(index).await?;
        std::fs::write(&file, old)?;
        cluster.start_replica(index)?;
        let ended = cluster.wait_ready(index).await;
        ensure!(
            ended.is_err(),
            "replica {index} runs without the key in use"
        );
        cluster.kill(index).await.ok();
        std::fs::write(&file, format!("{new}\n"))?;
        cluster.up(index).await?;
    }
    context.step("every replica has started anew with the new key, and not with the old one");
    Ok(())
}

/// Makes a new key on the first replica and copies its file to the others; tells the key's id.
async fn new_key(cluster: &Cluster) -> Result<String> {
    let first = cluster.replica(0)?;
    let file = key_file(first);
    let path = file.display().to_string();
    let made = first
        .command(&["generate", "sealing-key", "--file", &path])
        .await?;
    for replica in cluster.replicas().iter().skip(1) {
        std::fs::copy(&file, key_file(replica))?;
    }
    let id = made["sealing_key_id"].as_str();
    Ok(id.with_context(|| format!("no id in {made}"))?.to_owned())
}

fn key_file(replica: &Replica) -> std::path::PathBuf {
    replica.folder().join(KEY_FILE)
}

/// Waits until every replica knows that every replica holds the key.
async fn wait_held(cluster: &Cluster, key: &str) -> Result<()> {
    for index in 0..cluster.size() {
        let held = async || {
            let status = cluster.status(index).await.ok()?;
            let members = status["members"].as_array()?;
            let holds = |member: &Value| {
                let keys = member["sealingKeys"].as_array();
                keys.is_some_and(|keys| keys.iter().any(|held| held == key))
            };
            members.iter().all(holds).then_some(())
        };
        wait::until("the key on all replicas", SETTLE_LIMIT, held).await?;
    }
    Ok(())
}
