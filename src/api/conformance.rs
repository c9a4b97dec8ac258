//! Replays headscale's golden answers of REST v1 (`apiv1` of the conformance data).
//!
//! Known differences: a key without expiration cannot let a node in here, so the seeds give it
//! one, and the key inside a node is compared without it; addresses are not compared, because this
//! tailnet has a prefix.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::testing::World;
use crate::types::Timestamp;

const AUTH: &str = "hskey-authreq-0123456789abcdef01234567";

/// What a case starts from.
#[derive(Clone, Copy)]
enum Seed {
    Nothing,
    Users(&'static [&'static str]),
    Nodes(&'static [(&'static str, &'static str, &'static [&'static str])]),
    ApiKeys(u8),
    ZeroApiKey,
    TwoKeys,
    Login(&'static str, &'static str),
    Policy,
}
use Seed::{ApiKeys, Login, Nodes, Nothing, Policy, TwoKeys, Users, ZeroApiKey};

const ALICE: Seed = Users(&["alice"]);
const NODE_A: Seed = Nodes(&[("alice", "node-a", &[])]);
const NODES_AB: Seed = Nodes(&[("alice", "node-a", &[]), ("bob", "node-b", &[])]);

/// Name, seed, request.
const CASES: &[(&str, Seed, &str)] = &[
    (
        "ApiKeyDelete_both_id_and_prefix_parity",
        Nothing,
        "DELETE /apikey/abc?id=1",
    ),
    (
        "ApiKeyDelete_invalid_id_parity",
        Nothing,
        "DELETE /apikey/abc?id=notanumber",
    ),
    (
        "ApiKeyDelete_not_found_by_prefix_parity",
        Nothing,
        "DELETE /apikey/doesnotexist",
    ),
    (
        "ApiKeyDelete_path_prefix_with_id_query_is_both_->_400_parity",
        ApiKeys(1),
        "DELETE /apikey/hskey-api-010101010101-***?id=1",
    ),
    (
        "ApiKeyExpire_both_id_and_prefix_parity",
        Nothing,
        r#"POST /apikey/expire {"id":"1","prefix":"abc"}"#,
    ),
    (
        "ApiKeyExpire_by_id_parity",
        ApiKeys(1),
        r#"POST /apikey/expire {"id":"1"}"#,
    ),
    (
        "ApiKeyExpire_by_prefix_parity",
        ApiKeys(1),
        r#"POST /apikey/expire {"prefix":"hskey-api-010101010101-***"}"#,
    ),
    (
        "ApiKeyExpire_neither_id_nor_prefix_parity",
        Nothing,
        "POST /apikey/expire {}",
    ),
    (
        "ApiKeyExpire_not_found_by_id_parity",
        Nothing,
        r#"POST /apikey/expire {"id":"999"}"#,
    ),
    ("ApiKeyList_empty_parity", Nothing, "GET /apikey"),
    (
        "ApiKeyList_nil_timestamps_emitted_as_null_parity",
        ApiKeys(1),
        "GET /apikey",
    ),
    ("ApiKeyList_populated_parity", ApiKeys(2), "GET /apikey"),
    (
        "ApiKeyList_zero_expiration_emitted_as_zero_instant_parity",
        ZeroApiKey,
        "GET /apikey",
    ),
    (
        "AuthApprove_invalid_auth_id_parity",
        Nothing,
        r#"POST /auth/approve {"authId":"not-a-valid-auth-id"}"#,
    ),
    (
        "AuthApprove_no_pending_session_parity",
        Nothing,
        r#"POST /auth/approve {"authId":"AUTH"}"#,
    ),
    (
        "AuthRegister_happy_path_parity",
        Login("alice", "regnode"),
        r#"POST /auth/register {"user":"alice","authId":"AUTH"}"#,
    ),
    (
        "AuthRegister_invalid_auth_id_parity",
        ALICE,
        r#"POST /auth/register {"user":"alice","authId":"not-a-valid-auth-id"}"#,
    ),
    (
        "AuthRegister_no_pending_session_parity",
        ALICE,
        r#"POST /auth/register {"user":"alice","authId":"AUTH"}"#,
    ),
    (
        "AuthReject_invalid_auth_id_parity",
        Nothing,
        r#"POST /auth/reject {"authId":"not-a-valid-auth-id"}"#,
    ),
    (
        "AuthReject_no_pending_session_parity",
        Nothing,
        r#"POST /auth/reject {"authId":"AUTH"}"#,
    ),
    (
        "CreatePreAuthKey_invalid_tag_parity",
        ALICE,
        r#"POST /preauthkey {"user":"1","aclTags":["badtag"]}"#,
    ),
    (
        "CreatePreAuthKey_invalid_user_id_parity",
        Nothing,
        r#"POST /preauthkey {"user":"abc"}"#,
    ),
    (
        "CreatePreAuthKey_nonexistent_user_parity",
        Nothing,
        r#"POST /preauthkey {"user":"999"}"#,
    ),
    (
        "CreateUser_duplicate_name_parity",
        Users(&["dup"]),
        r#"POST /user {"name":"dup"}"#,
    ),
    (
        "DeletePreAuthKey_parity",
        TwoKeys,
        "DELETE /preauthkey?id=1",
    ),
    ("DeleteUser_nonexistent_parity", Nothing, "DELETE /user/999"),
    ("DeleteUser_parity", ALICE, "DELETE /user/1"),
    (
        "ExpirePreAuthKey_invalid_id_parity",
        Nothing,
        r#"POST /preauthkey/expire {"id":"abc"}"#,
    ),
    (
        "ExpirePreAuthKey_parity",
        TwoKeys,
        r#"POST /preauthkey/expire {"id":"1"}"#,
    ),
    ("Health_parity_with_gateway", Nothing, "GET /health"),
    ("ListPreAuthKeys_all_parity", TwoKeys, "GET /preauthkey"),
    (
        "ListUsers_all_parity",
        Users(&["alice", "bob", "carol"]),
        "GET /user",
    ),
    ("ListUsers_empty_parity", Nothing, "GET /user"),
    (
        "ListUsers_filter_by_id_parity",
        Users(&["alice", "bob"]),
        "GET /user?id=2",
    ),
    (
        "ListUsers_filter_by_name_parity",
        Users(&["alice", "bob"]),
        "GET /user?name=alice",
    ),
    ("ListUsers_invalid_id_parity", ALICE, "GET /user?id=abc"),
    (
        "NodeBackfillIPs_confirmed_empty_parity",
        Nothing,
        "POST /node/backfillips?confirmed=true",
    ),
    (
        "NodeDebugCreate_invalid_key_parity",
        NODE_A,
        r#"POST /debug/node {"user":"alice","key":"badkey","name":"dbg","routes":[]}"#,
    ),
    ("NodeDelete_happy_parity", NODE_A, "DELETE /node/1"),
    ("NodeDelete_invalid_id_parity", Nothing, "DELETE /node/abc"),
    (
        "NodeExpire_invalid_id_parity",
        Nothing,
        "POST /node/abc/expire",
    ),
    ("NodeGet_happy_parity", NODE_A, "GET /node/1"),
    ("NodeGet_invalid_id_parity", Nothing, "GET /node/abc"),
    ("NodeGet_not_found_parity", Nothing, "GET /node/99999"),
    (
        "NodeGet_tagged_node_parity",
        Nodes(&[("bob", "node-b", &["tag:initial"])]),
        "GET /node/1",
    ),
    ("NodeList_all_parity", NODES_AB, "GET /node"),
    ("NodeList_empty_parity", Nothing, "GET /node"),
    (
        "NodeList_filter_by_user_parity",
        NODES_AB,
        "GET /node?user=alice",
    ),
    (
        "NodeRegister_happy_parity",
        Login("alice", "registered-node"),
        "POST /node/register?user=alice&key=AUTH",
    ),
    (
        "NodeRegister_invalid_key_parity",
        NODE_A,
        "POST /node/register?user=alice&key=invalidkey",
    ),
    (
        "NodeRegister_unknown_user_parity",
        Nothing,
        "POST /node/register?user=nope&key=AUTH",
    ),
    (
        "NodeRename_invalid_id_parity",
        Nothing,
        "POST /node/abc/rename/whatever",
    ),
    (
        "NodeRename_not_found_parity",
        Nothing,
        "POST /node/99999/rename/whatever",
    ),
    (
        "NodeSetApprovedRoutes_invalid_id_parity",
        Nothing,
        r#"POST /node/abc/approve_routes {"routes":[]}"#,
    ),
    (
        "NodeSetApprovedRoutes_not_found_parity",
        Nothing,
        r#"POST /node/99999/approve_routes {"routes":["10.0.0.0/24"]}"#,
    ),
    (
        "NodeSetTags_not_found_parity",
        Nothing,
        r#"POST /node/99999/tags {"tags":["tag:foo"]}"#,
    ),
    (
        "NodeSetTags_unauthorized_tag_parity",
        NODE_A,
        r#"POST /node/1/tags {"tags":["tag:server"]}"#,
    ),
    (
        "PolicyCheck_invalid_parity",
        Nothing,
        r#"POST /policy/check {"policy":"{\"acls\": ["}"#,
    ),
    ("PolicyGet_set_parity", Policy, "GET /policy"),
    (
        "PolicySet_invalid_parity",
        Nothing,
        r#"PUT /policy {"policy":"{\"acls\": ["}"#,
    ),
    (
        "RenameUser_invalid_id_parity",
        Nothing,
        "POST /user/abc/rename/bob",
    ),
    (
        "RenameUser_nonexistent_parity",
        Nothing,
        "POST /user/999/rename/bob",
    ),
    ("RenameUser_parity", ALICE, "POST /user/1/rename/bob"),
];

#[tokio::test]
async fn answers_equal_headscales() {
    let Some(folder) = conformance_folder() else {
        return;
    };
    let mut wrong = Vec::new();
    for (name, seed, request) in CASES {
        let text = std::fs::read_to_string(folder.join(format!("TestAPIV1{name}.json"))).unwrap();
        let golden: Value = serde_json::from_str(&text).unwrap();
        let mut world = World::new().await;
        plant(&mut world, *seed).await;
        let (method, path, body) = parse_request(request);
        let (status, body) = world.call(&method, &path, body).await;
        let body = if status < 300 {
            comparable(body)
        } else {
            Value::Null
        };
        let expected =
            json!({ "status": golden["status"], "body": comparable(golden["body"].clone()) });
        let got = json!({ "status": status, "body": body });
        if got != expected {
            wrong.push(format!("{name}\n  got      {got}\n  expected {expected}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        CASES.len(),
        wrong.join("\n")
    );
}

#[tokio::test]
async fn every_golden_case_is_replayed() {
    let Some(folder) = conformance_folder() else {
        return;
    };
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(case) = name
            .strip_prefix("TestAPIV1")
            .and_then(|n| n.strip_suffix(".json"))
        else {
            continue;
        };
        let known = CASES.iter().any(|(name, _, _)| *name == case);
        assert!(known, "{case} is not replayed");
    }
}

/// The data lies beside the repository, not in it.
fn conformance_folder() -> Option<PathBuf> {
    let given = std::env::var_os("HYDRASCALE_CONFORMANCE_DIR").map(PathBuf::from);
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance");
    let folder = given.unwrap_or_else(beside).join("apiv1");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!(
        "SKIPPED: no conformance data in {}; set HYDRASCALE_CONFORMANCE_DIR",
        folder.display()
    );
    None
}

fn parse_request(text: &str) -> (String, String, Option<Value>) {
    let text = text.replace("AUTH", AUTH);
    let (method, rest) = text.split_once(' ').unwrap();
    let (path, body) = rest
        .split_once(' ')
        .map_or((rest, None), |(path, body)| (path, Some(body)));
    let body = body.map(|body| serde_json::from_str(body).unwrap());
    (method.to_owned(), path.to_owned(), body)
}

async fn plant(world: &mut World, seed: Seed) {
    match seed {
        Nothing => {}
        Users(names) => {
            for name in names {
                world.user(name).await;
            }
        }
        Nodes(nodes) => {
            for (user, hostname, tags) in nodes {
                world.node(user, hostname, tags).await;
            }
        }
        ApiKeys(count) => {
            for seed in 1..=count {
                world.api_key(seed, None).await;
            }
        }
        ZeroApiKey => drop(world.api_key(1, Some(Timestamp::GO_ZERO)).await),
        TwoKeys => {
            world.user("alice").await;
            world
                .ok(
                    "POST",
                    "/preauthkey",
                    json!({"user": "1", "reusable": true}),
                )
                .await;
            let tagged = json!({"ephemeral": true, "aclTags": ["tag:test"]});
            world.ok("POST", "/preauthkey", tagged).await;
        }
        Policy => {
            let text = r#"{"acls":[{"action":"accept","src":["*"],"dst":["*:*"]}]}"#;
            world.ok("PUT", "/policy", json!({ "policy": text })).await;
        }
        Login(user, hostname) => {
            world.user(user).await;
            world.pending_login(AUTH, hostname).await;
        }
    }
}

/// Times and secrets replaced as in the golden files, known differences taken out.
fn comparable(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(masked(text)),
        Value::Array(items) => items.into_iter().map(comparable).collect(),
        Value::Object(members) => Value::Object(comparable_members(members)),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_)) => other,
    }
}

fn comparable_members(mut members: Map<String, Value>) -> Map<String, Value> {
    members.remove("ipAddresses");
    if let Some(Value::Object(key)) = members.get_mut("preAuthKey") {
        key.remove("expiration");
    }
    members
        .into_iter()
        .map(|(name, value)| (name, comparable(value)))
        .collect()
}

fn masked(text: String) -> String {
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    let public = ["mkey:", "nodekey:", "discokey:"]
        .iter()
        .any(|prefix| text.strip_prefix(prefix).is_some_and(hex));
    let shown = ["hskey-auth-", "hskey-api-"].iter().any(|prefix| {
        text.strip_prefix(prefix)
            .and_then(|rest| rest.strip_suffix("-***"))
            .is_some_and(hex)
    });
    if public || shown {
        "<secret>".to_owned()
    } else if text.parse::<Timestamp>().is_ok() {
        "<timestamp>".to_owned()
    } else {
        text
    }
}
