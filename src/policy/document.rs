//! A policy file as typed, checked, plain data.
//!
//! What is written, not what it means: names of users stay names, because users come and go under
//! an unchanged policy. Names that the file itself must define (groups, tags, hosts, ipsets,
//! postures) are defined wherever a [`Document`] uses them. Texts keep their place in the file, so
//! that whoever finds fault later can point at it.

mod error;
mod facts;
mod ip_set;
mod ports;
mod posture;
mod rules;
mod selector;
mod text;

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::tailcfg::DerpMap;

pub use self::error::{PolicyError, PolicyErrors};
pub use self::facts::TailnetFacts;
pub use self::ip_set::{IpSet, IpSetChange, IpSetStep};
pub use self::ports::{PortsError, Protocol, ProtocolError, parse_ports, split_ports};
pub use self::posture::{Comparison, Condition, Literal, Posture};
pub use self::rules::{
    Acl, AutoApprovers, CapValues, Destination, Grant, IpEntry, LoginUser, NodeAttr, SshAction,
    SshRule, SshTest, Test,
};
pub use self::selector::{Autogroup, NotASelector, Selector, Spot};
pub use self::text::{Position, Text};

/// A policy file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// `group:…` to its members: [`Selector::User`] or [`Selector::UserDomain`] only.
    pub groups: BTreeMap<String, Vec<Spot>>,
    /// Name to address or CIDR, host bits cleared.
    pub hosts: BTreeMap<String, IpNet>,
    /// `tag:…` to who may put it on nodes: users, groups, tags and autogroups of users.
    pub tag_owners: BTreeMap<String, Vec<Spot>>,
    /// `ipset:…` to how it is made; sets may name each other, but never in a circle.
    pub ip_sets: BTreeMap<String, IpSet>,
    /// `posture:…` to its conditions.
    pub postures: BTreeMap<String, Posture>,
    /// Postures for rules that name none themselves; any of them suffices.
    pub default_src_posture: Vec<Text>,
    /// Absent and empty differ: without `acls` and `grants` everything is allowed.
    pub acls: Option<Vec<Acl>>,
    /// Absent and empty differ as for `acls`.
    pub grants: Option<Vec<Grant>>,
    /// Absent and empty differ: without `ssh` nodes get no SSH policy at all.
    pub ssh: Option<Vec<SshRule>>,
    /// Whose routes need no administrator.
    pub auto_approvers: AutoApprovers,
    /// Attributes of nodes.
    pub node_attrs: Vec<NodeAttr>,
    /// Connections that must be, or must not be, allowed.
    pub tests: Vec<Test>,
    /// Logins that must be, or must not be, allowed.
    pub ssh_tests: Vec<SshTest>,
    /// Every node takes a random port.
    pub randomize_client_port: bool,
    /// No node uses an IPv4 address.
    pub disable_ipv4: bool,
    /// Whether macOS takes one route for all of 100.64.0.0/10 (`mac-always`, `mac-never`); absent:
    /// as the client likes.
    pub one_cgnat_route: Option<bool>,
    /// Regions beside, or with `omit_default_regions` instead of, the tailnet's own.
    pub derp_map: Option<DerpMap>,
}

impl Document {
    /// Whether there are no rules at all, so that everything is allowed.
    pub const fn allows_all(&self) -> bool {
        self.acls.is_none() && self.grants.is_none()
    }
}
