//! Judges histories. Pure: a [`History`] in, a [`Verdict`] out.
//!
//! [`register`] says whether reads, writes and swaps look as if each had happened at one moment,
//! by the search of [`linear`]; the other checkers each look for one thing that must never be.

pub mod caught_up;
pub mod linear;
pub mod listing;
pub mod preauth;
pub mod progress;
pub mod register;
pub mod removed;
pub mod sessions;
pub mod versions;
pub mod watch;

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{
    cluster::TIMING_MULTIPLIER,
    history::{History, Leadership},
};

/// After the last fault, and after a change, every open map stream shows it within this: 5 s on
/// replicas whose timers are not stretched.
pub const SHOWN: Duration = Duration::from_secs(5).saturating_mul(TIMING_MULTIPLIER);

/// What a checker says of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It looked at so many things, and all are as they must be.
    Holds(usize),
    /// This must never be.
    Violated(String),
    /// It looked at so much without an answer that it stopped.
    GaveUp(String),
    /// The history holds nothing to look at.
    NothingSeen,
}

impl Verdict {
    /// One verdict over parts: the worst of them.
    pub fn of_all(verdicts: impl IntoIterator<Item = Self>) -> Self {
        verdicts.into_iter().fold(Self::NothingSeen, Self::and)
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Violated(what), _) | (_, Self::Violated(what)) => Self::Violated(what),
            (Self::GaveUp(why), _) | (_, Self::GaveUp(why)) => Self::GaveUp(why),
            (Self::Holds(one), Self::Holds(two)) => Self::Holds(one + two),
            (Self::Holds(count), Self::NothingSeen) | (Self::NothingSeen, Self::Holds(count)) => {
                Self::Holds(count)
            }
            (Self::NothingSeen, Self::NothingSeen) => Self::NothingSeen,
        }
    }

    /// From looking at each of some things.
    pub(crate) fn from_looks(looked: Result<usize, String>) -> Self {
        match looked {
            Ok(0) => Self::NothingSeen,
            Ok(count) => Self::Holds(count),
            Err(what) => Self::Violated(what),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holds(count) => write!(f, "holds ({count})"),
            Self::Violated(what) => write!(f, "VIOLATED: {what}"),
            Self::GaveUp(why) => write!(f, "GAVE UP: {why}"),
            Self::NothingSeen => write!(f, "nothing to see"),
        }
    }
}

/// A checker and its name in summaries.
type Checker = (&'static str, fn(&History) -> Verdict);

/// All of them.
const CHECKERS: [Checker; 15] = [
    ("linearizable", register::check),
    ("single-use", preauth::check),
    ("addresses", listing::addresses),
    ("exactly-once", listing::once),
    ("kept", listing::kept),
    ("deleted", listing::deleted),
    ("removed", removed::check),
    ("one-primary", listing::primaries),
    ("sessions", sessions::check),
    ("versions", versions::check),
    ("monotonic", watch::check),
    ("caught-up", caught_up::check),
    ("one-leader", one_leader),
    ("progress", progress::check),
    ("replicas-equal", replicas_equal),
];

/// What every checker says.
pub fn judge(history: &History) -> Vec<(&'static str, Verdict)> {
    let judged = CHECKERS.iter();
    judged
        .map(|(name, check)| (*name, check(history)))
        .collect()
}

/// Leadership of a term passes to greater ids only: votes are ordered by term and then by the
/// candidate's id, so that a term may have a second leader, and never the first one again.
fn one_leader(history: &History) -> Verdict {
    let mut leaders = BTreeMap::new();
    for Leadership { term, replica, .. } in &history.leaders {
        let before = leaders.insert(*term, *replica);
        if let Some(before) = before.filter(|before| before >= replica) {
            let what = format!("replica {replica} led term {term} after replica {before}");
            return Verdict::Violated(what);
        }
    }
    Verdict::from_looks(Ok(leaders.len()))
}

fn replicas_equal(history: &History) -> Verdict {
    match &history.compared {
        None => Verdict::NothingSeen,
        Some(None) => Verdict::Holds(history.run.voters),
        Some(Some(difference)) => Verdict::Violated(difference.clone()),
    }
}

/// A time as histories count it.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_part_decides() {
        let wrong = || Verdict::Violated("this".to_owned());
        let tired = || Verdict::GaveUp("long".to_owned());
        assert_eq!(
            Verdict::of_all([Verdict::Holds(1), tired(), wrong()]),
            wrong()
        );
        assert_eq!(Verdict::of_all([tired(), Verdict::Holds(1)]), tired());
        let held = [Verdict::Holds(1), Verdict::NothingSeen, Verdict::Holds(2)];
        assert_eq!(Verdict::of_all(held), Verdict::Holds(3));
        assert_eq!(Verdict::of_all([]), Verdict::NothingSeen);
    }

    #[test]
    fn leadership_that_goes_back_within_a_term_is_found() {
        let led = |leaders: &[(u64, usize)]| {
            let seen = leaders.iter().map(|(term, replica)| Leadership {
                at: 0,
                term: *term,
                replica: *replica,
            });
            one_leader(&History {
                leaders: seen.collect(),
                ..History::default()
            })
        };
        assert_eq!(led(&[(1, 0), (2, 1), (3, 0)]), Verdict::Holds(3));
        assert_eq!(led(&[(2, 1), (2, 4), (3, 0)]), Verdict::Holds(2));
        assert!(matches!(
            led(&[(1, 0), (2, 1), (2, 0)]),
            Verdict::Violated(_)
        ));
    }
}
