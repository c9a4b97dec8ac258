//! Explanations are what nodes are sent: the verdict is that of the packet filters, and that of the
//! policy's own tests where these can tell.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::netmap::testing::World;
use crate::policy::PolicyErrors;
use crate::tailcfg::{FilterRule, PortRange};

/// Sources and destinations of rules.
const SELECTORS: [&str; 16] = [
    "*",
    "alice@",
    "bob@",
    "carol@",
    "dave@",
    "group:dev",
    "group:none",
    "tag:web",
    "tag:db",
    "tag:router",
    "autogroup:member",
    "autogroup:tagged",
    "files",
    "office",
    "first",
    "100.64.0.0/30",
];
const OPENINGS: [&str; 8] = [
    "*",
    "22",
    "80,443",
    "tcp:22",
    "udp:53",
    "tcp:*",
    "icmp:*",
    "1000-2000",
];
const ENDS: [&str; 14] = [
    "laptop",
    "phone",
    "desk",
    "web",
    "db",
    "router",
    "exit",
    "100.64.0.1",
    "fd7a:115c:a1e0::4",
    "10.1.2.3",
    "10.1.200.1",
    "10.9.9.9",
    "1.1.1.1",
    "192.0.2.1",
];

/// A rule of either kind.
fn rule() -> impl Strategy<Value = (bool, serde_json::Value)> {
    let some = |max| proptest::collection::vec(proptest::sample::select(&SELECTORS[..]), 1..=max);
    let dst = prop_oneof![
        4 => some(2).prop_map(|dst| dst.into_iter().map(str::to_owned).collect::<Vec<_>>()),
        1 => Just(vec!["autogroup:self".to_owned()]),
        1 => Just(vec!["autogroup:internet".to_owned()]),
    ];
    let open = proptest::sample::select(&OPENINGS[..]);
    (some(2), dst, open, 0..4_u8, 0..4_u8).prop_map(|(src, dst, open, kind, posture)| {
        let is_self = dst.iter().any(|dst| dst == "autogroup:self");
        let src: Vec<&str> = if is_self {
            vec!["autogroup:member"]
        } else {
            src
        };
        if kind < 2 {
            let (protocol, ports) = open.split_once(':').unwrap_or(("", open));
            let dst: Vec<String> = dst.iter().map(|dst| format!("{dst}:{ports}")).collect();
            let mut rule = serde_json::json!({
                "action": "accept", "proto": protocol, "src": src, "dst": dst,
            });
            if posture == 0 {
                rule["srcPosture"] = serde_json::json!(["posture:phone"]);
            }
            return (true, rule);
        }
        let mut rule = serde_json::json!({ "src": src, "dst": dst, "ip": [open] });
        if kind == 3 && !is_self {
            rule["via"] = serde_json::json!(["tag:router"]);
        }
        (false, rule)
    })
}

fn policy(rules: &[(bool, serde_json::Value)], tests: &serde_json::Value) -> String {
    let of_kind = |wanted: bool| -> Vec<_> {
        let rules = rules.iter().filter(|(is_acl, _)| *is_acl == wanted);
        rules.map(|(_, rule)| rule).collect()
    };
    serde_json::json!({
        "postures": {"posture:phone": ["node:os == 'ios'"]},
        "groups": {"group:dev": ["alice@", "dave@"], "group:none": ["carol@"]},
        "hosts": {"files": "10.1.2.3", "office": "10.1.0.0/16", "first": "100.64.0.1"},
        "tagOwners": {"tag:web": [], "tag:db": [], "tag:router": [], "tag:exit": []},
        "acls": of_kind(true),
        "grants": of_kind(false),
        "tests": tests,
    })
    .to_string()
}

/// A client's judgement of a packet, by the filter that it was sent
/// (Tailscale's `wgengine/filter`).
fn lets_in(filter: &[FilterRule], src: IpAddr, dst: IpAddr, protocol: u8, port: u16) -> bool {
    let is_icmp = [1, 58].contains(&protocol);
    filter.iter().any(|rule| {
        let protocols: &[i32] = if rule.ip_proto.is_empty() {
            &[6, 17, 1, 58]
        } else {
            &rule.ip_proto
        };
        let mut dsts = rule.dst_ports.iter().flatten();
        (is_icmp || protocols.contains(&protocol.into()))
            && rule.src_ips.iter().any(|text| covers(text, src))
            && dsts.any(|dst_port| {
                let PortRange { first, last } = dst_port.ports;
                covers(&dst_port.ip, dst) && (is_icmp || (first..=last).contains(&port))
            })
    })
}

/// `*`, an address, a CIDR or `a-b`.
fn covers(text: &str, ip: IpAddr) -> bool {
    if text == "*" {
        return true;
    }
    if let Some((first, last)) = text.split_once('-') {
        let (first, last): (IpAddr, IpAddr) = (first.parse().unwrap(), last.parse().unwrap());
        return first.is_ipv4() == ip.is_ipv4() && first <= ip && ip <= last;
    }
    match text.parse::<IpNet>() {
        Ok(net) => net.contains(&ip),
        Err(_) => text.parse::<IpAddr>().unwrap() == ip,
    }
}

/// The addresses that an end of a question stands for, and its node.
fn end(world: &World, text: &str) -> (Option<NodeId>, Vec<IpAddr>) {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return (world.state.node_by_ip(ip).map(|node| node.id), vec![ip]);
    }
    let node = world.state.node_by_given_name(text).unwrap();
    let v4 = node.ipv4.map(IpAddr::from);
    let v6 = node.ipv6.map(IpAddr::from);
    (Some(node.id), v4.into_iter().chain(v6).collect())
}

/// Whether a packet gets through by what the nodes are sent.
fn gets_through(world: &World, engine: &Engine, src: &str, dst: &str, how: (u8, u16)) -> bool {
    let table = RouteTable::of(&world.state);
    let (from, sources) = end(world, src);
    let (to, destinations) = end(world, dst);
    let mut keepers: Vec<NodeId> = to.into_iter().collect();
    if to.is_none() {
        let told = |id: NodeId| {
            let primary = table.primary(id);
            if from == Some(id) {
                return None;
            }
            let routes = match from {
                Some(from) if engine.sees(from, id) => engine.routes(from, id, primary),
                Some(_) => BTreeSet::new(),
                None => primary
                    .iter()
                    .copied()
                    .chain(crate::netmap::exit_routes(world.state.node(id).unwrap()))
                    .collect(),
            };
            let routes = routes
                .into_iter()
                .filter(|net| net.contains(&destinations[0]));
            routes.map(|net| net.prefix_len()).max()
        };
        let nodes = world
            .state
            .nodes()
            .filter_map(|node| Some((told(node.id)?, node.id)));
        let nodes: Vec<_> = nodes.collect();
        let best = nodes.iter().map(|(length, _)| *length).max();
        keepers.extend(
            nodes
                .iter()
                .filter(|(length, _)| Some(*length) == best)
                .map(|(_, id)| *id),
        );
    }
    keepers.iter().any(|keeper| {
        let filter = engine.filter(*keeper);
        sources.iter().any(|src| {
            let mut same = destinations
                .iter()
                .filter(|dst| dst.is_ipv4() == src.is_ipv4());
            same.any(|dst| lets_in(&filter, *src, *dst, how.0, how.1))
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_verdict_is_that_of_the_filters(rules in proptest::collection::vec(rule(), 0..6)) {
        let mut world = tailnet();
        // The router carries its own address, too.
        let hostinfo = serde_json::json!({ "OS": "iOS" }).to_string();
        let hostinfo_json = hostinfo.into_bytes().into();
        world.update(NodeId(2), pb::UpdateNode { hostinfo_json, ..Default::default() });
        offer(&mut world, NodeId(6), &["10.1.0.0/16", "100.64.0.4/30"]);
        let text = policy(&rules, &serde_json::json!([]));
        let engine = engine(&world, &text);
        for src in ENDS {
            for dst in ENDS {
                for (proto, number, port) in [("tcp", 6, 22), ("udp", 17, 53), ("icmp", 1, 0)] {
                    let asked = match port {
                        0 => dst.to_owned(),
                        port if dst.contains(':') => format!("[{dst}]:{port}"),
                        port => format!("{dst}:{port}"),
                    };
                    let Ok(found) = explain(&world, &engine, (src, &asked, proto)) else {
                        let own = [("router", "10.1."), ("exit", "1.1.1.1"), ("exit", "192.0.2.1")];
                        let own = own.iter().any(|(node, net)| src == *node && dst.starts_with(net));
                        prop_assert!(own || end(&world, src).0 == end(&world, dst).0);
                        continue;
                    };
                    let through = gets_through(&world, &engine, src, dst, (number, port));
                    let allowed = found.verdict == Overall::Allowed;
                    prop_assert_eq!(allowed, through, "{} {} {}: {}", src, dst, proto, text);
                    let answer = &found.answers[0];
                    prop_assert_eq!(answer.rules.is_empty(), !through);
                    prop_assert!(!allowed || answer.visible != Some(false), "{} {}", src, dst);
                }
            }
        }
    }

    #[test]
    fn the_verdict_is_that_of_the_policys_own_tests(
        rules in proptest::collection::vec(rule(), 0..6),
    ) {
        let world = tailnet();
        // Tests do not know routers, nor whose nodes are whose, and suppose devices.
        let plain = |rule: &serde_json::Value| {
            let text = rule.to_string();
            !["via", "autogroup:self", "posture"].iter().any(|word| text.contains(word))
        };
        let rules: Vec<_> = rules.into_iter().filter(|(_, rule)| plain(rule)).collect();
        let text = policy(&rules, &serde_json::json!([]));
        let engine = engine(&world, &text);
        for src in ["bob@", "tag:web", "tag:db"] {
            for (dst, port) in [("alice@", 22), ("tag:web", 80), ("tag:db", 53)] {
                for proto in ["tcp", "udp"] {
                    let asked = format!("{dst}:{port}");
                    let Ok(found) = explain(&world, &engine, (src, &asked, proto)) else {
                        continue;
                    };
                    let tests = serde_json::json!([{ "src": src, "proto": proto, "accept": [asked] }]);
                    let tested = policy(&rules, &tests);
                    let passes: Result<_, PolicyErrors> = crate::policy::check(&tested, &world.state);
                    // A test asks for all addresses of a source, and is content with any
                    // destination.
                    let all = found.answers.iter().any(|answer| answer.allowed);
                    let partly = found.answers.iter().any(|answer| !answer.notes.is_empty());
                    if !partly {
                        prop_assert_eq!(all, passes.is_ok(), "{} {}: {}", src, asked, tested);
                    }
                }
            }
        }
    }
}
