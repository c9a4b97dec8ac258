//! How fast the policy engine compiles a policy and follows changes, beside the least that any engine
//! with bitsets must do. `make bench-policy` runs it; what the figures mean: `DESIGN.md`.
//!
//! ```text
//! cargo bench                criterion: times
//! policy --count WHAT N      does WHAT once for N nodes, inside `counted`, for callgrind
//! policy --memory N          prints what an engine takes
//! ```

#![expect(clippy::print_stdout, reason = "a program that prints figures")]
#![expect(missing_docs, reason = "criterion's macros make undocumented items")]

mod floor;
mod team;

use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Context, bail};
use criterion::{BenchmarkId, Criterion};
use hydrascale::policy::{Difference, Document, Engine, Facts};
use hydrascale::state::{Change, State};

use self::team::Team;

/// As in the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
/// Engines that are held at once to measure one.
const HELD: u64 = 8;

/// A change, with the engine before and the state after it.
struct Followed {
    before: Arc<Engine>,
    state: State,
    change: Change,
}

impl Followed {
    fn of(
        nodes: usize,
        what: impl Fn(&mut Team) -> anyhow::Result<Change>,
    ) -> anyhow::Result<Self> {
        let mut team = Team::new(nodes)?;
        let before = Arc::new(Engine::of(&team.state));
        let change = what(&mut team)?;
        Ok(Self {
            before,
            state: team.state,
            change,
        })
    }

    fn follow(&self) -> Arc<Engine> {
        self.before.follow(&self.state, &self.change)
    }
}

/// What can be followed, by name.
fn change(name: &str, nodes: usize) -> anyhow::Result<Followed> {
    match name {
        "rule" => Followed::of(nodes, |team| team.set_policy(Some(501))),
        "tag" => Followed::of(nodes, |team| team.retag(nodes / 6 * 3 + 2)),
        "node" => Followed::of(nodes, |team| team.add_node(nodes)),
        "router" => Followed::of(nodes, |team| team.add_node(nodes + 20)),
        _ => bail!("nothing is called {name}"),
    }
}

fn measure(criterion: &mut Criterion) -> anyhow::Result<()> {
    for nodes in SIZES {
        let sets = floor::sets(nodes);
        criterion.bench_with_input(
            BenchmarkId::new("floor", nodes),
            &nodes,
            |bencher, nodes| {
                bencher.iter(|| floor::classes(*nodes, &sets));
            },
        );
        let team = Team::new(nodes)?;
        let text = team::policy(nodes, None);
        let id = BenchmarkId::new("parse", nodes);
        criterion.bench_with_input(id, &text, |bencher, text| {
            bencher.iter(|| Document::parse(text, &Facts::default()));
        });
        let document = Document::parse(&text, &Facts::default())?;
        let document = Arc::new(document);
        let id = BenchmarkId::new("full", nodes);
        criterion.bench_with_input(id, &team.state, |bencher, state| {
            bencher.iter(|| Engine::new(Arc::clone(&document), state));
        });
        for name in ["rule", "tag", "node", "router"] {
            let followed = change(name, nodes)?;
            let id = BenchmarkId::new(name, nodes);
            criterion.bench_with_input(id, &followed, |bencher, followed| {
                bencher.iter(|| followed.follow());
            });
        }
        let followed = change("rule", nodes)?;
        let after = followed.follow();
        criterion.bench_function(&format!("difference/{nodes}"), |bencher| {
            bencher.iter(|| Difference::of(&followed.before, &after));
        });
        let engine = Engine::of(&team.state);
        let ids: Vec<_> = team.state.nodes().map(|node| node.id).collect();
        let mut next = ids.iter().cycle();
        criterion.bench_function(&format!("filter/{nodes}"), |bencher| {
            bencher.iter(|| next.next().map(|id| engine.filter(*id)));
        });
    }
    Ok(())
}

/// Where callgrind counts.
#[inline(never)]
fn counted<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

fn count(what: &str, nodes: usize) -> anyhow::Result<()> {
    match what {
        "floor" => {
            let sets = floor::sets(nodes);
            black_box(counted(|| floor::classes(nodes, &sets)));
        }
        "parse" => {
            let text = team::policy(nodes, None);
            black_box(counted(|| Document::parse(&text, &Facts::default())))?;
        }
        "full" => {
            let team = Team::new(nodes)?;
            let document = Document::parse(&team::policy(nodes, None), &Facts::default())?;
            let document = Arc::new(document);
            black_box(counted(|| Engine::new(document, &team.state)));
        }
        "difference" => {
            let followed = change("rule", nodes)?;
            let after = followed.follow();
            black_box(counted(|| Difference::of(&followed.before, &after)));
        }
        name => {
            let followed = change(name, nodes)?;
            black_box(counted(|| followed.follow()));
        }
    }
    Ok(())
}

fn memory(nodes: usize) -> anyhow::Result<()> {
    let team = Team::new(nodes)?;
    let document = Document::parse(&team::policy(nodes, None), &Facts::default())?;
    let document = Arc::new(document);
    let mut held = vec![Engine::new(Arc::clone(&document), &team.state)];
    let classes = held.first().context("one is held")?.class_count() as u64;
    let before = resident_bytes()?;
    for _ in 0..HELD {
        held.push(Engine::new(Arc::clone(&document), &team.state));
    }
    let engine = resident_bytes()?.saturating_sub(before) / HELD;
    println!(
        "{nodes} nodes: {engine} bytes an engine, {} bytes a node, {classes} classes, {} bytes a class",
        engine / nodes as u64,
        engine / classes.max(1)
    );
    drop(held);
    Ok(())
}

fn resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line
        .context("no VmRSS")?
        .trim()
        .trim_end_matches(" kB")
        .parse()?;
    Ok(kib * 1024)
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments = arguments.iter().skip(1).map(String::as_str);
    let arguments: Vec<&str> = arguments
        .filter(|argument| *argument != "--bench")
        .collect();
    match arguments.as_slice() {
        ["--count", what, nodes] => count(what, nodes.parse()?),
        ["--memory", nodes] => memory(nodes.parse()?),
        _ => {
            let mut criterion = Criterion::default().configure_from_args();
            measure(&mut criterion)?;
            criterion.final_summary();
            Ok(())
        }
    }
}
