//! Whom a key lets in, and who needs none.

use super::*;

#[test]
fn an_unknown_or_wrong_key_lets_nobody_in() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let key = world.auth_key(user);
    let mut wrong = key.clone();
    wrong.proof.secret_hash = vec![0; 32].into();
    let invalid = (
        RefusalCode::AuthKeyInvalid,
        "invalid pre auth key".to_owned(),
    );
    assert_eq!(refused(&mut world, registration(1, 1, &wrong)), invalid);
    world.ok(DeletePreAuthKey { key_id: key.id });
    assert_eq!(refused(&mut world, registration(1, 1, &key)), invalid);
}

#[test]
fn ended_keys_say_how_they_ended() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let key = world.auth_key(user);
    let forever = world.create_key(CreatePreAuthKey {
        user_id: Some(user.0),
        ..Default::default()
    });
    let revoked = world.auth_key(user);
    world.ok(ExpirePreAuthKey {
        key_id: revoked.id,
        revoke: true,
    });
    world.pass(86_400_000);
    let expired = (RefusalCode::AuthKeyExpired, "authkey expired".to_owned());
    assert_eq!(refused(&mut world, registration(1, 1, &key)), expired);
    assert_eq!(refused(&mut world, registration(1, 1, &forever)), expired);
    let text = "authkey revoked".to_owned();
    assert_eq!(
        refused(&mut world, registration(1, 1, &revoked)),
        (RefusalCode::AuthKeyRevoked, text)
    );
}

#[test]
fn a_one_time_key_lets_in_one_device() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let key = one_time_key(&mut world, user);
    assert!(world.ok(registration(1, 1, &key)).change.keys);
    assert!(world.state.pre_auth_key(key.id).unwrap().used);
    let used = (RefusalCode::AuthKeyUsed, "authkey already used".to_owned());
    assert_eq!(refused(&mut world, registration(2, 2, &key)), used);
    assert_eq!(
        refused(&mut world, registration(1, 9, &key)),
        used,
        "rotation needs a valid key"
    );
}

#[test]
fn a_refused_registration_leaves_a_one_time_key_unused() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let reusable = world.auth_key(user);
    world.register(1, &reusable);
    let key = one_time_key(&mut world, user);
    let (code, message) = refused(&mut world, registration(2, 1, &key));
    assert_eq!(code, RefusalCode::MachineMismatch);
    assert_eq!(message, "node exists with a different machine key");
    assert!(!world.state.pre_auth_key(key.id).unwrap().used);
}

#[test]
fn a_restart_with_a_spent_expired_or_deleted_key_changes_nothing() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let key = one_time_key(&mut world, user);
    let id = world.register(1, &key);
    let again = world.ok(registration(1, 1, &key));
    assert_eq!(done_id(&again), id.0);
    assert!(again.writes.is_empty() && again.change.is_empty());
    world.pass(2 * 86_400_000);
    assert!(world.ok(registration(1, 1, &key)).writes.is_empty());
    world.ok(DeletePreAuthKey { key_id: key.id });
    assert!(world.ok(registration(1, 1, &key)).writes.is_empty());
}

#[test]
fn a_restart_with_a_fresh_one_time_key_spends_it() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let reusable = world.auth_key(user);
    let id = world.register(1, &reusable);
    let key = one_time_key(&mut world, user);
    assert_eq!(done_id(&world.ok(registration(1, 1, &key))), id.0);
    assert!(world.state.pre_auth_key(key.id).unwrap().used);
}

#[test]
fn a_new_node_key_of_the_same_device_keeps_id_and_addresses() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let key = world.auth_key(user);
    let id = world.register(1, &key);
    let before = node(&world, id);
    let applied = world.ok(registration(1, 99, &key));
    let after = node(&world, id);
    assert_eq!(done_id(&applied), id.0);
    assert_eq!((after.ipv4, after.ipv6), (before.ipv4, before.ipv6));
    assert_eq!(after.node_key, NodeKey::from_bytes([99; 32]));
    assert!(applied.change.nodes[&id].node_key && !applied.change.nodes[&id].full);
    assert!(applied.change.retired_node_keys.contains(&before.node_key));
    assert!(world.state.node_by_node_key(&before.node_key).is_none());
}

#[test]
fn an_expired_node_needs_a_valid_key() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let spent = one_time_key(&mut world, user);
    let id = world.register(1, &spent);
    let now = Some(world.now.unix_ms());
    world.ok(SetNodeExpiry {
        node_id: id.0,
        expires_at_ms: now,
    });
    assert_eq!(
        refused(&mut world, registration(1, 1, &spent)).0,
        RefusalCode::AuthKeyUsed
    );
    let bare = RegisterNode {
        auth_key: None,
        ..registration(1, 1, &spent)
    };
    assert_eq!(refused(&mut world, bare).0, RefusalCode::NodeExpired);
    let key = world.auth_key(user);
    assert_eq!(done_id(&world.ok(registration(1, 1, &key))), id.0);
    assert_eq!(node(&world, id).expires_at, None);
}

#[test]
fn another_users_key_makes_a_second_node_of_the_device() {
    let mut world = World::new();
    let alice = world.create_user("alice");
    let bob = world.create_user("bob");
    let (key_a, key_b) = (world.auth_key(alice), world.auth_key(bob));
    let first = world.register(1, &key_a);
    let (code, message) = refused(&mut world, registration(1, 1, &key_b));
    assert_eq!(
        code,
        RefusalCode::NodeExpired,
        "the client makes a new key and comes back"
    );
    assert!(message.contains("new node key"), "{message}");
    let second = arrive(&mut world, registration(1, 2, &key_b)).id;
    assert_ne!(first, second);
    let machine = MachineKey::from_bytes([1; 32]);
    assert_eq!(world.state.nodes_by_machine(machine).count(), 2);
    let owned = |user| {
        world
            .state
            .node_by_machine_and_user(machine, Some(user))
            .unwrap()
            .id
    };
    assert_eq!((owned(alice), owned(bob)), (first, second));
}
