//! The least that any engine with bitsets must do: given for each rule the sets of nodes that are its
//! sources and its destinations, tell the nodes' signatures apart and join for each what it sees.

use std::collections::HashMap;

use super::team::{Dst, Kind, kind, rules};

/// A set of nodes.
pub type Bits = Vec<u64>;

/// For each rule its sources and destinations.
pub fn sets(nodes: usize) -> Vec<(Bits, Bits)> {
    let bits = |belongs: &dyn Fn(&Kind) -> bool| {
        let mut bits = vec![0; nodes.div_ceil(64)];
        for node in (0..nodes).filter(|node| belongs(&kind(*node, nodes))) {
            bits[node / 64] |= 1 << (node % 64);
        }
        bits
    };
    let in_group = |kind: &Kind, group: usize| match kind {
        Kind::Person { groups } => groups.contains(&group),
        Kind::Server { .. } => false,
    };
    let has_tag = |kind: &Kind, tag: usize| match kind {
        Kind::Server { tags } => tags.contains(&tag),
        Kind::Person { .. } => false,
    };
    let rules = rules().into_iter().map(|rule| {
        let src = bits(&|kind| rule.groups.iter().any(|group| in_group(kind, *group)));
        let dst = match rule.dst {
            Dst::Tag(tag) => bits(&|kind| has_tag(kind, tag)),
            // Nodes behind or beside routers are few.
            Dst::Cidr(_) => bits(&|_| false),
        };
        (src, dst)
    });
    rules.collect()
}

/// What each class of nodes sees.
pub fn classes(nodes: usize, rules: &[(Bits, Bits)]) -> Vec<Bits> {
    let mut signatures = vec![0_u64; nodes];
    for (number, (src, dst)) in rules.iter().enumerate() {
        sign(&mut signatures, src, number as u64 * 2 + 1);
        sign(&mut signatures, dst, number as u64 * 2 + 2);
    }
    let mut known: HashMap<u64, usize> = HashMap::new();
    let mut classes = Vec::new();
    for (node, signature) in signatures.into_iter().enumerate() {
        known.entry(signature).or_insert_with(|| {
            classes.push(peers(node, rules));
            classes.len() - 1
        });
    }
    classes
}

fn sign(signatures: &mut [u64], nodes: &[u64], mark: u64) {
    for (word, bits) in nodes.iter().enumerate() {
        let mut left = *bits;
        while left != 0 {
            let node = word * 64 + left.trailing_zeros() as usize;
            left &= left - 1;
            let mixed = (signatures[node] ^ mark).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            signatures[node] = mixed ^ mixed >> 32;
        }
    }
}

fn peers(node: usize, rules: &[(Bits, Bits)]) -> Bits {
    let mut peers = vec![0; rules.first().map_or(0, |(src, _)| src.len())];
    let mut add = |others: &[u64]| {
        for (word, more) in peers.iter_mut().zip(others) {
            *word |= more;
        }
    };
    for (src, dst) in rules {
        if src[node / 64] >> (node % 64) & 1 == 1 {
            add(dst);
        }
        if dst[node / 64] >> (node % 64) & 1 == 1 {
            add(src);
        }
    }
    peers
}
