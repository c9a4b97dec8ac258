use hydrascale_proto::state::v1::command::Op;
use hydrascale_proto::state::v1::{
    Batch, Command, DecideSshCheck, DeleteNode, RefusalCode, SetNodeTags, SetPolicy, StartSshCheck,
};

use super::MAX_SSH_CHECKS;
use crate::state::SshLogin;
use crate::state::crowd::{CHECKS_PER_PAIR_MAX, CHECKS_PER_PARTY_MAX};
use crate::state::query::SSH_APPROVAL_LIFE;
use crate::state::testing::{World, refusal, registration};
use crate::types::{NodeId, Timestamp};

/// A tailnet with so many nodes.
fn world(nodes: u8) -> (World, Vec<NodeId>) {
    let mut world = World::new();
    let ids = (1..=nodes).map(|device| world.add_node(device)).collect();
    (world, ids)
}

/// When a login as the user of [`World::start_ssh_check`] was approved.
fn approved_at(world: &World, src: NodeId, dst: NodeId) -> Option<Timestamp> {
    approved_as(world, src, dst, "deploy")
}

fn approved_as(world: &World, src: NodeId, dst: NodeId, local_user: &str) -> Option<Timestamp> {
    world.state.ssh_approved_at(&SshLogin {
        src,
        dst,
        local_user: local_user.to_owned(),
    })
}

fn start(number: u64, src: NodeId, dst: NodeId, local_user: &str) -> StartSshCheck {
    StartSshCheck {
        auth_id: format!("hskey-authreq-{number:024x}"),
        src_node_id: src.0,
        dst_node_id: dst.0,
        local_user: local_user.to_owned(),
    }
}

fn decide(auth_id: &str, approved: bool) -> DecideSshCheck {
    DecideSshCheck {
        auth_id: auth_id.to_owned(),
        approved,
    }
}

#[test]
fn an_approval_is_remembered_and_told_to_the_waiter() {
    let (mut world, nodes) = world(2);
    let auth_id = world.start_ssh_check(nodes[0], nodes[1]);
    assert_eq!(world.state.ssh_check(&auth_id).unwrap().approved, None);
    assert_eq!(approved_at(&world, nodes[0], nodes[1]), None);
    world.pass(5_000);
    let applied = world.decide_ssh_check(&auth_id, true);
    assert!(applied.change.ssh_checks.contains(&auth_id));
    let check = world.state.ssh_check(&auth_id).unwrap();
    assert_eq!(check.approved, Some(true));
    assert_eq!(approved_at(&world, nodes[0], nodes[1]), Some(world.now));
    assert_eq!(approved_at(&world, nodes[1], nodes[0]), None);
}

#[test]
fn a_rejected_login_leaves_no_approval() {
    let (mut world, nodes) = world(2);
    let auth_id = world.start_ssh_check(nodes[0], nodes[1]);
    world.decide_ssh_check(&auth_id, false);
    let check = world.state.ssh_check(&auth_id).unwrap();
    assert_eq!(check.approved, Some(false));
    assert_eq!(approved_at(&world, nodes[0], nodes[1]), None);
}

#[test]
fn a_login_is_decided_once_and_the_same_decision_may_come_twice() {
    let (mut world, nodes) = world(2);
    for (approved, code) in [
        (true, RefusalCode::Precondition),
        (false, RefusalCode::LoginRejected),
    ] {
        let auth_id = world.start_ssh_check(nodes[0], nodes[1]);
        world.decide_ssh_check(&auth_id, approved);
        world.pass(1_000);
        assert!(world.decide_ssh_check(&auth_id, approved).change.is_empty());
        let other = world.apply(decide(&auth_id, !approved));
        assert_eq!(refusal(&other).0, code);
    }
}

#[test]
fn an_undecided_login_runs_out_and_says_so_to_who_decides_late() {
    let (mut world, nodes) = world(2);
    let auth_id = world.start_ssh_check(nodes[0], nodes[1]);
    let applied = world.tick_after(900_000);
    assert!(applied.change.ssh_checks.contains(&auth_id));
    let late = world.apply(decide(&auth_id, true));
    assert_eq!(refusal(&late).0, RefusalCode::LoginNotFound);
    assert_eq!(world.state.next_deadline(), None);
}

#[test]
fn an_approval_ends_with_the_policy_that_it_was_given_under() {
    let (mut world, nodes) = world(2);
    let auth_id = world.start_ssh_check(nodes[0], nodes[1]);
    world.decide_ssh_check(&auth_id, true);
    world.ok(SetPolicy {
        text: "{}".into(),
        ..Default::default()
    });
    assert_eq!(approved_at(&world, nodes[0], nodes[1]), None);
    let again = world.start_ssh_check(nodes[0], nodes[1]);
    world.decide_ssh_check(&again, true);
    assert!(approved_at(&world, nodes[0], nodes[1]).is_some());
}

#[test]
fn an_approval_is_forgotten_after_the_longest_period() {
    let (mut world, nodes) = world(2);
    let auth_id = world.start_ssh_check(nodes[0], nodes[1]);
    world.decide_ssh_check(&auth_id, true);
    let life = i64::try_from(SSH_APPROVAL_LIFE.as_millis()).unwrap();
    world.tick_after(life - 1);
    assert!(approved_at(&world, nodes[0], nodes[1]).is_some());
    world.tick_after(1);
    assert_eq!(approved_at(&world, nodes[0], nodes[1]), None);
    assert_eq!(world.state.next_deadline(), None);
}

#[test]
fn whoever_takes_over_a_node_is_checked_anew() {
    let (mut world, nodes) = world(3);
    let approve = |world: &mut World, src| {
        let auth_id = world.start_ssh_check(src, nodes[2]);
        world.decide_ssh_check(&auth_id, true);
        assert!(approved_at(world, src, nodes[2]).is_some());
    };
    approve(&mut world, nodes[0]);
    world.ok(SetNodeTags {
        node_id: nodes[0].0,
        tags: vec!["tag:web".into()],
    });
    assert_eq!(approved_at(&world, nodes[0], nodes[2]), None);
    approve(&mut world, nodes[1]);
    let owner = world.state.node(nodes[1]).unwrap().user_id.unwrap();
    let key = world.auth_key(owner);
    world.ok(registration(2, 77, &key));
    assert_eq!(approved_at(&world, nodes[1], nodes[2]), None);
    approve(&mut world, nodes[1]);
    world.ok(DeleteNode {
        node_id: nodes[1].0,
    });
    assert_eq!(approved_at(&world, nodes[1], nodes[2]), None);
}

#[test]
fn an_approval_as_guest_opens_nothing_as_root() {
    let (mut world, nodes) = world(2);
    let op = start(1, nodes[0], nodes[1], "guest");
    world.ok(op.clone());
    world.decide_ssh_check(&op.auth_id, true);
    assert!(approved_as(&world, nodes[0], nodes[1], "guest").is_some());
    assert_eq!(approved_as(&world, nodes[0], nodes[1], "root"), None);
}

#[test]
fn a_login_that_waits_while_its_node_changes_hands_cannot_be_approved() {
    let (mut world, nodes) = world(3);
    let late = |world: &mut World, auth_id: &str| {
        let applied = world.apply(decide(auth_id, true));
        assert_eq!(refusal(&applied).0, RefusalCode::LoginNotFound);
        assert!(world.state.ssh_approvals.is_empty());
    };
    let owner = world.state.node(nodes[0]).unwrap().user_id.unwrap();
    let key = world.auth_key(owner);
    let waiting = world.start_ssh_check(nodes[0], nodes[1]);
    let applied = world.ok(registration(1, 77, &key));
    assert!(applied.change.ssh_checks.contains(&waiting));
    late(&mut world, &waiting);
    for gone in [nodes[0], nodes[1]] {
        let waiting = world.start_ssh_check(nodes[0], nodes[1]);
        let unconcerned = world.start_ssh_check(nodes[2], nodes[2]);
        world.ok(SetNodeTags {
            node_id: gone.0,
            tags: vec![format!("tag:x{gone}")],
        });
        late(&mut world, &waiting);
        assert!(world.state.ssh_check(&unconcerned).is_some());
    }
    for gone in [nodes[0], nodes[1]] {
        let (src, dst) = (nodes[2], gone);
        let waiting = world.start_ssh_check(src, dst);
        world.ok(DeleteNode { node_id: gone.0 });
        late(&mut world, &waiting);
    }
}

#[test]
fn approvals_at_a_node_end_when_it_goes_to_another_owner() {
    let (mut world, nodes) = world(2);
    let auth_id = world.start_ssh_check(nodes[0], nodes[1]);
    world.decide_ssh_check(&auth_id, true);
    world.ok(SetNodeTags {
        node_id: nodes[1].0,
        tags: vec!["tag:web".into()],
    });
    assert_eq!(approved_at(&world, nodes[0], nodes[1]), None);
}

#[test]
fn an_approval_wakes_everybody_who_waits_for_the_same_login() {
    let (mut world, nodes) = world(2);
    let first = world.start_ssh_check(nodes[0], nodes[1]);
    let second = world.start_ssh_check(nodes[0], nodes[1]);
    let as_root = start(1, nodes[0], nodes[1], "root");
    world.ok(as_root.clone());
    let told = world.decide_ssh_check(&first, true).change.ssh_checks;
    assert!(told.contains(&first) && told.contains(&second));
    assert!(!told.contains(&as_root.auth_id));
}

#[test]
fn what_cannot_be_is_refused() {
    let (mut world, nodes) = world(2);
    let gone = NodeId(99);
    let long = "u".repeat(257);
    let login = world.start_login(3, 3);
    let check = world.start_ssh_check(nodes[0], nodes[1]);
    let of = |auth_id: &str| StartSshCheck {
        auth_id: auth_id.to_owned(),
        ..start(1, nodes[0], nodes[1], "root")
    };
    for (op, code) in [
        (start(1, gone, nodes[1], "root"), RefusalCode::NotFound),
        (start(1, nodes[0], gone, "root"), RefusalCode::NotFound),
        (start(1, nodes[0], nodes[1], ""), RefusalCode::Invalid),
        (start(1, nodes[0], nodes[1], "a\nb"), RefusalCode::Invalid),
        (start(1, nodes[0], nodes[1], &long), RefusalCode::Invalid),
        (of("hskey-authreq-1"), RefusalCode::Invalid),
        (of(&login), RefusalCode::AlreadyExists),
        (of(&check), RefusalCode::AlreadyExists),
    ] {
        let applied = world.apply(op.clone());
        assert_eq!(refusal(&applied).0, code, "{op:?}");
    }
}

#[test]
fn a_crowd_refuses_its_newcomer_and_pushes_out_nobody() {
    let (mut world, nodes) = world(3);
    let other = world.start_ssh_check(nodes[1], nodes[2]);
    let ids: Vec<String> = (0..CHECKS_PER_PAIR_MAX)
        .map(|_| world.start_ssh_check(nodes[0], nodes[2]))
        .collect();
    let newcomer = start(1, nodes[0], nodes[2], "deploy");
    let refused = world.apply(newcomer.clone());
    assert_eq!(refusal(&refused).0, RefusalCode::Precondition);
    assert!(refused.change.is_empty());
    for auth_id in ids.iter().chain([&other]) {
        assert!(world.state.ssh_check(auth_id).is_some());
    }
    // What is decided is no crowd.
    world.decide_ssh_check(&ids[3], false);
    world.ok(newcomer);
}

#[test]
fn nodes_of_one_owner_that_invent_logins_share_one_bound() {
    let sources = u8::try_from(CHECKS_PER_PARTY_MAX / CHECKS_PER_PAIR_MAX + 2).unwrap();
    let (mut world, nodes) = world(sources);
    let owner = world.state.node(nodes[0]).unwrap().user_id.unwrap();
    let key = world.auth_key(owner);
    let own = [
        nodes[0],
        world.register(100, &key),
        world.register(101, &key),
    ];
    let victims = &nodes[1..];
    let innocent = world.start_ssh_check(victims[0], victims[1]);
    let invented = (0..CHECKS_PER_PARTY_MAX * 2).filter(|number| {
        let (src, dst) = (victims[number % victims.len()], own[number % own.len()]);
        let op = start(*number as u64 + 1000, src, dst, "deploy");
        let auth_id = op.auth_id.clone();
        world.apply(op);
        world.state.ssh_check(&auth_id).is_some()
    });
    assert_eq!(invented.count(), CHECKS_PER_PARTY_MAX);
    assert!(world.state.ssh_check(&innocent).is_some());
    world.start_ssh_check(victims[0], victims[1]);
}

#[test]
fn decided_logins_make_room_for_those_that_wait() {
    let (mut world, nodes) = world(2);
    let waiting = world.start_ssh_check(nodes[0], nodes[1]);
    let command = |op| Command { op: Some(op) };
    let decided: Vec<StartSshCheck> = (1..MAX_SSH_CHECKS as u64)
        .map(|number| start(10_000 + number, nodes[0], nodes[1], "deploy"))
        .collect();
    let commands = decided.iter().flat_map(|op| {
        let decision = decide(&op.auth_id, false);
        [
            command(Op::StartSshCheck(op.clone())),
            command(Op::DecideSshCheck(decision)),
        ]
    });
    world.ok(Batch {
        commands: commands.collect(),
    });
    world.ok(start(5_000, nodes[0], nodes[1], "deploy"));
    assert!(world.state.ssh_check(&waiting).is_some());
    assert!(world.state.ssh_check(&decided[0].auth_id).is_none());
    assert!(world.state.ssh_check(&decided[1].auth_id).is_some());
    assert_eq!(world.state.ssh_checks().count(), MAX_SSH_CHECKS);
}
