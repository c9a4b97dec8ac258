//! `sshTests`: who must be let in where, and as whom.

use std::collections::BTreeSet;

use super::super::document::{SshTest, Text};
use super::super::login;
use super::super::node_set::NodeSet;
use super::super::selector::{Autogroup, Selector};
use super::super::terms::Standing;
use super::{Prober, members};
use crate::tailcfg::SshRule;

impl Prober<'_> {
    pub(super) fn ssh_test(&mut self, test: &SshTest) {
        if test.src.is_empty() {
            return self.fail(test.at, "SSH tests entry must have a non-empty src");
        }
        if test.dst.is_empty() {
            return self.fail(test.at, "SSH tests entry must have at least one dst");
        }
        if test.accept.is_empty() && test.deny.is_empty() && test.check.is_empty() {
            let message = "SSH tests entry must have at least one of \"accept\", \"deny\" or \
                           \"check\"";
            return self.fail(test.at, message);
        }
        let source = match self.named(&test.src) {
            Ok(source) => source,
            Err(message) => return self.fail(test.at, &message),
        };
        for dst in &test.dst {
            if let Err(message) = self.ssh_dst(&source, dst, test) {
                self.fail(dst.at, &message);
            }
        }
    }

    fn ssh_dst(&self, source: &Standing, dst: &Text, test: &SshTest) -> Result<(), String> {
        let nodes = self.ssh_nodes(source, &dst.text)?;
        let wanted = test.accept.iter().map(|user| (user, Wanted::Accept));
        let wanted = wanted.chain(test.check.iter().map(|user| (user, Wanted::Check)));
        let wanted = wanted.chain(test.deny.iter().map(|user| (user, Wanted::Deny)));
        let wanted: Vec<_> = wanted.collect();
        let sources = source.extent.prefixes(self.roster);
        let sources: Vec<String> = sources.iter().map(|p| p.addr().to_string()).collect();
        let rules = &self.plan.logins;
        let mut tried = BTreeSet::new();
        for place in nodes.iter() {
            // Many nodes are alike, and each policy names all sources.
            let likeness = login::likeness(rules, self.terms, self.roster, place);
            if likeness.is_some_and(|likeness| !tried.insert(likeness)) {
                continue;
            }
            let policy = login::policy(rules, self.terms, self.roster, place);
            for (user, wanted) in &wanted {
                if !wanted.holds(&policy.rules, &sources, user) {
                    return Err(format!(
                        "{} -> {} as {user:?}: expected {}",
                        test.src,
                        dst.text,
                        wanted.name()
                    ));
                }
            }
        }
        Ok(())
    }

    fn ssh_nodes(&self, source: &Standing, text: &str) -> Result<NodeSet, String> {
        let disallowed = || format!("SSH tests dst contains disallowed element {text:?}");
        match self.document.names.read(text) {
            Ok(Selector::Auto(Autogroup::Internet) | Selector::Any) => return Err(disallowed()),
            Ok(Selector::Auto(Autogroup::SelfNodes)) => return Ok(self.owned_with(source)),
            Ok(Selector::Prefix(prefix)) if prefix.prefix_len() < prefix.max_prefix_len() => {
                return Err(disallowed());
            }
            // Captured: the service fails the test, though it takes the IPv4 address.
            Ok(Selector::Prefix(ipnet::IpNet::V6(_))) => {
                return Err(format!(
                    "{text:?}: name the node or its IPv4 address instead"
                ));
            }
            Ok(Selector::Host(name)) if !self.is_single(&name) => return Err(disallowed()),
            Ok(Selector::Tag(tag)) if !self.document.names.tag_owners.contains_key(&tag) => {
                return Err(format!("SSH tests dst contains unknown tag {tag:?}"));
            }
            _ => {}
        }
        let nodes = members(&*self.named(text)?);
        if nodes.is_empty() {
            return Err(format!("{text:?} stands for no node"));
        }
        Ok(nodes)
    }

    /// The nodes of the sources' owners.
    fn owned_with(&self, source: &Standing) -> NodeSet {
        let mut nodes = NodeSet::default();
        for member in self.roster.places(&members(source)) {
            let owned = member.owner.map(|owner| self.roster.owned(owner));
            for place in owned.into_iter().flatten() {
                nodes.insert(*place);
            }
        }
        nodes
    }
}

/// What a login must come to.
#[derive(Clone, Copy)]
enum Wanted {
    Accept,
    Check,
    Deny,
}

impl Wanted {
    fn name(self) -> &'static str {
        match self {
            Self::Accept => "ALLOWED",
            Self::Check => "CHECKED",
            Self::Deny => "DENIED",
        }
    }

    /// Whether the rules of a node come to that for all sources.
    fn holds(self, rules: &[SshRule], sources: &[String], user: &str) -> bool {
        let is_check = |rule: &SshRule| rule.action.as_ref().is_some_and(|action| !action.accept);
        let counts = |rule: &&SshRule| match self {
            Self::Check => login::permits(rule, user) && is_check(rule),
            Self::Accept | Self::Deny => login::permits(rule, user),
        };
        let counting = rules.iter().filter(counts);
        let let_in = counting.flat_map(|rule| &rule.principals);
        let let_in: BTreeSet<&str> = let_in.map(|from| from.node_ip.as_str()).collect();
        let mut sources = sources.iter().map(|ip| let_in.contains(ip.as_str()));
        match self {
            Self::Accept | Self::Check => sources.all(|is_in| is_in),
            Self::Deny => !sources.any(|is_in| is_in),
        }
    }
}
