//! `hs-load`: the load generator.

#![allow(clippy::print_stdout, reason = "its results are for standard output")]

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use hydrascale_benches::load::{Registrations, Streams, millis, sync_rate};

/// Between two looks at open streams.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Parser)]
#[command(
    name = "hs-load",
    about = "Loads a Hydrascale cluster with simulated nodes"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// How fast the disk makes appends durable, to compare registrations with
    Disk {
        /// A folder on that disk
        folder: PathBuf,
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
    /// Registers nodes as fast as they are acknowledged
    Register {
        #[command(flatten)]
        target: Target,
        /// How many clients at the same time; several numbers are several runs
        #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
        clients: Vec<usize>,
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Opens idle map streams and holds them
    Streams {
        #[command(flatten)]
        target: Target,
        #[arg(long, default_value_t = 1000)]
        count: usize,
        /// How long to hold them once all are open
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Process ids of the replicas, whose memory is compared before and after
        #[arg(long, value_delimiter = ',')]
        pids: Vec<u32>,
    },
}

#[derive(Args)]
struct Target {
    /// Addresses of the replicas, host:port
    #[arg(long, value_delimiter = ',', required = true)]
    servers: Vec<SocketAddr>,
    /// A reusable pre-auth key
    #[arg(long)]
    auth_key: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Disk { folder, seconds } => {
            let rate = sync_rate(&folder, Duration::from_secs(seconds))?;
            let (median, p99) = (millis(rate.median), millis(rate.p99));
            println!(
                "{:.0} fdatasync/s, median {median}, p99 {p99}",
                rate.per_second
            );
            Ok(())
        }
        Command::Register {
            target,
            clients,
            seconds,
        } => register(target, &clients, Duration::from_secs(seconds)).await,
        Command::Streams {
            target,
            count,
            seconds,
            pids,
        } => streams(target, count, Duration::from_secs(seconds), &pids).await,
    }
}

async fn register(target: Target, clients: &[usize], seconds: Duration) -> Result<()> {
    println!("| clients | registrations/s | median | p99 |\n|---|---|---|---|");
    for clients in clients {
        let load = Registrations {
            servers: target.servers.clone(),
            auth_key: target.auth_key.clone(),
            clients: *clients,
            seconds,
            seed: rand::random(),
        };
        let rate = load.run().await?;
        let (median, p99) = (millis(rate.median), millis(rate.p99));
        println!("| {clients} | {:.0} | {median} | {p99} |", rate.per_second);
    }
    Ok(())
}

async fn streams(target: Target, count: usize, hold: Duration, pids: &[u32]) -> Result<()> {
    let before = resident_bytes(pids)?;
    let mut streams =
        Streams::open(&target.servers, &target.auth_key, count, rand::random()).await?;
    println!("{} streams are open", streams.len());
    let end = tokio::time::Instant::now() + hold;
    while tokio::time::Instant::now() < end {
        tokio::time::sleep(LOOK_EVERY).await;
        streams.check()?;
    }
    if !pids.is_empty() {
        let grown = resident_bytes(pids)?.saturating_sub(before);
        let each = grown.checked_div(count as u64).unwrap_or_default();
        println!(
            "{} MiB more in all replicas, {} KiB per stream",
            grown >> 20,
            each >> 10
        );
    }
    Ok(())
}

/// Resident memory of the processes together.
fn resident_bytes(pids: &[u32]) -> Result<u64> {
    pids.iter().map(|pid| resident_bytes_of(*pid)).sum()
}

fn resident_bytes_of(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib
        .with_context(|| format!("no VmRSS in {path}"))?
        .trim()
        .parse::<u64>()?
        * 1024)
}
