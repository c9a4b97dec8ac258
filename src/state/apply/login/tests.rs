use hydrascale_proto::state::v1::{
    ApproveLogin, LogoutNode, RefusalCode, RegisterNode, RejectLogin, SetNodeTags, StartLogin,
};

use super::MAX_LOGINS_PER_MACHINE;
use crate::state::query::MAX_PENDING_LOGINS;
use crate::state::testing::{World, done_id, hostinfo, refusal, registration};
use crate::state::{Node, RegisterMethod};
use crate::types::{NodeId, NodeKey, Timestamp, UserId};

fn node(world: &World, id: NodeId) -> Node {
    (**world.state.node(id).unwrap()).clone()
}

fn approve(world: &mut World, auth_id: &str, user: UserId) -> NodeId {
    let command = world.approve(auth_id, user);
    NodeId(done_id(&world.ok(command)))
}

fn login(number: u64, device: u8, node_key: u8) -> StartLogin {
    StartLogin {
        auth_id: format!("hskey-authreq-{number:024x}"),
        machine_key: vec![device; 32].into(),
        node_key: vec![node_key; 32].into(),
        hostinfo_json: hostinfo(device).into(),
        capver: 130,
        ephemeral: false,
        requested_expiry_ms: None,
    }
}

#[test]
fn an_approved_login_makes_a_node_and_tells_the_waiter() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let auth_id = world.start_login(1, 1);
    let command = world.approve(&auth_id, user);
    let applied = world.ok(command);
    let id = NodeId(done_id(&applied));
    assert!(applied.change.pending_logins.contains(&auth_id));
    assert_eq!(
        world.state.pending_login(&auth_id).unwrap().approved_node,
        Some(id)
    );
    let made = node(&world, id);
    assert_eq!(
        (made.user_id, made.register_method),
        (Some(user), RegisterMethod::Cli)
    );
    assert_eq!(made.given_name, "host1");
}

#[test]
fn a_login_is_decided_once() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let approved = world.start_login(1, 1);
    approve(&mut world, &approved, user);
    let again = world.approve(&approved, user);
    assert!(refusal(&world.apply(again)).1.contains("approved already"));
    let reject = RejectLogin { auth_id: approved };
    assert_eq!(refusal(&world.apply(reject)).0, RefusalCode::Precondition);

    let rejected = world.start_login(2, 2);
    world.ok(RejectLogin {
        auth_id: rejected.clone(),
    });
    assert!(
        world
            .ok(RejectLogin {
                auth_id: rejected.clone()
            })
            .writes
            .is_empty()
    );
    let approve = world.approve(&rejected, user);
    assert_eq!(refusal(&world.apply(approve)).0, RefusalCode::LoginRejected);
}

#[test]
fn unknown_logins_and_users_are_refused() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let unknown = world.approve("hskey-authreq-000000000000000000000000", user);
    assert_eq!(refusal(&world.apply(unknown)).0, RefusalCode::LoginNotFound);
    let auth_id = world.start_login(1, 1);
    let nobody = world.approve(&auth_id, UserId(9));
    assert_eq!(refusal(&world.apply(nobody)).0, RefusalCode::NotFound);
    let mut past = world.approve(&auth_id, user);
    past.expires_at_ms = Some(world.now.unix_ms());
    assert!(refusal(&world.apply(past)).1.contains("in the past"));
    let bad = StartLogin {
        auth_id: "short".into(),
        ..login(1, 1, 1)
    };
    assert_eq!(refusal(&world.apply(bad)).0, RefusalCode::Invalid);
    let twice = StartLogin {
        auth_id,
        ..login(1, 1, 1)
    };
    assert_eq!(refusal(&world.apply(twice)).0, RefusalCode::AlreadyExists);
}

#[test]
fn a_login_runs_out() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let auth_id = world.start_login(1, 1);
    let ends = world
        .now
        .saturating_add(std::time::Duration::from_millis(900_000));
    assert_eq!(world.state.next_deadline(), Some(ends));
    world.pass(900_000);
    let late = world.approve(&auth_id, user);
    let applied = world.apply(late);
    assert_eq!(refusal(&applied).0, RefusalCode::LoginNotFound);
    assert!(applied.change.pending_logins.contains(&auth_id));
    assert_eq!(world.state.next_deadline(), None);
}

#[test]
fn the_same_user_renews_the_node_in_place() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let first = world.start_login(1, 1);
    let id = approve(&mut world, &first, user);
    let before = node(&world, id);
    let second = world.start_login(1, 2);
    assert!(
        world.state.node_by_node_key(&before.node_key).is_some(),
        "valid until approved"
    );
    assert_eq!(approve(&mut world, &second, user), id);
    let after = node(&world, id);
    assert_eq!(after.node_key, NodeKey::from_bytes([2; 32]));
    assert_eq!(
        (after.ipv4, after.created_at),
        (before.ipv4, before.created_at)
    );
}

#[test]
fn another_user_gets_a_node_of_its_own() {
    let mut world = World::new();
    let alice = world.create_user("alice");
    let bob = world.create_user("bob");
    let first = world.start_login(1, 1);
    let first = approve(&mut world, &first, alice);
    let second = world.start_login(1, 2);
    let second = approve(&mut world, &second, bob);
    assert_ne!(first, second);
    assert_eq!(node(&world, first).user_id, Some(alice));
    assert_eq!(node(&world, second).given_name, "host1-1");
}

#[test]
fn a_login_without_tags_takes_a_tagged_node_over() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let first = world.start_login(1, 1);
    let id = approve(&mut world, &first, user);
    world.ok(SetNodeTags {
        node_id: id.0,
        tags: vec!["tag:a".into(), "tag:b".into()],
    });
    let json = br#"{"RequestTags":["tag:b"]}"#.to_vec();
    world.ok(StartLogin {
        hostinfo_json: json.into(),
        ..login(1000, 1, 2)
    });
    assert_eq!(approve(&mut world, &login(1000, 1, 2).auth_id, user), id);
    assert_eq!(
        (node(&world, id).tags, node(&world, id).user_id),
        (vec!["tag:b".into()], None)
    );
    let plain = world.start_login(1, 3);
    assert_eq!(approve(&mut world, &plain, user), id);
    assert_eq!(
        (node(&world, id).tags, node(&world, id).user_id),
        (vec![], Some(user))
    );
}

#[test]
fn tags_that_nobody_gave_are_refused_at_approval() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let json = br#"{"RequestTags":["tag:b"]}"#.to_vec();
    world.ok(StartLogin {
        hostinfo_json: json.into(),
        ..login(1000, 1, 2)
    });
    let command = world.approve(&login(1000, 1, 2).auth_id, user);
    let (_, message) = refusal(&world.apply(command));
    assert!(message.contains("requested tags [tag:b]"), "{message}");
}

#[test]
fn a_node_key_of_another_device_is_refused_at_once() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let key = world.auth_key(user);
    world.register(1, &key);
    let (code, _) = refusal(&world.apply(login(1, 2, 1)));
    assert_eq!(code, RefusalCode::MachineMismatch);
}

#[test]
fn a_node_key_that_was_taken_meanwhile_is_refused_at_approval() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let auth_id = world.start_login(1, 5);
    let key = world.auth_key(user);
    world.ok(RegisterNode {
        machine_key: vec![2; 32].into(),
        ..registration(2, 5, &key)
    });
    let command = world.approve(&auth_id, user);
    assert_eq!(
        refusal(&world.apply(command)).0,
        RefusalCode::MachineMismatch
    );
}

#[test]
fn whoever_approves_sets_the_expiry() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let auth_id = world.start_login(1, 1);
    let at = world.now.unix_ms() + 5_000;
    let command = ApproveLogin {
        expires_at_ms: Some(at),
        ..world.approve(&auth_id, user)
    };
    let id = NodeId(done_id(&world.ok(command)));
    assert_eq!(
        node(&world, id).expires_at,
        Some(Timestamp::from_unix_ms(at))
    );
}

#[test]
fn the_oldest_login_makes_room() {
    let mut world = World::new();
    for number in 0..MAX_LOGINS_PER_MACHINE {
        world.pass(1);
        world.ok(login(number as u64, 1, 1));
    }
    world.pass(1);
    let applied = world.ok(login(99, 1, 1));
    assert_eq!(world.state.pending_logins().count(), MAX_LOGINS_PER_MACHINE);
    assert!(world.state.pending_login(&login(0, 1, 1).auth_id).is_none());
    assert!(
        applied
            .change
            .pending_logins
            .contains(&login(0, 1, 1).auth_id)
    );
}

#[test]
fn the_whole_tailnet_keeps_a_bounded_number_of_logins() {
    let mut world = World::new();
    let logins = (0..=MAX_PENDING_LOGINS as u64).map(|number| {
        let mut key = [7; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        StartLogin {
            machine_key: key.to_vec().into(),
            ..login(number, 1, 1)
        }
    });
    let commands = logins.map(|login| hydrascale_proto::state::v1::Command {
        op: Some(hydrascale_proto::state::v1::command::Op::StartLogin(login)),
    });
    world.ok(hydrascale_proto::state::v1::Batch {
        commands: commands.collect(),
    });
    assert_eq!(world.state.pending_logins().count(), MAX_PENDING_LOGINS);
    assert!(world.state.pending_login(&login(0, 1, 1).auth_id).is_none());
}

#[test]
fn logout_expires_now_and_once() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let key = world.auth_key(user);
    let id = world.register(1, &key);
    let logout = |device: u8, node_key: u8| LogoutNode {
        machine_key: vec![device; 32].into(),
        node_key: vec![node_key; 32].into(),
    };
    assert_eq!(
        refusal(&world.apply(logout(2, 1))).0,
        RefusalCode::MachineMismatch
    );
    assert_eq!(refusal(&world.apply(logout(1, 2))).0, RefusalCode::NotFound);
    let applied = world.ok(logout(1, 1));
    assert!(applied.change.nodes[&id].expiry);
    assert_eq!(node(&world, id).expires_at, Some(world.now));
    assert_eq!(
        world.state.next_deadline(),
        None,
        "nothing is left to announce"
    );
    world.pass(5);
    assert!(world.ok(logout(1, 1)).writes.is_empty());
}
