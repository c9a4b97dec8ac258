//! What a registration makes of a device: see also the folder for keys and tags.

mod keys;
mod tags;

use hydrascale_proto::state::v1::{
    CreatePreAuthKey, DeletePreAuthKey, ExpirePreAuthKey, LogoutNode, OpenSession, RefusalCode,
    RegisterNode, RenameNode, SetNodeExpiry, SetNodeTags, SetPolicy, TagGrant, UpdateNode,
    UpdateSettings,
};

use crate::state::testing::{World, done_id, refusal, registration, settings};
use crate::state::{Node, RegisterMethod};
use crate::types::{MachineKey, NodeId, NodeKey, RegionId, Timestamp, UserId};

fn node(world: &World, id: NodeId) -> Node {
    (**world.state.node(id).unwrap()).clone()
}

fn arrive(world: &mut World, command: RegisterNode) -> Node {
    let id = NodeId(done_id(&world.ok(command)));
    node(world, id)
}

fn one_time_key(world: &mut World, user: UserId) -> crate::state::testing::Key {
    world.create_key(CreatePreAuthKey {
        user_id: Some(user.0),
        expires_at_ms: Some(world.now.unix_ms() + 86_400_000),
        ..Default::default()
    })
}

fn tagged_key(world: &mut World, tag: &str) -> crate::state::testing::Key {
    world.create_key(CreatePreAuthKey {
        reusable: true,
        expires_at_ms: Some(world.now.unix_ms() + 86_400_000),
        tags: vec![tag.into()],
        ..Default::default()
    })
}

fn refused(world: &mut World, command: RegisterNode) -> (RefusalCode, String) {
    refusal(&world.apply(command))
}

#[test]
fn a_new_node_gets_id_addresses_and_label_in_order() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let key = world.auth_key(user);
    let applied = world.ok(registration(1, 11, &key));
    let first = node(&world, NodeId(done_id(&applied)));
    assert!(applied.change.nodes[&first.id].added);
    assert_eq!((first.id, first.user_id), (NodeId(1), Some(user)));
    assert_eq!(first.ipv4.unwrap().to_string(), "100.64.0.1");
    assert_eq!(first.ipv6.unwrap().to_string(), "fd7a:115c:a1e0::1");
    assert_eq!(first.given_name, "host1");
    assert_eq!(first.register_method, RegisterMethod::AuthKey);
    assert_eq!(
        (first.pre_auth_key_id, first.expires_at, first.last_seen),
        (Some(key.id), None, None)
    );
    let second = arrive(&mut world, registration(2, 12, &key));
    assert_eq!(second.ipv4.unwrap().to_string(), "100.64.0.2");
    assert!(!world.state.is_online(second.id));
}

#[test]
fn ids_and_fresh_addresses_are_not_reused_after_a_deletion() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let key = world.auth_key(user);
    let first = world.register(1, &key);
    world.delete_node(first);
    let again = arrive(&mut world, registration(1, 1, &key));
    assert_eq!(again.id, NodeId(2));
    assert_eq!(again.ipv4.unwrap().to_string(), "100.64.0.2");
    assert_eq!(again.given_name, "host1");
}

#[test]
fn equal_host_names_get_numbers() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let key = world.auth_key(user);
    for (device, label) in [(1, "host1"), (2, "host1-1"), (3, "host1-2")] {
        let command = RegisterNode {
            hostinfo_json: br#"{"Hostname":"Host1.local"}"#.to_vec().into(),
            ..registration(device, device, &key)
        };
        let id = NodeId(done_id(&world.ok(command)));
        assert_eq!(node(&world, id).given_name, label);
        assert_eq!(node(&world, id).hostname, "Host1.local");
    }
}

#[test]
fn malformed_registrations_are_refused_by_field() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let key = world.auth_key(user);
    let good = registration(1, 1, &key);
    let past = Some(world.now.unix_ms());
    let cases = [
        (
            RegisterNode {
                machine_key: vec![0; 32].into(),
                ..good.clone()
            },
            "machine key",
        ),
        (
            RegisterNode {
                machine_key: vec![1; 31].into(),
                ..good.clone()
            },
            "machine key",
        ),
        (
            RegisterNode {
                node_key: vec![0; 32].into(),
                ..good.clone()
            },
            "node key",
        ),
        (
            RegisterNode {
                capver: 70_000,
                ..good.clone()
            },
            "capver 70000",
        ),
        (
            RegisterNode {
                hostinfo_json: b"{".to_vec().into(),
                ..good.clone()
            },
            "Hostinfo",
        ),
        (
            RegisterNode {
                requested_expiry_ms: past,
                ..good
            },
            "log the node out",
        ),
    ];
    for (command, text) in cases {
        let (code, message) = refused(&mut world, command);
        assert_eq!(code, RefusalCode::Invalid);
        assert!(message.contains(text), "{message}");
    }
}

#[test]
fn expiry_is_the_default_or_sooner_and_never_moves_back_on_a_restart() {
    let mut world = World::new();
    let mut with_expiry = settings();
    with_expiry.node_expiry_ms = 10_000;
    world.ok(UpdateSettings {
        settings: Some(with_expiry),
    });
    let user = world.create_user("alice");
    let key = world.auth_key(user);
    let start = world.now.unix_ms();
    let asking = |ms| RegisterNode {
        requested_expiry_ms: Some(start + ms),
        ..registration(1, 1, &key)
    };
    let at = |world: &World| world.state.node(NodeId(1)).unwrap().expires_at;
    let after = |ms| Some(Timestamp::from_unix_ms(start + ms));
    world.ok(asking(60_000));
    assert_eq!(at(&world), after(10_000));
    world.pass(1_000);
    world.ok(asking(60_000));
    assert_eq!(at(&world), after(10_000));
    world.ok(asking(5_000));
    assert_eq!(at(&world), after(5_000));
    let bare = RegisterNode {
        auth_key: None,
        ..asking(60_000)
    };
    let (code, message) = refused(&mut world, bare);
    assert_eq!(
        (code, message.as_str()),
        (RefusalCode::Invalid, "extending key is not allowed")
    );
    let bare = RegisterNode {
        auth_key: None,
        ..asking(3_000)
    };
    assert!(world.ok(bare).change.nodes[&NodeId(1)].expiry);
    assert_eq!(at(&world), after(3_000));
}

#[test]
fn a_registration_without_a_key_needs_a_known_node_key() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let key = world.auth_key(user);
    world.register(1, &key);
    let bare = |device, node_key| RegisterNode {
        auth_key: None,
        ..registration(device, node_key, &key)
    };
    assert!(world.ok(bare(1, 1)).writes.is_empty());
    assert_eq!(refused(&mut world, bare(1, 2)).0, RefusalCode::NotFound);
    assert_eq!(
        refused(&mut world, bare(2, 1)).0,
        RefusalCode::MachineMismatch
    );
}

#[test]
fn home_and_net_info_survive_a_registration_that_lacks_them() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let key = world.auth_key(user);
    let id = world.register(1, &key);
    let json = br#"{"Hostname":"host1","NetInfo":{"PreferredDERP":901}}"#.to_vec();
    world.ok(UpdateNode {
        node_id: id.0,
        hostinfo_json: json.into(),
        ..Default::default()
    });
    world.ok(registration(1, 9, &key));
    let after = node(&world, id);
    assert_eq!(after.home_derp, Some(RegionId(901)));
    assert_eq!(
        after.hostinfo.net_info.as_ref().unwrap().preferred_derp,
        901
    );
    assert_eq!(after.hostinfo.os, "linux");
}

#[test]
fn ephemeral_comes_of_the_key_or_the_client() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let key = world.auth_key(user);
    let id = NodeId(done_id(&world.ok(RegisterNode {
        ephemeral: true,
        ..registration(1, 1, &key)
    })));
    assert!(node(&world, id).ephemeral);
    let ephemeral = world.create_key(CreatePreAuthKey {
        user_id: Some(user.0),
        ephemeral: true,
        expires_at_ms: Some(i64::MAX),
        ..Default::default()
    });
    let id = world.register(2, &ephemeral);
    assert!(node(&world, id).ephemeral);
    world.ok(LogoutNode {
        machine_key: vec![2; 32].into(),
        node_key: vec![2; 32].into(),
    });
    assert!(world.state.node(id).is_none());
}

#[test]
fn an_ephemeral_node_that_registers_again_gets_its_time_anew() {
    let mut world = World::new();
    world.replica_up(1, 1);
    let user = world.create_user("alice");
    let key = world.auth_key(user);
    let command = || RegisterNode {
        ephemeral: true,
        ..registration(1, 1, &key)
    };
    let id = NodeId(done_id(&world.ok(command())));
    world.pass(119_000);
    world.ok(command());
    world.tick_after(119_000);
    assert!(world.state.node(id).is_some());
    world.ok(OpenSession {
        node_id: id.0,
        replica_id: 1,
        incarnation: 1,
        known: None,
    });
    world.tick_after(1_000_000);
    assert!(world.state.node(id).is_some(), "it is online");
}

#[test]
fn a_full_prefix_refuses_and_names_the_remedy() {
    let mut world = World::new();
    let mut small = settings();
    small.ipv4_prefix = "10.0.0.0/30".into();
    world.ok(UpdateSettings {
        settings: Some(small),
    });
    let user = world.create_user("alice");
    let key = world.auth_key(user);
    let first = world.register(1, &key);
    world.register(2, &key);
    let (code, message) = refused(&mut world, registration(3, 3, &key));
    assert_eq!(code, RefusalCode::AddressesExhausted);
    assert!(message.contains("10.0.0.0/30 is full"), "{message}");
    world.delete_node(first);
    let third = world.register(3, &key);
    assert_eq!(node(&world, third).ipv4.unwrap().to_string(), "10.0.0.1");
    assert_eq!(third, NodeId(3), "the refused registration took no id");
}

#[test]
fn random_allocation_follows_the_entropy() {
    let mut world = World::new();
    let mut random = settings();
    random.random_allocation = true;
    world.ok(UpdateSettings {
        settings: Some(random),
    });
    let user = world.create_user("alice");
    let key = world.auth_key(user);
    let same = |device| RegisterNode {
        entropy: 7,
        ..registration(device, device, &key)
    };
    let first = arrive(&mut world, same(1));
    let second = arrive(&mut world, same(2));
    let number = |node: &Node| node.ipv4.unwrap().to_bits();
    assert_eq!(
        number(&second),
        number(&first) + 1,
        "the next free one after the same place"
    );
    assert_ne!(first.ipv4.unwrap().to_string(), "100.64.0.1");
}

#[test]
fn a_chosen_label_survives_a_new_login_with_another_host_name() {
    let mut world = World::new();
    let user = world.create_user("alice");
    let key = world.auth_key(user);
    let id = world.register(1, &key);
    let named = |name: &str| RegisterNode {
        hostinfo_json: format!(r#"{{"Hostname":"{name}"}}"#).into_bytes().into(),
        ..registration(1, 1, &key)
    };
    world.ok(named("Fresh"));
    assert_eq!(
        node(&world, id).given_name,
        "fresh",
        "a derived label follows"
    );
    world.ok(RenameNode {
        node_id: id.0,
        given_name: "mine".into(),
    });
    world.ok(named("Other"));
    assert_eq!(
        (node(&world, id).given_name, node(&world, id).hostname),
        ("mine".into(), "Other".into())
    );
}
