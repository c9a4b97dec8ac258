use hydrascale_proto::state::v1::{
    DecideSshCheck, DeleteNode, RefusalCode, SetNodeTags, SetPolicy, StartSshCheck,
};

use super::{CHECKS_PER_DESTINATION_MAX, CHECKS_PER_PAIR_MAX};
use crate::state::query::SSH_APPROVAL_LIFE;
use crate::state::testing::{World, refusal, registration};
use crate::types::NodeId;

/// A tailnet with so many nodes.
fn world(nodes: u8) -> (World, Vec<NodeId>) {
    let mut world = World::new();
    let ids = (1..=nodes).map(|device| world.add_node(device)).collect();
    (world, ids)
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
    assert_eq!(world.state.ssh_approved_at(nodes[0], nodes[1]), None);
    world.pass(5_000);
    let applied = world.decide_ssh_check(&auth_id, true);
    assert!(applied.change.ssh_checks.contains(&auth_id));
    let check = world.state.ssh_check(&auth_id).unwrap();
    assert_eq!(check.approved, Some(true));
    let state = &world.state;
    assert_eq!(state.ssh_approved_at(nodes[0], nodes[1]), Some(world.now));
    assert_eq!(state.ssh_approved_at(nodes[1], nodes[0]), None);
}

#[test]
fn a_rejected_login_leaves_no_approval() {
    let (mut world, nodes) = world(2);
    let auth_id = world.start_ssh_check(nodes[0], nodes[1]);
    world.decide_ssh_check(&auth_id, false);
    let check = world.state.ssh_check(&auth_id).unwrap();
    assert_eq!(check.approved, Some(false));
    assert_eq!(world.state.ssh_approved_at(nodes[0], nodes[1]), None);
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
    assert_eq!(world.state.ssh_approved_at(nodes[0], nodes[1]), None);
    let again = world.start_ssh_check(nodes[0], nodes[1]);
    world.decide_ssh_check(&again, true);
    assert!(world.state.ssh_approved_at(nodes[0], nodes[1]).is_some());
}

#[test]
fn an_approval_is_forgotten_after_the_longest_period() {
    let (mut world, nodes) = world(2);
    let auth_id = world.start_ssh_check(nodes[0], nodes[1]);
    world.decide_ssh_check(&auth_id, true);
    let life = i64::try_from(SSH_APPROVAL_LIFE.as_millis()).unwrap();
    world.tick_after(life - 1);
    assert!(world.state.ssh_approved_at(nodes[0], nodes[1]).is_some());
    world.tick_after(1);
    assert_eq!(world.state.ssh_approved_at(nodes[0], nodes[1]), None);
    assert_eq!(world.state.next_deadline(), None);
}

#[test]
fn whoever_takes_over_a_node_is_checked_anew() {
    let (mut world, nodes) = world(3);
    let approve = |world: &mut World, src| {
        let auth_id = world.start_ssh_check(src, nodes[2]);
        world.decide_ssh_check(&auth_id, true);
        assert!(world.state.ssh_approved_at(src, nodes[2]).is_some());
    };
    approve(&mut world, nodes[0]);
    world.ok(SetNodeTags {
        node_id: nodes[0].0,
        tags: vec!["tag:web".into()],
    });
    assert_eq!(world.state.ssh_approved_at(nodes[0], nodes[2]), None);
    approve(&mut world, nodes[1]);
    let owner = world.state.node(nodes[1]).unwrap().user_id.unwrap();
    let key = world.auth_key(owner);
    world.ok(registration(2, 77, &key));
    assert_eq!(world.state.ssh_approved_at(nodes[1], nodes[2]), None);
    approve(&mut world, nodes[1]);
    world.ok(DeleteNode {
        node_id: nodes[1].0,
    });
    assert_eq!(world.state.ssh_approved_at(nodes[1], nodes[2]), None);
}

#[test]
fn a_login_approved_after_its_source_went_is_not_remembered() {
    let (mut world, nodes) = world(2);
    let auth_id = world.start_ssh_check(nodes[0], nodes[1]);
    world.ok(DeleteNode {
        node_id: nodes[0].0,
    });
    world.decide_ssh_check(&auth_id, true);
    assert!(world.state.ssh_approvals.is_empty());
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
fn a_crowd_pushes_out_its_own_oldest_and_nobody_elses() {
    let (mut world, nodes) = world(3);
    let other = world.start_ssh_check(nodes[1], nodes[2]);
    let mut ids = Vec::new();
    for _ in 0..=CHECKS_PER_PAIR_MAX {
        world.pass(1);
        ids.push(world.start_ssh_check(nodes[0], nodes[2]));
    }
    assert!(world.state.ssh_check(&ids[0]).is_none());
    assert!(world.state.ssh_check(&ids[1]).is_some());
    assert!(world.state.ssh_check(&other).is_some());
    assert_eq!(world.state.ssh_checks().count(), 1 + CHECKS_PER_PAIR_MAX);
}

#[test]
fn a_node_that_invents_logins_keeps_a_bounded_number() {
    let sources = u8::try_from(CHECKS_PER_DESTINATION_MAX / CHECKS_PER_PAIR_MAX + 2).unwrap();
    let (mut world, nodes) = world(sources);
    let (dst, other) = (nodes[0], nodes[1]);
    let innocent = world.start_ssh_check(dst, other);
    for src in &nodes {
        for _ in 0..CHECKS_PER_PAIR_MAX {
            world.start_ssh_check(*src, dst);
        }
    }
    let at = |node| {
        world
            .state
            .ssh_checks()
            .filter(move |check| check.dst == node)
    };
    assert_eq!(at(dst).count(), CHECKS_PER_DESTINATION_MAX);
    assert!(world.state.ssh_check(&innocent).is_some());
}
