//! A case: the policy, the tailnet it was set in, and what the service made of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::facts::{Facts, domain};
use super::super::posture::Device;
use super::super::roster::{Member, Roster};
use crate::state::{User, UserRole};
use crate::types::{NodeId, Timestamp, UserId};

/// A case as in its file.
pub(super) struct Case {
    pub(super) kind: &'static str,
    pub(super) id: String,
    /// As it was posted.
    pub(super) policy: String,
    /// What the service said when it refused the policy.
    pub(super) refusal: Option<String>,
    /// Devices update themselves.
    pub(super) auto_updates: bool,
    facts: Facts,
    nodes: Vec<Node>,
    /// Node name to what was captured on it.
    pub(super) captures: BTreeMap<String, Value>,
}

struct Node {
    name: String,
    member: Member,
    advertised: Vec<IpNet>,
}

#[derive(serde::Deserialize)]
struct Policy {
    input: Input,
}

#[derive(serde::Deserialize)]
struct Input {
    full_policy: Box<RawValue>,
}

impl Case {
    pub(super) fn read(kind: &'static str, path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let raw: Policy = serde_json::from_str(&text).unwrap();
        let raw = raw.input.full_policy.get();
        let policy = serde_json::from_str::<String>(raw).unwrap_or_else(|_| raw.to_owned());
        let whole: Value = serde_json::from_str(&text).unwrap();
        let input = &whole["input"];
        let refused = input["api_response_code"] != 200;
        let captures = whole["captures"].as_object().unwrap();
        let captures: BTreeMap<String, Value> = captures.clone().into_iter().collect();
        let facts = facts(&whole);
        Self {
            kind,
            id: whole["test_id"].as_str().unwrap().to_owned(),
            policy,
            refusal: refused.then(|| {
                let message = &input["api_response_body"]["message"];
                message.as_str().unwrap_or_default().to_owned()
            }),
            auto_updates: input["tailnet"]["settings"]["devices_auto_updates_on"] == true,
            nodes: nodes(&whole["topology"]["nodes"], &facts, &captures),
            facts,
            captures,
        }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = (&str, NodeId)> {
        let nodes = self.nodes.iter();
        nodes.map(|node| (node.name.as_str(), node.member.id))
    }

    /// The nodes with their routes as they were approved.
    pub(super) fn roster(&self) -> Roster {
        let members = self.nodes.iter().map(|node| node.member.clone());
        Roster::new(members.collect(), self.facts.clone())
    }

    /// The nodes with the routes that the policy approves, too: some captures were taken before
    /// the service had approved them.
    pub(super) fn roster_with(&self, approve: impl Fn(NodeId, &[IpNet]) -> Vec<IpNet>) -> Roster {
        let approved = |node: &Node| {
            let mut member = node.member.clone();
            for route in approve(member.id, &node.advertised) {
                let routes = if route.prefix_len() == 0 {
                    &mut member.exits
                } else {
                    &mut member.subnets
                };
                if !routes.contains(&route) {
                    routes.push(route);
                }
            }
            member
        };
        Roster::new(
            self.nodes.iter().map(approved).collect(),
            self.facts.clone(),
        )
    }
}

fn facts(whole: &Value) -> Facts {
    let tailnet = whole["tailnet"].as_str().unwrap();
    let users = whole["topology"]["users"].as_array().unwrap();
    let users = users.iter().map(|user| {
        let email = user["email"].as_str().unwrap();
        // The tailnet is named after its owner, and the others run it with them.
        let role = if email == tailnet {
            UserRole::Owner
        } else {
            UserRole::Admin
        };
        Arc::new(User {
            id: UserId(user["id"].as_u64().unwrap()),
            name: user["name"].as_str().unwrap().to_owned(),
            display_name: String::new(),
            email: email.to_owned(),
            picture_url: String::new(),
            provider: String::new(),
            provider_id: String::new(),
            created_at: Timestamp::default(),
            role,
        })
    });
    let mut users: Vec<_> = users.collect();
    users.sort_by_key(|user| user.id);
    Facts {
        users,
        domains: Some(domain(tailnet).into_iter().collect()),
    }
}

/// Ids follow the time of creation where it was captured: the oldest is elected as primary.
fn nodes(nodes: &Value, facts: &Facts, captures: &BTreeMap<String, Value>) -> Vec<Node> {
    let mut named: Vec<(&String, &Value)> = nodes.as_object().unwrap().iter().collect();
    named.sort_by_key(|(name, _)| {
        let capture = captures.get(*name);
        let created = capture.and_then(|capture| capture["netmap"]["SelfNode"]["Created"].as_str());
        (created.is_none(), created)
    });
    let number = |(number, (name, node)): (usize, (&String, &Value))| {
        let id = NodeId(u64::try_from(number).unwrap() + 1);
        Node {
            name: name.clone(),
            member: member(id, node, facts),
            advertised: prefixes(&node["routable_ips"]),
        }
    };
    named.into_iter().enumerate().map(number).collect()
}

fn member(id: NodeId, node: &Value, facts: &Facts) -> Member {
    let texts = |value: &Value| -> Vec<String> {
        let items = value.as_array().into_iter().flatten();
        items
            .map(|item| item.as_str().unwrap().to_owned())
            .collect()
    };
    let advertised = prefixes(&node["routable_ips"]);
    let approved = prefixes(&node["approved_routes"]);
    let routes = approved.into_iter();
    let routes = routes.filter(|route| advertised.contains(route));
    let (exits, subnets) = routes.partition(|route| route.prefix_len() == 0);
    let owner = node["user"].as_str().filter(|user| !user.is_empty());
    let owner = owner.map(|name| facts.named(name)[0].id);
    let mut tags = texts(&node["tags"]);
    tags.sort();
    let addresses = [&node["ipv4"], &node["ipv6"]];
    let addresses = addresses.map(|address| address.as_str().unwrap().parse().unwrap());
    Member {
        id,
        owner: owner.filter(|_| tags.is_empty()),
        tags,
        addresses: addresses.to_vec(),
        subnets,
        exits,
        is_online: true,
        device: Device::default(),
    }
}

pub(super) fn prefixes(value: &Value) -> Vec<IpNet> {
    let items = value.as_array().into_iter().flatten();
    items
        .map(|item| item.as_str().unwrap().parse().unwrap())
        .collect()
}
