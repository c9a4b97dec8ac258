//! What to do next, given what everybody answered. No IO, no clock of its own.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hydrascale_proto::raft::v1 as pb;

/// What came of greeting one address.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// No answer, or none that can be read, and why.
    Silent(String),
    /// A replica without a cluster.
    Waiting(pb::WaitingReplica),
    /// A cluster that takes the replica.
    Invited(pb::Invitation),
    /// A cluster that does not.
    Refused(String),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// There is a cluster to join.
    Join(pb::Invitation),
    /// There is a cluster that this replica has no place in.
    GiveUp(String),
    /// Ask everybody to yield.
    Claim,
    /// Everybody yields.
    Make,
    /// Greet again later, and why.
    Wait(String),
}

/// Decides for the replica `own` after each address was greeted.
pub(super) fn next_step(own: &pb::Newcomer, answers: &[Answer]) -> Step {
    let mut others: Vec<&pb::Newcomer> = Vec::new();
    let mut yielding = 0;
    for answer in answers {
        match answer {
            Answer::Invited(invitation) => return Step::Join(invitation.clone()),
            Answer::Refused(reason) => return Step::GiveUp(reason.clone()),
            Answer::Waiting(pb::WaitingReplica {
                who: Some(who),
                yields,
            }) => {
                let is_known = others.iter().any(|other| other.instance == who.instance);
                if who.instance != own.instance && !is_known {
                    others.push(who);
                    yielding += usize::from(*yields);
                }
            }
            Answer::Waiting(_) | Answer::Silent(_) => {}
        }
    }
    if let Some(other) = others.iter().find(|other| other.expect != own.expect) {
        return Step::Wait(format!(
            "replica {} expects {} replicas, this one {}: cluster.bootstrap_expect must be the same on \
             all of them",
            other.name, other.expect, own.expect
        ));
    }
    let found = others.len() + 1;
    let expected = usize::try_from(own.expect).unwrap_or(usize::MAX);
    if found != expected {
        return Step::Wait(format!(
            "{found} of {expected} replicas are here{}",
            silence(answers)
        ));
    }
    if others.iter().any(|other| other.name == own.name) {
        return Step::Wait(format!(
            "another replica is called {} as well: give each its own cluster.replica_name",
            own.name
        ));
    }
    match others.iter().map(|other| &other.name).min() {
        Some(least) if *least < own.name => Step::Wait(format!("{least} makes the cluster")),
        Some(_) if yielding < others.len() => Step::Claim,
        Some(_) | None => Step::Make,
    }
}

/// Who does not answer, and why.
fn silence(answers: &[Answer]) -> String {
    let silent = answers.iter().filter_map(|answer| match answer {
        Answer::Silent(reason) => Some(format!("; {reason}")),
        Answer::Waiting(_) | Answer::Invited(_) | Answer::Refused(_) => None,
    });
    silent.collect()
}

/// Whom this replica leaves the making of the cluster to.
#[derive(Debug, Default)]
pub(super) struct Yielding {
    to: Option<(Bytes, Instant)>,
    claims: bool,
}

impl Yielding {
    /// Whether `claimant` may make the cluster as far as `own` is concerned. Who is told so is the only
    /// one for [`YIELD_TIME`].
    pub(super) fn yield_to(
        &mut self,
        own: &pb::Newcomer,
        claimant: &pb::Newcomer,
        now: Instant,
    ) -> bool {
        let taken = self.holder(now).is_some_and(|to| *to != claimant.instance);
        if self.claims || taken || claimant.name >= own.name {
            return false;
        }
        self.to = Some((claimant.instance.clone(), now));
        true
    }

    /// Whether this replica may claim now; until [`Self::end_claim`] it then yields to nobody.
    pub(super) fn begin_claim(&mut self, now: Instant) -> bool {
        self.claims = self.holder(now).is_none();
        self.claims
    }

    /// The claim did not succeed.
    pub(super) fn end_claim(&mut self) {
        self.claims = false;
    }

    fn holder(&self, now: Instant) -> Option<&Bytes> {
        let (to, since) = self.to.as_ref()?;
        (now.saturating_duration_since(*since) < YIELD_TIME).then_some(to)
    }
}

/// Several times what a claim takes: who was yielded to has made the cluster by then, or gave up.
pub(super) const YIELD_TIME: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn newcomer(name: &str, expect: u32) -> pb::Newcomer {
        pb::Newcomer {
            instance: Bytes::copy_from_slice(name.as_bytes()),
            name: name.to_owned(),
            expect,
        }
    }

    fn waiting(name: &str, yields: bool) -> Answer {
        Answer::Waiting(pb::WaitingReplica {
            who: Some(newcomer(name, 3)),
            yields,
        })
    }

    fn step(own: &str, answers: &[Answer]) -> Step {
        next_step(&newcomer(own, 3), answers)
    }

    #[test]
    fn the_least_of_exactly_the_expected_replicas_makes_the_cluster_once_all_yield() {
        let all = [
            waiting("a", false),
            waiting("b", false),
            waiting("c", false),
        ];
        assert_eq!(step("a", &all), Step::Claim);
        assert!(matches!(step("b", &all), Step::Wait(_)));
        let yielding = [waiting("a", false), waiting("b", true), waiting("c", true)];
        assert_eq!(step("a", &yielding), Step::Make);
        let half = [waiting("a", false), waiting("b", true), waiting("c", false)];
        assert_eq!(step("a", &half), Step::Claim);
    }

    #[test]
    fn too_few_too_many_and_strangers_make_none() {
        let silent = Answer::Silent("c: nobody".to_owned());
        let few = [waiting("a", false), waiting("b", true), silent];
        assert!(matches!(step("a", &few), Step::Wait(reason) if reason.contains("c: nobody")));
        let many = ["a", "b", "c", "d"].map(|name| waiting(name, true));
        assert!(matches!(step("a", &many), Step::Wait(_)));
        // One address twice is one replica.
        let twice = [waiting("a", false), waiting("b", true), waiting("b", true)];
        assert!(matches!(step("a", &twice), Step::Wait(_)));
    }

    #[test]
    fn replicas_that_were_told_different_things_make_none() {
        let other = pb::WaitingReplica {
            who: Some(newcomer("b", 5)),
            yields: true,
        };
        let answers = [Answer::Waiting(other), waiting("c", true)];
        assert!(
            matches!(step("a", &answers), Step::Wait(reason) if reason.contains("bootstrap_expect"))
        );
        let mut namesake = newcomer("a", 3);
        namesake.instance = Bytes::from_static(b"another");
        let namesake = Answer::Waiting(pb::WaitingReplica {
            who: Some(namesake),
            yields: true,
        });
        let answers = [namesake, waiting("c", true)];
        assert!(
            matches!(step("a", &answers), Step::Wait(reason) if reason.contains("replica_name"))
        );
    }

    #[test]
    fn whoever_meets_a_cluster_makes_none() {
        let invitation = pb::Invitation::default();
        let answers = [
            waiting("b", true),
            waiting("c", true),
            Answer::Invited(invitation.clone()),
        ];
        assert_eq!(step("a", &answers), Step::Join(invitation));
        let answers = [waiting("b", true), Answer::Refused("full".to_owned())];
        assert_eq!(step("a", &answers), Step::GiveUp("full".to_owned()));
    }

    #[test]
    fn one_alone_is_expected_and_makes_it() {
        assert_eq!(next_step(&newcomer("a", 1), &[]), Step::Make);
    }

    #[test]
    fn a_replica_yields_to_one_at_a_time() {
        let begin = Instant::now();
        let (a, b, c) = (newcomer("a", 3), newcomer("b", 3), newcomer("c", 3));
        let mut yielding = Yielding::default();
        assert!(yielding.yield_to(&c, &b, begin));
        assert!(!yielding.yield_to(&c, &a, begin));
        assert!(yielding.yield_to(&c, &b, begin));
        assert!(!yielding.begin_claim(begin));
        assert!(yielding.yield_to(&c, &a, begin + YIELD_TIME));
    }

    #[test]
    fn a_replica_that_claims_yields_to_nobody() {
        let begin = Instant::now();
        let (a, b) = (newcomer("a", 3), newcomer("b", 3));
        let mut yielding = Yielding::default();
        assert!(yielding.begin_claim(begin));
        assert!(!yielding.yield_to(&b, &a, begin));
        yielding.end_claim();
        assert!(yielding.yield_to(&b, &a, begin));
        assert!(
            !yielding.yield_to(&a, &b, begin + YIELD_TIME),
            "b is greater"
        );
    }
}
