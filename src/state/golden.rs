//! Pins what apply does: a recorded command log and the state's hash after each command. Replicas
//! of two builds run side by side during an upgrade, so an old command must keep its effect.
//!
//! A difference on purpose needs a new feature level; then
//! `HYDRASCALE_UPDATE_GOLDEN=1 cargo test -p hydrascale --lib state::golden` records anew.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use data_encoding::HEXLOWER;
use hydrascale_proto::state::v1::{self, Command};
use prost::Message;

use super::testing::{World, registration, settings};
use super::{ApplyContext, State};
use crate::types::{NodeId, Timestamp};

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/state/testdata/commands.log")
}

/// `<index> <milliseconds> <hash of the state after it> <command in hex>`
fn line(ctx: &ApplyContext, digest: &[u8; 32], command: &Command) -> String {
    let (digest, command) = (
        HEXLOWER.encode(digest),
        HEXLOWER.encode(&command.encode_to_vec()),
    );
    format!("{} {} {digest} {command}\n", ctx.index, ctx.now.unix_ms())
}

#[test]
fn the_recorded_log_gives_the_recorded_states() {
    if std::env::var_os("HYDRASCALE_UPDATE_GOLDEN").is_some() {
        fs::write(fixture(), record()).unwrap();
    }
    let recorded = fs::read_to_string(fixture()).unwrap();
    let mut state = State::default();
    for text in recorded.lines() {
        let mut fields = text.split(' ');
        let mut next = || fields.next().unwrap();
        let index = next().parse().unwrap();
        let now = Timestamp::from_unix_ms(next().parse().unwrap());
        let digest = next();
        let command = HEXLOWER.decode(next().as_bytes()).unwrap();
        let command = Command::decode(command.as_slice()).unwrap();
        state.apply(&ApplyContext { index, now }, &command).unwrap();
        assert_eq!(
            HEXLOWER.encode(&state.digest()),
            digest,
            "after {command:?}"
        );
    }
    assert!(state.node_count() > 0);
}

#[test]
fn the_scenario_still_is_the_recorded_one() {
    let commands = |log: &str| -> Vec<String> {
        log.lines()
            .filter_map(|line| line.rsplit(' ').next().map(str::to_owned))
            .collect()
    };
    let recorded = fs::read_to_string(fixture()).unwrap();
    assert_eq!(
        commands(&record()),
        commands(&recorded),
        "record it anew, see above"
    );
}

/// Runs the scenario and writes down its log.
fn record() -> String {
    let world = scenario();
    let mut state = State::default();
    let mut log = String::new();
    for (ctx, command) in &world.log {
        state.apply(ctx, command).unwrap();
        log.write_str(&line(ctx, &state.digest(), command)).unwrap();
    }
    log
}

/// Every operation, done and refused.
fn scenario() -> World {
    let mut world = World::empty();
    world.apply(v1::CreateUser {
        name: "early".into(),
        ..Default::default()
    });
    world.init();
    world.apply(v1::InitTailnet::default());
    for id in 1..=3 {
        world.replica_up(id, 1);
    }
    users_and_keys(&mut world);
    nodes(&mut world);
    presence(&mut world);
    endings(&mut world);
    policies_and_roles(&mut world);
    silence(&mut world);
    tags_and_routes(&mut world);
    ssh_checks(&mut world);
    drained(&mut world);
    stopping(&mut world);
    world
}

fn users_and_keys(world: &mut World) {
    for name in ["alice", "bob", "alice", "x"] {
        world.apply(v1::CreateUser {
            name: name.into(),
            ..Default::default()
        });
    }
    world.ok(v1::CreateUser {
        name: "alice".into(),
        display_name: "Alice A.".into(),
        email: "alice@example.com".into(),
        provider: "oidc".into(),
        provider_id: "https://idp/1".into(),
        ..Default::default()
    });
    world.ok(v1::RenameUser {
        user_id: 2,
        name: "robert".into(),
    });
    world.apply(v1::RenameUser {
        user_id: 3,
        name: "carol".into(),
    });
    for prefix in ["0123456789ab", "ba9876543210", "0123456789ab"] {
        world.apply(v1::CreateApiKey {
            prefix: prefix.into(),
            secret_hash: vec![4; 32].into(),
            expires_at_ms: None,
        });
    }
    world.ok(v1::ExpireApiKey { key_id: 1 });
    world.ok(v1::DeleteApiKey { key_id: 2 });
}

fn nodes(world: &mut World) {
    let forever = Some(i64::MAX);
    let reusable = v1::CreatePreAuthKey {
        user_id: Some(1),
        reusable: true,
        expires_at_ms: forever,
        ..Default::default()
    };
    let one_time = v1::CreatePreAuthKey {
        reusable: false,
        ..reusable.clone()
    };
    let tagged = v1::CreatePreAuthKey {
        user_id: None,
        tags: vec!["tag:web".into(), "tag:db".into()],
        ..reusable.clone()
    };
    let reusable = world.create_key(reusable);
    let one_time = world.create_key(one_time);
    let tagged = world.create_key(tagged);
    for (device, key) in [(1, &reusable), (2, &one_time), (3, &tagged), (4, &one_time)] {
        world.apply(registration(device, device, key));
        world.pass(1_500);
    }
    world.ok(registration(1, 21, &reusable));
    world.apply(v1::RegisterNode {
        node_key: vec![21; 32].into(),
        ..registration(5, 5, &tagged)
    });
    world.ok(v1::RegisterNode {
        ephemeral: true,
        ..registration(6, 6, &reusable)
    });
    let auth_id = world.start_login(7, 7);
    let approve = world.approve(&auth_id, crate::types::UserId(2));
    world.ok(approve);
    let rejected = world.start_login(8, 8);
    world.ok(v1::RejectLogin { auth_id: rejected });
    world.ok(v1::UpdateNode {
        node_id: 1,
        disco_key: vec![8; 32].into(),
        endpoints: Some(v1::Endpoints {
            addresses: vec!["192.0.2.7:41641".into(), "[2001:db8::7]:41641".into()],
            types: vec![1, 2],
        }),
        hostinfo_json: br#"{"Hostname":"Bob's Mac","NetInfo":{"PreferredDERP":902}}"#
            .to_vec()
            .into(),
        home_derp: None,
        capver: Some(140),
        ..Default::default()
    });
    let json = br#"{"Hostname":"Bob's Mac","OS":"macOS"}"#.to_vec().into();
    world.ok(v1::UpdateNode {
        node_id: 1,
        hostinfo_json: json,
        ..Default::default()
    });
    world.ok(v1::RenameNode {
        node_id: 2,
        given_name: "Gateway".into(),
    });
    world.ok(v1::SetApprovedRoutes {
        node_id: 2,
        routes: vec!["0.0.0.0/0".into(), "10.1.2.3/8".into()],
    });
    world.ok(v1::SetNodeTags {
        node_id: 2,
        tags: vec!["tag:gw".into()],
    });
    let soon = Some(world.now.unix_ms() + 20_000);
    world.ok(v1::SetNodeExpiry {
        node_id: 1,
        expires_at_ms: soon,
    });
    world.ok(v1::ExpirePreAuthKey {
        key_id: reusable.id,
        revoke: false,
    });
    world.ok(v1::ExpirePreAuthKey {
        key_id: tagged.id,
        revoke: true,
    });
    world.ok(v1::DeletePreAuthKey {
        key_id: one_time.id,
    });
    let random = v1::Settings {
        random_allocation: true,
        ..settings()
    };
    world.ok(v1::UpdateSettings {
        settings: Some(random),
    });
    let auth_id = world.start_login(9, 9);
    let approve = world.approve(&auth_id, crate::types::UserId(1));
    world.ok(approve);
    let only_v4 = v1::Settings {
        ipv6_prefix: String::new(),
        ..settings()
    };
    world.ok(v1::UpdateSettings {
        settings: Some(only_v4),
    });
    world.ok(v1::BackfillAddresses { entropy: 5 });
    world.ok(v1::UpdateSettings {
        settings: Some(settings()),
    });
    world.ok(v1::BackfillAddresses { entropy: 6 });
}

fn presence(world: &mut World) {
    let no = world.open(NodeId(1), 1, 1);
    world.open(NodeId(2), 2, 1);
    world.open(NodeId(3), 3, 1);
    let open = v1::OpenSession {
        node_id: 1,
        replica_id: 2,
        incarnation: 1,
        known: None,
    };
    let open = Command {
        op: Some(v1::command::Op::OpenSession(open)),
    };
    world.ok(v1::Batch {
        commands: vec![open.clone(), open],
    });
    world.close(NodeId(1), no);
    let no = world.state.session(NodeId(1)).unwrap().no;
    world.close(NodeId(1), no);
    world.tick_after(10_000);
    let heard = Some(world.now.unix_ms() - 5_000);
    world.ok(v1::ReplicaDown {
        replica_id: 2,
        incarnation: 1,
        last_heard_ms: heard,
        silence_ms: None,
    });
    world.replica_up(3, 2);
    world.tick_after(20_000);
    world.tick_after(5_000);
    world.set_home(NodeId(3), 902);
    world.remove_replica(3);
    world.tick_after(120_000);
}

fn endings(world: &mut World) {
    world.ok(v1::LogoutNode {
        machine_key: vec![7; 32].into(),
        node_key: vec![7; 32].into(),
    });
    world.apply(v1::DestroyUser { user_id: 1 });
    world.ok(v1::DestroyUser { user_id: 3 });
    world.ok(v1::DeleteNode { node_id: 2 });
    world.tick_after(900_000);
}

fn policies_and_roles(world: &mut World) {
    let policy = |text: &str, replaces| v1::SetPolicy {
        text: text.into(),
        author: "alice".into(),
        replaces,
    };
    world.ok(policy("{}", None));
    world.apply(policy("{ }", Some(0)));
    world.ok(policy("{ }", Some(1)));
    for (user_id, role) in [(2, v1::UserRole::Admin), (77, v1::UserRole::Owner)] {
        world.apply(v1::SetUserRole {
            user_id,
            role: role.into(),
        });
    }
}

fn silence(world: &mut World) {
    world.ok(v1::ReplicaDown {
        replica_id: 1,
        incarnation: 1,
        last_heard_ms: Some(0),
        silence_ms: Some(12_345),
    });
}

fn drained(world: &mut World) {
    for (replica_id, drained) in [(1, true), (1, true), (77, true), (1, false), (2, true)] {
        world.apply(v1::DrainReplica {
            replica_id,
            drained,
        });
    }
    world.replica_up(2, 2);
}

fn stopping(world: &mut World) {
    for (replica_id, incarnation) in [(2, 2), (2, 2), (1, 1), (2, 1), (77, 1)] {
        world.apply(v1::ReplicaStopping {
            replica_id,
            incarnation,
        });
    }
    world.replica_up(2, 3);
}

fn tags_and_routes(world: &mut World) {
    let key = v1::CreatePreAuthKey {
        user_id: Some(2),
        reusable: true,
        expires_at_ms: Some(i64::MAX),
        ..Default::default()
    };
    let key = world.create_key(key);
    let policy_version = world.state.version_in_force();
    let json = br#"{"Hostname":"gw","RequestTags":["tag:gw"],"RoutableIPs":["10.0.0.0/8","::/0"]}"#;
    let arrival = v1::RegisterNode {
        hostinfo_json: json.to_vec().into(),
        ..registration(10, 10, &key)
    };
    world.apply(arrival.clone());
    let grant = v1::TagGrant {
        tags: vec!["tag:gw".into()],
        policy_version,
    };
    let granted = v1::RegisterNode {
        tag_grant: Some(grant.clone()),
        ..arrival
    };
    let node_id = super::testing::done_id(&world.ok(granted));
    let approve = v1::ApproveRoutes {
        node_id,
        routes: vec!["::/0".into(), "10.0.0.0/8".into(), "10.1.0.0/16".into()],
        policy_version,
        user_id: None,
        tags: grant.tags.clone(),
    };
    world.ok(approve.clone());
    world.ok(v1::SetApprovedRoutes {
        node_id,
        routes: vec![],
    });
    world.apply(approve.clone());
    world.ok(v1::SetPolicy {
        text: "{  }".into(),
        ..Default::default()
    });
    world.apply(approve.clone());
    world.ok(v1::ApproveRoutes {
        policy_version: policy_version + 1,
        ..approve
    });
    let auth_id = world.start_login(10, 11);
    let outdated = v1::ApproveLogin {
        tag_grant: Some(grant),
        ..world.approve(&auth_id, crate::types::UserId(2))
    };
    world.ok(outdated);
}

fn ssh_checks(world: &mut World) {
    let src = world.state.nodes().next().unwrap().id;
    let dst = world.state.nodes().last().unwrap().id;
    let approved = world.start_ssh_check(src, dst);
    let rejected = world.start_ssh_check(src, dst);
    world.apply(v1::StartSshCheck {
        auth_id: approved.clone(),
        src_node_id: src.0,
        dst_node_id: dst.0,
        local_user: "root".into(),
    });
    for (auth_id, is_approved) in [(&approved, true), (&rejected, false)] {
        world.decide_ssh_check(auth_id, is_approved);
        world.apply(v1::DecideSshCheck {
            auth_id: auth_id.clone(),
            approved: !is_approved,
        });
    }
    let expired = world.start_ssh_check(src, dst);
    world.tick_after(900_000);
    world.apply(v1::DecideSshCheck {
        auth_id: expired,
        approved: true,
    });
    world.tick_after(604_800_000);
}
