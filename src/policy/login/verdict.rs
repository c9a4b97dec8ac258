//! What becomes of one login: the rules as a client was sent them, without making them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::roster::Roster;
use super::super::terms::Terms;
use super::LoginRule;
use crate::tailcfg::SshAction;

/// What users are told whom no rule lets in.
const NOT_ALLOWED: &str = "The policy does not allow this login.";

/// What becomes of a login over SSH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginVerdict {
    /// It is refused, with this message for the user.
    Refused(String),
    /// A rule allows it.
    Allowed {
        /// What the rule grants.
        action: SshAction,
        /// How long a check of the user counts; zero: for one login. Absent: no check is needed.
        check_period: Option<Duration>,
    },
}

impl LoginVerdict {
    /// No rule is about the login.
    pub(in crate::policy) fn unmatched() -> Self {
        Self::Refused(NOT_ALLOWED.to_owned())
    }
}

/// What becomes of a login from one place at another. The client at the destination goes by the same
/// rules in the same order, and comes here with a login that needs a check. It found its rule by the
/// name that was asked for and tells the account's own, which no rule may name: then the strictest
/// check of the pair holds. Nobody becomes root this way.
pub(in crate::policy) fn verdict(
    rules: &[LoginRule],
    terms: &Terms,
    roster: &Roster,
    (src, dst): (usize, usize),
    user: &str,
) -> LoginVerdict {
    let mut strictest: Option<&LoginRule> = None;
    let lead_there = |rule: &&LoginRule| rule.leads(terms, roster, (src, dst));
    for rule in rules.iter().filter(lead_there) {
        let permits = rule.permits(roster, src, user);
        if permits || (rule.must_record && rule.recorders(terms, roster).is_empty()) {
            return rule.allow(terms, roster);
        }
        if let Some(period) = rule.check_period
            && strictest.is_none_or(|other| Some(period) < other.check_period)
        {
            strictest = Some(rule);
        }
    }
    strictest
        .filter(|_| !user.is_empty() && user != "root")
        .map_or_else(LoginVerdict::unmatched, |rule| rule.allow(terms, roster))
}

pub(super) fn lets_in(users: &BTreeMap<String, String>, user: &str) -> bool {
    if user.is_empty() {
        return false;
    }
    match users.get(user) {
        Some(local) => !local.is_empty(),
        None => user != "root" && users.contains_key("*"),
    }
}

impl LoginRule {
    /// Whether the destination is sent a rule that names the source: as [`super::Standing::on`] makes them,
    /// for one source.
    fn leads(&self, terms: &Terms, roster: &Roster, (src, dst): (usize, usize)) -> bool {
        let Some((source, member)) = roster.member(src).zip(roster.member(dst)) else {
            return false;
        };
        let is_nobody = source.owner.is_none() && source.tags.is_empty();
        if is_nobody || source.addresses.is_empty() || !terms.have(&self.src, src) {
            return false;
        }
        let has_same_owner = source.owner.is_some() && source.owner == member.owner;
        if (self.is_self && has_same_owner) || terms.have(&self.dst, dst) {
            return true;
        }
        let is_at_home = has_same_owner || src == dst;
        self.has_localparts() && !self.is_self && is_at_home && terms.have(&self.src, dst)
    }

    /// Whether it lets in who sits at this place under this name.
    fn permits(&self, roster: &Roster, src: usize, user: &str) -> bool {
        let owner = roster.member(src).and_then(|source| source.owner);
        let own = owner.and_then(|owner| self.localpart(roster, owner));
        lets_in(&self.users, user) || (!user.is_empty() && own == Some(user))
    }

    fn allow(&self, terms: &Terms, roster: &Roster) -> LoginVerdict {
        let action = self.decision(&self.recorders(terms, roster));
        if action.reject {
            return LoginVerdict::Refused(action.message);
        }
        LoginVerdict::Allowed {
            action,
            check_period: self.check_period,
        }
    }
}
