//! A policy file as plain data: read, and checked against itself and the tailnet's users.
//!
//! Nothing here knows nodes; what the rules mean for them is for the other modules.

mod attrs;
mod decode;
mod derp;
mod lookup;
mod names;
mod period;
mod posture;
mod rules;
mod ssh;

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;

use super::address_set::AddressSet;
use super::error::{PolicyErrors, Position};
use super::facts::Facts;
use super::posture::{Attributes, Posture};
use super::selector::{NotASelector, Selector, Spot};
use super::{hujson, yaml};
use crate::tailcfg::PortRange;

use self::decode::Decoder;

pub use self::derp::DerpRegions;
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
    /// Relays of the tailnet's own.
    pub derp_map: Option<DerpRegions>,
    /// Postures of which every source must meet one where its rule names none.
    pub default_src_posture: Vec<String>,
    /// From headscale 0.22 or before: tags need no owners.
    pub(super) is_old: bool,
    /// Whether any rule looks at what devices are like.
    uses_postures: bool,
}

/// `groups`, `hosts`, `tagOwners`, `ipsets` and `postures`.
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
    /// `posture:…` to its conditions.
    pub postures: BTreeMap<String, Posture>,
}

impl Names {
    /// Whether selectors mean the same by these names as by others.
    pub(super) fn means(&self, other: &Self) -> bool {
        let users = |names: &Self| {
            let groups = names.groups.iter();
            let users = |users: &Vec<Text>| users.iter().map(|user| user.text.clone()).collect();
            let users = groups.map(|(name, all)| (name.clone(), users(all)));
            users.collect::<Vec<(String, Vec<String>)>>()
        };
        self.hosts == other.hosts
            && self.ipsets == other.ipsets
            && self.postures == other.postures
            && users(self) == users(other)
    }
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
    /// Postures of which a source must meet one; empty: any device will do.
    pub src_posture: Vec<String>,
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
    /// Postures of which a source must meet one; empty: any device will do.
    pub src_posture: Vec<String>,
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
    /// Postures of which a source must meet one; empty: any device will do.
    pub src_posture: Vec<String>,
    /// Where to.
    pub dst: Vec<Spot>,
    /// Login users, as written.
    pub users: Vec<String>,
    /// Environment variables that a client may set.
    pub accept_env: Vec<String>,
    /// Tags of the nodes that record sessions; empty: nobody does.
    pub recorder: Vec<Spot>,
    /// A session that cannot be recorded is refused.
    pub enforce_recorder: bool,
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
    /// What the device is like.
    pub(super) attributes: Attributes,
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
    /// What the device is like.
    pub(super) attributes: Attributes,
    /// Where to.
    pub dst: Vec<Text>,
    /// Login users that must be let in.
    pub accept: Vec<String>,
    /// Login users that must not be let in.
    pub deny: Vec<String>,
    /// Login users that must be let in after a check.
    pub check: Vec<String>,
}

impl Names {
    /// Reads a selector; a bare name that is no host is a user's, as in the first policies.
    pub(super) fn read(&self, text: &str) -> Result<Selector, NotASelector> {
        let selector = Selector::parse(text)?;
        let is_bare = matches!(&selector, Selector::Host(name) if !self.hosts.contains_key(name));
        if is_bare && !text.contains(':') {
            return Ok(Selector::User(text.to_owned()));
        }
        Ok(selector)
    }
}

impl Document {
    /// Reads a policy, in HuJSON or in headscale's old YAML, and checks all that can be known without
    /// nodes. White space and comments alone are the policy without rules, which allows everything.
    ///
    /// # Errors
    /// Everything that is wrong, or the one thing that keeps the text from being read.
    pub fn parse(text: &str, facts: &Facts) -> Result<Self, PolicyErrors> {
        // Some editors begin every file with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if !hujson::begins(text)
            && let Some(value) = yaml::parse(text)?
        {
            return Decoder::of_old(facts).document(&value);
        }
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

    /// How many pairs of sources, destinations and ports the rules spell out: what compiling costs.
    pub(super) fn pairs(&self) -> usize {
        let pairs = |one: usize, other: usize| one.saturating_mul(other);
        let acls = self.acls.iter().flatten();
        let acls = acls.map(|acl| pairs(acl.src.len(), acl.dst.len()));
        let grants = self.grants.iter().flatten();
        let grants = grants.map(|grant| {
            let dst = grant.dst.len();
            pairs(grant.src.len(), dst).saturating_add(pairs(grant.ip.len(), dst))
        });
        let ssh = self.ssh.iter().flatten();
        let ssh = ssh.map(|rule| pairs(rule.src.len(), rule.dst.len()));
        let all = acls.chain(grants).chain(ssh);
        all.fold(0, usize::saturating_add)
    }

    /// Whether there are no rules at all, so that everything is allowed.
    pub fn allows_all(&self) -> bool {
        self.acls.is_none() && self.grants.is_none()
    }

    /// Whether the answers depend on what devices say of themselves: a change of a node's Hostinfo
    /// then asks for a new engine.
    pub const fn needs_hostinfo(&self) -> bool {
        self.uses_postures
    }

    fn looks_at_devices(&self, default: &[String]) -> bool {
        let mut acls = self.acls.iter().flatten();
        let mut grants = self.grants.iter().flatten();
        let mut ssh = self.ssh.iter().flatten();
        !default.is_empty()
            || acls.any(|rule| !rule.src_posture.is_empty())
            || grants.any(|rule| !rule.src_posture.is_empty())
            || ssh.any(|rule| !rule.src_posture.is_empty())
    }
}
