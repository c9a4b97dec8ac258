//! Selectors in their places: what may stand where, and whether what is named exists.

use super::super::facts::Directory;
use super::super::selector::{Autogroup, NotASelector, Selector, Spot};
use super::decode::Decoder;
use super::{Names, Text};

/// Where a selector stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `src` of acls and grants.
    Src,
    AclDst,
    GrantDst,
    SshSrc,
    SshDst,
    /// `target` of nodeAttrs.
    Target,
    /// Owners of tags and approvers of routes.
    Owner,
    /// `recorder` of ssh.
    Recorder,
}

const KNOWN_AUTOGROUPS: &str = "[autogroup:internet autogroup:member autogroup:nonroot \
     autogroup:tagged autogroup:self autogroup:danger-all]";
const SRC_AUTOGROUPS: &str = "[autogroup:member autogroup:tagged autogroup:danger-all]";

impl Decoder<'_> {
    /// Reads selectors; those that are wrong are left out and noted.
    pub(super) fn spots(&mut self, texts: Vec<Text>, place: Place) -> Vec<Spot> {
        texts
            .into_iter()
            .filter_map(|text| self.spot(text, place))
            .collect()
    }

    /// A bare name is a user's if anything says so; else it is a host's that is missing.
    fn bare(&self, selector: Selector) -> Selector {
        let Selector::User(name) = selector else {
            return selector;
        };
        let is_user = name.contains('@')
            || self.is_old
            || self.bare_users.contains(&name)
            || !self.directory.is_known()
            || !self.directory.named(&name).is_empty();
        if is_user {
            Selector::User(name)
        } else {
            Selector::Host(name)
        }
    }

    /// Reads a selector; `None`, and an error, if it may not stand here.
    pub(super) fn spot(&mut self, text: Text, place: Place) -> Option<Spot> {
        let Text { at, text } = text;
        let found = self
            .names
            .read(&text)
            .map_err(|error| not_a_selector(&error, &text, place))
            .map(|selector| self.bare(selector))
            .and_then(|selector| {
                allowed(&selector, &text, place)?;
                // An administrator may set tags that nobody owns.
                let is_old_tag = self.is_old && matches!(selector, Selector::Tag(_));
                if !is_old_tag {
                    exists(&selector, &self.names, &self.directory, place)?;
                }
                Ok(selector)
            });
        match found {
            Ok(selector) => Some(Spot { at, text, selector }),
            Err(message) => {
                self.error(at, message);
                None
            }
        }
    }
}

fn not_a_selector(error: &NotASelector, text: &str, place: Place) -> String {
    match (error, place) {
        (NotASelector::Service, _) => {
            format!("invalid alias format: {text:?}: there are no services here")
        }
        (NotASelector::Format, Place::Target) => format!("{text:?}: invalid address"),
        (NotASelector::Format, Place::Owner) => format!("invalid owner format: {text:?}"),
        (NotASelector::Format, _) => format!("invalid alias format: {text:?}"),
        (NotASelector::Autogroup, Place::Src) => {
            format!("autogroup not supported for ACL sources: {text:?}, can be {SRC_AUTOGROUPS}")
        }
        (NotASelector::Autogroup, Place::SshSrc) => {
            format!("autogroup not supported for SSH sources: {text:?}")
        }
        (NotASelector::Autogroup, Place::Target) => {
            format!("nodeAttrs target does not support this autogroup: {text:?}")
        }
        (NotASelector::Autogroup, _) => {
            format!("invalid autogroup: got {text:?}, must be one of {KNOWN_AUTOGROUPS}")
        }
    }
}

/// Whether a selector of this kind may stand in this place.
fn allowed(selector: &Selector, text: &str, place: Place) -> Result<(), String> {
    if place == Place::Recorder && !matches!(selector, Selector::Tag(_)) {
        return Err(format!("recorder must be a tag, got: {text:?}"));
    }
    match selector {
        Selector::Auto(autogroup) => autogroup_allowed(*autogroup, text, place),
        Selector::Any => match place {
            Place::SshDst => Err(
                "wildcard (*) is not supported as SSH destination; use 'autogroup:member' for \
                 user-owned devices, 'autogroup:tagged' for tagged devices or specific tags"
                    .to_owned(),
            ),
            Place::SshSrc => Err(format!("alias not supported for SSH source: {text:?}")),
            Place::Owner => Err(format!("invalid owner format: {text:?}")),
            Place::Src | Place::AclDst | Place::GrantDst | Place::Target | Place::Recorder => {
                Ok(())
            }
        },
        Selector::Host(_) | Selector::Prefix(_) | Selector::IpSet(_) => {
            address_allowed(selector, text, place)
        }
        Selector::Group(_) if place == Place::SshDst => Err(format!(
            "alias not supported for SSH destination: {text:?}; name users, tags or autogroups"
        )),
        Selector::Domain(_) if matches!(place, Place::SshDst | Place::Owner) => {
            Err(format!("invalid dst {text:?}"))
        }
        Selector::User(_) | Selector::Domain(_) | Selector::Group(_) | Selector::Tag(_) => Ok(()),
    }
}

fn address_allowed(selector: &Selector, text: &str, place: Place) -> Result<(), String> {
    match (place, selector) {
        (Place::SshDst, Selector::Host(_)) => Err(format!("invalid dst {text:?}")),
        (Place::SshDst, _) => Err(format!("alias not supported for SSH destination: {text:?}")),
        (Place::SshSrc, _) => Err(format!("alias not supported for SSH source: {text:?}")),
        (Place::Owner, _) => Err(format!("invalid owner format: {text:?}")),
        (Place::GrantDst, Selector::Prefix(prefix)) if prefix.prefix_len() == 0 => Err(format!(
            "dst {text:?}: to allow all IP addresses, use \"*\" or \"autogroup:internet\""
        )),
        _ => Ok(()),
    }
}

fn autogroup_allowed(autogroup: Autogroup, text: &str, place: Place) -> Result<(), String> {
    use Autogroup::{DangerAll, Internet, Member, Nonroot, Role, SelfNodes, Shared, Tagged};
    let wrong = || not_a_selector(&NotASelector::Autogroup, text, place);
    match (place, autogroup) {
        (Place::Src, SelfNodes) => Err(format!("{text:?} not valid on the src side of a rule")),
        (Place::Src | Place::SshSrc | Place::SshDst, Internet) => {
            Err("autogroup:internet can only be used in ACL destinations".to_owned())
        }
        (Place::AclDst | Place::GrantDst, DangerAll) => {
            Err("cannot use autogroup:danger-all as a dst".to_owned())
        }
        (Place::Src, Member | Tagged | DangerAll | Shared | Role(_))
        | (Place::AclDst | Place::GrantDst, Member | Tagged | Internet | SelfNodes | Role(_))
        | (Place::SshSrc, Member | Tagged | Role(_))
        | (Place::SshDst, Member | Tagged | SelfNodes | Role(_))
        | (Place::Target, Member | Tagged | Role(_))
        | (Place::Owner, Member | Role(_)) => Ok(()),
        (Place::Recorder, _) => Err(wrong()),
        (_, Nonroot | Shared | SelfNodes | DangerAll | Internet | Tagged) => Err(wrong()),
    }
}

/// Whether what a selector names is there. Users need not exist: who is deleted must not take the
/// policy with them.
pub(super) fn exists(
    selector: &Selector,
    names: &Names,
    users: &Directory<'_>,
    place: Place,
) -> Result<(), String> {
    match selector {
        Selector::Group(name) if !names.groups.contains_key(name) => {
            Err(format!("group not defined in policy: {name:?}"))
        }
        Selector::Tag(name) if !names.tag_owners.contains_key(name) => Err(match place {
            Place::Src => format!("src=tag not found: {name:?}"),
            Place::AclDst => format!("dst={name:?}: tag not found: {name:?}"),
            Place::GrantDst
            | Place::SshSrc
            | Place::SshDst
            | Place::Target
            | Place::Owner
            | Place::Recorder => {
                format!("tag not found: {name:?}")
            }
        }),
        Selector::Host(name) if !names.hosts.contains_key(name) => Err(match place {
            Place::Target => format!("{name:?}: invalid address"),
            Place::SshDst => format!("invalid dst {name:?}"),
            Place::Src
            | Place::AclDst
            | Place::GrantDst
            | Place::SshSrc
            | Place::Owner
            | Place::Recorder => {
                format!("host not defined in policy: {name:?}")
            }
        }),
        Selector::IpSet(name) if !names.ipsets.contains_key(name) => {
            Err(format!("ipset not defined in policy: {name:?}"))
        }
        Selector::User(token) => unambiguous(token, users),
        Selector::Domain(domain) if !users.has_domain(domain) => {
            let part = if matches!(place, Place::SshSrc | Place::SshDst) {
                "[ssh] "
            } else {
                ""
            };
            Err(format!("{part}{}", foreign_domain(domain)))
        }
        Selector::Any
        | Selector::Domain(_)
        | Selector::Group(_)
        | Selector::Tag(_)
        | Selector::Auto(_)
        | Selector::IpSet(_)
        | Selector::Host(_)
        | Selector::Prefix(_) => Ok(()),
    }
}

pub(super) fn foreign_domain(domain: &str) -> String {
    format!(
        "{domain} is not associated with this Tailnet and cannot be used in user:*@<domain> \
         expressions"
    )
}

/// Whether a name means at most one user.
pub(super) fn unambiguous(token: &str, users: &Directory<'_>) -> Result<(), String> {
    let users = users.named(token);
    if users.len() < 2 {
        return Ok(());
    }
    let ids: Vec<String> = users.iter().map(|user| user.id.to_string()).collect();
    Err(format!(
        "multiple users found: token {token:?} found: users {}",
        ids.join(", ")
    ))
}
