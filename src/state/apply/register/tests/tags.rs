//! Tags that come with a key, and those that a device asks for.

use super::*;

#[test]
fn a_tagged_key_makes_a_node_that_its_tags_own_and_that_never_expires() {
    let mut world = World::new();
    let mut with_expiry = settings();
    with_expiry.node_expiry_ms = 1_000;
    world.ok(UpdateSettings {
        settings: Some(with_expiry),
    });
    let key = tagged_key(&mut world, "tag:web");
    let tagged = arrive(&mut world, registration(1, 1, &key));
    assert_eq!(
        (tagged.user_id, tagged.tags),
        (None, vec!["tag:web".to_owned()])
    );
    assert_eq!(tagged.expires_at, None);
}

#[test]
fn a_tagged_key_takes_over_the_devices_only_node() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let key = world.auth_key(user);
    let id = world.register(1, &key);
    let tagged = tagged_key(&mut world, "tag:web");
    world.ok(ExpirePreAuthKey {
        key_id: tagged.id,
        revoke: false,
    });
    let code = refused(&mut world, registration(1, 1, &tagged)).0;
    assert_eq!(
        code,
        RefusalCode::AuthKeyExpired,
        "a change of owner needs a valid key"
    );
    let tagged = tagged_key(&mut world, "tag:web");
    let applied = world.ok(registration(1, 1, &tagged));
    assert_eq!(done_id(&applied), id.0);
    assert!(applied.change.nodes[&id].full);
    assert_eq!(node(&world, id).user_id, None);
}

#[test]
fn a_tagged_key_for_a_device_of_two_users_is_ambiguous() {
    let mut world = World::new();
    let alice = world.create_user("alice");
    let bob = world.create_user("bob");
    let (key_a, key_b) = (world.auth_key(alice), world.auth_key(bob));
    world.register(1, &key_a);
    arrive(&mut world, registration(1, 2, &key_b));
    let tagged = tagged_key(&mut world, "tag:web");
    let (code, message) = refused(&mut world, registration(1, 3, &tagged));
    assert_eq!(code, RefusalCode::Precondition);
    assert!(message.contains("ambiguous node ownership"), "{message}");
}

#[test]
fn a_node_that_was_tagged_since_comes_back_with_its_users_spent_key() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let key = one_time_key(&mut world, user);
    let id = world.register(1, &key);
    world.ok(SetNodeTags {
        node_id: id.0,
        tags: vec!["tag:web".into()],
    });
    assert_eq!(done_id(&world.ok(registration(1, 1, &key))), id.0);
    assert_eq!(node(&world, id).tags, ["tag:web"]);
}

#[test]
fn requested_tags_must_be_the_keys() {
    let mut world = World::new();
    let key = tagged_key(&mut world, "tag:web");
    let with = |tag: &str| RegisterNode {
        hostinfo_json: format!(r#"{{"RequestTags":["{tag}"]}}"#)
            .into_bytes()
            .into(),
        ..registration(1, 1, &key)
    };
    let (code, message) = refused(&mut world, with("tag:db"));
    assert_eq!(code, RefusalCode::Precondition);
    assert_eq!(
        message,
        "requested tags [tag:db] are invalid or not permitted"
    );
    world.ok(with("tag:web"));
}

#[test]
fn a_policy_gives_tags_beyond_the_keys() {
    let mut world = World::new();
    world.ok(SetPolicy {
        text: "{}".into(),
        ..Default::default()
    });
    let user = world.create_user("alice");
    let own = world.auth_key(user);
    let tagged = tagged_key(&mut world, "tag:web");
    let asking = |device, key: &crate::state::testing::Key, policy_version| RegisterNode {
        hostinfo_json: br#"{"RequestTags":["tag:db"]}"#.to_vec().into(),
        tag_grant: Some(TagGrant {
            tags: vec!["tag:db".into(), "tag:more".into()],
            policy_version,
        }),
        ..registration(device, device, key)
    };
    let outdated = refused(&mut world, asking(1, &own, 0)).1;
    assert!(outdated.contains("policy was changed"), "{outdated}");
    let node = arrive(&mut world, asking(1, &own, 1));
    assert_eq!((node.user_id, node.tags), (None, vec!["tag:db".to_owned()]));
    let node = arrive(&mut world, asking(2, &tagged, 1));
    assert_eq!(node.tags, ["tag:db", "tag:web"]);
}

#[test]
fn a_node_that_logs_in_again_with_its_users_key_takes_the_tags_it_asks_for() {
    let mut world = World::new();
    world.ok(SetPolicy {
        text: "{}".into(),
        ..Default::default()
    });
    let user = world.create_user("alice");
    let key = world.auth_key(user);
    let id = world.register(1, &key);
    let asking = RegisterNode {
        hostinfo_json: br#"{"RequestTags":["tag:db"]}"#.to_vec().into(),
        ..registration(1, 2, &key)
    };
    let message = refused(&mut world, asking.clone()).1;
    assert_eq!(
        message,
        "requested tags [tag:db] are invalid or not permitted"
    );
    let granted = RegisterNode {
        tag_grant: Some(TagGrant {
            tags: vec!["tag:db".into()],
            policy_version: 1,
        }),
        ..asking.clone()
    };
    let node = arrive(&mut world, granted);
    assert_eq!((node.id, node.user_id), (id, None));
    assert_eq!(node.tags, ["tag:db"]);
    // What it has already needs no policy.
    let again = RegisterNode {
        node_key: vec![3; 32].into(),
        ..asking
    };
    assert_eq!(arrive(&mut world, again).tags, ["tag:db"]);
}
