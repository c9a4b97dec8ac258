//! The `hydrascale` executable, which also answers to the name `headscale`.

use std::env;
use std::io::{self, BufReader, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hydrascale::cli::{self, DemoArgs, Hooks, Output};
use hydrascale::config::{Config, Environment};
use hydrascale::{demo, server, telemetry};
use mimalloc::MiMalloc;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let argv: Vec<_> = env::args_os().collect();
    let environment = Environment::new(text_variables(), host_name());
    let hooks = Hooks {
        serve,
        demo: run_demo,
        version: server::version(),
    };
    let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
    // Not locked: a command that reads a backup from there does so on another thread.
    let mut stdin = BufReader::new(io::stdin());
    let (color, watched) = (stdout.is_terminal(), stderr.is_terminal());
    let mut out = Output::new(&mut stdout, &mut stderr, &mut stdin, color);
    out.set_watched(watched);
    ExitCode::from(cli::run(&argv, &environment, &hooks, &mut out))
}

/// The variables whose names and values are text; others are none of ours.
fn text_variables() -> Vec<(String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    env::vars_os().filter_map(text).collect()
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

fn serve(config: Config) -> anyhow::Result<()> {
    let serving = async {
        let name = config.cluster.replica_name.clone();
        let _telemetry = telemetry::init(&config.log, config.otlp.as_ref(), &name)?;
        let stop = CancellationToken::new();
        let reload = Arc::new(Notify::new());
        let _guard = tokio::spawn(heed_signals(stop.clone(), reload.clone())?);
        Ok(server::serve(config, stop, reload).await?)
    };
    run_to_end(runtime()?, serving, STUCK_AFTER)
}

/// Runs `work`, which stops in order what it has started. What blocks a thread for `stuck_after` then
/// waits for a file system that hangs, like one for backups, and would do so for ever.
fn run_to_end<T>(runtime: Runtime, work: impl Future<Output = T>, stuck_after: Duration) -> T {
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(stuck_after);
    outcome
}

/// Resolves into the watch for the signals that ask a process to end, and for the one that asks it
/// to read its sealing keys and its policy file again.
fn heed_signals(
    stop: CancellationToken,
    reload: Arc<Notify>,
) -> anyhow::Result<impl Future<Output = ()>> {
    let mut hang_up = signal(SignalKind::hangup()).context("SIGHUP cannot be watched")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be watched")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be watched")?;
    let mut quit = signal(SignalKind::quit()).context("SIGQUIT cannot be watched")?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = quit.recv() => break,
                _ = hang_up.recv() => reload.notify_one(),
            }
        }
        stop.cancel();
    })
}

fn run_demo(args: DemoArgs, _environment: &Environment) -> anyhow::Result<()> {
    let mut out = io::stdout();
    let outcome = run_to_end(runtime()?, demo::run(args, &mut out), STUCK_AFTER);
    out.flush()?;
    outcome
}

fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime cannot start")
}

/// Threads that block for that long at the end are given up.
const STUCK_AFTER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_file_system_that_hangs_does_not_hold_up_the_end() {
        let (hanging, hangs) = mpsc::channel::<()>();
        let work = async {
            tokio::task::spawn_blocking(move || hangs.recv().is_ok());
        };
        run_to_end(runtime().unwrap(), work, Duration::from_millis(1));
        drop(hanging);
    }
}
