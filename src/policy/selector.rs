//! Selectors: the strings of a policy that stand for nodes or addresses.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::error::Position;
use crate::state::{User, UserRole};

/// What a rule names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// `*`
    Any,
    /// `name@`, `name@domain`: the untagged nodes of a user.
    User(String),
    /// `user:*@domain`: the untagged nodes of all users of a mail domain, in lower case.
    Domain(String),
    /// `group:…`
    Group(String),
    /// `tag:…`
    Tag(String),
    /// `autogroup:…`
    Auto(Autogroup),
    /// `ipset:…`
    IpSet(String),
    /// A name of `hosts`.
    Host(String),
    /// An address or CIDR, host bits cleared.
    Prefix(IpNet),
}

/// Groups that the service itself defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Autogroup {
    /// All untagged nodes.
    Member,
    /// All tagged nodes.
    Tagged,
    /// The untagged nodes of the same user.
    SelfNodes,
    /// Everything outside the tailnet, through exit nodes.
    Internet,
    /// Every address there is, as a source.
    DangerAll,
    /// Login users other than root.
    Nonroot,
    /// Nodes that another tailnet shared; there are none here.
    Shared,
    /// The nodes of users with this role; an owner is an admin, too.
    Role(Role),
}

/// Roles that a policy may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// `autogroup:owner`
    Owner,
    /// `autogroup:admin`
    Admin,
    /// `autogroup:it-admin`
    ItAdmin,
    /// `autogroup:network-admin`
    NetworkAdmin,
    /// `autogroup:billing-admin`
    BillingAdmin,
    /// `autogroup:auditor`
    Auditor,
}

impl Role {
    /// Whether a user has this role.
    pub(super) fn is_of(self, user: &User) -> bool {
        match self {
            Self::Owner => user.role == UserRole::Owner,
            Self::Admin => matches!(user.role, UserRole::Admin | UserRole::Owner),
            Self::ItAdmin => user.role == UserRole::ItAdmin,
            Self::NetworkAdmin => user.role == UserRole::NetworkAdmin,
            Self::BillingAdmin => user.role == UserRole::BillingAdmin,
            Self::Auditor => user.role == UserRole::Auditor,
        }
    }
}

const AUTOGROUPS: [(&str, Autogroup); 13] = [
    ("member", Autogroup::Member),
    ("tagged", Autogroup::Tagged),
    ("self", Autogroup::SelfNodes),
    ("internet", Autogroup::Internet),
    ("danger-all", Autogroup::DangerAll),
    ("nonroot", Autogroup::Nonroot),
    ("shared", Autogroup::Shared),
    ("owner", Autogroup::Role(Role::Owner)),
    ("admin", Autogroup::Role(Role::Admin)),
    ("it-admin", Autogroup::Role(Role::ItAdmin)),
    ("network-admin", Autogroup::Role(Role::NetworkAdmin)),
    ("billing-admin", Autogroup::Role(Role::BillingAdmin)),
    ("auditor", Autogroup::Role(Role::Auditor)),
];

impl fmt::Display for Autogroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = AUTOGROUPS.iter().find(|(_, known)| known == self);
        write!(f, "autogroup:{}", found.map_or("", |(name, _)| name))
    }
}

/// A string that is no selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotASelector {
    /// `autogroup:` with a name that is not known.
    Autogroup,
    /// `svc:…`: there are no services here.
    Service,
    Format,
}

impl Selector {
    /// Reads a selector; what it names need not exist.
    pub(super) fn parse(text: &str) -> Result<Self, NotASelector> {
        if let Some(prefix) = parse_prefix(text) {
            return Ok(Self::Prefix(prefix));
        }
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(domain) = text.strip_prefix("user:*@") {
            return Ok(Self::Domain(domain.to_lowercase()));
        }
        if text.contains('@') {
            return Ok(Self::User(text.to_owned()));
        }
        let Some((kind, name)) = text.split_once(':') else {
            return if text.is_empty() {
                Err(NotASelector::Format)
            } else {
                Ok(Self::Host(text.to_owned()))
            };
        };
        match kind {
            "group" => Ok(Self::Group(text.to_owned())),
            "tag" => Ok(Self::Tag(text.to_owned())),
            "autogroup" => {
                let found = AUTOGROUPS.iter().find(|(known, _)| *known == name);
                found.map_or(Err(NotASelector::Autogroup), |(_, autogroup)| {
                    Ok(Self::Auto(*autogroup))
                })
            }
            "ipset" => Ok(Self::IpSet(text.to_owned())),
            "host" => Ok(Self::Host(name.to_owned())),
            "svc" => Err(NotASelector::Service),
            _ => Err(NotASelector::Format),
        }
    }
}

/// An address or CIDR, host bits cleared.
pub(super) fn parse_prefix(text: &str) -> Option<IpNet> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.into());
    }
    let prefix: IpNet = text.parse().ok()?;
    Some(prefix.trunc())
}

/// A selector and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Spot {
    /// Where it begins.
    pub at: Position,
    /// As written.
    pub text: String,
    /// What it means.
    pub selector: Selector,
}
