//! Claims about what may be asked, and the shape of what is answered.

use super::*;

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
fn pairs_are_counted_without_those_of_a_node_with_itself() {
    let world = tailnet();
    let engine = engine(&world, r#"{"acls":[]}"#);
    let count = |src, dst| {
        let all = explain(&world, &engine, (src, dst, "")).unwrap();
        (all.pairs, all.unjudged_pairs)
    };
    assert_eq!(count("*", "*"), (7 * 6, 0));
    assert_eq!(count("alice@", "*"), (2 * 6, 0));
    assert_eq!(count("*", "web"), (6, 0));
    // Whoever carries the address is there already.
    assert_eq!(count("*", "10.1.2.3"), (6, 0));
    assert_eq!(count("*", "1.1.1.1"), (6, 0));
    assert_eq!(count("172.16.0.1", "*"), (7, 0));
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
