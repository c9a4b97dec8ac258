//! A policy file as plain data: read, and checked against itself and the tailnet's users.
//!
//! Nothing here knows nodes; what the rules mean for them is for the other modules.

mod attrs;
mod decode;
mod lookup;
mod names;
mod period;
mod rules;
mod ssh;

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;

use super::address_set::AddressSet;
use super::error::{PolicyErrors, Position};
use super::facts::Facts;
use super::hujson;
use super::selector::Spot;
use crate::tailcfg::PortRange;

use self::decode::Decoder;

pub(super) use self::ssh::localpart_domain;

/// A string and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// Where it begins.
    pub at: Position,
    /// As it is meant: white space around it is gone where the service ignores it.
    pub text: String,
}

/// A policy file.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// What the rules refer to by name.
    pub names: Names,
    /// Absent and empty differ: without `acls` and `grants` everything is allowed.
    pub acls: Option<Vec<Acl>>,
    /// Absent and empty differ as for `acls`.
    pub grants: Option<Vec<Grant>>,
    /// Absent: nobody logs in by SSH.
    pub ssh: Option<Vec<SshRule>>,
    /// Which routes are approved at once.
    pub auto_approvers: AutoApprovers,
    /// Attributes of nodes.
    pub node_attrs: Vec<NodeAttr>,
    /// Connections that must be, or must not be, allowed.
    pub tests: Vec<Test>,
    /// Logins that must be, or must not be, allowed.
    pub ssh_tests: Vec<SshTest>,
    /// Every node takes a random port (`randomize-client-port`).
    pub randomize_client_port: bool,
    /// No node has an IPv4 address (`disable-ipv4`).
    pub disable_ipv4: bool,
    /// Whether macOS takes one route for all of 100.64.0.0/10; absent: as it likes.
    pub one_cgnat_route: Option<bool>,
}

/// `groups`, `hosts`, `tagOwners` and `ipsets`.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// `group:…` to its users.
    pub groups: BTreeMap<String, Vec<Text>>,
    /// Name to address or CIDR.
    pub hosts: BTreeMap<String, IpNet>,
    /// `tag:…` to who may use it.
    pub tag_owners: BTreeMap<String, Vec<Spot>>,
    /// `ipset:…` to its addresses.
    pub(super) ipsets: BTreeMap<String, AddressSet>,
}

/// A rule of `acls`.
#[derive(Clone, Debug)]
pub struct Acl {
    /// Where it begins.
    pub at: Position,
    /// IP protocol number; absent = the usual ones.
    pub protocol: Option<u8>,
    /// Who.
    pub src: Vec<Spot>,
    /// Where to.
    pub dst: Vec<(Spot, Vec<PortRange>)>,
}

/// A rule of `grants`.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Where it begins.
    pub at: Position,
    /// Who.
    pub src: Vec<Spot>,
    /// Where to.
    pub dst: Vec<Spot>,
    /// Which connections.
    pub ip: Vec<IpEntry>,
    /// Peer capability to its values; empty = none.
    pub app: BTreeMap<String, Vec<serde_json::Value>>,
    /// Tags of the routers that it leads through; empty = any.
    pub via: Vec<String>,
}

/// An entry of `ip` in a grant.
#[derive(Clone, Debug, PartialEq)]
pub struct IpEntry {
    /// IP protocol number; absent = the usual ones.
    pub protocol: Option<u8>,
    /// Which ports.
    pub ports: Vec<PortRange>,
}

/// A rule of `ssh`.
#[derive(Clone, Debug)]
pub struct SshRule {
    /// Where it begins.
    pub at: Position,
    /// A check lasts this long; absent: logins are accepted without one.
    pub check_period: Option<Duration>,
    /// Who.
    pub src: Vec<Spot>,
    /// Where to.
    pub dst: Vec<Spot>,
    /// Login users, as written.
    pub users: Vec<String>,
    /// Environment variables that a client may set.
    pub accept_env: Vec<String>,
}

/// `autoApprovers`.
#[derive(Clone, Debug, Default)]
pub struct AutoApprovers {
    /// Routes inside the prefix are approved for these.
    pub routes: Vec<(IpNet, Vec<Spot>)>,
    /// Exit routes are approved for these.
    pub exit_node: Vec<Spot>,
}

/// An entry of `nodeAttrs`.
#[derive(Clone, Debug)]
pub struct NodeAttr {
    /// Whose.
    pub target: Vec<Spot>,
    /// The attributes.
    pub attr: Vec<String>,
    /// Attributes with values (`app`).
    pub app: BTreeMap<String, Vec<serde_json::Value>>,
    /// Where the addresses of the nodes come from.
    pub ip_pool: Vec<IpNet>,
}

/// An entry of `tests`, not looked into: what is wrong inside is a failed test.
#[derive(Clone, Debug)]
pub struct Test {
    /// Where it begins.
    pub at: Position,
    /// Who.
    pub src: String,
    /// Protocol name or number; empty = the usual ones.
    pub proto: String,
    /// Must be allowed, `selector:port`.
    pub accept: Vec<String>,
    /// Must not be allowed, `selector:port`.
    pub deny: Vec<String>,
}

/// An entry of `sshTests`.
#[derive(Clone, Debug)]
pub struct SshTest {
    /// Where it begins.
    pub at: Position,
    /// Who.
    pub src: String,
    /// Where to.
    pub dst: Vec<Text>,
    /// Login users that must be let in.
    pub accept: Vec<String>,
    /// Login users that must not be let in.
    pub deny: Vec<String>,
    /// Login users that must be let in after a check.
    pub check: Vec<String>,
}

impl Document {
    /// Reads a policy and checks all that can be known without nodes. White space and comments
    /// alone are the policy without rules, which allows everything.
    ///
    /// # Errors
    /// Everything that is wrong, or the one thing that keeps the text from being read.
    pub fn parse(text: &str, facts: &Facts) -> Result<Self, PolicyErrors> {
        match hujson::parse(text)? {
            Some(value) => Decoder::new(facts).document(&value),
            None => Ok(Self::default()),
        }
    }

    /// A document that allows nothing.
    pub(super) fn closed() -> Self {
        Self {
            acls: Some(Vec::new()),
            ..Self::default()
        }
    }

    /// Whether there are no rules at all, so that everything is allowed.
    pub fn allows_all(&self) -> bool {
        self.acls.is_none() && self.grants.is_none()
    }
}
