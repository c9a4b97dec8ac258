//! The entries of a policy's lists.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;

use super::ports::Protocol;
use super::selector::Spot;
use super::text::{Position, Text};
use crate::tailcfg::PortRange;

/// Values of a capability; `None` is JSON's null, which differs from no values on the wire.
pub type CapValues = Option<Vec<Value>>;

/// An entry of `acls`; its action is always to accept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Acl {
    /// Where it begins.
    pub at: Position,
    /// Absent = what clients take for the usual ones.
    pub proto: Option<Protocol>,
    /// Who.
    pub src: Vec<Spot>,
    /// Where to.
    pub dst: Vec<Destination>,
    /// Names of postures, any of which a source must meet.
    pub src_posture: Vec<Text>,
}

/// `selector:ports`
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    /// Where to; its text is without the ports and without brackets.
    pub spot: Spot,
    /// In the order in which they are written.
    pub ports: Vec<PortRange>,
}

/// An entry of `grants`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grant {
    /// Where it begins.
    pub at: Position,
    /// Who.
    pub src: Vec<Spot>,
    /// Where to.
    pub dst: Vec<Spot>,
    /// Which connections.
    pub ip: Vec<IpEntry>,
    /// Peer capability to its values.
    pub app: BTreeMap<String, CapValues>,
    /// Tags of the routers to go through; empty = any.
    pub via: Vec<Text>,
    /// Names of postures, any of which a source must meet.
    pub src_posture: Vec<Text>,
}

/// An entry of `ip` in a grant: `*`, `ports` or `proto:ports`.
#[derive(Clone, Debug, PartialEq)]
pub struct IpEntry {
    /// Where it stands.
    pub at: Position,
    /// Absent = what clients take for the usual ones.
    pub proto: Option<Protocol>,
    /// In the order in which they are written.
    pub ports: Vec<PortRange>,
}

/// An entry of `ssh`.
#[derive(Clone, Debug, PartialEq)]
pub struct SshRule {
    /// Where it begins.
    pub at: Position,
    /// What happens to a login.
    pub action: SshAction,
    /// Who.
    pub src: Vec<Spot>,
    /// Where to.
    pub dst: Vec<Spot>,
    /// As whom, at least one.
    pub users: Vec<LoginUser>,
    /// Patterns of environment variables that a client may set.
    pub accept_env: Vec<String>,
    /// Nodes that record sessions.
    pub recorder: Vec<Spot>,
    /// A session that cannot be recorded is refused.
    pub enforce_recorder: bool,
    /// Names of postures, any of which a source must meet.
    pub src_posture: Vec<Text>,
}

/// What happens to a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SshAction {
    /// It is let in.
    Accept,
    /// Whoever it is must show again that they are it.
    Check {
        /// How long that holds (`checkPeriod`): absent = the default, zero = `always`, asked at
        /// each login.
        period: Option<Duration>,
    },
}

impl SshAction {
    /// How long a check holds if the rule does not say.
    pub const PERIOD_DEFAULT: Duration = Duration::from_hours(12);
    /// Longest that a check may hold.
    pub const PERIOD_MAX: Duration = Duration::from_hours(168);

    /// How long a check holds; `None` if there is none.
    pub fn check_period(self) -> Option<Duration> {
        match self {
            Self::Accept => None,
            Self::Check { period } => Some(period.unwrap_or(Self::PERIOD_DEFAULT)),
        }
    }
}

/// A user to log in as.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LoginUser {
    /// This one; also what only looks like a selector, which the service takes literally.
    Name(String),
    /// `autogroup:nonroot`
    Nonroot,
    /// `localpart:*@domain`: named like the mail address in front of this domain, in lower case.
    Localpart {
        /// The domain.
        domain: String,
    },
}

impl fmt::Display for LoginUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Nonroot => f.write_str("autogroup:nonroot"),
            Self::Localpart { domain } => write!(f, "localpart:*@{domain}"),
        }
    }
}

/// `autoApprovers`: users, groups, tags and autogroups of users.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AutoApprovers {
    /// For routes inside the prefix, in the order of the file.
    pub routes: Vec<(IpNet, Vec<Spot>)>,
    /// For exit routes.
    pub exit_node: Vec<Spot>,
}

/// An entry of `nodeAttrs`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeAttr {
    /// Where it begins.
    pub at: Position,
    /// Whose.
    pub target: Vec<Spot>,
    /// Attributes without values.
    pub attr: Vec<String>,
    /// Attribute to its values.
    pub app: BTreeMap<String, CapValues>,
    /// Where the IPv4 addresses of these nodes come from.
    pub ip_pool: Vec<IpNet>,
}

/// An entry of `tests`. Only its shape is checked: what is wrong inside is a failed test.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Test {
    /// Where it begins.
    pub at: Position,
    /// Who.
    pub src: Text,
    /// Name or number of a protocol in lower case; empty = what clients take for the usual ones.
    pub proto: Text,
    /// `selector:port` that must be allowed.
    pub accept: Vec<Text>,
    /// `selector:port` that must not be allowed.
    pub deny: Vec<Text>,
}

/// An entry of `sshTests`. Users and addresses are looked up when it runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SshTest {
    /// Where it begins.
    pub at: Position,
    /// Who.
    pub src: Text,
    /// Where to, at least one.
    pub dst: Vec<Spot>,
    /// Login users who must be let in, at once or after a check.
    pub accept: Vec<Text>,
    /// Login users who must not be let in.
    pub deny: Vec<Text>,
    /// Login users who must be let in after a check.
    pub check: Vec<Text>,
}
