//! Which terms name a node.

use std::collections::{BTreeMap, BTreeSet};

use super::super::address_set::AddressSet;
use super::super::document::Names;
use super::super::facts::{Directory, Facts};
use super::super::meaning::tailnet_addresses;
use super::super::plan::TermNo;
use super::super::posture::Posture;
use super::super::roster::{Member, Roster};
use super::super::selector::{Autogroup, Selector};
use super::{Term, fixed_addresses};
use crate::types::UserId;

/// Which terms name a node, by who it is. `autogroup:self` is not the same for all nodes, and names
/// nobody here.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Index {
    tagged: Vec<TermNo>,
    untagged: Vec<TermNo>,
    by_tag: BTreeMap<String, Vec<TermNo>>,
    by_owner: BTreeMap<UserId, Vec<TermNo>>,
    /// Those of nodes with addresses that are not among Tailscale's.
    outside: Vec<TermNo>,
    /// By term.
    pub(super) addresses: Vec<AddressSet>,
    /// By term the postures of which a node must meet one; absent: any node will do.
    pub(super) postures: Vec<Option<Vec<Posture>>>,
    /// A term's addresses follow which devices meet its postures, so that no move of a node is its own
    /// affair.
    pub(super) is_shifting: bool,
}

impl Index {
    pub(super) fn of(terms: &[Term], names: &Names, facts: &Facts) -> Self {
        let directory = Directory::of(facts);
        let mut index = Self::default();
        for (number, term) in terms.iter().enumerate() {
            let addresses = fixed_addresses(term, names);
            index.is_shifting |= is_shifting(term, addresses.as_ref());
            index.addresses.push(addresses.unwrap_or_default());
            index.postures.push(postures(term, names));
            match term {
                Term::Named(Selector::Any, _) => index.outside.push(number),
                Term::Named(Selector::Tag(tag), _) => {
                    index.by_tag.entry(tag.clone()).or_default().push(number);
                }
                Term::Named(Selector::Auto(Autogroup::Member), _) => index.untagged.push(number),
                Term::Named(Selector::Auto(Autogroup::Tagged), _) => index.tagged.push(number),
                Term::Named(selector, _) => {
                    for user in users(selector, names, facts, &directory) {
                        let terms = index.by_owner.entry(user).or_default();
                        if terms.last() != Some(&number) {
                            terms.push(number);
                        }
                    }
                }
                Term::Subnets(_) | Term::ExitNodes => {}
            }
        }
        index
    }

    /// The terms that name a node, whatever its device is like.
    pub(super) fn naming(&self, member: &Member) -> impl Iterator<Item = TermNo> {
        let kind = if member.is_tagged() {
            &self.tagged
        } else {
            &self.untagged
        };
        let tags = member.tags.iter().filter_map(|tag| self.by_tag.get(tag));
        let owner = member.owner.and_then(|owner| self.by_owner.get(&owner));
        let named = tags.chain(owner).flatten();
        let outside = self.outside.iter().filter(|_| is_outside(member));
        kind.iter().chain(named).chain(outside).copied()
    }

    /// The users whose nodes other terms name by another index of the same terms.
    pub(super) fn users_apart(&self, other: &Self) -> BTreeSet<UserId> {
        let users = self.by_owner.keys().chain(other.by_owner.keys());
        let apart = users.filter(|user| self.by_owner.get(user) != other.by_owner.get(user));
        apart.copied().collect()
    }

    /// Whether a term names a node.
    pub(super) fn names(&self, term: TermNo, member: &Member, roster: &Roster) -> bool {
        let postures = self.postures.get(term).and_then(Option::as_ref);
        let supposed = roster.supposed.as_deref();
        self.naming(member).any(|naming| naming == term)
            && postures.is_none_or(|postures| member.meets(postures, supposed))
    }
}

/// Whether a node has an address that is not among Tailscale's: `*` stands for it, too.
fn is_outside(member: &Member) -> bool {
    let mut addresses = member.addresses.iter();
    addresses.any(|address| !tailnet_addresses().contains(*address))
}

pub(super) fn named_postures(term: &Term) -> &[String] {
    match term {
        Term::Named(_, postures) | Term::Subnets(postures) => postures,
        Term::ExitNodes => &[],
    }
}

/// The postures of a term; absent: it has none.
fn postures(term: &Term, names: &Names) -> Option<Vec<Posture>> {
    let named = named_postures(term);
    let postures = named.iter().filter_map(|name| names.postures.get(name));
    (!named.is_empty()).then(|| postures.cloned().collect())
}

fn is_shifting(term: &Term, addresses: Option<&AddressSet>) -> bool {
    let has_addresses = matches!(term, Term::Subnets(_)) || addresses.is_some();
    has_addresses && !named_postures(term).is_empty()
}

/// The users whom a selector names. A name that means nobody, or more than one, names nobody.
fn users(
    selector: &Selector,
    names: &Names,
    facts: &Facts,
    directory: &Directory<'_>,
) -> Vec<UserId> {
    let named = |token: &str| match directory.named(token).as_slice() {
        [user] => Some(user.id),
        _ => None,
    };
    match selector {
        Selector::User(token) => named(token).into_iter().collect(),
        Selector::Domain(domain) => {
            let users = directory.of_domain(domain).iter();
            users.map(|user| user.id).collect()
        }
        Selector::Group(name) => {
            let users = names.groups.get(name).into_iter().flatten();
            users.filter_map(|user| named(&user.text)).collect()
        }
        Selector::Auto(Autogroup::Role(role)) => {
            let users = facts.users.iter().filter(|user| role.is_of(user));
            users.map(|user| user.id).collect()
        }
        Selector::Any
        | Selector::Tag(_)
        | Selector::Auto(_)
        | Selector::Host(_)
        | Selector::IpSet(_)
        | Selector::Prefix(_) => Vec::new(),
    }
}
