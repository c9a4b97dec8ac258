//! Claims over a small tailnet, and the answers of the engine held against the explanations.

mod agreement;

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
fn addresses_are_reached_through_the_routers_that_the_source_is_told_of() {
    claim(
        POLICY,
        &[
            (
                ("bob@", "files:445", ""),
                "Allowed
                 desk -> 10.1.2.3: true
                 + Acl 4: the source is in bob@, the destination in files, port 445 is among 445
                 by router 10.1.0.0/16: true
                 by exit 0.0.0.0/0: false",
            ),
            (
                ("laptop", "10.1.9.9:22", ""),
                "Allowed
                 laptop -> 10.1.9.9: true
                 + Grant 2: the source is in alice@, the destination in office, through a router with tag:router, port 22 is among tcp:22
                 by router 10.1.0.0/16: true
                 by exit 0.0.0.0/0: false",
            ),
            (
                ("desk", "1.1.1.1:443", ""),
                "Allowed
                 desk -> 1.1.1.1: true
                 + Acl 4: the source is in bob@, the destination in autogroup:internet, port 443 is among *
                 by exit 0.0.0.0/0: true
                 note only through an exit node, which the source chooses itself",
            ),
            (
                ("laptop", "10.2.9.9:22", ""),
                "Denied
                 laptop -> 10.2.9.9: false
                 ~ Acl 3: source and port match, the destination is not in autogroup:self
                 ~ Grant 2: source and port match, the destination is not in office
                 by exit 0.0.0.0/0: false
                 note no rule leads the source through a router that carries the address",
            ),
            (
                ("web", "fd7a::99", ""),
                "Denied
                 web -> fd7a::99: false
                 note no node has the destination's address, and no approved route leads there; see `nodes list-routes`",
            ),
        ],
    );
}

#[test]
fn a_rule_that_leads_through_other_routers_comes_close() {
    let policy = r#"{
      "tagOwners": {"tag:web": [], "tag:exit": []},
      "grants": [
        {"src": ["*"], "dst": ["10.1.0.0/16"], "ip": ["22"], "via": ["tag:exit"]},
        {"src": ["*"], "dst": ["10.1.0.0/24"], "ip": ["80"]},
      ],
    }"#;
    claim(
        policy,
        &[(
            ("laptop", "10.1.2.3:22", ""),
            "Denied
             laptop -> 10.1.2.3: false
             ~ Grant 0: source and destination match, but it leads through routers with tag:exit, and none of them carries this
             by router 10.1.0.0/16: true
             by exit 0.0.0.0/0: false",
        )],
    );
}

#[test]
fn a_rule_may_open_one_address_family_only() {
    let policy = r#"{"acls": [
      {"action": "accept", "src": ["alice@"], "dst": ["100.64.0.3:22"]},
      {"action": "accept", "src": ["100.64.0.1"], "dst": ["fd7a:115c:a1e0::4:22"]},
    ]}"#;
    claim(
        policy,
        &[
            (
                ("laptop", "desk:22", ""),
                "Allowed
                 laptop -> desk: true
                 + Acl 0: the source is in alice@, the destination in 100.64.0.3, port 22 is among 22
                 note only over IPv4: the rules have no IPv6 address of one of the two",
            ),
            (
                ("laptop", "web:22", ""),
                "Denied
                 laptop -> web: false
                 ~ Acl 1: it has the source by an address of one family, and the destination by one of the other
                 ~ Acl 0: source and port match, the destination is not in 100.64.0.3",
            ),
            (
                ("100.64.0.1", "fd7a:115c:a1e0::3", ""),
                "Denied
                 laptop -> desk: false
                 ~ Acl 0: the source matches, the destination is not in 100.64.0.3
                 ~ Acl 1: the source matches, the destination is not in fd7a:115c:a1e0::4
                 note the two have no address of the same family, so that nothing gets through",
            ),
        ],
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

#[test]
fn servers_reach_their_recorders() {
    let policy = r#"{
      "tagOwners": {"tag:web": [], "tag:db": [], "tag:gone": []},
      "acls": [],
      "ssh": [
        {"action": "accept", "src": ["alice@"], "dst": ["tag:web"], "users": ["root"],
         "recorder": ["tag:db"]},
        {"action": "accept", "src": ["alice@"], "dst": ["tag:web"], "users": ["deploy"],
         "recorder": ["tag:gone"], "enforceRecorder": true},
      ],
    }"#;
    claim(
        policy,
        &[
            (
                ("web", "db:80", ""),
                "Allowed
                 web -> db: true
                 + Ssh 0: sessions are recorded there: the source is in tag:web, the destination in tag:db, port 80 is among tcp:80",
            ),
            (
                ("laptop", "web:22", ""),
                "Denied
                 laptop -> web: false
                 ssh Ssh 0: the source logs in as root, where port 22 is open to it
                 ssh Ssh 1: it refuses logins as deploy: they must be recorded, and no node records them
                 unseen",
            ),
        ],
    );
}

#[test]
fn a_login_that_is_checked_says_how_often() {
    let rule = |users: &str, period: &str| {
        format!(
            r#"{{"action": "check", "src": ["alice@"], "dst": ["tag:web"], "users": ["{users}"]{period}}}"#
        )
    };
    let rules = [
        rule("a", ""),
        rule("b", r#", "checkPeriod": "1h30m""#),
        rule("c", r#", "checkPeriod": "always""#),
    ];
    let policy = format!(
        r#"{{"tagOwners": {{"tag:web": ["alice@"]}}, "acls": [], "ssh": [{}]}}"#,
        rules.join(", ")
    );
    claim(
        &policy,
        &[(
            ("laptop", "web:22", ""),
            "Denied
             laptop -> web: false
             ssh Ssh 0: the source logs in as a after a check every 12h, where port 22 is open to it
             ssh Ssh 1: the source logs in as b after a check every 1h30m, where port 22 is open to it
             ssh Ssh 2: the source logs in as c after a check of every login, where port 22 is open to it
             unseen",
        )],
    );
}

#[test]
fn a_question_that_cannot_be_answered_says_what_to_do() {
    claim(
        POLICY,
        &[
            (
                ("carol", "web", ""),
                "src: \"carol\" stands for no node: the user has no node without tags, and tagged \
                 nodes belong to nobody; see `nodes list`",
            ),
            (
                ("dave@", "web", ""),
                "src: \"dave@\" means no user: see `users list`",
            ),
            (
                ("group:none", "web", ""),
                "src: \"group:none\" stands for no node: none of its members has a node without tags",
            ),
            (
                ("web", "tag:gone", ""),
                "dst: \"tag:gone\" stands for no node: no node has the tag; see `nodes list`",
            ),
            (
                ("web", "tag:nope:22", ""),
                "dst: the policy in force has no \"tag:nope\": see `policy get`",
            ),
            (
                ("nobody", "web", ""),
                "src: no node, user or host of the policy is called \"nobody\": see `nodes list` and \
                 `users list`",
            ),
            (
                ("laptop", "1:22", ""),
                "dst: the source is the destination or carries its address itself, and no rule is \
                 asked",
            ),
            (
                ("router", "files", ""),
                "dst: the source is the destination or carries its address itself, and no rule is \
                 asked",
            ),
            (
                ("laptop", "office", ""),
                "dst: \"office\" is more than one address: name one address in it",
            ),
            (
                ("laptop", "autogroup:self", ""),
                "dst: \"autogroup:self\" means something only inside a rule: name a user, node or \
                 address",
            ),
            (
                ("laptop", "web:22", "icmp"),
                "icmp has no ports: leave out the port",
            ),
        ],
    );
}

#[test]
fn a_word_that_means_two_things_is_not_guessed_at() {
    let mut world = tailnet();
    world.rename(NodeId(3), "alice");
    let policy = r#"{"hosts": {"alice": "10.1.2.3", "web": "100.64.0.4"}, "acls": []}"#;
    assert_eq!(
        answer(&world, policy, ("alice", "web", "")),
        "src: \"alice\" is more than one thing: say which by 3 (the node), host:alice, alice@ (the \
         user)"
    );
    // A host that is an address of the node of the same name is the node.
    assert!(answer(&world, policy, ("alice@", "web", "")).starts_with("Denied\nlaptop -> web"));
    assert!(answer(&world, policy, ("3", "host:alice", "")).contains("alice -> 10.1.2.3"));
}

#[test]
fn pairs_with_the_same_answer_share_it() {
    claim(
        POLICY,
        &[(
            ("autogroup:member", "tag:web:80", "tcp"),
            "Mixed
             laptop -> web: true
             phone -> web: true
             + Acl 0: the source is in group:dev, the destination in tag:web, port 80 is among 80,443
             desk -> web: false
             ~ Acl 0: destination and port match, the source is not in group:dev
             ~ Acl 3: source and port match, the destination is not in autogroup:self
             ~ Acl 4: source and port match, the destination is not in files, autogroup:internet
             unseen",
        )],
    );
}

#[test]
fn answers_are_bounded() {
    let mut world = tailnet();
    for device in 8..=20 {
        world.register(device, device + 100, "alice");
    }
    let rule = serde_json::json!({"action": "accept", "src": ["*"], "dst": ["*:*"]});
    let policy = serde_json::json!({ "acls": vec![rule; 9] }).to_string();
    let all = explain(&world, &engine(&world, &policy), ("*", "*", "")).unwrap();
    assert_eq!((all.pairs, all.unjudged_pairs), (256, 20 * 19 - 256));
    assert_eq!(all.allowed_pairs, 256);
    let [answer] = all.answers.as_slice() else {
        panic!("{} answers", all.answers.len());
    };
    assert_eq!((answer.pairs.len(), answer.more_pairs), (5, 251));
    assert_eq!((answer.rules.len(), answer.more_rules), (5, 4));
}

#[test]
fn rules_are_told_with_their_place_and_in_one_line() {
    let world = tailnet();
    let engine = engine(&world, POLICY);
    let found = explain(&world, &engine, ("laptop", "web:22", "")).unwrap();
    let answer = &found.answers[0];
    let rule = &answer.close[0];
    assert_eq!((rule.line, rule.column), (7, 5));
    assert_eq!(
        rule.text,
        r#"{"action": "accept", "src": ["group:dev"], "dst": ["tag:web:80,443"]}"#
    );
    let login = &answer.logins[0];
    assert_eq!((login.line, login.column), (19, 5));
    assert_eq!(
        login.text,
        r#"{"action": "check", "checkPeriod": "43200s", "src": ["group:dev"], "dst": ["tag:web"], "users": ["root", "deploy"]}"#
    );
    let found = explain(&world, &engine, ("laptop", "db", "")).unwrap();
    let texts: Vec<&str> = found.answers[0]
        .close
        .iter()
        .map(|r| r.text.as_str())
        .collect();
    assert!(texts.contains(
        &r#"{"src": ["group:dev"], "dst": ["tag:db"], "app": {"example.com/cap/x": [..]}}"#
    ));
    let found = explain(&world, &engine, ("laptop", "files", "")).unwrap();
    assert_eq!(
        found.answers[0].rules[0].text,
        r#"{"src": ["alice@"], "dst": ["office"], "ip": ["tcp:22"], "via": ["tag:router"]}"#
    );
}

#[test]
fn the_shape_is_the_apis() {
    let world = tailnet();
    let policy = r#"{"acls": [{"action": "accept", "src": ["alice@"], "dst": ["bob@:22"]}]}"#;
    let found = explain(
        &world,
        &engine(&world, policy),
        ("laptop", "desk:22", "tcp"),
    )
    .unwrap();
    let node = |id: &str, name: &str, user: &str| {
        let address = format!("100.64.0.{id}");
        let v6 = format!("fd7a:115c:a1e0::{id}");
        serde_json::json!({
            "id": id, "name": name, "user": user, "tags": [], "ipAddresses": [address, v6],
        })
    };
    assert_eq!(
        serde_json::to_value(&found).unwrap(),
        serde_json::json!({
            "src": "laptop", "dst": "desk", "port": 22, "protocol": "tcp",
            "policyVersion": null, "fault": null,
            "verdict": "allowed", "pairs": 1, "allowedPairs": 1, "unjudgedPairs": 0,
            "answers": [{
                "allowed": true,
                "pairs": [{"src": node("1", "laptop", "alice"), "dst": node("3", "desk", "bob")}],
                "morePairs": 0,
                "rules": [{
                    "kind": "acl", "index": 0, "line": 1, "column": 11,
                    "text": r#"{"action": "accept", "src": ["alice@"], "dst": ["bob@:22"]}"#,
                    "reason": "the source is in alice@, the destination in bob@, port 22 is among 22",
                }],
                "moreRules": 0, "close": [], "moreClose": 0, "logins": [], "moreLogins": 0,
                "visible": true, "reverse": null, "routers": [], "moreRouters": 0, "notes": [],
            }],
            "moreAnswers": 0,
        })
    );
}
