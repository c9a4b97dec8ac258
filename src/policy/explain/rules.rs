//! The rules of a document as they are tried one by one, with what their selectors stand for.

use std::sync::Arc;

use super::super::document::{Acl, Document, Grant, SshRule};
use super::super::error::Position;
use super::super::login::RECORDER_PORT;
use super::super::meaning::Extent;
use super::super::node_set::NodeSet;
use super::super::plan::Caps;
use super::super::ports::TCP;
use super::super::resolver::Resolver;
use super::super::selector::{Autogroup, Selector, Spot};
use super::report::RuleKind;
use crate::tailcfg::PortRange;

static ANY: Selector = Selector::Any;
static ANY_PORT: [PortRange; 1] = [PortRange::ANY];
static RECORDER_PORTS: [PortRange; 1] = [PortRange {
    first: RECORDER_PORT,
    last: RECORDER_PORT,
}];

/// A rule of `acls` or `grants`, the one that holds without any, or what a rule of `ssh` opens.
pub(super) struct Rule<'a> {
    pub(super) kind: RuleKind,
    /// Its place in the list of its kind, from 0.
    pub(super) index: usize,
    pub(super) at: Position,
    pub(super) src: Vec<Named<'a>>,
    /// Postures of which a source must meet one, and the nodes that do; empty and absent: any will
    /// do.
    pub(super) postures: &'a [String],
    pub(super) conforming: Option<Arc<NodeSet>>,
    pub(super) dst: Vec<Destination<'a>>,
    pub(super) via: &'a [String],
    pub(super) app: Option<&'a Caps>,
    /// The rule of `ssh` whose recorders it opens.
    pub(super) ssh: Option<&'a SshRule>,
}

/// A selector and what it stands for.
pub(super) struct Named<'a> {
    pub(super) text: &'a str,
    pub(super) selector: &'a Selector,
    pub(super) extent: Arc<Extent>,
    /// Of a source what meets the postures of the rule.
    pub(super) conforming: Arc<Extent>,
}

/// A destination of a rule and what the rule opens there.
pub(super) struct Destination<'a> {
    pub(super) named: Named<'a>,
    pub(super) opens: Vec<Opening<'a>>,
}

/// Protocol and ports.
pub(super) struct Opening<'a> {
    /// Absent: the usual ones.
    pub(super) protocol: Option<u8>,
    pub(super) ports: &'a [PortRange],
}

/// A rule of `ssh`.
pub(super) struct Login<'a> {
    pub(super) index: usize,
    pub(super) rule: &'a SshRule,
    /// Those that meet the postures.
    pub(super) src: NodeSet,
    pub(super) dst: NodeSet,
    pub(super) is_self: bool,
    /// Its sessions must be recorded, and there is nothing that records.
    pub(super) is_refusal: bool,
}

/// All rules in the order of the file, acls first.
pub(super) fn rules<'a>(document: &'a Document, resolver: &mut Resolver<'_>) -> Vec<Rule<'a>> {
    if document.allows_all() {
        let mut rules = vec![allow_all(document, resolver)];
        rules.extend(recorders(document, resolver));
        return rules;
    }
    let acls = document.acls.iter().flatten().enumerate();
    let mut rules: Vec<Rule<'a>> = acls
        .map(|(index, acl)| of_acl(index, acl, resolver))
        .collect();
    let grants = document.grants.iter().flatten().enumerate();
    rules.extend(grants.map(|(index, grant)| of_grant(index, grant, resolver)));
    rules.extend(recorders(document, resolver));
    rules
}

/// What rules of `ssh` open by themselves: servers reach where their sessions are recorded.
fn recorders<'a>(document: &'a Document, resolver: &mut Resolver<'_>) -> Vec<Rule<'a>> {
    let rules = document.ssh.iter().flatten().enumerate();
    let recorded = rules.filter(|(_, rule)| !rule.recorder.is_empty());
    recorded
        .map(|(index, rule)| of_recorder(index, rule, resolver))
        .collect()
}

/// The rules of `ssh` in the order of the file.
pub(super) fn logins<'a>(document: &'a Document, resolver: &mut Resolver<'_>) -> Vec<Login<'a>> {
    let rules = document.ssh.iter().flatten().enumerate();
    let login = |(index, rule): (usize, &'a SshRule)| {
        let src = members(&rule.src, resolver);
        let src = match resolver.conforming(&rule.src_posture) {
            Some(conforming) => src.intersection(&conforming),
            None => src,
        };
        Login {
            index,
            rule,
            src,
            dst: members(&rule.dst, resolver),
            is_self: rule.dst.iter().any(is_self),
            is_refusal: rule.enforce_recorder && members(&rule.recorder, resolver).is_empty(),
        }
    };
    rules.map(login).collect()
}

fn is_self(spot: &Spot) -> bool {
    spot.selector == Selector::Auto(Autogroup::SelfNodes)
}

fn members(spots: &[Spot], resolver: &mut Resolver<'_>) -> NodeSet {
    let mut nodes = NodeSet::default();
    for spot in spots {
        nodes.add(&resolver.resolve(&spot.selector).members(resolver.roster()));
    }
    nodes
}

impl<'a> Named<'a> {
    fn of(spot: &'a Spot, postures: &[String], resolver: &mut Resolver<'_>) -> Self {
        Self {
            text: &spot.text,
            selector: &spot.selector,
            extent: resolver.resolve(&spot.selector),
            conforming: resolver.source(&spot.selector, postures),
        }
    }

    fn any(postures: &[String], resolver: &mut Resolver<'_>) -> Self {
        Self {
            text: "*",
            selector: &ANY,
            extent: resolver.resolve(&ANY),
            conforming: resolver.source(&ANY, postures),
        }
    }
}

fn allow_all<'a>(document: &'a Document, resolver: &mut Resolver<'_>) -> Rule<'a> {
    let postures = &document.default_src_posture;
    let opening = Opening {
        protocol: None,
        ports: &ANY_PORT,
    };
    Rule {
        kind: RuleKind::Default,
        index: 0,
        at: Position::default(),
        src: vec![Named::any(postures, resolver)],
        postures,
        conforming: resolver.conforming(postures),
        dst: vec![Destination {
            named: Named::any(&[], resolver),
            opens: vec![opening],
        }],
        via: &[],
        app: None,
        ssh: None,
    }
}

fn of_acl<'a>(index: usize, acl: &'a Acl, resolver: &mut Resolver<'_>) -> Rule<'a> {
    let postures = &acl.src_posture;
    let src = acl.src.iter();
    let src = src.map(|spot| Named::of(spot, postures, resolver));
    let src = src.collect();
    let conforming = resolver.conforming(postures);
    let dst = acl.dst.iter().map(|(spot, ports)| Destination {
        named: Named::of(spot, &[], resolver),
        opens: vec![Opening {
            protocol: acl.protocol,
            ports,
        }],
    });
    Rule {
        kind: RuleKind::Acl,
        index,
        at: acl.at,
        src,
        postures,
        conforming,
        dst: dst.collect(),
        via: &[],
        app: None,
        ssh: None,
    }
}

fn of_grant<'a>(index: usize, grant: &'a Grant, resolver: &mut Resolver<'_>) -> Rule<'a> {
    let postures = &grant.src_posture;
    let src = grant.src.iter();
    let src = src.map(|spot| Named::of(spot, postures, resolver));
    let src = src.collect();
    let conforming = resolver.conforming(postures);
    let dst = grant.dst.iter().map(|spot| Destination {
        named: Named::of(spot, &[], resolver),
        opens: grant
            .ip
            .iter()
            .map(|entry| Opening {
                protocol: entry.protocol,
                ports: &entry.ports,
            })
            .collect(),
    });
    Rule {
        kind: RuleKind::Grant,
        index,
        at: grant.at,
        src,
        postures,
        conforming,
        dst: dst.collect(),
        via: &grant.via,
        app: (!grant.app.is_empty()).then_some(&grant.app),
        ssh: None,
    }
}

fn of_recorder<'a>(index: usize, rule: &'a SshRule, resolver: &mut Resolver<'_>) -> Rule<'a> {
    let is_own = rule.dst.iter().any(is_self);
    let servers = rule.dst.iter().chain(rule.src.iter().filter(|_| is_own));
    let servers = servers.filter(|spot| !is_self(spot));
    let servers = servers.map(|spot| Named::of(spot, &[], resolver)).collect();
    let recorders = rule.recorder.iter().map(|spot| Destination {
        named: Named::of(spot, &[], resolver),
        opens: vec![Opening {
            protocol: Some(TCP),
            ports: &RECORDER_PORTS,
        }],
    });
    Rule {
        kind: RuleKind::Ssh,
        index,
        at: rule.at,
        src: servers,
        postures: &[],
        conforming: None,
        dst: recorders.collect(),
        via: &[],
        app: None,
        ssh: Some(rule),
    }
}
