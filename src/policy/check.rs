//! Whether a policy may be set.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::document::Document;
use super::engine::Engine;
use super::error::{PolicyError, PolicyErrors, Position};
use super::facts::{Directory, Facts};
use super::roster::Roster;
use super::selector::{Selector, Spot};
use crate::state::{POLICY_BYTES_MAX, State};

/// Warnings that are shown; more is not read.
const SHOWN_MAX: usize = 100;

/// What a policy says that has no effect (yet, or any more), in the order of the text. Shown one per
/// line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warnings(Vec<PolicyError>);

impl Warnings {
    /// The warnings.
    pub fn iter(&self) -> impl Iterator<Item = &PolicyError> {
        self.0.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that earlier ones do not have.
    #[must_use]
    pub fn since(mut self, earlier: &Self) -> Self {
        let known: BTreeSet<(Position, &str)> = earlier.iter().map(key).collect();
        self.0.retain(|warning| !known.contains(&key(warning)));
        self
    }

    /// One line for each, and one that counts those beyond what anybody reads.
    pub fn lines(&self) -> Vec<String> {
        let shown = self.0.iter().take(SHOWN_MAX).map(ToString::to_string);
        let more = self.0.len().saturating_sub(SHOWN_MAX);
        let more = (more > 0).then(|| format!("and {more} more warnings"));
        shown.chain(more).collect()
    }
}

fn key(warning: &PolicyError) -> (Position, &str) {
    (warning.at, &warning.message)
}

impl fmt::Display for Warnings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

/// Reads a policy, validates it, and runs its tests against the users and nodes of a state.
///
/// # Errors
/// Everything that is wrong with it. An empty text, which by the rules of the language allows
/// everything, is more likely an accident.
pub fn check(text: &str, state: &State) -> Result<Warnings, PolicyErrors> {
    if text.trim().is_empty() {
        return Err(general("the policy is empty; to allow everything, write {}").into());
    }
    if text.len() > POLICY_BYTES_MAX {
        let message = format!("the policy is longer than {POLICY_BYTES_MAX} bytes");
        return Err(general(message).into());
    }
    check_for(text, Roster::of(state, true)).map(|(_, warnings)| warnings)
}

/// Of a policy that is none for this version.
pub(super) fn fault(errors: &PolicyErrors) -> Warnings {
    let message =
        format!("this version does not understand the policy and allows nothing: {errors}");
    Warnings(vec![general(message)])
}

fn general(message: impl Into<String>) -> PolicyError {
    PolicyError {
        at: Position::default(),
        message: message.into(),
    }
}

pub(super) fn check_for(text: &str, roster: Roster) -> Result<(Engine, Warnings), PolicyErrors> {
    let document = Document::parse(text, &roster.facts)?;
    let warnings = warnings(&document, &roster.facts);
    let engine = Engine::with_roster(Arc::new(document), roster);
    let mut errors = PolicyErrors::default();
    engine.probe(&mut errors);
    errors.or((engine, warnings))
}

pub(super) fn warnings(document: &Document, facts: &Facts) -> Warnings {
    let mut warnings = of_names(document, facts);
    warnings.extend(without_effect(document));
    warnings.sort_by_key(|warning| warning.at);
    Warnings(warnings)
}

/// Of what rules name: users, then tags without owners, then mail domains.
fn of_names(document: &Document, facts: &Facts) -> Vec<PolicyError> {
    let users = Directory::of(facts);
    let mut warnings = Vec::new();
    let mut unowned = Vec::new();
    let mut gone = Vec::new();
    for user in document.names.groups.values().flatten() {
        warnings.extend(unclear(&users, user.at, &user.text));
    }
    for Spot { at, selector, .. } in spots(document) {
        match selector {
            Selector::User(token) => warnings.extend(unclear(&users, *at, token)),
            Selector::Tag(tag) if !document.names.tag_owners.contains_key(tag) => {
                let message = format!("{tag:?} has no owners: only an administrator can set it");
                unowned.push(PolicyError { at: *at, message });
            }
            Selector::Domain(domain) if !users.has_domain(domain) => {
                let message = format!("no user has a mail address at {domain:?}");
                gone.push(PolicyError { at: *at, message });
            }
            Selector::Any
            | Selector::Domain(_)
            | Selector::Group(_)
            | Selector::Tag(_)
            | Selector::Auto(_)
            | Selector::IpSet(_)
            | Selector::Host(_)
            | Selector::Prefix(_) => {}
        }
    }
    warnings.append(&mut unowned);
    warnings.append(&mut gone);
    warnings
}

/// A name that means no user, or more than one.
fn unclear(users: &Directory<'_>, at: Position, token: &str) -> Option<PolicyError> {
    let message = match users.named(token).len() {
        1 => return None,
        0 => format!("user {token:?} does not exist and stands for nothing"),
        several => format!("user {token:?} means {several} users and stands for nothing"),
    };
    Some(PolicyError { at, message })
}

/// Of what is taken, and does nothing or harm.
fn without_effect(document: &Document) -> Vec<PolicyError> {
    let mut warnings = Vec::new();
    let mut warn = |at: Position, message: &str| {
        let message = message.to_owned();
        warnings.push(PolicyError { at, message });
    };
    for attr in &document.node_attrs {
        if let Some(spot) = attr.target.first().filter(|_| !attr.ip_pool.is_empty()) {
            let message = "ipPool has no effect: addresses come from the configured prefixes";
            warn(spot.at, message);
        }
    }
    let conditions = document.names.postures.values();
    for condition in conditions.flat_map(|posture| &posture.conditions) {
        if !condition.is_reported() {
            let attribute = &condition.attribute;
            let message = format!("{attribute:?} is not set on any device: no device meets this");
            warn(condition.at, &message);
        }
    }
    let relays = document.derp_map.as_ref();
    if relays.is_some_and(|map| map.omit_default && map.regions.values().all(Option::is_none)) {
        let message = "derpMap leaves no relay: nodes without a direct path are cut off";
        warn(Position::default(), message);
    }
    warnings
}

/// All selectors outside groups and tests.
fn spots(document: &Document) -> impl Iterator<Item = &Spot> {
    let owners = document.names.tag_owners.values().flatten();
    let acls = document.acls.iter().flatten();
    let acls = acls.flat_map(|acl| acl.src.iter().chain(acl.dst.iter().map(|(spot, _)| spot)));
    let grants = document.grants.iter().flatten();
    let grants = grants.flat_map(|grant| grant.src.iter().chain(&grant.dst));
    let ssh = document.ssh.iter().flatten();
    let ssh = ssh.flat_map(|rule| rule.src.iter().chain(&rule.dst));
    let approvers = &document.auto_approvers;
    let approvers = approvers
        .routes
        .iter()
        .flat_map(|(_, spots)| spots)
        .chain(&approvers.exit_node);
    let attrs = document.node_attrs.iter().flat_map(|attr| &attr.target);
    owners
        .chain(acls)
        .chain(grants)
        .chain(ssh)
        .chain(approvers)
        .chain(attrs)
}
