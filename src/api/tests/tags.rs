//! Tags of nodes: an administrator's, and those that a device asks for at its login.

use hydrascale_proto::state::v1::{SetPolicy, StartLogin, command::Op};
use serde_json::json;

use super::super::testing::World;

const POLICY: &str = r#"{"tagOwners": {
    "tag:web": ["alice@"], "tag:db": ["bob@"], "tag:none": [],
}}"#;
const AUTH: &str = "hskey-authreq-0123456789abcdef01234567";

/// A tailnet with a policy and alice's node.
async fn world() -> World {
    let mut world = World::new().await;
    world.node("alice", "node-a", &[]).await;
    let policy = SetPolicy {
        text: POLICY.to_owned(),
        ..Default::default()
    };
    world.propose(Op::SetPolicy(policy)).await;
    world
}

#[tokio::test]
async fn an_administrator_sets_any_tag_that_the_policy_defines() {
    let world = world().await;
    let body = json!({"tags": ["tag:none", "tag:db", "tag:db"]});
    let answer = world.ok("POST", "/node/1/tags", body).await;
    assert_eq!(answer["node"]["tags"], json!(["tag:db", "tag:none"]));
    assert_eq!(answer["node"]["user"], json!(null));
    let list = world.ok("GET", "/node", json!(null)).await;
    assert_eq!(list["nodes"][0]["user"]["name"], "tagged-devices");
    let answer = world
        .ok("POST", "/node/1/tags", json!({"tags": ["tag:web"]}))
        .await;
    assert_eq!(answer["node"]["tags"], json!(["tag:web"]));
}

#[tokio::test]
async fn tags_that_are_not_defined_and_no_tags_are_refused() {
    let world = world().await;
    for (tags, text) in [
        (
            json!(["tag:web", "tag:lost", "web"]),
            "requested tags [tag:lost web] are invalid or not permitted",
        ),
        (json!([]), "cannot remove all tags from node"),
    ] {
        let body = Some(json!({ "tags": tags }));
        let (status, problem) = world.call("POST", "/node/1/tags", body).await;
        assert_eq!(status, 400);
        assert!(
            problem["detail"].as_str().unwrap().starts_with(text),
            "{problem}"
        );
    }
    let state = world.cluster.state();
    assert!(state.nodes().all(|node| !node.is_tagged()));
}

#[tokio::test]
async fn a_login_gives_the_tags_that_its_user_owns() {
    let world = world().await;
    world.user("bob").await;
    let hostinfo = json!({"Hostname": "gw", "RequestTags": ["tag:web"]});
    world
        .propose(Op::StartLogin(StartLogin {
            auth_id: AUTH.to_owned(),
            machine_key: vec![50; 32].into(),
            node_key: vec![51; 32].into(),
            hostinfo_json: hostinfo.to_string().into_bytes().into(),
            capver: 130,
            ..Default::default()
        }))
        .await;
    let as_user = |user: &str| json!({"user": user, "authId": AUTH});
    let (status, problem) = world
        .call("POST", "/auth/register", Some(as_user("bob")))
        .await;
    assert_eq!(
        (status, &problem["detail"]),
        (
            400,
            &json!("requested tags [tag:web] are invalid or not permitted")
        )
    );
    let answer = world.ok("POST", "/auth/register", as_user("alice")).await;
    assert_eq!(answer["node"]["tags"], json!(["tag:web"]));
    assert_eq!(answer["node"]["user"], json!(null));
}
