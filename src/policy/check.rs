//! Whether a policy may be set.

use std::fmt;
use std::sync::Arc;

use super::document::Document;
use super::engine::Engine;
use super::error::{PolicyError, PolicyErrors, Position};
use super::facts::Facts;
use super::roster::Roster;
use super::selector::{Selector, Spot};
use crate::state::{POLICY_BYTES_MAX, State};

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
}

impl fmt::Display for Warnings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, warning) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            warning.fmt(f)?;
        }
        Ok(())
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

/// What the policy in force in a state says that has no effect: users may have gone since it was
/// set.
pub fn warnings_in_force(state: &State) -> Warnings {
    let Some(policy) = state.policy() else {
        return Warnings::default();
    };
    match Document::parse(&policy.text, &Facts::default()) {
        Ok(document) => warnings(&document, &Facts::of(state)),
        Err(errors) => Warnings(vec![general(format!(
            "this version does not understand the policy and allows nothing: {errors}"
        ))]),
    }
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

fn warnings(document: &Document, facts: &Facts) -> Warnings {
    let mut warnings = Vec::new();
    let mut unowned = Vec::new();
    let mut gone = Vec::new();
    let mut unknown = |at, token: &str| {
        let message = match facts.named(token).len() {
            1 => return,
            0 => format!("user {token:?} does not exist and stands for nothing"),
            several => format!("user {token:?} means {several} users and stands for nothing"),
        };
        warnings.push(PolicyError { at, message });
    };
    for user in document.names.groups.values().flatten() {
        unknown(user.at, &user.text);
    }
    for spot in spots(document) {
        match &spot.selector {
            Selector::User(token) => unknown(spot.at, token),
            Selector::Tag(tag) if !document.names.tag_owners.contains_key(tag) => {
                unowned.push(PolicyError {
                    at: spot.at,
                    message: format!("{tag:?} has no owners: only an administrator can set it"),
                });
            }
            Selector::Domain(domain) if !facts.has_domain(domain) => gone.push(PolicyError {
                at: spot.at,
                message: format!("no user has a mail address at {domain:?}"),
            }),
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
    for attr in &document.node_attrs {
        if let Some(spot) = attr.target.first().filter(|_| !attr.ip_pool.is_empty()) {
            warnings.push(PolicyError {
                at: spot.at,
                message: "ipPool has no effect: addresses come from the configured prefixes"
                    .to_owned(),
            });
        }
    }
    let conditions = document.names.postures.values();
    for condition in conditions.flat_map(|posture| &posture.conditions) {
        if !condition.is_reported() {
            let attribute = &condition.attribute;
            let message = format!("{attribute:?} is not set on any device: no device meets this");
            let at = condition.at;
            warnings.push(PolicyError { at, message });
        }
    }
    let relays = document.derp_map.as_ref();
    if relays.is_some_and(|map| map.omit_default && map.regions.values().all(Option::is_none)) {
        warnings.push(PolicyError {
            at: Position::default(),
            message: "derpMap leaves no relay: nodes without a direct path are cut off".to_owned(),
        });
    }
    warnings.sort_by_key(|warning| warning.at);
    Warnings(warnings)
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
