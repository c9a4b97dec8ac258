//! Claims over a small tailnet, and the answers of the engine held against the explanations.

mod agreement;
mod questions;
mod routes;

use std::fmt::Write as _;
use std::sync::Arc;

use hydrascale_proto::state::v1::{self as pb, command::Op};

use super::*;
use crate::netmap::RouteTable;
use crate::netmap::testing::World;
use crate::policy::{Document, Facts};

/// alice has `laptop` and `phone`, bob has `desk`, carol has nothing; `web` and `db` are tagged,
/// `router` carries 10.1.0.0/16 and `exit` is an exit node.
fn tailnet() -> World {
    let mut world = World::new();
    world.run(Op::CreateUser(pb::CreateUser {
        name: "carol".into(),
        ..Default::default()
    }));
    let nodes = [
        ("laptop", "alice", None, None),
        ("phone", "alice", None, None),
        ("desk", "bob", None, None),
        ("web", "bob", Some("tag:web"), None),
        ("db", "bob", Some("tag:db"), None),
        ("router", "bob", Some("tag:router"), Some("10.1.0.0/16")),
        ("exit", "bob", Some("tag:exit"), Some("0.0.0.0/0")),
    ];
    for (number, (name, user, tag, route)) in (1..).zip(nodes) {
        let node = world.register(number, number + 100, user).unwrap();
        world.rename(node, name);
        if let Some(tag) = tag {
            world.tag(node, &[tag]);
        }
        if let Some(route) = route {
            offer(&mut world, node, &[route]);
        }
    }
    world
}

/// Lets a node announce routes, all approved.
fn offer(world: &mut World, node: NodeId, routes: &[&str]) {
    let hostinfo = serde_json::json!({ "OS": "linux", "RoutableIPs": routes });
    world.update(
        node,
        pb::UpdateNode {
            hostinfo_json: hostinfo.to_string().into_bytes().into(),
            ..Default::default()
        },
    );
    world.approve(node, routes);
}

fn engine(world: &World, policy: &str) -> Engine {
    let document = Document::parse(policy, &Facts::of(&world.state)).unwrap();
    Engine::new(Arc::new(document), &world.state)
}

fn explain(
    world: &World,
    engine: &Engine,
    (src, dst, proto): (&str, &str, &str),
) -> Result<Explanation, String> {
    let table = RouteTable::of(&world.state);
    let tailnet = Tailnet {
        engine,
        state: &world.state,
        primary: &|id| table.primary(id).to_vec(),
    };
    let question = Question::parse(src, dst, Some(proto)).map_err(|error| error.to_string())?;
    let explained = tailnet.explain(&question);
    explained.map_err(|error| format!("{}: {error}", error.part.name()))
}

/// What is told of a question, or why it cannot be answered.
fn answer(world: &World, policy: &str, question: (&str, &str, &str)) -> String {
    let explained = explain(world, &engine(world, policy), question);
    explained.map_or_else(|error| error, |explained| told(&explained))
}

/// An explanation in short lines.
fn told(explanation: &Explanation) -> String {
    let mut text = format!("{:?}\n", explanation.verdict);
    for answer in &explanation.answers {
        for PairReport { src, dst } in &answer.pairs {
            writeln!(text, "{} -> {}: {}", src.name, dst.name, answer.allowed).unwrap();
        }
        let lists = [
            ("+", &answer.rules),
            ("~", &answer.close),
            ("ssh", &answer.logins),
        ];
        for (mark, rules) in lists {
            for rule in rules {
                writeln!(
                    text,
                    "{mark} {:?} {}: {}",
                    rule.kind, rule.index, rule.reason
                )
                .unwrap();
            }
        }
        if let Some(rule) = &answer.reverse {
            writeln!(text, "reverse {:?} {}", rule.kind, rule.index).unwrap();
        }
        for router in &answer.routers {
            writeln!(text, "by {} {}: {}", router.name, router.route, router.used).unwrap();
        }
        for note in &answer.notes {
            writeln!(text, "note {note}").unwrap();
        }
        if answer.visible == Some(false) {
            text.push_str("unseen\n");
        }
    }
    text
}

const POLICY: &str = r#"{
  // Who is who.
  "groups": {"group:dev": ["alice@", "dave@"], "group:none": ["carol@"]},
  "hosts": {"files": "10.1.2.3", "office": "10.1.0.0/16"},
  "tagOwners": {"tag:web": [], "tag:db": [], "tag:router": [], "tag:exit": [], "tag:gone": []},
  "acls": [
    {"action": "accept", "src": ["group:dev"], "dst": ["tag:web:80,443"]},
    {"action": "accept", "proto": "udp", "src": ["*"], "dst": ["tag:db:53"]},
    {"action": "accept", "src": ["tag:gone", "dave@"], "dst": ["tag:db:5432"]},
    {"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]},
    {"action": "accept", "src": ["bob@"], "dst": ["files:445", "autogroup:internet:*"]},
  ],
  "grants": [
    {"src": ["tag:db"], "dst": ["tag:web"], "ip": ["tcp:9000-9100"]},
    {"src": ["group:dev"], "dst": ["tag:db"], "app": {"example.com/cap/x": [{"a": 1}]}},
    {"src": ["alice@"], "dst": ["office"], "ip": ["tcp:22"], "via": ["tag:router"]},
  ],
  "ssh": [
    {"action": "check", "src": ["group:dev"], "dst": ["tag:web"], "users": ["root", "deploy"]},
    {"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self"],
     "users": ["autogroup:nonroot"]},
  ],
}"#;

/// Each question with what is told of it.
fn claim(policy: &str, cases: &[((&str, &str, &str), &str)]) {
    let world = tailnet();
    for (question, wanted) in cases {
        let told = answer(&world, policy, *question);
        let wanted: Vec<&str> = wanted.lines().map(str::trim).collect();
        assert_eq!(
            told.trim().lines().collect::<Vec<_>>(),
            wanted,
            "{question:?}"
        );
    }
}

#[test]
fn the_rules_that_allow_a_connection_are_told() {
    claim(
        POLICY,
        &[
            (
                ("laptop", "web:443", ""),
                "Allowed
                 laptop -> web: true
                 + Acl 0: the source is in group:dev, the destination in tag:web, port 443 is among 80,443",
            ),
            (
                ("laptop", "phone:22", "tcp"),
                "Allowed
                 laptop -> phone: true
                 + Acl 3: the source is in autogroup:member, the destination in autogroup:self, port 22 is among *
                 ssh Ssh 1: the source logs in as autogroup:nonroot, where port 22 is open to it",
            ),
            (
                ("10.1.5.5", "db:53", "udp"),
                "Allowed
                 10.1.5.5 -> db: true
                 + Acl 1: the source is in *, the destination in tag:db, port 53 is among udp:53
                 note the source is no node of the tailnet: whether it gets to the destination at all is up to its routes",
            ),
            (
                ("db", "web", "icmp"),
                "Allowed
                 db -> web: true
                 + Grant 0: the source is in tag:db, the destination in tag:web, some port (tcp:9000-9100) is open, which lets ICMP in
                 ~ Acl 0: the destination matches, the source is not in group:dev
                 note clients let ICMP in from whoever may reach any port of the address",
            ),
        ],
    );
    claim(
        "",
        &[(
            ("web", "desk:1", ""),
            "Allowed
             web -> desk: true
             + Default 0: the policy has neither acls nor grants, so that everything is allowed",
        )],
    );
}

#[test]
fn rules_that_lack_one_thing_come_close() {
    claim(
        POLICY,
        &[
            (
                ("laptop", "db:5432", ""),
                "Denied
                 laptop -> db: false
                 ~ Acl 1: source and destination match, port 5432 is not among udp:53
                 ~ Grant 1: source and destination match, and it grants example.com/cap/x, but opens no port
                 ~ Acl 2: destination and port match, the source is not in tag:gone, dave@ (no node has tag:gone; dave@ means no user)
                 ~ Acl 3: source and port match, the destination is not in autogroup:self",
            ),
            (
                ("db", "web:9050", "udp"),
                "Denied
                 db -> web: false
                 ~ Grant 0: source and destination match, udp is not among tcp:9000-9100
                 reverse Acl 1",
            ),
            (
                ("desk", "web:80", ""),
                "Denied
                 desk -> web: false
                 ~ Acl 0: destination and port match, the source is not in group:dev
                 ~ Acl 3: source and port match, the destination is not in autogroup:self
                 ~ Acl 4: source and port match, the destination is not in files, autogroup:internet
                 unseen",
            ),
        ],
    );
}

#[test]
fn the_other_direction_explains_why_nodes_see_each_other() {
    claim(
        POLICY,
        &[(
            ("web", "laptop", ""),
            "Denied
             web -> laptop: false
             ~ Acl 1: the source matches, the destination is not in tag:db
             reverse Acl 0",
        )],
    );
}

#[test]
fn a_device_that_meets_no_posture_is_told_so() {
    let policy = r#"{
      "postures": {"posture:mac": ["node:os == 'macos'"], "posture:linux": ["node:os == 'linux'"]},
      "acls": [
        {"action": "accept", "src": ["*"], "srcPosture": ["posture:mac"], "dst": ["bob@:22"]},
        {"action": "accept", "src": ["alice@"], "srcPosture": ["posture:linux"], "dst": ["bob@:80"]},
      ],
      "ssh": [{"action": "accept", "src": ["alice@"], "srcPosture": ["posture:mac"],
               "dst": ["autogroup:tagged"], "users": ["root"]}],
    }"#;
    claim(
        policy,
        &[
            (
                ("laptop", "desk:22", ""),
                "Denied
                 laptop -> desk: false
                 ~ Acl 1: source and destination match, port 22 is not among 80
                 ~ Acl 0: source and destination match, the source's device meets none of posture:mac",
            ),
            (
                ("laptop", "desk:80", ""),
                "Allowed
                 laptop -> desk: true
                 + Acl 1: the source is in alice@, the destination in bob@, port 80 is among 80",
            ),
        ],
    );
}
