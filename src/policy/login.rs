//! SSH: who may log in to a node as whom.

mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use self::verdict::LoginVerdict;
use self::verdict::lets_in;
pub(super) use self::verdict::verdict;
use super::document::{Document, SshRule, localpart_domain};
use super::facts::domain;
use super::node_set::NodeSet;
use super::plan::{Planner, TermNo};
use super::roster::{Member, Roster};
use super::selector::{Autogroup, Selector};
use super::terms::Terms;
use crate::tailcfg::{
    SshAction, SshPolicy, SshPrincipal, SshRecorderFailureAction, SshRule as WireRule,
};
use crate::types::UserId;

/// Where a client asks about a login that needs a check. It takes the path from this URL, fills in
/// the variables, and asks over its control connection, whatever the host says.
pub const SSH_CHECK_URL: &str = "https://unused/machine/ssh/action/$SRC_NODE_ID/to/$DST_NODE_ID\
                         ?local_user=$LOCAL_USER";
/// Where Tailscale's recorder listens.
pub(super) const RECORDER_PORT: u16 = 80;
/// What users are told when a session must be recorded and cannot be.
const NOT_RECORDED: &str = "This session must be recorded, and no recorder can be reached.";

/// A rule of `ssh`.
#[derive(Debug, PartialEq)]
pub(super) struct LoginRule {
    pub(super) src: Vec<TermNo>,
    pub(super) dst: Vec<TermNo>,
    pub(super) recorder: Vec<TermNo>,
    pub(super) is_self: bool,
    /// Requested user to local user.
    users: BTreeMap<String, String>,
    /// The domains whose users log in by the names of their mail addresses.
    localpart_domains: BTreeSet<String>,
    pub(super) check_period: Option<Duration>,
    accept_env: Vec<String>,
    must_record: bool,
}

/// The rules of a document, those with a check first.
pub(super) fn plan(document: &Document, planner: &mut Planner<'_>) -> Vec<LoginRule> {
    let rules = document.ssh.iter().flatten();
    let mut rules: Vec<LoginRule> = rules.map(|rule| LoginRule::of(rule, planner)).collect();
    rules.sort_by_key(|rule| rule.check_period.is_none());
    rules
}

/// The policy of the node at this place.
pub(super) fn policy(
    rules: &[LoginRule],
    terms: &Terms,
    roster: &Roster,
    place: usize,
) -> SshPolicy {
    let Some(member) = roster.member(place) else {
        return SshPolicy::default();
    };
    let rules = rules
        .iter()
        .filter(|rule| rule.concerns(terms, place, member));
    let rules = rules.filter_map(|rule| Standing::of(rule, terms, roster));
    SshPolicy {
        rules: rules.flat_map(|rule| rule.on(place, member)).collect(),
    }
}

/// What the policy of a node follows from: nodes with equal ones have equal policies. `None` where that
/// is more than the rules that lead to the node, and its owner.
pub(super) fn likeness(
    rules: &[LoginRule],
    terms: &Terms,
    roster: &Roster,
    place: usize,
) -> Option<(NodeSet, Option<UserId>)> {
    if rules.iter().any(LoginRule::has_localparts) {
        return None;
    }
    let leading = rules.iter().enumerate();
    let leading = leading.filter(|(_, rule)| terms.have(&rule.dst, place));
    let leading = NodeSet::of(leading.map(|(number, _)| number));
    let owner = roster.member(place)?.owner;
    let owner = owner.filter(|_| rules.iter().any(|rule| rule.is_self));
    Some((leading, owner))
}

/// Whether a rule lets in this login user; nobody is called nothing.
pub(super) fn permits(rule: &WireRule, user: &str) -> bool {
    let is_refusal = rule.action.as_ref().is_some_and(|action| action.reject);
    !is_refusal && lets_in(&rule.ssh_users, user)
}

impl LoginRule {
    fn of(rule: &SshRule, planner: &mut Planner<'_>) -> Self {
        let own = Selector::Auto(Autogroup::SelfNodes);
        let domains = rule.users.iter().filter_map(|user| localpart_domain(user));
        Self {
            src: planner.narrowed_spots(&rule.src, &rule.src_posture),
            dst: planner.spots(&rule.dst),
            recorder: planner.spots(&rule.recorder),
            is_self: rule.dst.iter().any(|spot| spot.selector == own),
            users: login_users(&rule.users),
            localpart_domains: domains.collect(),
            check_period: rule.check_period,
            accept_env: rule.accept_env.clone(),
            must_record: rule.enforce_recorder,
        }
    }

    /// Whether users log in by the names of their mail addresses.
    pub(super) fn has_localparts(&self) -> bool {
        !self.localpart_domains.is_empty()
    }

    /// Whether it may say anything on a node.
    fn concerns(&self, terms: &Terms, place: usize, member: &Member) -> bool {
        terms.have(&self.dst, place)
            || (self.is_self && member.owner.is_some())
            || (self.has_localparts() && terms.have(&self.src, place))
    }

    /// The login name that a user has from the mail address.
    fn localpart<'a>(&self, roster: &'a Roster, user: UserId) -> Option<&'a str> {
        let email = &roster.facts.user(user)?.email;
        let is_ours = domain(email).is_some_and(|domain| self.localpart_domains.contains(&domain));
        let (local, _) = email.rsplit_once('@').filter(|_| is_ours)?;
        Some(local)
    }

    /// Where sessions are recorded, lowest address first: clients try them in this order.
    fn recorders(&self, terms: &Terms, roster: &Roster) -> BTreeSet<IpAddr> {
        addresses(roster, &terms.members(&self.recorder))
    }

    /// What holds once nobody has to be asked.
    fn decision(&self, recorders: &BTreeSet<IpAddr>) -> SshAction {
        // Clients take no recorders for none wanted, and would let the session go unrecorded.
        let must_record = self.must_record;
        if must_record && recorders.is_empty() {
            return SshAction {
                message: NOT_RECORDED.to_owned(),
                reject: true,
                ..SshAction::default()
            };
        }
        let recorders = recorders
            .iter()
            .map(|address| SocketAddr::new(*address, RECORDER_PORT));
        SshAction {
            accept: true,
            allow_agent_forwarding: true,
            allow_local_port_forwarding: true,
            allow_remote_port_forwarding: true,
            recorders: recorders.map(|recorder| recorder.to_string()).collect(),
            on_recording_failure: must_record.then(|| SshRecorderFailureAction {
                reject_session_with_message: NOT_RECORDED.to_owned(),
                terminate_session_with_message: NOT_RECORDED.to_owned(),
                ..SshRecorderFailureAction::default()
            }),
            ..SshAction::default()
        }
    }
}

/// A rule with what its selectors stand for.
struct Standing<'a> {
    rule: &'a LoginRule,
    terms: &'a Terms,
    /// Nodes of users, by user.
    by_user: BTreeMap<UserId, Vec<SshPrincipal>>,
    tagged: Vec<SshPrincipal>,
    /// The login names that users have from their mail addresses, if the rule gives them.
    localparts: Option<BTreeMap<UserId, String>>,
    recorders: BTreeSet<IpAddr>,
}

impl<'a> Standing<'a> {
    /// `None` when nobody is among the sources.
    fn of(rule: &'a LoginRule, terms: &'a Terms, roster: &Roster) -> Option<Self> {
        let src = terms.members(&rule.src);
        if src.is_empty() {
            return None;
        }
        let mut by_user: BTreeMap<UserId, Vec<SshPrincipal>> = BTreeMap::new();
        let mut tagged = Vec::new();
        for member in roster.places(&src) {
            if let Some(owner) = member.owner {
                by_user.entry(owner).or_default().extend(principals(member));
            }
            for _ in &member.tags {
                tagged.extend(principals(member));
            }
        }
        let localparts = localparts(rule, roster, by_user.keys());
        Some(Self {
            rule,
            terms,
            by_user,
            tagged,
            localparts,
            recorders: rule.recorders(terms, roster),
        })
    }

    fn on(&self, place: usize, member: &Member) -> Vec<WireRule> {
        let mut rules = Vec::new();
        let is_self = self.rule.is_self;
        let own = member
            .owner
            .and_then(|owner| self.by_user.get_key_value(&owner));
        if let Some((owner, principals)) = own.filter(|_| is_self) {
            self.of_user(*owner, principals, &mut rules);
        }
        if self.terms.have(&self.rule.dst, place) {
            self.all(&mut rules);
        } else if self.localparts.is_some() && self.terms.have(&self.rule.src, place) && !is_self {
            match own {
                Some((owner, principals)) => self.of_user(*owner, principals, &mut rules),
                None => rules.push(self.rule(&principals(member), self.rule.users.clone())),
            }
        }
        rules
    }

    fn all(&self, rules: &mut Vec<WireRule>) {
        if self.localparts.is_none() {
            let of_users = self.by_user.values().flatten();
            let all: Vec<_> = of_users.chain(&self.tagged).cloned().collect();
            rules.push(self.rule(&all, self.rule.users.clone()));
            return;
        }
        for (user, principals) in &self.by_user {
            self.of_user(*user, principals, rules);
        }
        if !self.tagged.is_empty() {
            rules.push(self.rule(&self.tagged, self.rule.users.clone()));
        }
    }

    /// The common rule, and one for the user's own login name.
    fn of_user(&self, user: UserId, principals: &[SshPrincipal], rules: &mut Vec<WireRule>) {
        rules.push(self.rule(principals, self.rule.users.clone()));
        let localparts = self.localparts.as_ref();
        if let Some(local) = localparts.and_then(|all| all.get(&user)) {
            let users = BTreeMap::from([(local.clone(), local.clone())]);
            rules.push(self.rule(principals, users));
        }
    }

    fn rule(&self, principals: &[SshPrincipal], ssh_users: BTreeMap<String, String>) -> WireRule {
        WireRule {
            principals: principals.to_vec(),
            ssh_users,
            action: Some(self.action()),
            accept_env: self.rule.accept_env.clone(),
            ..WireRule::default()
        }
    }

    /// What clients are told: to ask, where a check is needed.
    fn action(&self) -> SshAction {
        let decision = self.rule.decision(&self.recorders);
        if decision.reject || self.rule.check_period.is_none() {
            return decision;
        }
        SshAction {
            hold_and_delegate: SSH_CHECK_URL.to_owned(),
            recorders: decision.recorders,
            on_recording_failure: decision.on_recording_failure,
            ..SshAction::default()
        }
    }
}

fn addresses(roster: &Roster, nodes: &NodeSet) -> BTreeSet<IpAddr> {
    let members = roster.places(nodes);
    let addresses = members.flat_map(|member| member.addresses.iter().copied());
    addresses.collect()
}

fn principals(member: &Member) -> Vec<SshPrincipal> {
    let principal = |address: &IpAddr| SshPrincipal {
        node_ip: address.to_string(),
        ..SshPrincipal::default()
    };
    member.addresses.iter().map(principal).collect()
}

/// Root is named in every rule, if only to be kept out.
fn login_users(users: &[String]) -> BTreeMap<String, String> {
    let mut map = BTreeMap::from([("root".to_owned(), String::new())]);
    for user in users {
        if user == "autogroup:nonroot" {
            map.insert("*".to_owned(), "=".to_owned());
        } else if localpart_domain(user).is_none() {
            map.insert(user.clone(), user.clone());
        }
    }
    map
}

/// The login names that `localpart:*@domain` gives to users of the domain.
fn localparts<'a>(
    rule: &LoginRule,
    roster: &Roster,
    users: impl Iterator<Item = &'a UserId>,
) -> Option<BTreeMap<UserId, String>> {
    if !rule.has_localparts() {
        return None;
    }
    let named = users.filter_map(|id| Some((*id, rule.localpart(roster, *id)?.to_owned())));
    Some(named.collect())
}
