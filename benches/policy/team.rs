//! The P-team tailnet: people in groups, servers with tags, and a thousand rules between them.
//!
//! Two thirds of the nodes belong to people, of whom each is in one or two of 40 groups; the others
//! are servers with one or two of 25 tags. Every hundredth node is a subnet router, some are exit
//! nodes. Of the rules one in ten leads to a CIDR, one in twenty to a port; one more lets everybody
//! reach their own nodes.

use std::fmt::Write as _;

use anyhow::{Context, bail};
use hydrascale::state::{ApplyContext, Change, State};
use hydrascale::types::Timestamp;
use hydrascale_proto::state::v1::command::Op;
use hydrascale_proto::state::v1::{self, Command, outcome};

const GROUPS: usize = 40;
const TAGS: usize = 25;
const RULES: usize = 1_000;
/// People there are at most, as in a company where each has more and more devices.
const USERS_MAX: usize = 2_000;

/// A rule of the policy, by number of group and of tag.
pub struct TeamRule {
    pub groups: [usize; 2],
    pub dst: Dst,
}

/// Where a rule leads.
pub enum Dst {
    Tag(usize),
    Cidr(usize),
}

/// What a node is.
pub enum Kind {
    Person { groups: [usize; 2] },
    Server { tags: [usize; 2] },
}

/// A tailnet of this kind, and what it is made of.
pub struct Team {
    pub state: State,
    pub nodes: usize,
    index: u64,
}

pub fn rules() -> Vec<TeamRule> {
    let rule = |rule: usize| TeamRule {
        groups: [rule * 7 % GROUPS, (rule * 11 + rule / GROUPS) % GROUPS],
        dst: if rule % 10 == 3 {
            Dst::Cidr(rule / 10)
        } else {
            Dst::Tag((rule * 3 + rule / TAGS) % TAGS)
        },
    };
    (0..RULES).map(rule).collect()
}

fn users(nodes: usize) -> usize {
    (nodes / 10).min(USERS_MAX)
}

fn groups_of(user: usize) -> [usize; 2] {
    [user % GROUPS, (user / GROUPS * 3 + user) % GROUPS]
}

pub fn kind(node: usize, nodes: usize) -> Kind {
    if node % 3 == 2 {
        let server = node / 3;
        let tags = [server % TAGS, (server / TAGS * 7 + server) % TAGS];
        return Kind::Server { tags };
    }
    Kind::Person {
        groups: groups_of(node % users(nodes)),
    }
}

/// The policy; rule `moved` leads to another tag than usual.
pub fn policy(nodes: usize, moved: Option<usize>) -> String {
    let mut text = String::from("{\"groups\": {\n");
    for group in 0..GROUPS {
        let members = (0..users(nodes)).filter(|user| groups_of(*user).contains(&group));
        let members: Vec<String> = members.map(|user| format!("\"u{user}@\"")).collect();
        let _ = writeln!(text, "\"group:g{group}\": [{}],", members.join(","));
    }
    text.push_str("},\n\"tagOwners\": {");
    for tag in 0..TAGS {
        let _ = write!(text, "\"tag:t{tag}\": [],");
    }
    text.push_str("},\n\"acls\": [\n");
    for (number, rule) in rules().iter().enumerate() {
        let ports = if number % 20 == 7 {
            "22,443,8000-8080"
        } else {
            "*"
        };
        let [one, other] = rule.groups;
        let dst = match rule.dst {
            Dst::Cidr(cidr) => format!("10.{cidr}.0.0/16"),
            Dst::Tag(tag) if moved == Some(number) => format!("tag:t{}", (tag + 1) % TAGS),
            Dst::Tag(tag) => format!("tag:t{tag}"),
        };
        let _ = writeln!(
            text,
            "{{\"action\": \"accept\", \"src\": [\"group:g{one}\", \"group:g{other}\"], \
             \"dst\": [\"{dst}:{ports}\"]}},"
        );
    }
    text.push_str(
        "{\"action\": \"accept\", \"src\": [\"autogroup:member\"], \
         \"dst\": [\"autogroup:self:*\"]},\n]}\n",
    );
    text
}

impl Team {
    /// A tailnet with this many nodes.
    pub fn new(nodes: usize) -> anyhow::Result<Self> {
        let mut team = Self {
            state: State::default(),
            nodes,
            index: 0,
        };
        team.apply(Op::InitTailnet(v1::InitTailnet {
            settings: Some(v1::Settings {
                ipv4_prefix: "100.64.0.0/10".into(),
                ipv6_prefix: "fd7a:115c:a1e0::/48".into(),
                ephemeral_inactivity_ms: 120_000,
                login_ttl_ms: 900_000,
                session_grace_ms: 10_000,
                replica_grace_ms: 25_000,
                ..Default::default()
            }),
            noise_private_key: vec![1; 32].into(),
            secret_pepper: vec![2; 32].into(),
        }))?;
        for user in 0..users(nodes) {
            let name = format!("u{user}");
            team.apply(Op::CreateUser(v1::CreateUser {
                name,
                ..Default::default()
            }))?;
        }
        for node in 0..nodes {
            team.add_node(node)?;
        }
        team.set_policy(None)?;
        Ok(team)
    }

    /// Applies a command that must not be refused.
    fn apply(&mut self, op: Op) -> anyhow::Result<(u64, Change)> {
        self.index += 1;
        let ctx = ApplyContext {
            index: self.index,
            now: Timestamp::from_unix_ms(1_700_000_000_000),
        };
        let applied = self.state.apply(&ctx, &Command { op: Some(op) })?;
        match applied.outcome.result {
            Some(outcome::Result::Done(done)) => Ok((done.id, applied.change)),
            other => bail!("not done: {other:?}"),
        }
    }

    /// Adds the node with this number.
    pub fn add_node(&mut self, node: usize) -> anyhow::Result<Change> {
        let (key, _) = self.auth_key(node)?;
        let mut machine = [0; 32];
        for (byte, value) in machine.iter_mut().zip((node as u64 + 1).to_be_bytes()) {
            *byte = value;
        }
        let routes = self.routes_of(node);
        let hostinfo = serde_json::json!({"OS": "linux", "Hostname": format!("n{node}"),
            "RoutableIPs": routes});
        let (node_id, mut change) = self.apply(Op::RegisterNode(v1::RegisterNode {
            machine_key: machine.to_vec().into(),
            node_key: machine.to_vec().into(),
            hostinfo_json: serde_json::to_vec(&hostinfo)?.into(),
            capver: 130,
            auth_key: Some(key),
            ..Default::default()
        }))?;
        if !routes.is_empty() {
            let approved = v1::SetApprovedRoutes { node_id, routes };
            let (_, more) = self.apply(Op::SetApprovedRoutes(approved))?;
            change.merge(more);
        }
        Ok(change)
    }

    fn auth_key(&mut self, node: usize) -> anyhow::Result<(v1::PreAuthKeyProof, Change)> {
        let proof = v1::PreAuthKeyProof {
            prefix: format!("{:012x}", self.index),
            secret_hash: vec![3; 32].into(),
        };
        let (user_id, tags) = match kind(node, self.nodes) {
            Kind::Person { .. } => {
                let name = format!("u{}", node % users(self.nodes));
                let user = self.state.user_by_name(&name).context("no such user")?;
                (Some(user.id.0), Vec::new())
            }
            Kind::Server { tags } => {
                let mut tags: Vec<String> = tags.iter().map(|tag| format!("tag:t{tag}")).collect();
                tags.dedup();
                (None, tags)
            }
        };
        let (_, change) = self.apply(Op::CreatePreAuthKey(v1::CreatePreAuthKey {
            prefix: proof.prefix.clone(),
            secret_hash: proof.secret_hash.clone(),
            user_id,
            tags,
            expires_at_ms: Some(i64::MAX),
            ..Default::default()
        }))?;
        Ok((proof, change))
    }

    fn routes_of(&self, node: usize) -> Vec<String> {
        let number = node / 100;
        match node % 1_000 {
            50 => vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()],
            _ if node % 100 == 20 => vec![format!("10.{}.{}.0/24", number % 256, number / 256)],
            _ => Vec::new(),
        }
    }

    /// Sets the policy; rule `moved` leads elsewhere than usual.
    pub fn set_policy(&mut self, moved: Option<usize>) -> anyhow::Result<Change> {
        let text = policy(self.nodes, moved);
        let (_, change) = self.apply(Op::SetPolicy(v1::SetPolicy {
            text,
            author: "bench".into(),
            replaces: None,
        }))?;
        Ok(change)
    }

    /// Gives a server other tags.
    pub fn retag(&mut self, node: usize) -> anyhow::Result<Change> {
        let node = self.state.nodes().nth(node).context("no such node")?;
        let op = Op::SetNodeTags(v1::SetNodeTags {
            node_id: node.id.0,
            tags: vec!["tag:t5".to_owned()],
        });
        Ok(self.apply(op)?.1)
    }
}
