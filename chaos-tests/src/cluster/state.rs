//! What the replicas say that the tailnet is, to compare.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::Replica;

/// A node as `nodes list` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: String,
    /// The host's own name.
    pub hostname: String,
    /// The key of its login.
    pub node_key: String,
    /// IPv4 and IPv6.
    pub addresses: Vec<IpAddr>,
    /// Whether some replica holds its map stream.
    pub online: bool,
}

/// Everything that a replica lists, but for what depends on the moment of asking.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Dump {
    pub(super) nodes: Value,
    users: Value,
    keys: Value,
    /// Hash over the whole state, what is not listed included.
    digest: Value,
}

impl Dump {
    /// The first thing in which they differ.
    pub(super) fn difference(&self, other: &Self) -> String {
        let pairs = [
            (&self.nodes, &other.nodes),
            (&self.users, &other.users),
            (&self.keys, &other.keys),
        ];
        for (one, two) in pairs {
            let rows = |list: &Value| list.as_array().cloned().unwrap_or_default();
            let (one, two) = (rows(one), rows(two));
            if one.len() != two.len() {
                return format!("{} and {} rows", one.len(), two.len());
            }
            if let Some((one, two)) = one.iter().zip(&two).find(|(one, two)| one != two) {
                return format!("{one}\n{two}");
            }
        }
        format!("digests {} and {}", self.digest, other.digest)
    }
}

pub(super) async fn dump(replica: &Replica) -> Result<Dump> {
    Ok(Dump {
        nodes: replica.command(&["nodes", "list"]).await?,
        users: replica.command(&["users", "list"]).await?,
        keys: replica.command(&["preauthkeys", "list"]).await?,
        digest: replica.command(&["cluster", "digest"]).await?,
    })
}

/// Reads what `nodes list` gave.
///
/// # Errors
/// When a field is missing.
pub fn nodes_of(listed: &Value) -> Result<Vec<Node>> {
    listed
        .as_array()
        .context("not a list of nodes")?
        .iter()
        .map(node_of)
        .collect()
}

fn node_of(listed: &Value) -> Result<Node> {
    let text = |name: &str| -> Result<String> {
        let value = listed[name].as_str();
        Ok(value
            .with_context(|| format!("no {name} in {listed}"))?
            .to_owned())
    };
    let addresses = listed["ipAddresses"].as_array().context("no ipAddresses")?;
    let addresses: Result<Vec<IpAddr>> = addresses
        .iter()
        .map(|address| Ok(address.as_str().context("an address is text")?.parse()?))
        .collect();
    Ok(Node {
        id: text("id")?,
        hostname: text("name")?,
        node_key: text("nodeKey")?,
        addresses: addresses?,
        online: listed["online"].as_bool().unwrap_or_default(),
    })
}

/// Every node has an IPv4 and an IPv6 address, and no two nodes share one.
///
/// # Errors
/// Naming the nodes that do.
pub fn check_addresses(nodes: &[Node]) -> Result<()> {
    let mut owners: BTreeMap<IpAddr, &Node> = BTreeMap::new();
    for node in nodes {
        if node.addresses.len() != 2 {
            bail!("{} has the addresses {:?}", node.hostname, node.addresses);
        }
        for address in &node.addresses {
            if let Some(other) = owners.insert(*address, node) {
                bail!("{} and {} share {address}", node.hostname, other.hostname);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(hostname: &str, addresses: [&str; 2]) -> Node {
        Node {
            id: hostname.to_owned(),
            hostname: hostname.to_owned(),
            node_key: String::new(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            online: false,
        }
    }

    #[test]
    fn a_shared_address_is_found() {
        let one = node("one", ["100.64.0.1", "fd7a::1"]);
        let two = node("two", ["100.64.0.2", "fd7a::2"]);
        let same = node("same", ["100.64.0.3", "fd7a::2"]);
        check_addresses(&[one.clone(), two.clone()]).unwrap();
        let complaint = check_addresses(&[one, two, same]).unwrap_err().to_string();
        assert!(complaint.contains("fd7a::2"), "{complaint}");
    }
}
