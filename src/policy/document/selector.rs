//! Selectors: the words of a policy that stand for nodes or addresses.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::text::Position;
use crate::state::UserRole;

/// What a word of a policy names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// `*`
    Any,
    /// `name@domain`, `name@`, or a bare `name` as headscale 0.22 wrote it; as written.
    User(String),
    /// `user:*@domain`: everybody with a mail address in the domain, in lower case.
    UserDomain(String),
    /// `group:…`
    Group(String),
    /// `tag:…`
    Tag(String),
    /// `autogroup:…`
    Autogroup(Autogroup),
    /// A key of `hosts`, also written `host:name`.
    Host(String),
    /// `ipset:…`
    IpSet(String),
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
    /// The untagged nodes of the same user (`autogroup:self`).
    OwnNodes,
    /// Everything outside the tailnet, through exit nodes.
    Internet,
    /// Every address there is, as a source.
    DangerAll,
    /// Login users other than root.
    Nonroot,
    /// Users of other tailnets to whom nodes are shared; a tailnet of ours has none.
    Shared,
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

const AUTOGROUPS: [(&str, Autogroup); 13] = [
    ("member", Autogroup::Member),
    ("tagged", Autogroup::Tagged),
    ("self", Autogroup::OwnNodes),
    ("internet", Autogroup::Internet),
    ("danger-all", Autogroup::DangerAll),
    ("nonroot", Autogroup::Nonroot),
    ("shared", Autogroup::Shared),
    ("owner", Autogroup::Owner),
    ("admin", Autogroup::Admin),
    ("it-admin", Autogroup::ItAdmin),
    ("network-admin", Autogroup::NetworkAdmin),
    ("billing-admin", Autogroup::BillingAdmin),
    ("auditor", Autogroup::Auditor),
];

impl Autogroup {
    /// The role that makes a user one of the group, if that is what the group is.
    pub const fn role(self) -> Option<UserRole> {
        match self {
            Self::Owner => Some(UserRole::Owner),
            Self::Admin => Some(UserRole::Admin),
            Self::ItAdmin => Some(UserRole::ItAdmin),
            Self::NetworkAdmin => Some(UserRole::NetworkAdmin),
            Self::BillingAdmin => Some(UserRole::BillingAdmin),
            Self::Auditor => Some(UserRole::Auditor),
            Self::Member
            | Self::Tagged
            | Self::OwnNodes
            | Self::Internet
            | Self::DangerAll
            | Self::Nonroot
            | Self::Shared => None,
        }
    }
}

impl fmt::Display for Autogroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = AUTOGROUPS.iter().find(|(_, known)| known == self);
        write!(f, "autogroup:{}", found.map_or("", |(name, _)| name))
    }
}

/// Text that is no selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotASelector {
    /// `autogroup:` with a name that is not known.
    #[error("unknown autogroup")]
    Autogroup,
    /// `svc:…`
    #[error("Tailscale Services (svc:) are not supported")]
    Service,
    /// Nothing that any selector looks like.
    #[error("invalid alias format")]
    Format,
}

impl Selector {
    /// Reads a selector; what it names need not exist. A bare word is taken for a host.
    ///
    /// # Errors
    /// Says what the text looks like.
    pub fn parse(text: &str) -> Result<Self, NotASelector> {
        if let Some(prefix) = parse_prefix(text) {
            return Ok(Self::Prefix(prefix));
        }
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(domain) = text.strip_prefix("user:*@") {
            return Ok(Self::UserDomain(domain.to_lowercase()));
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
            "ipset" => Ok(Self::IpSet(text.to_owned())),
            "host" if !name.is_empty() => Ok(Self::Host(name.to_owned())),
            "autogroup" => {
                let found = AUTOGROUPS.iter().find(|(known, _)| *known == name);
                found.map_or(Err(NotASelector::Autogroup), |(_, autogroup)| {
                    Ok(Self::Autogroup(*autogroup))
                })
            }
            "svc" => Err(NotASelector::Service),
            _ => Err(NotASelector::Format),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::User(name)
            | Self::Group(name)
            | Self::Tag(name)
            | Self::Host(name)
            | Self::IpSet(name) => f.write_str(name),
            Self::UserDomain(domain) => write!(f, "user:*@{domain}"),
            Self::Autogroup(autogroup) => autogroup.fmt(f),
            Self::Prefix(prefix) if prefix.prefix_len() == prefix.max_prefix_len() => {
                prefix.addr().fmt(f)
            }
            Self::Prefix(prefix) => prefix.fmt(f),
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
    /// As written, but for white space around it.
    pub text: String,
    /// What it names.
    pub selector: Selector,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_told_apart_by_their_form() {
        let cases = [
            ("*", Selector::Any),
            ("a@example.com", Selector::User("a@example.com".into())),
            ("group:x@", Selector::User("group:x@".into())),
            (
                "user:*@Example.com",
                Selector::UserDomain("example.com".into()),
            ),
            ("group:x", Selector::Group("group:x".into())),
            ("tag:x", Selector::Tag("tag:x".into())),
            ("host:db", Selector::Host("db".into())),
            ("db", Selector::Host("db".into())),
            ("ipset:x", Selector::IpSet("ipset:x".into())),
            ("autogroup:self", Selector::Autogroup(Autogroup::OwnNodes)),
            (
                "10.1.2.3/8",
                Selector::Prefix("10.0.0.0/8".parse().unwrap()),
            ),
            ("fd7a::1", Selector::Prefix("fd7a::1/128".parse().unwrap())),
        ];
        for (text, selector) in cases {
            assert_eq!(Selector::parse(text), Ok(selector), "{text}");
        }
        assert_eq!(Selector::parse("svc:x"), Err(NotASelector::Service));
        assert_eq!(Selector::parse("db:22"), Err(NotASelector::Format));
        assert_eq!(Selector::parse(""), Err(NotASelector::Format));
        assert_eq!(Selector::parse("autogroup:x"), Err(NotASelector::Autogroup));
    }

    #[test]
    fn every_autogroup_is_read_as_it_is_shown() {
        for (_, autogroup) in AUTOGROUPS {
            let shown = autogroup.to_string();
            assert_eq!(Selector::parse(&shown), Ok(Selector::Autogroup(autogroup)));
        }
    }
}
