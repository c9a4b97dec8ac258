//! What to do next, given what everybody answered. No IO, no clock of its own.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hydrascale_proto::raft::v1 as pb;

/// What came of greeting one address.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// No answer that says that nobody there has a cluster, and why.
    Unclear(String),
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
///
/// Whoever does not say that it waits may be part of a cluster: a single such address keeps this
/// replica from making one.
pub(super) fn next_step(own: &pb::Newcomer, answers: &[Answer]) -> Step {
    if let Some(step) = known_cluster(answers) {
        return step;
    }
    let unclear: Vec<&str> = answers.iter().filter_map(unclear).collect();
    let others = others(own, answers);
    if let Some(other) = others.iter().find(|(other, _)| other.expect != own.expect) {
        return Step::Wait(format!(
            "replica {} expects {} replicas, this one {}: cluster.bootstrap_expect must be the same on \
             all of them",
            other.0.name, other.0.expect, own.expect
        ));
    }
    let found = others.len() + 1;
    let expected = usize::try_from(own.expect).unwrap_or(usize::MAX);
    if found != expected || !unclear.is_empty() {
        let why = unclear.join("; ");
        return Step::Wait(format!("{found} of {expected} replicas are here; {why}"));
    }
    let mut names: Vec<&str> = others
        .iter()
        .map(|(other, _)| other.name.as_str())
        .collect();
    names.push(&own.name);
    names.sort_unstable();
    if let Some(name) = names.windows(2).find_map(|two| match two {
        [one, other] if one == other => Some(*one),
        _ => None,
    }) {
        return Step::Wait(format!(
            "two replicas are called {name}: give each its own cluster.replica_name"
        ));
    }
    match names.first() {
        Some(least) if *least != own.name => Step::Wait(format!("{least} makes the cluster")),
        Some(_) | None if others.iter().all(|(_, yields)| *yields) => Step::Make,
        Some(_) | None => Step::Claim,
    }
}

/// What follows from having met a cluster, if one was met.
fn known_cluster(answers: &[Answer]) -> Option<Step> {
    let mut found: Option<&pb::Invitation> = None;
    for answer in answers {
        match answer {
            Answer::Refused(reason) => return Some(Step::GiveUp(reason.clone())),
            Answer::Invited(other) => match found {
                Some(one) if one.cluster_id != other.cluster_id => {
                    return Some(Step::Wait(format!(
                        "cluster.peers leads to two clusters, {} and {}",
                        one.cluster_id, other.cluster_id
                    )));
                }
                Some(_) | None => found = Some(other),
            },
            Answer::Waiting(_) | Answer::Unclear(_) => {}
        }
    }
    found.map(|invitation| Step::Join(invitation.clone()))
}

fn unclear(answer: &Answer) -> Option<&str> {
    match answer {
        Answer::Unclear(reason) => Some(reason),
        Answer::Waiting(_) | Answer::Invited(_) | Answer::Refused(_) => None,
    }
}

/// The other replicas that wait, each once, and whether it yields.
fn others<'a>(own: &pb::Newcomer, answers: &'a [Answer]) -> Vec<(&'a pb::Newcomer, bool)> {
    let mut others: Vec<(&pb::Newcomer, bool)> = Vec::new();
    for answer in answers {
        if let Answer::Waiting(waiting) = answer
            && let Some(who) = &waiting.who
            && who.instance != own.instance
            && !others
                .iter()
                .any(|(known, _)| known.instance == who.instance)
        {
            others.push((who, waiting.yields));
        }
    }
    others
}

/// Whom this replica leaves the making of the cluster to.
#[derive(Debug, Default)]
pub(super) struct Yielding {
    to: Option<(Bytes, Instant)>,
    /// What the next claim must repeat: an old one that somebody sends again is none.
    challenge: Bytes,
    claims: bool,
    settled: bool,
}

impl Yielding {
    /// Yields to nobody before it was challenged.
    pub(super) fn new(challenge: Bytes) -> Self {
        Self {
            challenge,
            ..Self::default()
        }
    }

    /// What a claim must repeat now.
    pub(super) fn challenge(&self) -> Bytes {
        self.challenge.clone()
    }

    /// Whether `claimant` may make the cluster as far as `own` is concerned. Who is told so is the only
    /// one for [`YIELD_TIME`]; the next claim, also of the same one, must repeat `next`.
    pub(super) fn yield_to(
        &mut self,
        own: &pb::Newcomer,
        (claimant, claim): (&pb::Newcomer, &Bytes),
        next: Bytes,
        now: Instant,
    ) -> bool {
        let taken = self.holder(now).is_some_and(|to| *to != claimant.instance);
        if self.claims
            || self.settled
            || taken
            || claimant.name >= own.name
            || *claim != self.challenge
        {
            return false;
        }
        self.to = Some((claimant.instance.clone(), now));
        self.challenge = next;
        true
    }

    /// Whether this replica may claim now; until [`Self::rest`] it then yields to nobody.
    pub(super) fn begin_claim(&mut self, now: Instant) -> bool {
        self.claims = self.holder(now).is_none();
        self.claims
    }

    /// This replica joins a cluster, or makes one: it no longer waits.
    pub(super) fn settle(&mut self) {
        self.settled = true;
    }

    /// Whether it no longer waits.
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// It waits again.
    pub(super) fn rest(&mut self) {
        self.claims = false;
        self.settled = false;
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

    fn waits(who: pb::Newcomer, yields: bool) -> Answer {
        Answer::Waiting(pb::WaitingReplica {
            who: Some(who),
            yields,
            challenge: Bytes::new(),
        })
    }

    fn waiting(name: &str, yields: bool) -> Answer {
        waits(newcomer(name, 3), yields)
    }

    fn invited(cluster_id: &str) -> Answer {
        Answer::Invited(pb::Invitation {
            cluster_id: cluster_id.to_owned(),
            ..pb::Invitation::default()
        })
    }

    fn step(own: &str, answers: &[Answer]) -> Step {
        next_step(&newcomer(own, 3), answers)
    }

    fn reason(own: &str, answers: &[Answer]) -> String {
        let step = step(own, answers);
        let Step::Wait(reason) = step else {
            panic!("no reason to wait: {step:?}");
        };
        reason
    }

    #[test]
    fn the_least_of_exactly_the_expected_replicas_makes_the_cluster_once_all_yield() {
        let all = [
            waiting("a", false),
            waiting("b", false),
            waiting("c", false),
        ];
        assert_eq!(step("a", &all), Step::Claim);
        assert!(reason("b", &all).contains("a makes"));
        let yielding = [waiting("a", false), waiting("b", true), waiting("c", true)];
        assert_eq!(step("a", &yielding), Step::Make);
        let half = [waiting("a", false), waiting("b", true), waiting("c", false)];
        assert_eq!(step("a", &half), Step::Claim);
    }

    #[test]
    fn too_few_and_too_many_make_none() {
        let few = [waiting("a", false), waiting("b", true)];
        assert!(reason("a", &few).contains("2 of 3"));
        let many = ["a", "b", "c", "d"].map(|name| waiting(name, true));
        assert!(reason("a", &many).contains("4 of 3"));
        // One replica at two addresses is one.
        let twice = [waiting("a", false), waiting("b", true), waiting("b", true)];
        assert!(reason("a", &twice).contains("2 of 3"));
    }

    #[test]
    fn an_address_that_may_belong_to_a_cluster_keeps_everybody_from_making_one() {
        let answers = [
            waiting("b", true),
            waiting("c", true),
            Answer::Unclear("d:1: no leader".to_owned()),
        ];
        assert!(reason("a", &answers).contains("d:1: no leader"));
    }

    #[test]
    fn replicas_that_were_told_different_things_make_none() {
        let answers = [waits(newcomer("b", 5), true), waiting("c", true)];
        assert!(reason("a", &answers).contains("bootstrap_expect"));
        let mut namesake = newcomer("c", 3);
        namesake.instance = Bytes::from_static(b"another");
        let answers = [waits(namesake, true), waiting("c", true)];
        assert!(reason("a", &answers).contains("replica_name"));
    }

    #[test]
    fn whoever_meets_a_cluster_makes_none() {
        let met = [waiting("b", true), waiting("c", true), invited("x")];
        assert!(matches!(step("a", &met), Step::Join(_)));
        let refused = [waiting("b", true), Answer::Refused("full".to_owned())];
        assert_eq!(step("a", &refused), Step::GiveUp("full".to_owned()));
        assert!(reason("a", &[invited("x"), invited("y")]).contains("two clusters"));
    }

    #[test]
    fn one_alone_is_expected_and_makes_it() {
        assert_eq!(next_step(&newcomer("a", 1), &[]), Step::Make);
    }

    const FIRST: Bytes = Bytes::from_static(b"first");
    const SECOND: Bytes = Bytes::from_static(b"second");

    #[test]
    fn a_replica_yields_to_one_at_a_time() {
        let begin = Instant::now();
        let (a, b, c) = (newcomer("a", 3), newcomer("b", 3), newcomer("c", 3));
        let mut yielding = Yielding::new(FIRST);
        assert!(yielding.yield_to(&c, (&b, &FIRST), SECOND, begin));
        assert!(!yielding.yield_to(&c, (&a, &SECOND), FIRST, begin));
        assert!(!yielding.begin_claim(begin));
        let later = begin + YIELD_TIME;
        assert!(yielding.yield_to(&c, (&a, &SECOND), FIRST, later));
        assert!(
            !yielding.yield_to(&a, (&b, &FIRST), SECOND, later + YIELD_TIME),
            "b is greater"
        );
    }

    #[test]
    fn a_claim_that_is_sent_again_is_none() {
        let begin = Instant::now();
        let (a, b) = (newcomer("a", 3), newcomer("b", 3));
        let mut yielding = Yielding::new(FIRST);
        assert!(yielding.yield_to(&b, (&a, &FIRST), SECOND, begin));
        assert!(!yielding.yield_to(&b, (&a, &FIRST), SECOND, begin + YIELD_TIME));
    }

    #[test]
    fn a_replica_that_claims_or_joins_yields_to_nobody() {
        let begin = Instant::now();
        let (a, b) = (newcomer("a", 3), newcomer("b", 3));
        let mut yielding = Yielding::new(FIRST);
        assert!(yielding.begin_claim(begin));
        assert!(!yielding.yield_to(&b, (&a, &FIRST), SECOND, begin));
        yielding.rest();
        assert!(yielding.yield_to(&b, (&a, &FIRST), SECOND, begin));
        yielding.settle();
        assert!(!yielding.yield_to(&b, (&a, &SECOND), FIRST, begin));
    }
}
