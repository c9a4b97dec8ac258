//! Many runs, one after another, each with faults, voters and seed of its own: hours in all. What is
//! done is kept in a file, so that an interrupted series goes on where it was, and the report is
//! written anew after each run. What another commit has done is no part of either.

mod report;

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use data_encoding::HEXLOWER;
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    checker::Verdict,
    cluster::{SERVER, server_program},
    history,
    nemesis::Nemesis,
    netns::killed_with_us,
    outcome::Outcome,
    summary::{Conclusion, Summary},
};

/// Seconds with faults.
const SECONDS: u64 = 60;
/// Kinds of faults in one run: each has about two turns, beside a bridge one.
const NEMESES: usize = 4;
/// In the folder of a series.
const STATE_FILE: &str = "done.jsonl";
/// The commit of a folder of which git knows nothing: what it has done is never known again.
const UNKNOWN: &str = "unknown";
/// Of the hash of what was changed since a commit.
const HASH_DIGITS: usize = 8;

/// A series of runs.
#[derive(Clone, Debug)]
pub struct Series {
    /// Where its state and the histories are that are not green.
    pub folder: PathBuf,
    /// How many runs it has.
    pub runs: u64,
    /// The seed of the first run; each has the next one.
    pub seed: u64,
    /// The report whose section is to be written.
    pub report: PathBuf,
}

/// What a run of a series is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Draw {
    seed: u64,
    voters: usize,
    nemeses: Vec<Nemesis>,
}

/// A finished run: one line of the state file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Done {
    seed: u64,
    voters: usize,
    /// That of the executables, which was read before the first run.
    commit: String,
    ok: usize,
    failed: usize,
    unknown: usize,
    /// The nemeses of the run with how many faults they installed, if any.
    faults: Vec<(String, usize)>,
    leader_changes: usize,
    snapshots: u64,
    /// Checkers with what they looked at; none when they found nothing to look at.
    held: Vec<(String, usize)>,
    /// GREEN, or what else it came to.
    conclusion: String,
}

impl Series {
    /// Makes the runs that are not done yet; says whether all are green.
    ///
    /// # Errors
    /// When a run leaves no history, or a file cannot be written.
    pub fn run(&self) -> Result<bool> {
        fs::create_dir_all(&self.folder)?;
        let tested = Tested::copy(&self.folder, commit())?;
        let mut done = self.done()?;
        done.retain(|one| one.commit == tested.commit && one.commit != UNKNOWN);
        for draw in draws(self.seed, self.runs) {
            if done.iter().any(|one| one.is_of(&draw)) {
                continue;
            }
            let one = self.one(&draw, &tested)?;
            let mut state = fs::File::options()
                .append(true)
                .create(true)
                .open(self.state())?;
            writeln!(state, "{}", serde_json::to_string(&one)?)?;
            done.push(one);
            report::write(&self.report, &done)?;
        }
        fs::remove_dir_all(&tested.folder)?;
        Ok(done.iter().all(Done::is_green))
    }

    fn state(&self) -> PathBuf {
        self.folder.join(STATE_FILE)
    }

    fn done(&self) -> Result<Vec<Done>> {
        let state = self.state();
        if !state.exists() {
            return Ok(Vec::new());
        }
        let text = fs::read_to_string(&state)?;
        let lines = text.lines().map(serde_json::from_str);
        let lines: Result<_, _> = lines.collect();
        lines.with_context(|| format!("read {}", state.display()))
    }

    /// One run, as a process of its own: the namespace that it makes ends with it.
    fn one(&self, draw: &Draw, tested: &Tested) -> Result<Done> {
        let Tested { folder, commit } = tested;
        let history = format!("{}-{commit}.jsonl", draw.seed);
        let history = self.folder.join(history);
        if history.exists() {
            // Of a run that was interrupted.
            fs::remove_file(&history)?;
        }
        let names: Vec<&str> = draw.nemeses.iter().map(|one| one.name()).collect();
        let status = killed_with_us(folder.join(HARNESS))
            .env(SERVER, folder.join(REPLICA))
            .args(["run", "--workload", "all", "--nemesis", &names.join(",")])
            .args([
                "--time",
                &SECONDS.to_string(),
                "--seed",
                &draw.seed.to_string(),
            ])
            .args(["--voters", &draw.voters.to_string(), "--history"])
            .arg(&history)
            .status()?;
        let read = history::read(&history);
        let read = read.with_context(|| format!("the run of seed {} ({status})", draw.seed))?;
        let done = Done::of(draw, &Summary::of(&read), commit.clone());
        if done.is_green() {
            fs::remove_file(&history)?;
        }
        Ok(done)
    }
}

/// The executables of a series: copies, so that a build meanwhile changes nothing.
struct Tested {
    folder: PathBuf,
    /// What they were built from, as far as the working folder tells when the series begins.
    commit: String,
}

/// In the folder of the copies.
const HARNESS: &str = "chaos";
const REPLICA: &str = "hydrascale";

impl Tested {
    fn copy(series: &Path, commit: String) -> Result<Self> {
        let folder = series.join(format!("tested-{commit}"));
        if folder.exists() {
            // Of a series that was interrupted.
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir(&folder)?;
        let own = env::current_exe()?;
        for (from, name) in [(own, HARNESS), (server_program(), REPLICA)] {
            fs::copy(&from, folder.join(name))
                .with_context(|| format!("copy {}", from.display()))?;
        }
        Ok(Self { folder, commit })
    }
}

impl Done {
    fn of(draw: &Draw, summary: &Summary, commit: String) -> Self {
        let held = summary
            .verdicts()
            .iter()
            .filter_map(|(name, verdict)| match verdict {
                Verdict::Holds(count) => Some(((*name).to_owned(), *count)),
                Verdict::Violated(_) | Verdict::GaveUp(_) | Verdict::NothingSeen => None,
            });
        let faults = draw.nemeses.iter().map(|one| {
            let count = summary.faults().get(one.name()).copied();
            (one.name().to_owned(), count.unwrap_or_default())
        });
        Self {
            seed: draw.seed,
            voters: draw.voters,
            commit,
            ok: summary.count(Outcome::Ok),
            failed: summary.count(Outcome::Failed),
            unknown: summary.count(Outcome::Unknown),
            faults: faults.collect(),
            leader_changes: summary.leader_changes(),
            snapshots: summary.snapshots(),
            held: held.collect(),
            conclusion: match summary.conclusion() {
                Conclusion::Green => GREEN.to_owned(),
                Conclusion::Red => "RED".to_owned(),
                Conclusion::Unclear => "UNCLEAR".to_owned(),
                Conclusion::Void(why) => format!("VOID: {why}"),
            },
        }
    }

    /// Whether this is what came of that run.
    fn is_of(&self, draw: &Draw) -> bool {
        let names = self.faults.iter().map(|(name, _)| name.as_str());
        (self.seed, self.voters) == (draw.seed, draw.voters)
            && names.eq(draw.nemeses.iter().map(|one| one.name()))
    }

    fn is_green(&self) -> bool {
        self.conclusion == GREEN
    }
}

const GREEN: &str = "GREEN";

/// What the runs are: three and five voters in turn, and every nemesis before one comes again.
fn draws(seed: u64, runs: u64) -> Vec<Draw> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut deck: Vec<Nemesis> = Vec::new();
    let mut draws = Vec::new();
    for number in 0..runs {
        let mut nemeses: Vec<Nemesis> = Vec::new();
        while nemeses.len() < NEMESES {
            let Some(next) = deck.pop() else {
                deck.extend(Nemesis::ALL);
                deck.shuffle(&mut random);
                continue;
            };
            if !nemeses.contains(&next) {
                nemeses.push(next);
            }
        }
        draws.push(Draw {
            seed: seed + number,
            voters: if number % 2 == 0 { 3 } else { 5 },
            nemeses,
        });
    }
    draws
}

/// The commit of the working folder, with a plus and a hash of what was changed since, if it was.
fn commit() -> String {
    let git = |words: &[&str]| {
        let done = Command::new("git").args(words).output().ok()?;
        done.status.success().then_some(done.stdout)
    };
    let head = git(&["rev-parse", "--short=10", "HEAD"]);
    let changes = git(&["diff", "HEAD", "--", ".", ":!*REPORT.md"]);
    let (Some(head), Some(changes)) = (head, changes) else {
        return UNKNOWN.to_owned();
    };
    let head = String::from_utf8_lossy(&head).trim().to_owned();
    if changes.is_empty() {
        return head;
    }
    let hash = HEXLOWER.encode(&Sha256::digest(changes));
    let hash: String = hash.chars().take(HASH_DIGITS).collect();
    format!("{head}+{hash}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_series_draws_the_same_runs_again_and_leaves_no_nemesis_out() {
        let all = draws(7, 20);
        assert_eq!(all, draws(7, 20));
        let first: BTreeSet<Nemesis> = all
            .iter()
            .take(6)
            .flat_map(|one| one.nemeses.clone())
            .collect();
        assert_eq!(first.len(), Nemesis::ALL.len());
        let distinct = |one: &Draw| BTreeSet::from_iter(&one.nemeses).len() == NEMESES;
        assert!(all.iter().all(distinct));
        assert_eq!(all.iter().filter(|one| one.voters == 5).count(), 10);
    }

    #[test]
    fn a_run_is_done_when_its_faults_and_voters_are_the_same_too() {
        let drawn = |seed, voters, nemeses: &[Nemesis]| Draw {
            seed,
            voters,
            nemeses: nemeses.to_vec(),
        };
        let both = [Nemesis::Kill, Nemesis::Bridge];
        let summary = Summary::of(&history::History::default());
        let done = Done::of(&drawn(7, 3, &both), &summary, "abc".to_owned());
        assert!(done.is_of(&drawn(7, 3, &both)));
        assert!(!done.is_of(&drawn(8, 3, &both)));
        assert!(!done.is_of(&drawn(7, 5, &both)));
        assert!(!done.is_of(&drawn(7, 3, &[Nemesis::Kill])));
        // What was never installed is in the report as well: the command needs it.
        let named = [("kill".to_owned(), 0), ("bridge".to_owned(), 0)];
        assert_eq!(done.faults, named);
    }
}
