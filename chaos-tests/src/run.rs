//! One fault run: a cluster behind proxies, clients that ask, faults that come and go, and a history
//! of it all.

mod leaders;
pub mod series;
mod snapshots;

use std::{env, fs, ops::Range, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    Context,
    checker::progress::GAP_MAX,
    cluster::{Cluster, Options, Replica},
    history::{Recorder, Run},
    links::{Links, door_address},
    log::Mark,
    nemesis::{Executor, Nemesis},
    workload::{Clients, Target, Workload},
};
use leaders::Leaders;
use snapshots::Snapshots;

/// Names the bug that is planted in the replicas, if they are built for it.
const PLANTED_BUG: &str = "HYDRASCALE_PLANTED_BUG";
/// Before the first fault, and after the last one.
const CALM: Duration = Duration::from_secs(3);
/// How long a fault lasts: some elections with timers stretched by three.
const FAULT_MIN: Duration = Duration::from_secs(4);
const FAULT_MAX: Duration = Duration::from_secs(6);
/// How long a bridge lasts: some more than those beside it may take to choose another leader.
const BRIDGE_MIN: Duration = GAP_MAX.saturating_add(Duration::from_secs(10));
const BRIDGE_MAX: Duration = BRIDGE_MIN.saturating_add(Duration::from_secs(1));
/// Between two faults.
const REST_MAX: Duration = Duration::from_secs(2);
/// Until all replicas are equal after the last fault.
const EQUAL_LIMIT: Duration = Duration::from_secs(60);

/// Log entries between two snapshots, where replicas shall need them.
const SNAPSHOT_OFTEN: u64 = 50;
/// And where there shall be some.
const SNAPSHOT_SOMETIMES: u64 = 500;
/// A disk that holds what a run writes, with room that is quickly filled.
const DISK_MIB: u32 = 256;

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What clients do.
    pub workloads: Vec<Workload>,
    /// What is done to the replicas, in turn.
    pub nemeses: Vec<Nemesis>,
    /// For how long faults are installed.
    pub time: Duration,
    /// Chooses the random decisions.
    pub seed: u64,
    /// How many replicas vote.
    pub voters: usize,
}

impl Plan {
    fn run(&self) -> Run {
        let workloads = self.workloads.iter().map(|one| one.name());
        let names = self.nemeses.iter().map(|one| one.name().to_owned());
        Run {
            seed: self.seed,
            workload: workloads.collect::<Vec<_>>().join("+"),
            nemeses: names.collect(),
            voters: self.voters,
            seconds: self.time.as_secs(),
        }
    }

    /// What the replicas must be for these nemeses.
    fn options(&self) -> Options {
        let any = |holds: fn(Nemesis) -> bool| self.nemeses.iter().any(|one| holds(*one));
        let often = any(Nemesis::installs_snapshots).then_some(SNAPSHOT_OFTEN);
        let sometimes = any(Nemesis::damages_files).then_some(SNAPSHOT_SOMETIMES);
        Options {
            log_level: "info",
            proxied: true,
            snapshot_every: often.or(sometimes),
            own_clock: any(|one| one == Nemesis::Clock),
            disk_mib: any(|one| one == Nemesis::DiskFull).then_some(DISK_MIB),
            ..Options::default()
        }
    }
}

/// Runs a plan and writes its history; judges nothing.
///
/// # Errors
/// When the harness fails. What the cluster does wrong is in the history.
pub async fn run(context: &Context, plan: &Plan, history: &Path) -> Result<()> {
    let mut random = StdRng::seed_from_u64(plan.seed);
    // One more for the replica that comes and goes.
    let links = Links::start(plan.voters + 1).await?;
    let mut cluster = Cluster::start_with(context, plan.voters, plan.options()).await?;
    check_planted(context, &cluster)?;
    let targets = targets(&cluster)?;
    let api_key = cluster.create_api_key().await?;
    let recorder = Recorder::create(history, &plan.run())?;
    let leaders = Leaders::watch(&targets, &recorder);
    let snapshots = Snapshots::watch(&cluster, &recorder);
    let mut clients =
        Clients::start(&plan.workloads, &targets, &api_key, &recorder, &mut random).await?;
    context.step("clients are at work");
    sleep(CALM).await;
    let faulty = Faulty {
        context,
        plan,
        leaders: &leaders,
        recorder: &recorder,
        executor: Executor::new(&mut cluster, &links),
    };
    let trouble = faulty.run(&mut random, &mut clients).await?;
    links.heal();
    sleep(CALM).await;
    clients.finish().await?;
    snapshots.finish().await;
    let difference = match trouble {
        Some(trouble) => Some(trouble),
        None => difference(&mut cluster).await,
    };
    recorder.compared(difference);
    recorder.finish()
}

/// The phase with faults.
struct Faulty<'a> {
    context: &'a Context,
    plan: &'a Plan,
    leaders: &'a Leaders,
    recorder: &'a Recorder,
    executor: Executor<'a>,
}

impl Faulty<'_> {
    /// Installs faults until the time is over; says what a healed replica did wrong.
    async fn run(mut self, random: &mut StdRng, clients: &mut Clients) -> Result<Option<String>> {
        let begin = Instant::now();
        let Plan { nemeses, time, .. } = self.plan;
        let mut waiting: Vec<Nemesis> = Vec::new();
        for turn in 0.. {
            // Each once, in another order each time, which the seed alone decides.
            if waiting.is_empty() {
                waiting.clone_from(nemeses);
                waiting.sort_unstable();
                waiting.shuffle(random);
            }
            let Some(nemesis) = waiting.pop() else {
                break;
            };
            // On a slow machine, too, each gets its turn.
            let limit = if turn < nemeses.len() {
                *time * 2
            } else {
                *time
            };
            if begin.elapsed() + length(nemesis).start > limit {
                break;
            }
            clients.check()?;
            if let Some(trouble) = self.one(nemesis, random).await? {
                return Ok(Some(trouble));
            }
            sleep(random.random_range(Duration::ZERO..REST_MAX)).await;
        }
        sleep_until(begin + *time).await;
        Ok(None)
    }

    async fn one(&mut self, nemesis: Nemesis, random: &mut StdRng) -> Result<Option<String>> {
        let leader = self.leaders.current().await;
        let fault = nemesis.draw(random, self.plan.voters, leader);
        let lasts = random.random_range(length(nemesis));
        let what = fault.to_string();
        self.context
            .step(&format!("{}: {what}, {lasts:.1?}", nemesis.name()));
        // Recorded first: what it causes may be seen before it is all installed.
        self.recorder.fault(nemesis.name(), what.clone(), false);
        self.executor.install(&fault).await?;
        let lasted = self.executor.last(&fault, lasts).await;
        let healed = self.executor.heal(&fault).await;
        let (mut notes, mut trouble) = (vec![what], None);
        for came in [lasted, healed] {
            match came {
                Ok(note) => notes.extend(note),
                Err(error) => {
                    trouble.get_or_insert_with(|| format!("{}: {error:#}", nemesis.name()));
                }
            }
        }
        if let [_, .., note] = notes.as_slice() {
            self.context.step(&format!("{}: {note}", nemesis.name()));
        }
        self.recorder.fault(nemesis.name(), notes.join(": "), true);
        Ok(trouble)
    }
}

/// How long a fault of this nemesis lasts.
fn length(nemesis: Nemesis) -> Range<Duration> {
    if nemesis == Nemesis::Bridge {
        BRIDGE_MIN..BRIDGE_MAX
    } else {
        FAULT_MIN..FAULT_MAX
    }
}

/// A bug that the environment names must be in every replica: they inherit it from here.
fn check_planted(context: &Context, cluster: &Cluster) -> Result<()> {
    let Some(bug) = env::var_os(PLANTED_BUG).filter(|bug| !bug.is_empty()) else {
        return Ok(());
    };
    let bug = bug.to_string_lossy();
    let said = format!("PLANTED BUG: {bug} ");
    for replica in cluster.replicas() {
        let lines = replica
            .log()?
            .lines_since(Mark::START, |line| line.contains(&said));
        ensure!(
            !lines.is_empty(),
            "replica {} does not say that {bug} is planted in it: build the replicas with \
             `--features hydrascale/planted-bugs`, or unset {PLANTED_BUG}",
            replica.name()
        );
    }
    context.step(&format!("PLANTED BUG: {bug}"));
    Ok(())
}

fn targets(cluster: &Cluster) -> Result<Vec<Target>> {
    let replicas = cluster.replicas().iter().enumerate();
    let target = |(index, replica): (usize, &Replica)| {
        Ok(Target {
            socket: replica.socket(),
            address: replica.client_address(),
            door: door_address(index)?,
        })
    };
    replicas.map(target).collect()
}

/// In what the replicas differ, or what else they did that none may do.
async fn difference(cluster: &mut Cluster) -> Option<String> {
    if let Err(ended) = cluster.check_alive() {
        return Some(format!("{ended:#}"));
    }
    // Each has a leader again and has caught up.
    let running: Vec<usize> = cluster.running().map(|(index, _)| index).collect();
    for index in running {
        if let Err(late) = cluster.wait_ready(index).await {
            return Some(format!("{late:#}"));
        }
    }
    if let Err(differ) = cluster.wait_equal(EQUAL_LIMIT).await {
        return Some(format!("{differ:#}"));
    }
    for replica in cluster.replicas() {
        match panics(replica.folder()) {
            Ok(None) => {}
            Ok(Some(line)) => return Some(format!("replica {}: {line}", replica.name())),
            Err(error) => return Some(format!("the log of {}: {error:#}", replica.name())),
        }
    }
    None
}

/// The first line of the logs in a folder that tells of a panic.
fn panics(folder: &Path) -> Result<Option<String>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_log = path.file_stem().is_some_and(|stem| stem == "log");
        if !is_log {
            continue;
        }
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let text = String::from_utf8_lossy(&text);
        if let Some(line) = text.lines().find(|line| line.contains("panicked at")) {
            return Ok(Some(line.to_owned()));
        }
    }
    Ok(None)
}
