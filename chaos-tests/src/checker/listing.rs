//! What every list of nodes must be: registrations are kept and happen once, deletions stay, no two
//! nodes share an address or are primary for one route.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::Verdict;
use crate::{
    history::{Answer, History, Listed, Op, Operation},
    outcome::Outcome,
};

/// What the cluster gives addresses from, as the configuration of replicas under test says.
const PREFIXES: &str = "100.64.0.0/10 and fd7a:115c:a1e0::/48";
/// Any number of nodes may be an exit for the same route.
const EXIT_ROUTES: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// The lists that were answered.
pub(super) fn lists(history: &History) -> impl Iterator<Item = (&Operation, &[Listed])> {
    history
        .operations
        .iter()
        .filter_map(|one| match (&one.op, one.outcome, &one.answer) {
            (Op::List, Outcome::Ok, Answer::Nodes { nodes }) => Some((one, nodes.as_slice())),
            (_, _, _) => None,
        })
}

/// Looks at every list; says how many nodes were seen.
fn look_at_each(
    history: &History,
    mut look: impl FnMut(&Operation, &[Listed]) -> Result<usize, String>,
) -> Verdict {
    let mut seen = 0;
    for (operation, nodes) in lists(history) {
        match look(operation, nodes) {
            Ok(more) => seen += more,
            Err(what) => {
                return Verdict::Violated(format!("list of operation {}: {what}", operation.id));
            }
        }
    }
    Verdict::from_looks(Ok(seen))
}

/// Every node has one address of each family, from the prefixes, that is its own and stays.
pub fn addresses(history: &History) -> Verdict {
    let mut known: BTreeMap<&str, &[IpAddr]> = BTreeMap::new();
    for node in lists(history).flat_map(|(_, nodes)| nodes) {
        known.entry(&node.id).or_insert(&node.addresses);
    }
    look_at_each(history, |_, nodes| {
        let mut owners: BTreeMap<IpAddr, &str> = BTreeMap::new();
        for Listed { id, addresses, .. } in nodes {
            if !is_one_of_each(addresses) {
                return Err(format!(
                    "node {id} has {addresses:?}, not one each of {PREFIXES}"
                ));
            }
            if known.get(&**id).is_some_and(|before| before != addresses) {
                return Err(format!(
                    "the addresses of node {id} changed to {addresses:?}"
                ));
            }
            for address in addresses {
                if let Some(other) = owners.insert(*address, id) {
                    return Err(format!("nodes {other} and {id} share {address}"));
                }
            }
        }
        Ok(nodes.len())
    })
}

fn is_one_of_each(addresses: &[IpAddr]) -> bool {
    match addresses {
        [IpAddr::V4(v4), IpAddr::V6(v6)] => {
            let [one, two, ..] = v4.octets();
            one == 100
                && (64..128).contains(&two)
                && v6.segments().starts_with(&[0xfd7a, 0x115c, 0xa1e0])
        }
        _ => false,
    }
}

/// Of the nodes of a list that may carry a route exactly one is primary: one that is online, if any
/// is.
pub fn primaries(history: &History) -> Verdict {
    look_at_each(history, |_, nodes| {
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        for node in nodes {
            let routes = node.routes.iter().map(String::as_str);
            for route in routes.filter(|route| !EXIT_ROUTES.contains(route)) {
                if let Some(other) = owners.insert(route, &node.id) {
                    return Err(format!(
                        "nodes {other} and {} are primary for {route}",
                        node.id
                    ));
                }
            }
        }
        for (route, may) in candidates(nodes) {
            let Some(owner) = owners.get(route) else {
                return Err(format!("nobody is primary for {route}"));
            };
            let serves = may.iter().any(|node| node.id == *owner && node.online);
            if !serves && may.iter().any(|node| node.online) {
                return Err(format!(
                    "{owner} is primary for {route} and offline, another one is not"
                ));
            }
        }
        Ok(owners.len())
    })
}

/// The nodes that may carry each route.
fn candidates(nodes: &[Listed]) -> BTreeMap<&str, Vec<&Listed>> {
    let mut candidates: BTreeMap<&str, Vec<&Listed>> = BTreeMap::new();
    for node in nodes {
        let granted = node.granted.iter().map(String::as_str);
        for route in granted.filter(|route| !EXIT_ROUTES.contains(route)) {
            candidates.entry(route).or_default().push(node);
        }
    }
    candidates
}

/// A registration makes one node, however often it was sent.
pub fn once(history: &History) -> Verdict {
    let deleted = deletions(history);
    let mut ids: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (operation, nodes) in lists(history) {
        let mut here = BTreeSet::new();
        for node in nodes {
            if !here.insert(&*node.node_key) {
                return Verdict::Violated(format!(
                    "list of operation {}: {} is listed twice",
                    operation.id, node.node_key
                ));
            }
            ids.entry(&node.node_key).or_default().insert(&node.id);
        }
    }
    for (node_key, ids) in &ids {
        // Deleted in between, it may come back as another node.
        let undeleted = ids.iter().filter(|id| !deleted.contains_key(**id)).count();
        if undeleted > 1 {
            return Verdict::Violated(format!("{node_key} became the nodes {ids:?}"));
        }
    }
    Verdict::from_looks(Ok(ids.len()))
}

/// What was acknowledged and not deleted is listed, and nothing is that nobody sent.
pub fn kept(history: &History) -> Verdict {
    let mut attempts: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for one in &history.operations {
        if let (Op::Register { node_key, .. }, true) = (&one.op, one.outcome != Outcome::Failed) {
            attempts.entry(node_key).or_default().push(one);
        }
    }
    let deleted = deletions(history);
    // Of nodes that were deleted only the ids are known, from lists.
    let mut gone: BTreeMap<&str, u64> = BTreeMap::new();
    for (_, nodes) in lists(history) {
        for node in nodes {
            if let Some(call) = deleted.get(&*node.id) {
                gone.entry(&node.node_key).or_insert(*call);
            }
        }
    }
    look_at_each(history, |list, nodes| {
        let end = list.end.unwrap_or(u64::MAX);
        let listed: BTreeSet<&str> = nodes.iter().map(|node| &*node.node_key).collect();
        let sent = |key: &&str| {
            let tries = attempts.get(key).into_iter().flatten();
            tries.into_iter().any(|one| one.call <= end)
        };
        if let Some(invented) = listed.iter().find(|key| !sent(key)) {
            return Err(format!(
                "{invented} is listed, and nobody sent it, or it was refused"
            ));
        }
        let mut expected = 0;
        for (key, tries) in &attempts {
            let acknowledged = |one: &&Operation| {
                one.outcome == Outcome::Ok && one.end.is_some_and(|end| end < list.call)
            };
            let may_be_gone = gone.get(key).is_some_and(|call| *call <= end);
            if may_be_gone || !tries.iter().any(acknowledged) {
                continue;
            }
            if !listed.contains(key) {
                return Err(format!("{key} was acknowledged and is lost"));
            }
            expected += 1;
        }
        Ok(expected)
    })
}

/// What was deleted never comes back.
pub fn deleted(history: &History) -> Verdict {
    let deleted: BTreeMap<&str, u64> = history
        .operations
        .iter()
        .filter_map(|one| match (&one.op, one.outcome, one.end) {
            (Op::Delete { node }, Outcome::Ok, Some(end)) => Some((&**node, end)),
            (_, _, _) => None,
        })
        .collect();
    look_at_each(history, |list, nodes| {
        let is_gone = |id: &str| deleted.get(id).is_some_and(|end| *end < list.call);
        match nodes.iter().find(|node| is_gone(&node.id)) {
            Some(back) => Err(format!("node {} was deleted and is back", back.id)),
            None => Ok(deleted.values().filter(|end| **end < list.call).count()),
        }
    })
}

/// When deletions that may have happened were first asked for, by the id of the node.
fn deletions(history: &History) -> BTreeMap<&str, u64> {
    let mut deleted = BTreeMap::new();
    for one in &history.operations {
        if let (Op::Delete { node }, true) = (&one.op, one.outcome != Outcome::Failed) {
            deleted.entry(&**node).or_insert(one.call);
        }
    }
    deleted
}

#[cfg(test)]
mod tests;
