//! Tags that a device asks for when it registers (`--advertise-tags`).

use hydrascale_proto::state::v1::{self as pb, command::Op};
use serde_json::{Value, json};

use super::super::testing::{TestClient, TestServer};
use crate::types::UserId;

const POLICY: &str = r#"{"tagOwners": {
    "tag:web": ["ann@"], "tag:prod": ["tag:web"], "tag:db": ["bob@"],
}}"#;

/// A server with a policy, and its users ann and bob.
async fn server() -> (TestServer, UserId, UserId) {
    let server = TestServer::start().await;
    let ann = server.create_user("ann").await;
    let bob = server.create_user("bob").await;
    let policy = pb::SetPolicy {
        text: POLICY.to_owned(),
        ..Default::default()
    };
    server.cluster.propose(Op::SetPolicy(policy)).await.unwrap();
    (server, ann, bob)
}

fn asking(key: &str, tags: &[&str]) -> Value {
    json!({
        "Auth": { "AuthKey": key },
        "Hostinfo": { "Hostname": "device", "RequestTags": tags },
    })
}

#[tokio::test]
async fn a_device_gets_the_tags_that_its_keys_owner_owns_and_no_others() {
    let (server, ann, bob) = server().await;
    let anns = server.create_key(ann, |key| key.reusable = true).await;
    let bobs = server.create_key(bob, |_| {}).await;
    let tagged = |key: &mut pb::CreatePreAuthKey| key.tags = vec!["tag:web".to_owned()];
    let tagged = server.create_key(ann, tagged).await;
    let cases = [
        (&anns, &["tag:web"][..], Ok(vec!["tag:web"])),
        (
            &anns,
            &["tag:web", "tag:prod"],
            Ok(vec!["tag:prod", "tag:web"]),
        ),
        (
            &anns,
            &["tag:web", "tag:db", "tag:lost"],
            Err("tag:db tag:lost"),
        ),
        (&bobs, &["tag:prod"], Err("tag:prod")),
        (&tagged, &["tag:prod"], Ok(vec!["tag:prod", "tag:web"])),
    ];
    for (seed, (key, tags, expected)) in (1..).zip(cases) {
        let client = TestClient::new(seed);
        let session = client.dial(&server).await;
        let request = client.register_request(asking(key, tags));
        let response = session.register(&request).await;
        let state = server.cluster.state();
        let node = state.node_by_node_key(&client.node_key);
        match expected {
            Ok(tags) => {
                assert_eq!(response["Login"]["LoginName"], "tagged-devices");
                assert_eq!(node.unwrap().tags, tags);
                assert_eq!(node.unwrap().user_id, None);
            }
            Err(tags) => {
                let text = format!("requested tags [{tags}] are invalid or not permitted");
                assert_eq!((&response["Error"], node), (&json!(text), None));
            }
        }
    }
}

#[tokio::test]
async fn a_known_device_that_asks_another_owners_key_for_tags_costs_no_log_entry() {
    let (server, ann, bob) = server().await;
    let anns = server.create_key(ann, |key| key.reusable = true).await;
    let bobs = server.create_key(bob, |_| {}).await;
    let client = TestClient::new(1);
    let session = client.dial(&server).await;
    let request = client.register_request(asking(&anns, &[]));
    assert_eq!(session.register(&request).await["MachineAuthorized"], true);
    let tagged = |key: &mut pb::CreatePreAuthKey| key.tags = vec!["tag:db".to_owned()];
    let tagged = server.create_key(bob, tagged).await;
    let index = server.cluster.applied_index();
    // A node of the key's owner would need a node key of its own.
    let request = client.register_request(asking(&bobs, &["tag:lost"]));
    assert_eq!(session.register(&request).await["NodeKeyExpired"], true);
    let request = client.register_request(asking(&tagged, &["tag:lost"]));
    let text = "requested tags [tag:lost] are invalid or not permitted";
    assert_eq!(session.register(&request).await["Error"], text);
    assert_eq!(server.cluster.applied_index(), index);
    // Its owner's key says nothing new about a device that is in, whatever it asks for.
    let again = server.create_key(ann, |_| {}).await;
    let request = client.register_request(asking(&again, &["tag:lost"]));
    assert_eq!(session.register(&request).await["MachineAuthorized"], true);
}

#[tokio::test]
async fn without_a_policy_nobody_owns_a_tag() {
    let server = TestServer::start().await;
    let ann = server.create_user("ann").await;
    let key = server.create_key(ann, |_| {}).await;
    let client = TestClient::new(1);
    let session = client.dial(&server).await;
    let request = client.register_request(asking(&key, &["tag:web"]));
    let response = session.register(&request).await;
    let text = "requested tags [tag:web] are invalid or not permitted";
    assert_eq!(response["Error"], text);
    // The client asks for ever, which costs no log entry.
    let index = server.cluster.applied_index();
    assert_eq!(session.register(&request).await["Error"], text);
    assert_eq!(server.cluster.applied_index(), index);
    // The key is not spent.
    let plain = client.register_request(asking(&key, &[]));
    assert_eq!(session.register(&plain).await["MachineAuthorized"], true);
}
