//! What rules refer to by name: `groups`, `hosts`, `tagOwners` and `ipsets`.

use std::collections::BTreeMap;

use super::super::address_set::AddressSet;
use super::super::error::Position;
use super::super::hujson::{Kind, Member, Value};
use super::super::meaning::internet;
use super::super::selector::{Selector, Spot, parse_prefix};
use super::Text;
use super::decode::{Decoder, Fields};
use super::lookup::{Place, unambiguous};

/// Ranges of addresses in all ipsets together, about 5 MB: a set that names another holds all of its.
const IPSET_RANGES_MAX: usize = 100_000;
/// Ranges of addresses of all that the lines of ipsets name: naming a large set in each of a thousand
/// lines says nothing more, and takes room a thousand times.
const IPSET_RANGES_NAMED_MAX: usize = 1_000_000;
/// Longest chain of ipsets that name each other; each link costs stack.
const IPSET_DEPTH_MAX: usize = 32;

/// The ipsets that are not worked out yet.
type Open<'v> = BTreeMap<&'v str, &'v Member>;

impl Decoder<'_> {
    pub(super) fn read_names(&mut self, fields: &Fields<'_>) {
        if let Some(value) = fields.get("groups") {
            self.groups(value);
        }
        if let Some(value) = fields.get("hosts") {
            self.hosts(value);
        }
        if let Some(value) = fields.get("ipsets") {
            self.ipsets(value);
        }
        if let Some(value) = fields.get("tagOwners") {
            self.tag_owners(value);
        }
        if let Some(value) = fields.get("postures") {
            self.postures(value);
        }
        self.default_posture(fields);
    }

    fn groups(&mut self, value: &Value) {
        for member in self.members(value) {
            let name = &member.key;
            if !name.starts_with("group:") {
                self.error(
                    member.at,
                    format!("group must start with 'group:', got: {name:?}"),
                );
            }
            let users = self.group_members(member);
            self.names.groups.insert(name.clone(), users);
        }
    }

    fn group_members(&mut self, member: &Member) -> Vec<Text> {
        let name = &member.key;
        let items = match &member.value.kind {
            Kind::Array(items) => items.as_slice(),
            Kind::Null => &[],
            Kind::Bool(_) | Kind::Number(_) | Kind::String(_) | Kind::Object(_) => {
                let noun = member.value.noun();
                let message =
                    format!("group value must be an array of users: group {name:?} got {noun}");
                self.error(member.value.at, message);
                &[]
            }
        };
        let mut users = Vec::new();
        for item in items {
            let Some(user) = self.scalar(item) else {
                let noun = item.noun();
                self.error(item.at, format!("invalid group member type: {noun}"));
                continue;
            };
            match group_member(name, &user).and_then(|()| unambiguous(&user, &self.directory)) {
                Ok(()) => {
                    if !user.contains('@') {
                        self.bare_users.insert(user.clone());
                    }
                    users.push(Text {
                        at: item.at,
                        text: user,
                    });
                }
                Err(message) => self.error(item.at, message),
            }
        }
        users
    }

    fn hosts(&mut self, value: &Value) {
        for member in self.members(value) {
            let name = &member.key;
            if name.is_empty() || name.contains(['@', ':']) {
                self.error(member.at, format!("invalid hostname: {name:?}"));
                continue;
            }
            let Some(address) = self.text(&member.value) else {
                continue;
            };
            match parse_prefix(&address.text) {
                Some(prefix) => {
                    self.names.hosts.insert(name.clone(), prefix);
                }
                None => self.error(
                    address.at,
                    format!(
                        "hostname contains invalid IP address: hostname {name:?} address {:?}",
                        address.text
                    ),
                ),
            }
        }
    }

    fn tag_owners(&mut self, value: &Value) {
        let members = self.members(value);
        // All tags first: owners may be tags that come later.
        for Member { at, key, .. } in members {
            let Some(name) = key.strip_prefix("tag:") else {
                self.error(*at, format!("tag must start with 'tag:', got: {key:?}"));
                continue;
            };
            if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
                let message =
                    format!("tagOwners[{key:?}]: tag names must start with a letter, after 'tag:'");
                self.error(*at, message);
            }
            self.names.tag_owners.insert(key.clone(), Vec::new());
        }
        for member in members {
            let texts = self.each(&member.value, Self::text);
            let owners = texts
                .into_iter()
                .filter_map(|text| self.tag_owner(&member.key, text))
                .collect();
            if let Some(entry) = self.names.tag_owners.get_mut(&member.key) {
                *entry = owners;
            }
        }
    }

    fn tag_owner(&mut self, tag: &str, text: Text) -> Option<Spot> {
        if text.text.starts_with("tag:") && !self.names.tag_owners.contains_key(&text.text) {
            let message = format!("tag {tag:?} references undefined tag {:?}", text.text);
            self.error(text.at, message);
            return None;
        }
        self.spot(text, Place::Owner)
    }

    /// Sets may name sets; each is worked out once, when first named.
    fn ipsets(&mut self, value: &Value) {
        let mut open = Open::new();
        for member in self.members(value) {
            if member.key.starts_with("ipset:") {
                open.insert(&member.key, member);
            } else {
                let message = format!("ipset must start with 'ipset:', got: {:?}", member.key);
                self.error(member.at, message);
            }
        }
        while let Some((_, member)) = open.pop_first() {
            let set = self.ipset(member, &mut open, 0);
            self.names.ipsets.insert(member.key.clone(), set);
        }
    }

    fn ipset(&mut self, member: &Member, open: &mut Open<'_>, depth: usize) -> AddressSet {
        let lines = self.each(&member.value, Self::text);
        let bare =
            |line: &Text| !line.text.starts_with("add ") && !line.text.starts_with("remove ");
        if lines.iter().any(bare) && lines.iter().any(|line| line.text.starts_with("remove ")) {
            let message = format!(
                "ipsets[{:?}]: targets without an operation must not be mixed with \"remove\"",
                member.key
            );
            self.error(member.value.at, message);
        }
        let mut edits = Vec::with_capacity(lines.len());
        for line in lines {
            let (removes, target) = match line.text.split_once(' ') {
                Some(("remove", target)) => (true, target.trim()),
                Some(("add", target)) => (false, target.trim()),
                _ => (false, line.text.as_str()),
            };
            let Some(addresses) = self.ipset_target(&member.key, line.at, target, open, depth)
            else {
                continue;
            };
            let ranges = addresses.ranges().count();
            self.ipset_ranges_named = self.ipset_ranges_named.saturating_add(ranges);
            if self.ipset_ranges_named > IPSET_RANGES_NAMED_MAX {
                break;
            }
            edits.push(Edit::of(removes, addresses));
        }
        let set = Edit::all(edits);
        self.ipset_ranges = self.ipset_ranges.saturating_add(set.ranges().count());
        if self.ipset_ranges > IPSET_RANGES_MAX || self.ipset_ranges_named > IPSET_RANGES_NAMED_MAX
        {
            let message = format!(
                "ipsets have more than {IPSET_RANGES_MAX} ranges of addresses in all, each set \
                 counted with those that it names"
            );
            self.error(member.at, message);
            return AddressSet::default();
        }
        set
    }

    fn ipset_target(
        &mut self,
        name: &str,
        at: Position,
        target: &str,
        open: &mut Open<'_>,
        depth: usize,
    ) -> Option<AddressSet> {
        if target == "autogroup:internet" {
            return Some(internet().clone());
        }
        let found = match Selector::parse(target) {
            Ok(Selector::Prefix(prefix)) => Some(AddressSet::of([prefix])),
            Ok(Selector::Host(host)) => {
                let prefix = self.names.hosts.get(&host);
                prefix.map(|prefix| AddressSet::of([*prefix]))
            }
            Ok(Selector::IpSet(other)) => {
                if depth < IPSET_DEPTH_MAX
                    && let Some(member) = open.remove(other.as_str())
                {
                    let set = self.ipset(member, open, depth + 1);
                    self.names.ipsets.insert(other.clone(), set);
                }
                // A set that is being worked out is neither open nor known: a cycle.
                self.names.ipsets.get(&other).cloned()
            }
            _ => None,
        };
        if found.is_none() {
            let message = format!(
                "ipsets[{name:?}]: {target:?} is no address, host, autogroup:internet or ipset \
                 that is defined without a cycle"
            );
            self.error(at, message);
        }
        found
    }
}

/// What lines of an ipset do to what the lines before them come to.
#[derive(Default)]
struct Edit {
    adds: AddressSet,
    removes: AddressSet,
}

impl Edit {
    fn of(is_removal: bool, addresses: AddressSet) -> Self {
        let mut edit = Self::default();
        if is_removal {
            edit.removes = addresses;
        } else {
            edit.adds = addresses;
        }
        edit
    }

    fn then(&self, next: &Self) -> Self {
        Self {
            adds: self.adds.minus(&next.removes).union(&next.adds),
            removes: self.removes.union(&next.removes),
        }
    }

    /// What all lines come to. Neighbours first: line by line, each would cost as much as all before
    /// it.
    fn all(mut edits: Vec<Self>) -> AddressSet {
        while edits.len() > 1 {
            let mut lines = edits.into_iter();
            let mut joined = Vec::with_capacity(lines.len().div_ceil(2));
            while let Some(one) = lines.next() {
                joined.push(match lines.next() {
                    Some(next) => one.then(&next),
                    None => one,
                });
            }
            edits = joined;
        }
        edits.pop().unwrap_or_default().adds
    }
}

fn group_member(group: &str, user: &str) -> Result<(), String> {
    if user.starts_with("group:") && !user.contains('@') {
        return Err(format!(
            "groups[{group:?}]: {user:?}: group members cannot be recursive"
        ));
    }
    // The first policies name users without it.
    if !user.contains('@') && (user.is_empty() || user.contains(':')) {
        return Err(format!("username must contain @, got: {user:?}"));
    }
    Ok(())
}
