use super::super::testing::{done, failed, history, unknown};
use super::*;

fn node(id: u8, node_key: &str) -> Listed {
    Listed {
        id: id.to_string(),
        node_key: node_key.to_owned(),
        addresses: vec![
            IpAddr::from([100, 64, 0, id]),
            IpAddr::from([0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, u16::from(id)]),
        ],
        auth_key: None,
        routes: Vec::new(),
        granted: Vec::new(),
        online: false,
    }
}

fn list(at: u64, nodes: &[Listed]) -> Operation {
    let nodes = nodes.to_vec();
    done(at, Op::List, (at, at + 1), Answer::Nodes { nodes })
}

fn register(at: u64, node_key: &str) -> Operation {
    let op = Op::Register {
        auth_key: "1".to_owned(),
        single_use: false,
        node_key: node_key.to_owned(),
    };
    done(at, op, (at, at + 1), Answer::Nothing)
}

fn delete(at: u64, id: u8) -> Operation {
    let op = Op::Delete {
        node: id.to_string(),
    };
    done(at, op, (at, at + 1), Answer::Nothing)
}

fn complaint(check: fn(&History) -> Verdict, operations: Vec<Operation>) -> String {
    let verdict = check(&history(operations));
    match verdict {
        Verdict::Violated(what) => what,
        Verdict::Holds(_) | Verdict::GaveUp(_) | Verdict::NothingSeen => panic!("{verdict}"),
    }
}

#[test]
fn a_good_history_passes_all() {
    let operations = vec![
        register(0, "a"),
        unknown(register(2, "b")),
        failed(register(3, "c")),
        list(10, &[node(1, "a")]),
        list(12, &[node(1, "a"), node(2, "b")]),
        delete(14, 1),
        list(16, &[node(2, "b")]),
    ];
    let history = history(operations);
    assert_eq!(addresses(&history), Verdict::Holds(4));
    assert_eq!(once(&history), Verdict::Holds(2));
    assert_eq!(kept(&history), Verdict::Holds(2));
    assert_eq!(deleted(&history), Verdict::Holds(1));
    assert_eq!(primaries(&history), Verdict::NothingSeen);
}

#[test]
fn what_was_acknowledged_is_not_lost() {
    let lost = vec![
        register(0, "a"),
        register(2, "b"),
        list(10, &[node(1, "a")]),
    ];
    assert!(complaint(kept, lost).contains("b was acknowledged and is lost"));
    // While it is being deleted it may be there or not.
    let deleting = vec![
        register(0, "a"),
        list(4, &[node(1, "a")]),
        unknown(delete(10, 1)),
        list(12, &[]),
        list(14, &[node(1, "a")]),
    ];
    assert_eq!(kept(&history(deleting)), Verdict::Holds(1));
}

#[test]
fn what_was_refused_or_never_sent_is_not_listed() {
    let refused = vec![failed(register(0, "a")), list(10, &[node(1, "a")])];
    assert!(complaint(kept, refused).contains("it was refused"));
    let early = vec![list(1, &[node(1, "a")]), register(5, "a")];
    assert!(complaint(kept, early).contains("nobody sent it"));
}

#[test]
fn what_was_deleted_does_not_come_back() {
    let back = vec![register(0, "a"), delete(5, 1), list(10, &[node(1, "a")])];
    assert!(complaint(deleted, back).contains("is back"));
    // Under another id it is another node: a registration that came late.
    let again = vec![
        unknown(register(0, "a")),
        delete(5, 1),
        list(10, &[node(2, "a")]),
    ];
    assert_eq!(deleted(&history(again)), Verdict::Holds(1));
}

#[test]
fn a_registration_has_one_effect() {
    let twice = vec![register(0, "a"), list(5, &[node(1, "a"), node(2, "a")])];
    assert!(complaint(once, twice).contains("listed twice"));
    let moved = vec![
        register(0, "a"),
        list(5, &[node(1, "a")]),
        list(7, &[node(2, "a")]),
    ];
    assert!(complaint(once, moved).contains("became the nodes"));
    let between = vec![
        list(5, &[node(1, "a")]),
        delete(6, 1),
        list(8, &[node(2, "a")]),
    ];
    assert_eq!(once(&history(between)), Verdict::Holds(1));
}

#[test]
fn addresses_are_of_each_family_and_belong_to_one_node_for_ever() {
    let shared = Listed {
        addresses: node(1, "a").addresses,
        ..node(2, "b")
    };
    let what = complaint(addresses, vec![list(0, &[node(1, "a"), shared])]);
    assert!(what.contains("share 100.64.0.1"), "{what}");
    let changed = Listed {
        addresses: node(3, "a").addresses,
        ..node(1, "a")
    };
    let what = complaint(
        addresses,
        vec![list(0, &[node(1, "a")]), list(2, &[changed])],
    );
    assert!(what.contains("changed"), "{what}");
    let mut foreign = node(1, "a");
    foreign.addresses[0] = IpAddr::from([100, 128, 0, 1]);
    assert!(complaint(addresses, vec![list(0, &[foreign])]).contains("not one each"));
}

#[test]
fn a_route_has_one_primary() {
    let routes = |node: Listed, routes: &[&str]| Listed {
        routes: routes.iter().map(|route| (*route).to_owned()).collect(),
        ..node
    };
    let exits = list(
        0,
        &[
            routes(node(1, "a"), &["0.0.0.0/0"]),
            routes(node(2, "b"), &["0.0.0.0/0"]),
        ],
    );
    assert_eq!(primaries(&history(vec![exits])), Verdict::NothingSeen);
    let two = list(
        0,
        &[
            routes(node(1, "a"), &["10.0.0.0/8"]),
            routes(node(2, "b"), &["10.0.0.0/8"]),
        ],
    );
    assert!(complaint(primaries, vec![two]).contains("10.0.0.0/8"));

    let candidate = |id: u8, online, is_primary: bool| Listed {
        granted: vec!["10.0.0.0/8".to_owned()],
        online,
        ..routes(
            node(id, "a"),
            if is_primary { &["10.0.0.0/8"] } else { &[] },
        )
    };
    let judged = |one, two| vec![list(0, &[one, two])];
    let fine = judged(candidate(1, false, false), candidate(2, true, true));
    assert_eq!(primaries(&history(fine)), Verdict::Holds(1));
    let nobody = judged(candidate(1, false, false), candidate(2, true, false));
    assert!(complaint(primaries, nobody).contains("nobody is primary"));
    let gone = judged(candidate(1, false, true), candidate(2, true, false));
    assert!(complaint(primaries, gone).contains("offline"));
}
