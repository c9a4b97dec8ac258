//! From findings to answers in words.

use super::Explainer;
use super::end::End;
use super::finding::{Finding, Listed, Router};
use super::judge::{Outcome, V4, V6};
use super::question::Wanted;
use super::report::{Answer, EndReport, PairReport, RouterReport};
use super::words;
use crate::types::NodeId;

impl Explainer<'_> {
    pub(super) fn answer(&self, finding: &Finding, pairs: &[(&End, &End)]) -> Answer {
        let pairs = Listed::of(pairs.iter().map(|(src, dst)| PairReport {
            src: self.end(src),
            dst: self.end(dst),
        }));
        let report = |(number, outcome): &(usize, Outcome), wanted| {
            let rule = self.rules.get(*number)?;
            let facts = &self.roster.facts;
            Some(words::report(rule, *outcome, wanted, facts))
        };
        let reports = |list: &Listed<(usize, Outcome)>| {
            let reports = list.shown.iter();
            reports
                .filter_map(|found| report(found, self.question.wanted))
                .collect()
        };
        let logins = finding.logins.shown.iter();
        let logins = logins.filter_map(|number| self.logins.get(*number));
        let reverse = finding.reverse.as_ref();
        Answer {
            allowed: finding.allowed,
            more_pairs: pairs.more,
            rules: reports(&finding.allows),
            more_rules: finding.allows.more,
            close: reports(&finding.close),
            more_close: finding.close.more,
            logins: logins.map(words::login_report).collect(),
            more_logins: finding.logins.more,
            visible: finding.visible,
            reverse: reverse.and_then(|found| report(found, Wanted::default())),
            routers: finding
                .routers
                .shown
                .iter()
                .map(|r| self.router(r))
                .collect(),
            more_routers: finding.routers.more,
            notes: self.notes(finding, pairs.shown.first()),
            pairs: pairs.shown,
        }
    }

    fn end(&self, end: &End) -> EndReport {
        let member = end.place.and_then(|place| self.roster.member(place));
        let owner = member.and_then(|member| member.owner);
        let owner = owner.and_then(|owner| self.roster.facts.user(owner));
        let addresses: Vec<String> = end.addresses.iter().map(ToString::to_string).collect();
        EndReport {
            id: member.map(|member| member.id),
            name: member.map_or_else(|| addresses.join(", "), |member| self.name(member.id)),
            user: owner.map_or_else(String::new, |user| user.name.clone()),
            tags: member.map_or_else(Vec::new, |member| member.tags.clone()),
            ip_addresses: addresses,
        }
    }

    fn router(&self, router: &Router) -> RouterReport {
        let id = self.roster.member(router.place).map(|m| m.id);
        RouterReport {
            id,
            name: id.map_or_else(String::new, |id| self.name(id)),
            route: router.route.to_string(),
            used: router.is_used,
        }
    }

    fn name(&self, id: NodeId) -> String {
        let node = self.tailnet.state.node(id);
        node.map_or_else(|| id.to_string(), |node| node.given_name.clone())
    }

    fn notes(&self, finding: &Finding, pair: Option<&PairReport>) -> Vec<String> {
        let mut notes = Vec::new();
        let mut note = |applies: bool, text: &str| {
            if applies {
                notes.push(text.to_owned());
            }
        };
        let is_address = pair.is_some_and(|pair| pair.dst.id.is_none());
        let is_routed = finding.routers.shown.iter().any(|router| router.is_used);
        let exits = |router: &Router| router.is_used && router.route.prefix_len() == 0;
        let common = finding.common;
        note(
            common == 0,
            "the two have no address of the same family, so that nothing gets through",
        );
        note(
            finding.allowed && finding.families == V4 && common == V4 | V6,
            "only over IPv4: the rules have no IPv6 address of one of the two",
        );
        note(
            finding.allowed && finding.families == V6 && common == V4 | V6,
            "only over IPv6: the rules have no IPv4 address of one of the two",
        );
        note(
            is_address && finding.routers.shown.is_empty(),
            "no node has the destination's address, and no approved route leads there; see \
             `nodes list-routes`",
        );
        note(
            is_address && !finding.routers.shown.is_empty() && !is_routed,
            "no rule leads the source through a router that carries the address",
        );
        note(
            finding.routers.shown.iter().any(exits),
            "only through an exit node, which the source chooses itself",
        );
        note(
            finding.unjudged_routers > 0,
            "more routers lead there than were looked at",
        );
        note(
            pair.is_some_and(|pair| pair.src.id.is_none()),
            "the source is no node of the tailnet: whether it gets to the destination at all is \
             up to its routes",
        );
        note(
            self.question.wanted.is_icmp(),
            "clients let ICMP in from whoever may reach any port of the address",
        );
        notes
    }
}
