//! One simulation from its seed to its verdict.

use std::fmt;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use super::clients::{Counts, History, client};
use super::cluster::Cluster;
use super::entropy::set_clocks;
use super::faults::{Done, torment};
use super::invariants::{Seen, watch};
use super::network::DELAY_MAX;
use super::{begin, end, violation, violations};
use crate::planted::Bug;

/// What a simulation has shown.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) size: u64,
    pub(super) counts: Counts,
    pub(super) done: Done,
    pub(super) leaderships: usize,
    pub(super) snapshots: u64,
    /// Equal for two runs of one seed.
    pub(super) trace: u64,
    /// Empty when all is well.
    pub(super) violations: Vec<String>,
}

impl Report {
    /// The numbers in it.
    pub(super) fn figures(&self) -> String {
        let Counts {
            ok,
            failed,
            unknown,
        } = self.counts;
        let Done {
            crashes,
            partitions,
            rotations,
            other,
        } = self.done;
        format!(
            "ok={ok} failed={failed} unknown={unknown} crashes={crashes} partitions={partitions} \
             rotations={rotations} other={other} leaders={} snapshots={}",
            self.leaderships, self.snapshots
        )
    }

    /// Adds the numbers of another one.
    pub(super) fn add(&mut self, other: &Self) {
        self.counts.ok += other.counts.ok;
        self.counts.failed += other.counts.failed;
        self.counts.unknown += other.counts.unknown;
        self.done.crashes += other.done.crashes;
        self.done.partitions += other.done.partitions;
        self.done.rotations += other.done.rotations;
        self.done.other += other.done.other;
        self.leaderships += other.leaderships;
        self.snapshots += other.snapshots;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed, size, trace, ..
        } = self;
        let verdict = if self.violations.is_empty() {
            "GREEN"
        } else {
            "RED"
        };
        let figures = self.figures();
        write!(
            f,
            "seed {seed}: {verdict} voters={size} {figures} trace={trace:016x}"
        )?;
        let mut violations = self.violations.iter();
        violations.try_for_each(|one| write!(f, "\n  {one}"))
    }
}

/// Runs the simulation of a seed; every third has five voters.
///
/// In a process of its own: tokio counts the runtimes of a process, and draws from that number too.
pub(super) fn simulate(seed: u64, planted: Option<Bug>) -> Report {
    let order = format!("{seed} {}", planted.map_or("none", Bug::name));
    let program = std::env::current_exe().expect("the program of the tests");
    let ran = Command::new(program)
        .args(["--exact", PROCESS, "--ignored", "--nocapture"])
        .env(ORDER, order)
        .stderr(Stdio::inherit())
        .output();
    let printed = ran.expect("the program runs once more").stdout;
    let printed = String::from_utf8_lossy(&printed);
    let report = printed.lines().find_map(|line| line.split_once(MARK));
    let report = report.and_then(|(_, report)| serde_json::from_str(report).ok());
    report.unwrap_or_else(|| Report {
        seed,
        violations: vec!["no panic: the simulation did not come to its end".to_owned()],
        ..Report::default()
    })
}

/// What the process for one simulation does.
pub(super) fn run_ordered() {
    let Ok(order) = std::env::var(ORDER) else {
        return;
    };
    let (seed, planted) = order.split_once(' ').expect("a seed and a bug");
    let seed = seed.parse().expect("a seed");
    begin(seed, Bug::named(planted));
    // In any case: whether somebody looks must change nothing.
    tracing_subscriber::fmt()
        .with_ansi(false)
        .without_time()
        .with_writer(std::io::stderr)
        .with_env_filter(std::env::var("RUST_LOG").unwrap_or_else(|_| "off".to_owned()))
        .init();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panicked| {
        print(panicked);
        violation(format!("no panic: {panicked}"));
    }));
    let mut report = run(seed);
    report.trace = end();
    let report = serde_json::to_string(&report).expect("a report in JSON");
    println!("{MARK}{report}");
}

fn run(seed: u64) -> Report {
    let size = if seed.is_multiple_of(3) { 5 } else { 3 };
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .enable_random_order()
        .max_message_latency(DELAY_MAX)
        .tcp_capacity(SEGMENTS_MAX)
        .simulation_duration(DURATION_MAX)
        .build();
    let cluster = Cluster::create(size, &mut sim);
    let (reported, report) = mpsc::channel();
    let observed = Arc::clone(&cluster);
    sim.client("observer", async move {
        reported.send(observe(seed, size, observed).await)?;
        Ok(())
    });
    loop {
        match sim.step() {
            Ok(false) => {
                set_clocks(sim.elapsed());
                cluster.step(&mut sim);
            }
            Ok(true) => break,
            Err(error) => {
                violation(format!("end: {error}"));
                break;
            }
        }
    }
    let mut report = report.try_recv().unwrap_or_else(|_| Report {
        seed,
        size,
        ..Report::default()
    });
    report.violations = violations();
    report
}

/// Lets clients work while faults happen, and judges what came of it.
async fn observe(seed: u64, size: u64, cluster: Arc<Cluster>) -> Report {
    cluster.form().await;
    let history = Arc::new(History::default());
    let seen = Arc::new(Mutex::new(Seen::default()));
    let watching = tokio::spawn(watch(Arc::clone(&cluster), Arc::clone(&seen)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(client(Arc::clone(&cluster), Arc::clone(&history))))
        .collect();
    sleep(CALM).await;
    let done = torment(&cluster, TORMENT).await;
    recover(&history).await;
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    settle(&cluster).await;
    watching.abort();
    history.check(&cluster.ledger.lock());
    let counts = history.counts();
    if counts.ok < OK_MIN {
        violation(format!("void: {} operations were answered", counts.ok));
    }
    if done.crashes == 0 {
        violation("void: no replica has crashed".to_owned());
    }
    let leaderships = seen.lock().leaderships();
    Report {
        seed,
        size,
        counts,
        done,
        leaderships,
        snapshots: cluster.installs(),
        ..Report::default()
    }
}

/// After the last fault the cluster must work again.
async fn recover(history: &History) {
    let healed = Instant::now();
    let answered = history.counts().ok;
    while history.counts().ok < answered + 10 {
        if healed.elapsed() > RECOVERY {
            violation(format!(
                "progress: nothing is answered {RECOVERY:?} after the last fault"
            ));
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// All replicas must come to the same state.
async fn settle(cluster: &Cluster) {
    let equal = async {
        loop {
            let running = cluster.all_running();
            let states = running.iter().map(|one| {
                let applied = one.replica.status().borrow().applied_index;
                (applied, one.machine.state())
            });
            let states: Vec<_> = states.collect();
            if states.len() == cluster.ids().len()
                && states.iter().all(|one| Some(one) == states.first())
            {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    if timeout(RECOVERY, equal).await.is_err() {
        let running = cluster.all_running();
        let states = running.iter().map(|one| {
            let status = one.replica.status().borrow().clone();
            let (id, role, applied) = (status.replica_id, status.role, status.applied_index);
            let (leader, term, last) = (status.leader, status.term, status.last_log_index);
            let member = status.member(id).map(|member| member.voter);
            format!(
                "{id}: {role:?} of {leader:?} in term {term}, log to {last}, applied to {applied}, \
                 vote {member:?}"
            )
        });
        let states: Vec<String> = states.collect();
        violation(format!(
            "equal replicas: they differ {RECOVERY:?} after the last operation; {:?} do not run; {}",
            cluster.down(),
            states.join("; ")
        ));
    }
}

const CLIENTS: usize = 5;
/// Before the first fault.
const CALM: Duration = Duration::from_secs(1);
/// With faults.
const TORMENT: Duration = Duration::from_secs(12);
/// Until everything works again.
const RECOVERY: Duration = Duration::from_secs(15);
/// No simulation takes as long.
const DURATION_MAX: Duration = Duration::from_secs(180);
/// Of one connection under way, and connections that wait to be accepted.
const SEGMENTS_MAX: usize = 4096;
/// Fewer say nothing.
const OK_MIN: u64 = 50;
/// Tells a process which simulation it is for.
const ORDER: &str = "HYDRASCALE_SIM_ORDER";
/// The test that is such a process.
const PROCESS: &str = "simulation::tests::one_simulation";
/// Before the report on standard output.
const MARK: &str = "simulation report ";
