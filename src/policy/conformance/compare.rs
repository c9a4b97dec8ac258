//! Our answers against the service's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::super::check::check_for;
use super::super::engine::Engine;
use super::super::roster::Roster;
use super::case::{Case, prefixes};
use crate::types::NodeId;

/// Longer texts are cut when they are shown.
const TEXT_MAX: usize = 600;
/// Differences of a case that are shown.
const DIFFERENCES_MAX: usize = 4;

/// Capabilities of the service's own products and settings, which no policy gives.
const FOREIGN_CAPS: [&str; 11] = [
    "https://tailscale.com/cap/is-admin",
    "https://tailscale.com/cap/is-owner",
    "https://tailscale.com/cap/tailnet-lock",
    "https://tailscale.com/cap/warn-funnel-no-https",
    "warn-funnel-no-https",
    "service-host",
    "store-appc-routes",
    "tailnet-display-name",
    "probe-udp-lifetime",
    "ssh-behavior-v1",
    "ssh-env-vars",
];

pub(super) fn differences(case: &Case) -> Vec<String> {
    let checked = check_for(&case.policy, case.roster());
    let (engine, errors) = match checked {
        Ok((engine, _)) => (Some(engine), String::new()),
        Err(errors) => (None, errors.to_string()),
    };
    let mut found = match (engine, &case.refusal) {
        (Some(_), Some(message)) => vec![format!("accepted, but the service says {message:?}")],
        // For attributes the service has no words of its own.
        (None, Some(message)) if case.kind == "nodeattrs" || errors.contains(message) => vec![],
        (None, Some(message)) => vec![format!("refused with {errors:?}, not {message:?}")],
        (None, None) => vec![format!("refused: {errors}")],
        (Some(engine), None) => answers(case, &engine),
    };
    found.truncate(DIFFERENCES_MAX);
    found
}

fn answers(case: &Case, engine: &Engine) -> Vec<String> {
    let mut found = Vec::new();
    match case.kind {
        "nodeattrs" => attributes(case, engine, &mut found),
        "policytest" => {}
        _ => {
            filters(case, engine, &mut found);
            peers(case, engine, &mut found);
        }
    }
    if matches!(case.kind, "ssh" | "sshtest") {
        logins(case, engine, &mut found);
    }
    found
}

/// Captured nodes with their ids.
fn captured(case: &Case) -> Vec<(&str, NodeId, &Value)> {
    let names = case.names();
    let captured = names.filter_map(|(name, id)| Some((name, id, case.captures.get(name)?)));
    captured.collect()
}

fn cut(value: &impl ToString) -> String {
    let text = value.to_string();
    let end = text
        .char_indices()
        .nth(TEXT_MAX)
        .map_or(text.len(), |(end, _)| end);
    text[..end].to_owned()
}

fn compare(found: &mut Vec<String>, what: &str, ours: &Value, theirs: &Value) {
    if ours == theirs {
        return;
    }
    if let (Value::Array(ours), Value::Array(theirs)) = (ours, theirs)
        && ours.len() == theirs.len()
        && let Some(place) = ours
            .iter()
            .zip(theirs)
            .position(|(one, other)| one != other)
    {
        found.push(format!(
            "{what}[{place}]\n    ours   {}\n    theirs {}",
            cut(&ours[place]),
            cut(&theirs[place])
        ));
        return;
    }
    found.push(format!(
        "{what}\n    ours   {}\n    theirs {}",
        cut(ours),
        cut(theirs)
    ));
}

fn filters(case: &Case, engine: &Engine, found: &mut Vec<String>) {
    for (name, id, capture) in captured(case) {
        let ours = serde_json::to_value(engine.filter(id)).unwrap();
        let ours = normal_filter(&ours);
        let theirs = normal_filter(&capture["packet_filter_rules"]);
        compare(found, &format!("{name} filter"), &ours, &theirs);
    }
}

/// Lists whose order means nothing are sorted, what may be left out is filled in.
fn normal_filter(rules: &Value) -> Value {
    let rules = rules.as_array().into_iter().flatten();
    let rules = rules.map(|rule| {
        let grants = rule["CapGrant"].as_array().into_iter().flatten();
        let grants = grants.map(|grant| {
            json!({"Dsts": sorted(&grant["Dsts"]), "CapMap": normal_caps(&grant["CapMap"])})
        });
        json!({
            "SrcIPs": rule["SrcIPs"].as_array().cloned().unwrap_or_default(),
            "DstPorts": sorted(&rule["DstPorts"]),
            "IPProto": sorted(&rule["IPProto"]),
            "CapGrant": grants.collect::<Value>(),
        })
    });
    rules.collect()
}

fn sorted(list: &Value) -> Value {
    let mut items = list.as_array().cloned().unwrap_or_default();
    items.sort_by_key(ToString::to_string);
    items.into()
}

fn normal_caps(caps: &Value) -> Value {
    let caps = caps.as_object().into_iter().flatten();
    let caps = caps.map(|(name, values)| {
        let values = values.as_array().cloned().unwrap_or_default();
        (name.clone(), Value::Array(values))
    });
    caps.collect::<serde_json::Map<_, _>>().into()
}

/// What a viewer's netmap says of its peers. The service approves routes some time after it took a
/// policy, node by node: a netmap may be from before or from after that.
fn peers(case: &Case, engine: &Engine, found: &mut Vec<String>) {
    let before = Scene::new(case, engine, |_, _| Vec::new());
    let after = Scene::new(case, engine, |id, routes| {
        engine.approved_routes(id, routes)
    });
    for (name, id, capture) in captured(case) {
        let netmap = &capture["netmap"];
        if netmap.is_object() && !before.differences(name, id, netmap).is_empty() {
            found.extend(after.differences(name, id, netmap));
        }
    }
}

/// The tailnet with certain routes approved.
struct Scene<'a> {
    engine: Engine,
    primaries: BTreeMap<NodeId, Vec<IpNet>>,
    names: BTreeMap<&'a str, NodeId>,
}

impl<'a> Scene<'a> {
    fn new(
        case: &'a Case,
        engine: &Engine,
        approve: impl Fn(NodeId, &[IpNet]) -> Vec<IpNet>,
    ) -> Self {
        let roster = case.roster_with(approve);
        Self {
            primaries: primaries(&roster),
            engine: Engine::with_roster(Arc::clone(engine.document()), roster),
            names: case.names().collect(),
        }
    }

    fn differences(&self, name: &str, id: NodeId, netmap: &Value) -> Vec<String> {
        let mut found = Vec::new();
        let peers = netmap["Peers"].as_array().into_iter().flatten();
        let theirs: BTreeMap<String, &Value> = peers.map(|peer| (short(peer), peer)).collect();
        let others = self.names.iter().filter(|(_, peer)| **peer != id);
        let seen = others.filter(|(_, peer)| self.engine.sees(id, **peer));
        let ours: BTreeSet<&str> = seen.map(|(name, _)| *name).collect();
        let wanted: BTreeSet<&str> = theirs.keys().map(String::as_str).collect();
        compare(
            &mut found,
            &format!("{name} peers"),
            &json!(ours),
            &json!(wanted),
        );
        for peer in ours.intersection(&wanted) {
            let captured = theirs[*peer];
            let peer_id = self.names[peer];
            let primary = self.primaries.get(&peer_id).map_or(&[][..], Vec::as_slice);
            let routes = self.engine.routes(id, peer_id, primary);
            let addresses = prefixes(&captured["Addresses"]);
            let allowed = prefixes(&captured["AllowedIPs"]).into_iter();
            let allowed: BTreeSet<IpNet> = allowed.filter(|p| !addresses.contains(p)).collect();
            let what = format!("{name} routes of {peer}");
            compare(&mut found, &what, &json!(routes), &json!(allowed));
            let ours: BTreeSet<_> = routes.iter().filter(|p| p.prefix_len() > 0).collect();
            let theirs: BTreeSet<_> = prefixes(&captured["PrimaryRoutes"]).into_iter().collect();
            let what = format!("{name} primary routes of {peer}");
            compare(&mut found, &what, &json!(ours), &json!(theirs));
        }
        found
    }
}

fn short(node: &Value) -> String {
    let name = node["Name"].as_str().unwrap();
    name.split('.').next().unwrap().to_owned()
}

/// In a tailnet that has just come up the oldest router of a route carries it.
fn primaries(roster: &Roster) -> BTreeMap<NodeId, Vec<IpNet>> {
    let mut taken = BTreeSet::new();
    let mut primaries: BTreeMap<NodeId, Vec<IpNet>> = BTreeMap::new();
    for (_, member) in roster.members() {
        for route in &member.subnets {
            if taken.insert(*route) {
                primaries.entry(member.id).or_default().push(*route);
            }
        }
    }
    primaries
}

fn logins(case: &Case, engine: &Engine, found: &mut Vec<String>) {
    for (name, id, capture) in captured(case) {
        let ours = serde_json::to_value(engine.logins(id)).unwrap();
        let ours = normal_logins(&ours["rules"]);
        let theirs = normal_logins(&capture["ssh_rules"]);
        compare(found, &format!("{name} ssh"), &ours, &theirs);
    }
}

fn normal_logins(rules: &Value) -> Value {
    let rules = rules.as_array().into_iter().flatten();
    let rules = rules.map(|rule| {
        json!({
            "principals": sorted(&rule["principals"]),
            "sshUsers": rule["sshUsers"],
            "action": rule["action"],
            "acceptEnv": rule["acceptEnv"],
        })
    });
    rules.collect()
}

fn attributes(case: &Case, engine: &Engine, found: &mut Vec<String>) {
    for (name, id, capture) in captured(case) {
        let mut ours = serde_json::Map::new();
        // What the configuration gives with Taildrop on.
        ours.insert("https://tailscale.com/cap/ssh".to_owned(), json!([]));
        ours.insert(
            "https://tailscale.com/cap/file-sharing".to_owned(),
            json!([]),
        );
        ours.insert("default-auto-update".to_owned(), json!([case.auto_updates]));
        for (name, values) in engine.attributes(id) {
            ours.insert(name, json!(values));
        }
        let ours = own_caps(&Value::Object(ours));
        let theirs = own_caps(&capture["netmap"]["SelfNode"]["CapMap"]);
        compare(found, &format!("{name} attributes"), &ours, &theirs);
        let peers = capture["netmap"]["Peers"].as_array().into_iter().flatten();
        for peer in peers {
            let names: BTreeMap<&str, NodeId> = case.names().collect();
            let peer_id = names[short(peer).as_str()];
            let ours = json!(engine.peer_attributes(peer_id));
            let what = format!("{name} attributes of {}", short(peer));
            compare(found, &what, &own_caps(&ours), &own_caps(&peer["CapMap"]));
        }
    }
}

fn own_caps(caps: &Value) -> Value {
    let mut caps = normal_caps(caps);
    if let Value::Object(caps) = &mut caps {
        caps.retain(|name, _| {
            !FOREIGN_CAPS.contains(&name.as_str())
                && !name.starts_with("https://tailscale.com/cap/funnel-ports?")
                && !name.contains("max-key-duration")
                && !name.contains("native-ipv4")
        });
    }
    caps
}
