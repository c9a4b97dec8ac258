//! The replicated core in turmoil: whole replicas (consensus, log, state machine, services, HTTP/2,
//! exactly once, read index, membership), each on a simulated machine with a clock of its own, on
//! disks that lose what was not synced, and on a network that delays, parts and breaks. One thread
//! runs them all and one seed decides everything, so that it repeats a failure.
//!
//! Every replica's own threads become tasks ([`run_later`], the log's sync). What is left out: TLS,
//! whose randomness no seed governs; RocksDB, which has threads of its own.

mod clients;
mod cluster;
mod disk;
mod entropy;
mod faults;
mod invariants;
mod machine;
mod network;
mod process;
mod runtime;
mod scenario;
mod secrets;
mod tests;
mod wire;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::sleep;

pub(crate) use self::network::Host;
pub(crate) use self::runtime::Runtime;
use crate::codec::Vote;
use crate::planted::Bug;

/// What everything in one simulation shares; a thread runs one at a time.
struct World {
    random: StdRng,
    planted: Option<Bug>,
    /// Longest time that half of a sync takes.
    disk: Duration,
    /// When somebody last looked at the clock.
    passed: Duration,
    /// A digest of what happened when.
    trace: u64,
    /// What must never be.
    violations: Vec<String>,
    /// The highest vote that each replica has given.
    promised: BTreeMap<u64, Vote>,
    /// Told of every vote that a replica writes, by its id.
    voted: Option<tokio::sync::mpsc::Sender<u64>>,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fn with<T>(use_it: impl FnOnce(&mut World) -> T) -> Option<T> {
    WORLD.with_borrow_mut(|world| world.as_mut().map(use_it))
}

/// Begins a simulation on this thread.
fn begin(seed: u64, planted: Option<Bug>) {
    entropy::fix();
    let world = World {
        random: StdRng::seed_from_u64(seed),
        planted,
        disk: DISK,
        passed: Duration::ZERO,
        trace: 0,
        violations: Vec::new(),
        promised: BTreeMap::new(),
        voted: None,
    };
    WORLD.set(Some(world));
}

/// Ends the simulation; returns the digest of what happened.
fn end() -> u64 {
    WORLD.take().map_or(0, |world| world.trace)
}

/// Whether this thread runs a simulation.
pub(crate) fn is_on() -> bool {
    with(|_| ()).is_some()
}

/// The bug planted in this simulation.
pub(crate) fn planted() -> Option<Bug> {
    with(|world| world.planted).flatten()
}

/// A number that the seed decides.
fn random(range: Range<u64>) -> u64 {
    let start = range.start;
    with(|world| {
        if range.is_empty() {
            start
        } else {
            world.random.random_range(range)
        }
    })
    .unwrap_or(start)
}

/// True in so many of a hundred cases.
fn chance(percent: u64) -> bool {
    random(0..100) < percent
}

/// One of several.
fn choose<T: Copy>(from: &[T]) -> Option<T> {
    let place = usize::try_from(random(0..from.len() as u64)).ok()?;
    from.get(place).copied()
}

fn millis(range: Range<u64>) -> Duration {
    Duration::from_millis(random(range))
}

/// Takes note of an event, so that two runs of a seed can be compared.
fn note(event: &[u64]) {
    let at = u64::try_from(passed().as_micros()).unwrap_or(u64::MAX);
    with(|world| {
        world.trace = machine::mix(world.trace, at);
        for part in event {
            world.trace = machine::mix(world.trace, *part);
        }
    });
}

/// Simulated time since the beginning. Each machine has a clock of its own, so that the instants of
/// one mean nothing on another.
fn passed() -> Duration {
    let now = turmoil::sim_elapsed();
    with(|world| {
        // Between two steps it is the time of the last look.
        world.passed = now.unwrap_or(world.passed);
        world.passed
    })
    .unwrap_or_default()
}

/// Reports what must never be.
fn violation(what: String) {
    with(|world| {
        if world.violations.len() < VIOLATIONS_MAX && !world.violations.contains(&what) {
            world.violations.push(what);
        }
    });
}

fn violations() -> Vec<String> {
    with(|world| world.violations.clone()).unwrap_or_default()
}

/// A replica tells somebody that it votes so: it must never go back behind it.
pub(crate) fn promised(replica: u64, vote: Vote) {
    with(|world| {
        let before = world.promised.entry(replica).or_insert(vote);
        if vote > *before {
            *before = vote;
        }
    });
}

/// A replica starts with this vote on its disk.
fn check_promise(replica: u64, vote: Option<Vote>) {
    let promised = with(|world| world.promised.get(&replica).copied()).flatten();
    if promised > vote {
        violation(format!(
            "promises: replica {replica} starts with vote {vote:?}, it had given {promised:?}"
        ));
    }
}

/// A replica has written its vote.
fn voted(replica: u64) {
    with(|world| {
        if let Some(listener) = &world.voted {
            // Who does not keep up, or listens no more, misses it.
            let _ = listener.try_send(replica);
        }
    });
}

/// Runs blocking work as a task, a little later.
pub(crate) fn run_later<T, F>(work: F) -> JoinHandle<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    tokio::spawn(async move {
        sleep(Duration::from_micros(random(0..5_000))).await;
        work()
    })
}

/// As long as half of a sync takes.
pub(crate) async fn disk_delay() {
    let most = with(|world| world.disk).unwrap_or(DISK);
    let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
    sleep(Duration::from_micros(random(0..most))).await;
}

/// Half of a sync, when the disk is well.
const DISK: Duration = Duration::from_millis(2);
/// More say nothing more.
const VIOLATIONS_MAX: usize = 5;
