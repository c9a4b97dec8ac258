//! Claims about routers, address families, recorders and checks.

use super::*;

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
