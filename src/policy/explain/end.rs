//! The ends of a connection: from what a question names to nodes and addresses.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::super::address_set::AddressSet;
use super::super::document::Document;
use super::super::meaning::{Extent, internet};
use super::super::resolver::Resolver;
use super::super::roster::{Member, Roster};
use super::super::selector::{Autogroup, Selector};
use super::question::Fault;
use crate::state::State;

/// Nodes of one hostname that an answer tells apart; whoever has more looks at a list.
const NAMESAKES_MAX: usize = 5;

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// The node; absent: an address that is no node's.
    pub(super) place: Option<usize>,
    /// Those that are asked about: all of a node, or the one that was named.
    pub(super) addresses: Vec<IpAddr>,
}

impl End {
    pub(super) fn of_node(roster: &Roster, place: usize) -> Self {
        let member = roster.member(place);
        Self {
            place: Some(place),
            addresses: member.map_or_else(Vec::new, |member| member.addresses.clone()),
        }
    }

    /// Whether it reaches the other end without leaving itself: it is that node, or carries the
    /// address.
    pub(super) fn is_also(&self, other: &Self, roster: &Roster) -> bool {
        let (Some(place), Some(address)) = (self.place, other.addresses.first()) else {
            return self == other;
        };
        let carries = |member: &Member| {
            let mut subnets = member.subnets.iter();
            let mut exits = member.exits.iter();
            subnets.any(|route| route.contains(address))
                || (internet().contains(*address) && exits.any(|route| route.contains(address)))
        };
        match other.place {
            Some(other) => place == other,
            None => roster.member(place).is_some_and(carries),
        }
    }
}

/// Finds what names stand for.
pub(super) struct Finder<'a> {
    pub(super) state: &'a State,
    pub(super) document: &'a Document,
    pub(super) roster: &'a Roster,
    pub(super) resolver: Resolver<'a>,
}

impl Finder<'_> {
    /// The ends that a text names, nodes in id order; never none.
    pub(super) fn ends(&mut self, text: &str) -> Result<Vec<End>, Fault> {
        let name = || text.to_owned();
        match Selector::parse(text) {
            Ok(Selector::Host(_)) if !text.starts_with("host:") => self.word(text),
            Ok(Selector::Host(host)) => match self.document.names.hosts.get(&host) {
                Some(prefix) => Ok(vec![self.address(text, *prefix)?]),
                None => Err(Fault::NotInPolicy(name())),
            },
            Ok(Selector::Prefix(prefix)) => Ok(vec![self.address(text, prefix)?]),
            Ok(Selector::User(token)) => self.user(&token),
            Ok(Selector::Tag(tag)) if self.is_unknown_tag(&tag) => Err(Fault::NotInPolicy(tag)),
            Ok(Selector::Group(group)) if !self.document.names.groups.contains_key(&group) => {
                Err(Fault::NotInPolicy(group))
            }
            Ok(Selector::IpSet(_) | Selector::Auto(Autogroup::Internet | Autogroup::DangerAll)) => {
                Err(Fault::Wide(name()))
            }
            Ok(Selector::Auto(Autogroup::SelfNodes | Autogroup::Nonroot | Autogroup::Shared)) => {
                Err(Fault::OnlyInRules(name()))
            }
            Ok(
                selector @ (Selector::Any
                | Selector::Domain(_)
                | Selector::Group(_)
                | Selector::Tag(_)
                | Selector::Auto(
                    Autogroup::Member | Autogroup::Tagged | Autogroup::Role(_),
                )),
            ) => self.nodes(text, &selector),
            Err(_) => Err(Fault::Form(name())),
        }
    }

    fn is_unknown_tag(&self, tag: &str) -> bool {
        !self.document.names.tag_owners.contains_key(tag) && !self.is_a_tag(tag)
    }

    /// Whether a node has the tag.
    fn is_a_tag(&self, tag: &str) -> bool {
        let mut members = self.roster.members();
        members.any(|(_, member)| member.tags.iter().any(|own| own == tag))
    }

    fn nodes(&mut self, text: &str, selector: &Selector) -> Result<Vec<End>, Fault> {
        let extent: Arc<Extent> = self.resolver.resolve(selector);
        let members = extent.members(self.roster);
        let ends: Vec<End> = members
            .iter()
            .map(|place| End::of_node(self.roster, place))
            .collect();
        if !ends.is_empty() {
            return Ok(ends);
        }
        let reason = match selector {
            Selector::Tag(_) => "no node has the tag; see `nodes list`",
            Selector::User(_) => {
                "the user has no node without tags, and tagged nodes belong to nobody; see \
                 `nodes list`"
            }
            Selector::Group(_) => "none of its members has a node without tags",
            Selector::Any
            | Selector::Domain(_)
            | Selector::Auto(_)
            | Selector::IpSet(_)
            | Selector::Host(_)
            | Selector::Prefix(_) => "there is none; see `nodes list`",
        };
        let name = text.to_owned();
        Err(Fault::NoNode { name, reason })
    }

    fn user(&mut self, token: &str) -> Result<Vec<End>, Fault> {
        let users = self.roster.facts.named(token);
        match users.as_slice() {
            [] => Err(Fault::NoUser(token.to_owned())),
            [_] => self.nodes(token, &Selector::User(token.to_owned())),
            many => {
                let ids: Vec<String> = many.iter().map(|user| user.id.to_string()).collect();
                Err(Fault::ManyUsers {
                    name: token.to_owned(),
                    ids: ids.join(", "),
                })
            }
        }
    }

    /// One address, with its node if it has one.
    fn address(&self, text: &str, prefix: IpNet) -> Result<End, Fault> {
        if prefix.prefix_len() < prefix.max_prefix_len() {
            return Err(Fault::Wide(text.to_owned()));
        }
        let nodes = self.roster.with_address_in(&AddressSet::of([prefix]));
        Ok(End {
            place: nodes.iter().next(),
            addresses: vec![prefix.addr()],
        })
    }

    /// A word without a mark of its kind: a node's id or name, a name of `hosts`, or a user.
    fn word(&mut self, word: &str) -> Result<Vec<End>, Fault> {
        let nodes = self.nodes_called(word);
        let host = self.document.names.hosts.get(word).copied();
        let host = host.filter(|host| !self.is_address_of(&nodes, *host));
        let users = self.roster.facts.named(word).len();
        let mut remedies: Vec<String> = Vec::new();
        for place in &nodes {
            let id = self.roster.member(*place).map(|member| member.id);
            remedies.extend(id.map(|id| format!("{id} (the node)")));
        }
        remedies.extend(host.map(|_| format!("host:{word}")));
        if users > 0 {
            remedies.push(format!("{word}@ (the user)"));
        }
        match (nodes.as_slice(), host, users) {
            ([], None, 0) => Err(Fault::Unknown(word.to_owned())),
            ([place], None, 0) => Ok(vec![End::of_node(self.roster, *place)]),
            ([], Some(prefix), 0) => Ok(vec![self.address(word, prefix)?]),
            ([], None, _) => self.user(word),
            _ => Err(Fault::Ambiguous {
                name: word.to_owned(),
                remedies: remedies.join(", "),
            }),
        }
    }

    /// The node with this id, else the one with this name, else those that report this hostname.
    fn nodes_called(&self, word: &str) -> Vec<usize> {
        let by_id = word.parse().ok().map(crate::types::NodeId);
        let by_id = by_id.and_then(|id| self.roster.place(id));
        let by_name = || {
            let node = self.state.node_by_given_name(word)?;
            self.roster.place(node.id)
        };
        if let Some(place) = by_id.or_else(by_name) {
            return vec![place];
        }
        let nodes = self.state.nodes().filter(|node| node.hostname == word);
        let places = nodes.filter_map(|node| self.roster.place(node.id));
        places.take(NAMESAKES_MAX).collect()
    }

    fn is_address_of(&self, nodes: &[usize], prefix: IpNet) -> bool {
        let mut members = nodes.iter().filter_map(|n| self.roster.member(*n));
        members.any(|member| member.addresses.contains(&prefix.addr()))
    }
}
