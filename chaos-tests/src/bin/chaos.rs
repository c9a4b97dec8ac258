//! Fault runs: `chaos run` makes one, `chaos check` judges its history again.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command's output"
)]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, Subcommand};
use futures::FutureExt as _;
use hydrascale_chaos_tests::{
    history,
    nemesis::Nemesis,
    run::{self, Plan, series::Series},
    runner,
    summary::{Conclusion, Summary},
    workload::Workload,
};

/// Fault runs on a cluster of real replicas, in a private network. Ends with 0 when the run is
/// green, 1 when it is red, 2 when it is void, 3 when a checker gave up.
#[derive(Parser)]
#[command(name = "chaos")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a workload under faults and judge its history.
    Run(RunArguments),
    /// Make a series of runs, going on where it was interrupted. Ends with 0 when all are green.
    Long(LongArguments),
    /// Judge a history again, without a cluster.
    Check {
        /// What `run` wrote.
        history: PathBuf,
    },
}

#[derive(Args)]
struct LongArguments {
    /// Keeps what is done, and histories that are not green.
    #[arg(long)]
    folder: PathBuf,
    /// How many runs, of one minute of faults each.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    runs: u64,
    /// The seed of the first; each has the next one.
    #[arg(long, default_value_t = 1000)]
    seed: u64,
    /// The file whose section "Long runs" is written.
    #[arg(long)]
    report: PathBuf,
}

#[derive(Args)]
struct RunArguments {
    /// What clients do.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "all")]
    workload: Vec<Workload>,
    /// What is done to the replicas, in turn.
    #[arg(long, value_enum, value_delimiter = ',', required = true)]
    nemesis: Vec<Nemesis>,
    /// Seconds with faults.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    time: u64,
    /// Chooses the random decisions; printed in any case.
    #[arg(long)]
    seed: Option<u64>,
    /// Replicas that vote.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=5))]
    voters: u8,
    /// A new file for the history; else it is kept only when the run is not green.
    #[arg(long)]
    history: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Check { history } => judge(&history),
        Command::Run(arguments) => Ok(fault_run(&arguments)),
        Command::Long(arguments) => series(arguments),
    };
    done.unwrap_or_else(|error| {
        eprintln!("chaos: {error:#}");
        ExitCode::FAILURE
    })
}

fn fault_run(arguments: &RunArguments) -> ExitCode {
    let plan = Plan {
        workloads: arguments.workload.clone(),
        nemeses: arguments.nemesis.clone(),
        time: Duration::from_secs(arguments.time),
        seed: arguments
            .seed
            .unwrap_or_else(|| u64::from(rand::random::<u32>())),
        voters: usize::from(arguments.voters),
    };
    let history = arguments.history.clone();
    runner::alone("chaos", plan.seed, move |context| {
        async move {
            let file = history.unwrap_or_else(|| context.scratch().join("history.jsonl"));
            ensure!(!file.exists(), "{} exists already", file.display());
            run::run(&context, &plan, &file).await?;
            judge(&file)
        }
        .boxed_local()
    })
}

fn series(arguments: LongArguments) -> Result<ExitCode> {
    let LongArguments {
        folder,
        runs,
        seed,
        report,
    } = arguments;
    let series = Series {
        folder,
        runs,
        seed,
        report,
    };
    let all_green = series.run()?;
    Ok(if all_green {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn judge(file: &Path) -> Result<ExitCode> {
    let history = history::read(file).with_context(|| format!("judge {}", file.display()))?;
    let summary = Summary::of(&history);
    println!("{summary}");
    Ok(ExitCode::from(match summary.conclusion() {
        Conclusion::Green => 0,
        Conclusion::Red => 1,
        Conclusion::Void(_) => 2,
        Conclusion::Unclear => 3,
    }))
}
