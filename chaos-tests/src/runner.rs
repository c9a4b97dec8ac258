//! Runs the scenarios of one test file, one after another, inside a namespace.

use std::{
    any::Any,
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use futures::{FutureExt as _, future::LocalBoxFuture};
use tempfile::TempDir;

use crate::{
    clients::{Program, client_folder},
    netns, wait,
};

/// Until what was killed is gone: a process in the middle of a slow sync takes its time.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Chooses the random decisions of a run; printed with every failure.
const SEED: &str = "HYDRASCALE_CHAOS_SEED";
/// Where the scratch folder of a run is kept for reading, also after success.
const KEEP: &str = "HYDRASCALE_CHAOS_KEEP";

/// One claim and how it is shown.
pub struct Scenario {
    claim: &'static str,
    limit: Duration,
    needs: &'static [Program],
    run: fn(Context) -> LocalBoxFuture<'static, Result<()>>,
}

impl Scenario {
    /// A scenario that needs these programs and must end within `limit`.
    pub const fn new(
        claim: &'static str,
        limit: Duration,
        needs: &'static [Program],
        run: fn(Context) -> LocalBoxFuture<'static, Result<()>>,
    ) -> Self {
        Self {
            claim,
            limit,
            needs,
            run,
        }
    }
}

/// What a scenario gets.
#[derive(Clone)]
pub struct Context {
    scratch: PathBuf,
    seed: u64,
    figures: Arc<Mutex<Vec<String>>>,
}

impl Context {
    /// A folder of this scenario's own.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Where its random decisions start from.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Says what is being done.
    pub fn step(&self, what: &str) {
        println!("     {what}");
    }

    /// Reports a measured figure, now and again at the end of the run.
    pub fn measured(&self, what: &str, value: impl std::fmt::Display) {
        let figure = format!("{what}: {value}");
        println!("     measured {figure}");
        self.figures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(figure);
    }
}

#[derive(Clone, Copy, Default)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

/// The `main` of a test file without libtest. Arguments that are no options select the scenarios
/// whose claim contains one of them.
pub fn main(file: &str, scenarios: &[Scenario]) -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for scenario in scenarios {
            println!("{}: test", scenario.claim);
        }
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|text| !text.starts_with('-'))
        .collect();
    let selected: Vec<&Scenario> = scenarios
        .iter()
        .filter(|one| filters.is_empty() || filters.iter().any(|text| one.claim.contains(*text)))
        .collect();
    let outcome = if netns::is_inside() {
        inside(file, &selected)
    } else {
        outside(file, &selected)
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("{file}: {error:#}");
        ExitCode::FAILURE
    })
}

/// The `main` of a program that does one thing inside a namespace, with a given seed. What it leaves
/// in its scratch folder is kept unless it succeeds.
pub fn alone(
    name: &str,
    seed: u64,
    work: impl FnOnce(Context) -> LocalBoxFuture<'static, Result<ExitCode>>,
) -> ExitCode {
    let done = if netns::is_inside() {
        alone_inside(name, seed, work)
    } else {
        netns::check_available().and_then(|()| netns::run_inside())
    };
    done.unwrap_or_else(|error| {
        eprintln!("{name}: {error:#}");
        ExitCode::FAILURE
    })
}

fn alone_inside(
    name: &str,
    seed: u64,
    work: impl FnOnce(Context) -> LocalBoxFuture<'static, Result<ExitCode>>,
) -> Result<ExitCode> {
    let scratch = new_scratch()?;
    netns::set_up(scratch.path(), &client_folder()).context("set up the namespace")?;
    println!("{name}: seed {seed}");
    let runtime = new_runtime()?;
    let context = Context {
        scratch: scratch.path().to_owned(),
        seed,
        figures: Arc::default(),
    };
    let done = runtime.block_on(async {
        tokio::select! {
            done = work(context) => done,
            _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    if !done.as_ref().is_ok_and(|code| *code == ExitCode::SUCCESS) || env::var_os(KEEP).is_some() {
        println!("data and logs are kept in {}", scratch.keep().display());
    }
    done
}

fn new_scratch() -> Result<TempDir> {
    let scratch = tempfile::Builder::new()
        .prefix("hydrascale-chaos-")
        .tempdir()?;
    allow_everybody_to_enter(scratch.path())?;
    Ok(scratch)
}

fn new_runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.enable_all().build()?)
}

fn outside(file: &str, selected: &[&Scenario]) -> Result<ExitCode> {
    if let Err(reason) = netns::check_available() {
        let tally = Tally {
            skipped: selected.len(),
            ..Tally::default()
        };
        println!("SKIPPED all of {file}: {reason:#}");
        return Ok(conclude(file, tally));
    }
    netns::run_inside()
}

fn inside(file: &str, selected: &[&Scenario]) -> Result<ExitCode> {
    let scratch = new_scratch()?;
    netns::set_up(scratch.path(), &client_folder()).context("set up the namespace")?;
    let seed = seed()?;
    println!("\n{file}: {} scenarios, {SEED}={seed}", selected.len());
    let runtime = new_runtime()?;
    let figures = Arc::default();
    let mut tally = Tally::default();
    for (index, scenario) in selected.iter().enumerate() {
        let folder = scratch.path().join(index.to_string());
        fs::create_dir(&folder)?;
        let context = Context {
            scratch: folder,
            seed,
            figures: Arc::clone(&figures),
        };
        runtime.block_on(run_one(scenario, context, &mut tally))?;
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
    for figure in figures
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
    {
        println!("{file}: {figure}");
    }
    keep_if_useful(scratch, tally);
    Ok(conclude(file, tally))
}

/// Whether nobody else runs in the namespace. Zombies hold nothing.
fn is_alone() -> bool {
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else {
        return true;
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut others = names.filter(|name| name.parse().is_ok_and(|pid: u32| pid != own));
    others.all(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z "))
    })
}

async fn run_one(scenario: &Scenario, context: Context, tally: &mut Tally) -> Result<()> {
    let missing: Vec<String> = scenario
        .needs
        .iter()
        .filter_map(|one| one.missing())
        .collect();
    if !missing.is_empty() {
        println!(
            "SKIPPED {}: missing: {}",
            scenario.claim,
            missing.join(", ")
        );
        tally.skipped += 1;
        return Ok(());
    }
    println!("---- {}", scenario.claim);
    let begin = Instant::now();
    let run = std::panic::AssertUnwindSafe((scenario.run)(context)).catch_unwind();
    // Process 1 of a namespace has no default action for Ctrl-C.
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(scenario.limit, run) => outcome,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    };
    let verdict = match outcome {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(panic)) => Err(anyhow!("panicked: {}", panic_text(panic.as_ref()))),
        Err(_) => Err(anyhow!("not done within {:?}", scenario.limit)),
    };
    let took = begin.elapsed().as_secs_f64();
    // The next scenario takes the same addresses.
    let alone = async || is_alone().then_some(());
    if let Err(error) = wait::until("the end of what was killed", END_LIMIT, alone).await {
        println!("{error:#}");
    }
    match verdict {
        Ok(()) => {
            println!("ok   {} ({took:.1} s)", scenario.claim);
            tally.passed += 1;
        }
        Err(error) => {
            println!("FAIL {} ({took:.1} s): {error:#}", scenario.claim);
            tally.failed += 1;
        }
    }
    Ok(())
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}

fn seed() -> Result<u64> {
    match env::var(SEED) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{SEED} must be a number: {text:?}")),
        Err(_) => Ok(u64::from(rand::random::<u32>())),
    }
}

/// Clients run as users of their own, in folders below.
fn allow_everybody_to_enter(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn keep_if_useful(scratch: TempDir, tally: Tally) {
    if tally.failed > 0 || env::var_os(KEEP).is_some() {
        println!("data and logs are kept in {}", scratch.keep().display());
    }
}

/// A skipped claim is not shown: on CI, where everything is installed, that is a failure.
fn conclude(file: &str, tally: Tally) -> ExitCode {
    let Tally {
        passed,
        failed,
        skipped,
    } = tally;
    println!("{file}: {passed} passed, {failed} failed, {skipped} SKIPPED");
    let on_ci = env::var("CI").is_ok_and(|ci| ci == "true");
    if failed > 0 || (on_ci && skipped > 0) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
