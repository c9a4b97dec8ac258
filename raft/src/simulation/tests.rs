//! `make simulate SEED=N SEEDS=M` runs M seeds from N on, `make planted` proves that the simulation
//! sees what it is for; with all tests, a few of both run.

use std::ops::Range;

use parking_lot::Mutex;

use super::scenario::{Report, run_ordered, simulate};
use crate::planted::{Bug, PLANTED_BUG};

/// A setting from the environment; what is empty is not set.
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn number(name: &str, default: u64) -> u64 {
    setting(name).map_or(default, |text| {
        let number = text.parse();
        number.unwrap_or_else(|_| panic!("{name}={text} is no number"))
    })
}

/// Simulates as many seeds at once as there are processors, and prints what each has shown.
fn simulate_all(seeds: Range<u64>, planted: Option<Bug>) -> Vec<Report> {
    let reports = Mutex::new(Vec::new());
    let seeds = Mutex::new(seeds);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let work = || {
            while let Some(seed) = { seeds.lock().next() } {
                let report = simulate(seed, planted);
                println!("{report}");
                reports.lock().push(report);
            }
        };
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    let mut reports = reports.into_inner();
    reports.sort_by_key(|report| report.seed);
    reports
}

#[test]
fn nothing_promised_is_broken_whatever_the_seed() {
    let first = number("HYDRASCALE_SIM_SEED", 1);
    let seeds = number("HYDRASCALE_SIM_SEEDS", 12);
    let planted = setting(PLANTED_BUG);
    let planted = planted.map(|name| Bug::named(&name).unwrap_or_else(|| panic!("no bug {name}")));
    let mut red = Vec::new();
    let mut all = Report::default();
    for report in simulate_all(first..first.saturating_add(seeds), planted) {
        if !report.violations.is_empty() {
            red.push(report.seed);
        }
        all.add(&report);
    }
    println!("{seeds} seeds from {first} on: {}", all.figures());
    assert!(
        red.is_empty(),
        "red seeds: {red:?}; make simulate SEED=N SEEDS=1 repeats one"
    );
}

#[test]
#[ignore = "a process of the others, not for itself"]
fn one_simulation() {
    run_ordered();
}

#[test]
fn a_seed_repeats_itself() {
    let once = simulate(7, None);
    assert_eq!(once.violations, [""; 0]);
    assert_eq!(once, simulate(7, None));
}

/// Looks for a bug under one seed after the other; says how many it took and what was seen.
fn caught(bug: Bug, seeds_max: u64) -> Option<(u64, String)> {
    (1..=seeds_max).find_map(|seed| {
        let seen = simulate(seed, Some(bug)).violations;
        seen.into_iter().next().map(|what| (seed, what))
    })
}

#[test]
fn bugs_that_any_seed_shows_are_caught() {
    for bug in [Bug::AckBeforeStoring, Bug::ApplyNotDeterministic] {
        let found = caught(bug, 10);
        assert!(found.is_some(), "{} was not seen", bug.name());
    }
}

#[test]
#[ignore = "minutes; make planted runs it"]
fn every_planted_bug_is_caught() {
    let seeds_max = number("HYDRASCALE_SIM_SEEDS", 300);
    let mut missed = Vec::new();
    // The machine under simulation has no addresses.
    let here = |bug: &Bug| *bug != Bug::AddressByProposer;
    for bug in Bug::ALL.into_iter().filter(here) {
        match caught(bug, seeds_max) {
            Some((seed, what)) => println!("| {} | simulation, {what} | seed {seed} |", bug.name()),
            None => {
                println!("| {} | nothing | {seeds_max} seeds |", bug.name());
                missed.push(bug);
            }
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
