//! The DNS part of a netmap: `tailcfg.DNSConfig` and `dnstype.Resolver`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::is_default;

/// `tailcfg.DNSConfig`. Replaces the client's whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DnsConfig {
    /// Used for everything in place of the host's resolver.
    #[serde(skip_serializing_if = "is_default")]
    pub resolvers: Vec<Resolver>,
    /// Suffix without leading dot to its resolvers; none = answered from node names and records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<BTreeMap<String, Vec<Resolver>>>,
    /// Used when the exit node in use cannot answer DNS.
    #[serde(skip_serializing_if = "is_default")]
    pub fallback_resolvers: Vec<Resolver>,
    /// Search list, without trailing dots.
    #[serde(skip_serializing_if = "is_default")]
    pub domains: Vec<String>,
    /// MagicDNS is on.
    #[serde(skip_serializing_if = "is_default")]
    pub proxied: bool,
    /// Names for which the node may get certificates.
    #[serde(skip_serializing_if = "is_default")]
    pub cert_domains: Vec<String>,
    /// Addresses of further names.
    #[serde(skip_serializing_if = "is_default")]
    pub extra_records: Vec<DnsRecord>,
    /// Names that the node refuses to resolve for users of it as exit node.
    #[serde(skip_serializing_if = "is_default")]
    pub exit_node_filtered_set: Vec<String>,
}

/// `dnstype.Resolver`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Resolver {
    /// Address, address and port, or URL.
    #[serde(skip_serializing_if = "is_default")]
    pub addr: String,
    /// Addresses of the resolver's own name.
    #[serde(skip_serializing_if = "is_default")]
    pub bootstrap_resolution: Vec<String>,
    /// Stays in use with an exit node (capver 125).
    #[serde(skip_serializing_if = "is_default")]
    pub use_with_exit_node: bool,
}

/// `tailcfg.DNSRecord`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DnsRecord {
    /// Fully qualified name.
    pub name: String,
    /// `A` or `AAAA`; empty = by value.
    #[serde(skip_serializing_if = "is_default")]
    pub r#type: String,
    /// Address as text.
    pub value: String,
}
