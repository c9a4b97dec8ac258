//! What a run has shown. Pure: a history in, one line and a result out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use crate::{
    checker::{Verdict, judge, progress},
    history::{History, Run},
    nemesis::Nemesis,
    outcome::Outcome,
};

/// Operations per second of faults that must have succeeded: less is no progress.
const OK_PER_SECOND_MIN: u64 = 2;

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
}

impl Summary {
    /// Judges a history.
    pub fn of(history: &History) -> Self {
        let mut outcomes = BTreeMap::new();
        for one in &history.operations {
            *outcomes.entry(one.outcome).or_default() += 1;
        }
        let mut faults = BTreeMap::new();
        for (nemesis, _) in &history.faults {
            *faults.entry(nemesis.clone()).or_default() += 1;
        }
        Self {
            run: history.run.clone(),
            outcomes,
            faults,
            terms: history.leaders.iter().map(|(term, _)| *term).collect(),
            snapshots: history.snapshots,
            gap: progress::longest_gap(history),
            verdicts: judge(history),
            complete: history.ended && history.compared.is_some(),
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
        let aimed = |at: fn(Nemesis) -> bool| {
            let nemeses = self.run.nemeses.iter();
            nemeses.filter_map(|name| Nemesis::named(name)).any(at)
        };
        if aimed(Nemesis::changes_leader) && self.leader_changes() == 0 {
            return Some("the leader never changed".to_owned());
        }
        if aimed(Nemesis::installs_snapshots) && self.snapshots == 0 {
            return Some("no replica installed a snapshot".to_owned());
        }
        let is_seen = |one: &&(_, Verdict)| one.1 != Verdict::NothingSeen;
        // In every run there are leaders, and replicas are compared.
        if self.verdicts.iter().filter(is_seen).count() < 3 {
            return Some("no checker had anything to look at".to_owned());
        }
        None
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
    use crate::history::{Answer, Op, Operation};

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
            faults: vec![("kill-leader".to_owned(), "kill [0]".to_owned())],
            leaders: vec![(1, 0), (2, 1)],
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
            leaders: vec![(1, 0)],
            ..good()
        };
        assert!(void(&calm).contains("leader never changed"));
        let mut without_snapshots = good();
        without_snapshots.run.nemeses = ["snapshot".to_owned()].into();
        without_snapshots.faults = vec![("snapshot".to_owned(), "kill [0]".to_owned())];
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
