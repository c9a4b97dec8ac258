//! What a run has shown. Pure: a history in, one line and a result out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use crate::{
    checker::{Verdict, judge, nanos, progress},
    history::{History, Run, Spell},
    nemesis::Nemesis,
    outcome::Outcome,
    workload::Workload,
};

/// Operations per second of faults that must have succeeded: less is no progress.
const OK_PER_SECOND_MIN: u64 = 2;
/// So long after a fault a new leader may be seen that it made: replicas are asked again and again.
const LEADER_LATE: Duration = Duration::from_millis(1500);
/// And a snapshot that it made necessary: a replica that was cut off must be reached again.
const SNAPSHOT_LATE: Duration = Duration::from_secs(10);
/// The checkers that see something in every run.
const ALWAYS: [&str; 2] = ["one-leader", "replicas-equal"];

/// What a run comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// Enough happened, and all of it was right.
    Green,
    /// Something happened that must never happen.
    Red,
    /// A checker found no answer.
    Unclear,
    /// Nothing wrong was seen, but too little happened to say so.
    Void(String),
}

/// A judged run.
#[derive(Clone, Debug)]
pub struct Summary {
    run: Run,
    outcomes: BTreeMap<Outcome, usize>,
    faults: BTreeMap<String, usize>,
    terms: BTreeSet<u64>,
    snapshots: u64,
    gap: Option<Duration>,
    verdicts: Vec<(&'static str, Verdict)>,
    complete: bool,
    /// What a nemesis should have brought about and did not.
    vain: Option<String>,
}

impl Summary {
    /// Judges a history.
    pub fn of(history: &History) -> Self {
        let mut outcomes = BTreeMap::new();
        for one in &history.operations {
            *outcomes.entry(one.outcome).or_default() += 1;
        }
        let mut faults = BTreeMap::new();
        for fault in &history.faults {
            *faults.entry(fault.nemesis.clone()).or_default() += 1;
        }
        Self {
            run: history.run.clone(),
            outcomes,
            faults,
            terms: history.leaders.iter().map(|one| one.term).collect(),
            snapshots: history.snapshots.iter().map(|one| one.count).sum(),
            gap: progress::longest_gap(history),
            verdicts: judge(history),
            complete: history.ended && history.compared.is_some(),
            vain: vain(history),
        }
    }

    /// What it comes to.
    pub fn conclusion(&self) -> Conclusion {
        let any = |holds: fn(&Verdict) -> bool| self.verdicts.iter().any(|(_, one)| holds(one));
        if any(|one| matches!(one, Verdict::Violated(_))) {
            return Conclusion::Red;
        }
        if let Some(missing) = self.missing() {
            return Conclusion::Void(missing);
        }
        if any(|one| matches!(one, Verdict::GaveUp(_))) {
            return Conclusion::Unclear;
        }
        Conclusion::Green
    }

    /// What would have had to happen and did not.
    fn missing(&self) -> Option<String> {
        if !self.complete {
            return Some("it did not come to its end".to_owned());
        }
        let idle = self
            .run
            .nemeses
            .iter()
            .find(|one| !self.faults.contains_key(*one));
        if let Some(nemesis) = idle {
            return Some(format!("{nemesis} was never installed"));
        }
        let ok = self.count(Outcome::Ok);
        let needed = OK_PER_SECOND_MIN * self.run.seconds;
        if u64::try_from(ok).is_ok_and(|ok| ok < needed) {
            return Some(format!(
                "no progress: {ok} operations succeeded, {needed} are needed"
            ));
        }
        if let Some(vain) = &self.vain {
            return Some(vain.clone());
        }
        let asked: Vec<Workload> = self
            .run
            .workload
            .split('+')
            .filter_map(Workload::named)
            .collect();
        let unseen = self
            .verdicts
            .iter()
            .filter(|(_, verdict)| *verdict == Verdict::NothingSeen);
        let mut checkers = Workload::checkers(&asked);
        checkers.extend(ALWAYS);
        let blind = unseen
            .map(|(name, _)| *name)
            .find(|name| checkers.contains(name));
        blind.map(|name| format!("the checker {name} had nothing to look at"))
    }

    /// What every checker says.
    pub fn verdicts(&self) -> &[(&'static str, Verdict)] {
        &self.verdicts
    }

    /// Nemeses with how many faults they installed.
    pub const fn faults(&self) -> &BTreeMap<String, usize> {
        &self.faults
    }

    /// How many snapshots replicas installed.
    pub const fn snapshots(&self) -> u64 {
        self.snapshots
    }

    /// How many operations came to this.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.outcomes.get(&outcome).copied().unwrap_or_default()
    }

    /// How many terms with another leader were seen.
    pub fn leader_changes(&self) -> usize {
        self.terms.len().saturating_sub(1)
    }
}

/// What a nemesis of the run should have brought about by one of its faults, and did not.
fn vain(history: &History) -> Option<String> {
    let Run {
        nemeses, voters, ..
    } = &history.run;
    for nemesis in nemeses.iter().filter_map(|name| Nemesis::named(name)) {
        let name = nemesis.name();
        let mut faults = history.faults.iter().filter(|one| one.nemesis == name);
        if nemesis.changes_leader(*voters) && !faults.clone().any(|one| led_anew(history, one)) {
            return Some(format!("the leader never changed by {name}"));
        }
        if nemesis.installs_snapshots() && !faults.any(|one| installed(history, one)) {
            return Some(format!("no replica installed a snapshot after {name}"));
        }
    }
    None
}

/// Whether somebody else led a newer term from the fault on.
fn led_anew(history: &History, fault: &Spell) -> bool {
    let before = history.leaders.iter().filter(|one| one.at < fault.from);
    let Some(known) = before.max_by_key(|one| one.term) else {
        return false;
    };
    let mut after = history
        .leaders
        .iter()
        .filter(|one| is_of(fault, one.at, LEADER_LATE));
    after.any(|one| one.term > known.term && one.replica != known.replica)
}

fn installed(history: &History, fault: &Spell) -> bool {
    let mut all = history.snapshots.iter();
    all.any(|one| is_of(fault, one.at, SNAPSHOT_LATE))
}

/// Whether a moment is within a fault, or not so long after it.
fn is_of(fault: &Spell, at: u64, late: Duration) -> bool {
    let until = fault.until.unwrap_or(u64::MAX);
    let until = until.saturating_add(nanos(late));
    (fault.from..=until).contains(&at)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run {
            seed,
            workload,
            voters,
            seconds,
            ..
        } = &self.run;
        write!(
            f,
            "workload={workload} voters={voters} seconds={seconds} seed={seed}"
        )?;
        let [ok, failed, unknown] =
            [Outcome::Ok, Outcome::Failed, Outcome::Unknown].map(|one| self.count(one));
        write!(f, " | ok={ok} failed={failed} unknown={unknown} | faults:")?;
        for (nemesis, count) in &self.faults {
            write!(f, " {nemesis}={count}")?;
        }
        write!(f, " | leader changes={}", self.leader_changes())?;
        write!(f, ", snapshots installed={}", self.snapshots)?;
        if let Some(gap) = self.gap {
            write!(f, ", at most {gap:.1?} without a change")?;
        }
        write!(f, " |")?;
        let seen = self
            .verdicts
            .iter()
            .filter(|(_, one)| *one != Verdict::NothingSeen);
        for (index, (checker, verdict)) in seen.enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma} {checker} {verdict}")?;
        }
        match self.conclusion() {
            Conclusion::Green => write!(f, " | GREEN"),
            Conclusion::Red => write!(f, " | RED"),
            Conclusion::Unclear => write!(f, " | UNCLEAR"),
            Conclusion::Void(why) => write!(f, " | VOID: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Answer, Installation, Leadership, Op, Operation};

    const SECOND: u64 = 1_000_000_000;

    /// A fault from and to these seconds.
    fn fault(nemesis: &str, (from, to): (u64, u64)) -> Spell {
        Spell {
            nemesis: nemesis.to_owned(),
            what: "kill [0]".to_owned(),
            from: from * SECOND,
            until: Some(to * SECOND),
        }
    }

    /// Who leads from some second on.
    fn led(second: u64, term: u64, replica: usize) -> Leadership {
        Leadership {
            at: second * SECOND,
            term,
            replica,
        }
    }

    /// A good run of ten seconds under one nemesis.
    fn good() -> History {
        let read = |id: u64| Operation {
            id,
            process: 1,
            op: Op::Read {
                key: "k".to_owned(),
            },
            call: id * 10,
            end: Some(id * 10 + 5),
            outcome: Outcome::Ok,
            answer: Answer::Value { value: 0 },
        };
        History {
            run: Run {
                seed: 7,
                workload: "users".to_owned(),
                nemeses: ["kill-leader".to_owned()].into(),
                voters: 3,
                seconds: 10,
            },
            operations: (0..30).map(read).collect(),
            faults: vec![fault("kill-leader", (2, 6))],
            leaders: vec![led(0, 1, 0), led(4, 2, 1)],
            compared: Some(None),
            ended: true,
            ..History::default()
        }
    }

    fn void(history: &History) -> String {
        match Summary::of(history).conclusion() {
            Conclusion::Void(why) => why,
            Conclusion::Green | Conclusion::Red | Conclusion::Unclear => {
                panic!("{}", Summary::of(history))
            }
        }
    }

    #[test]
    fn a_good_run_is_green_and_says_what_it_saw() {
        let summary = Summary::of(&good());
        assert_eq!(summary.conclusion(), Conclusion::Green);
        assert_eq!(
            summary.to_string(),
            "workload=users voters=3 seconds=10 seed=7 | ok=30 failed=0 unknown=0 | faults: \
             kill-leader=1 | leader changes=1, snapshots installed=0 | linearizable holds (30), one-leader holds (2), \
             replicas-equal holds (3) | GREEN"
        );
    }

    #[test]
    fn a_run_in_which_too_little_happened_is_void() {
        let faultless = History {
            faults: Vec::new(),
            ..good()
        };
        assert!(void(&faultless).contains("never installed"));
        let idle = History {
            operations: good().operations[..10].to_vec(),
            ..good()
        };
        assert!(void(&idle).contains("no progress"));
        let calm = History {
            leaders: vec![led(0, 1, 0)],
            ..good()
        };
        assert!(void(&calm).contains("leader never changed"));
        let mut without_snapshots = good();
        without_snapshots.run.nemeses = ["snapshot".to_owned()].into();
        without_snapshots.faults = vec![fault("snapshot", (2, 6))];
        assert!(void(&without_snapshots).contains("no replica installed"));
        let interrupted = History {
            ended: false,
            ..good()
        };
        assert!(void(&interrupted).contains("end"));
        let alone = History {
            compared: None,
            ..good()
        };
        assert!(void(&alone).contains("end"));
        let blind = History {
            leaders: Vec::new(),
            run: Run {
                nemeses: ["kill".to_owned()].into(),
                ..good().run
            },
            faults: vec![fault("kill", (2, 6))],
            ..good()
        };
        assert!(void(&blind).contains("one-leader"));
        let mut elsewhere = good();
        elsewhere.run.workload = "users+nodes".to_owned();
        assert!(void(&elsewhere).contains("had nothing to look at"));
    }

    #[test]
    fn what_one_nemesis_brings_about_is_no_effect_of_another() {
        let mut two = good();
        two.run.nemeses.insert("transfer".to_owned());
        two.faults.push(fault("transfer", (8, 9)));
        assert!(void(&two).contains("never changed by transfer"));
        // One of its faults is enough.
        two.faults.push(fault("transfer", (12, 15)));
        two.leaders.push(led(16, 3, 0));
        assert_eq!(Summary::of(&two).conclusion(), Conclusion::Green);
        two.run.nemeses.insert("snapshot".to_owned());
        two.faults.push(fault("snapshot", (17, 20)));
        let mut before = two.clone();
        before.snapshots = vec![Installation {
            at: 5 * SECOND,
            count: 1,
        }];
        assert!(void(&before).contains("after snapshot"));
        two.snapshots = vec![Installation {
            at: 22 * SECOND,
            count: 1,
        }];
        assert_eq!(Summary::of(&two).conclusion(), Conclusion::Green);
    }

    #[test]
    fn every_checker_that_a_workload_needs_exists() {
        let known = judge(&History::default());
        let known: BTreeSet<&str> = known.into_iter().map(|(name, _)| name).collect();
        let mut needed = Workload::checkers(&[Workload::All]);
        needed.extend(ALWAYS);
        needed.retain(|name| !known.contains(name));
        assert!(needed.is_empty(), "{needed:?}");
    }

    #[test]
    fn what_must_never_be_is_red_even_when_too_little_happened() {
        let mut wrong = History {
            faults: Vec::new(),
            ..good()
        };
        wrong.operations[3].answer = Answer::Value { value: 9 };
        assert_eq!(Summary::of(&wrong).conclusion(), Conclusion::Red);
        let apart = History {
            compared: Some(Some("a and b differ".to_owned())),
            ..good()
        };
        assert_eq!(Summary::of(&apart).conclusion(), Conclusion::Red);
    }
}
