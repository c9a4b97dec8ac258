//! Policies and roles through the API.

use axum::http::Response;
use serde_json::{Value, json};

use super::Access;
use super::testing::World;
use crate::config::PolicyMode;

const OPEN: &str = r#"{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}"#;
const CLOSED: &str = r#"{"acls": []}"#;

/// A request to replace the policy.
async fn put(world: &World, text: &str, if_match: Option<&str>) -> (Response<()>, Value) {
    let headers: Vec<(&str, &str)> = if_match.map(|tag| ("if-match", tag)).into_iter().collect();
    let body = json!({ "policy": text, "author": "dora" });
    world
        .send(Access::LocalTrust, "PUT", "/policy", &headers, Some(body))
        .await
}

fn etag(response: &Response<()>) -> String {
    response.headers()["etag"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_policy_is_kept_word_for_word_with_author_time_and_history() {
    let world = World::new().await;
    let (status, body) = world.call("GET", "/policy", None).await;
    assert_eq!(status, 500);
    assert!(
        body["detail"]
            .as_str()
            .unwrap()
            .contains("acl policy not found")
    );

    let text = "// who\n{\"acls\": [],}\n";
    let (first, body) = put(&world, text, None).await;
    assert_eq!(
        (first.status().as_u16(), &body["policy"]),
        (200, &json!(text))
    );
    assert_eq!(body["updatedAt"], json!(world.control.now()));
    put(&world, OPEN, None).await;
    let (_, body) = world.call("GET", "/policy", None).await;
    assert_eq!(body["policy"], json!(OPEN));

    let (_, history) = world.call("GET", "/policy/history", None).await;
    let oldest = &history["versions"][1];
    assert_eq!(
        (&oldest["version"], &oldest["bytes"]),
        (&json!(1), &json!(text.len()))
    );
    assert_eq!(oldest["author"], json!("dora (local socket)"));
    assert_eq!(
        format!("\"{}\"", oldest["etag"].as_str().unwrap()),
        etag(&first)
    );
    let (_, old) = world.call("GET", "/policy/history/1", None).await;
    assert_eq!(old["policy"], json!(text));
    assert_eq!(world.call("GET", "/policy/history/9", None).await.0, 404);
    assert_eq!(world.call("GET", "/policy/history/x", None).await.0, 400);
}

#[tokio::test]
async fn the_author_is_the_key_whatever_the_caller_says() {
    let world = World::new().await;
    let never = world.after(std::time::Duration::from_secs(60));
    let key = format!("Bearer {}", world.api_key(1, Some(never)).await);
    let body = json!({ "policy": OPEN, "author": "\u{7}x".repeat(500) });
    let headers = [("authorization", key.as_str())];
    let answer = world.send(Access::ApiKey, "PUT", "/policy", &headers, Some(body));
    assert_eq!(answer.await.0.status(), 200);
    let author = world.cluster.state().policy().unwrap().author.clone();
    assert!(
        author.starts_with("xxx") && author.ends_with("x (API key 010101010101)"),
        "{author}"
    );
}

#[tokio::test]
async fn a_policy_is_replaced_only_while_the_named_one_is_in_force() {
    let world = World::new().await;
    assert_eq!(put(&world, OPEN, Some("*")).await.0.status(), 412);
    let (first, _) = put(&world, OPEN, Some("\"ts-default\"")).await;
    let (second, _) = put(&world, CLOSED, Some(&etag(&first))).await;
    assert_eq!(second.status(), 200);
    let (late, body) = put(&world, OPEN, Some(&etag(&first))).await;
    assert_eq!(late.status(), 412);
    assert!(
        body["detail"]
            .as_str()
            .unwrap()
            .contains("version 2 is in force"),
        "{body}"
    );
    let either = format!("{}, {}", etag(&first), etag(&second));
    assert_eq!(put(&world, OPEN, Some(&either)).await.0.status(), 200);
    assert_eq!(put(&world, CLOSED, Some("*")).await.0.status(), 200);
}

#[tokio::test]
async fn a_wrong_policy_changes_nothing_and_all_errors_are_told() {
    let world = World::new().await;
    put(&world, OPEN, None).await;
    let undefined = r#"{
        "acls": [
            {"action": "accept", "src": ["tag:none"], "dst": ["group:none:22"]},
        ],
    }"#;
    for path in ["/policy", "/policy/check"] {
        let method = if path == "/policy" { "PUT" } else { "POST" };
        let body = json!({ "policy": undefined });
        let (status, answer) = world.call(method, path, Some(body)).await;
        assert_eq!(status, 400);
        let detail = answer["detail"].as_str().unwrap();
        assert!(
            detail.contains("tag:none") && detail.contains("group:none"),
            "{detail}"
        );
        assert!(detail.starts_with("line 3, column"), "{detail}");
    }
    let failing = r#"{"acls": [], "tests": [{"src": "100.64.0.1", "accept": ["100.64.0.2:22"]}]}"#;
    let (status, answer) = put(&world, failing, None).await;
    assert_eq!(status.status(), 400, "{answer}");
    assert_eq!(put(&world, " \n", None).await.0.status(), 400);
    assert_eq!(world.call("PUT", "/policy", Some(json!({}))).await.0, 400);
    let huge = format!("{OPEN} // {}", "x".repeat(600 * 1024));
    assert_eq!(put(&world, &huge, None).await.0.status(), 400);
    let huger = "x".repeat(4 * 1024 * 1024);
    assert_eq!(put(&world, &huger, None).await.0.status(), 413);
    assert_eq!(world.cluster.state().policy().unwrap().version, 1);
}

#[tokio::test]
async fn users_who_are_missing_are_told_when_they_go_as_well() {
    let world = World::new().await;
    world.user("alice").await;
    let text = r#"{"groups": {"group:a": ["alice@", "bob@"]}, "acls": []}"#;
    let (response, body) = put(&world, text, None).await;
    assert_eq!(response.status(), 200);
    assert_eq!(body["warnings"].as_array().unwrap().len(), 1, "{body}");

    world.user("bob").await;
    let (_, body) = world.call("GET", "/policy", None).await;
    assert_eq!(body["warnings"], Value::Null);
    let (_, body) = world.call("DELETE", "/user/1", None).await;
    let warning = body["warnings"][0].as_str().unwrap();
    assert!(warning.contains("\"alice@\" does not exist"), "{warning}");
    let renamed = world.ok("POST", "/user/2/rename/bert", json!({})).await;
    assert!(renamed["warnings"][0].as_str().unwrap().contains("bob@"));
    let (_, body) = world.call("GET", "/policy", None).await;
    assert_eq!(body["warnings"].as_array().unwrap().len(), 2, "{body}");
    let (_, body) = world
        .call("POST", "/policy/check", Some(json!({"policy": text})))
        .await;
    assert_eq!(body["warnings"].as_array().unwrap().len(), 2, "{body}");
}

#[tokio::test]
async fn an_older_policy_is_put_into_force_again_as_a_new_version() {
    let world = World::new().await;
    put(&world, OPEN, None).await;
    let (second, _) = put(&world, CLOSED, None).await;
    let body = json!({ "version": "1" });
    let stale = [("if-match", "\"00\"")];
    let (late, _) = world
        .send(
            Access::LocalTrust,
            "POST",
            "/policy/rollback",
            &stale,
            Some(body.clone()),
        )
        .await;
    assert_eq!(late.status(), 412);
    let tag = etag(&second);
    let fresh = [("if-match", tag.as_str())];
    let (done, answer) = world
        .send(
            Access::LocalTrust,
            "POST",
            "/policy/rollback",
            &fresh,
            Some(body),
        )
        .await;
    assert_eq!(
        (done.status().as_u16(), &answer["policy"]),
        (200, &json!(OPEN))
    );
    assert_eq!(world.cluster.state().policy().unwrap().version, 3);
    let missing = world.call("POST", "/policy/rollback", Some(json!({ "version": 7 })));
    assert_eq!(missing.await.0, 404);
}

#[tokio::test]
async fn in_file_mode_only_the_file_sets_the_policy() {
    let mut world = World::new().await;
    put(&world, OPEN, None).await;
    world.policy_mode = PolicyMode::File;
    let (response, body) = put(&world, CLOSED, None).await;
    assert_eq!(response.status(), 400);
    let detail = body["detail"].as_str().unwrap();
    assert!(
        detail.contains("update is disabled for modes other than 'database'"),
        "{detail}"
    );
    let back = world.call("POST", "/policy/rollback", Some(json!({ "version": 1 })));
    assert_eq!(back.await.0, 400);
    let check = world.call("POST", "/policy/check", Some(json!({ "policy": CLOSED })));
    assert_eq!(check.await, (200, json!({})));
    assert_eq!(world.call("GET", "/policy", None).await.0, 200);
}

#[tokio::test]
async fn a_role_is_set_and_shown_only_where_it_is_more_than_a_members() {
    let world = World::new().await;
    world.user("alice").await;
    let user = world
        .ok("POST", "/user/1/role/network-admin", json!({}))
        .await;
    assert_eq!(user["user"]["role"], json!("network-admin"));
    let (_, list) = world.call("GET", "/user", None).await;
    assert_eq!(list["users"][0]["role"], json!("network-admin"));
    let user = world.ok("POST", "/user/1/role/member", json!({})).await;
    assert_eq!(user["user"].get("role"), None);
    let (status, body) = world.call("POST", "/user/1/role/king", None).await;
    assert_eq!(status, 400);
    assert!(
        body["detail"].as_str().unwrap().contains("network-admin"),
        "{body}"
    );
    assert_eq!(world.call("POST", "/user/7/role/admin", None).await.0, 404);
}

#[tokio::test]
async fn a_connection_is_explained_by_the_policy_in_force() {
    let mut world = World::new().await;
    world.node("alice", "laptop", &[]).await;
    world.node("bob", "desk", &[]).await;
    let policy = r#"{"acls": [{"action": "accept", "src": ["alice@"], "dst": ["bob@:80"]}]}"#;
    put(&world, policy, None).await;
    let explain = async |query: &str| {
        let path = format!("/policy/explain?{query}");
        world.call("GET", &path, None).await
    };
    let (_, open) = explain("src=alice%40&dst=desk:80&proto=tcp").await;
    assert_eq!(
        (&open["verdict"], &open["policyVersion"]),
        (&json!("allowed"), &json!(1))
    );
    assert_eq!(open["answers"][0]["rules"][0]["kind"], json!("acl"));
    let (_, closed) = explain("src=laptop&dst=2:22").await;
    assert_eq!(closed["verdict"], json!("denied"));
    assert_eq!(
        closed["answers"][0]["close"][0]["reason"],
        json!("source and destination match, port 22 is not among 80")
    );
    let (status, problem) = explain("src=carol%40&dst=desk").await;
    assert_eq!(status, 400);
    assert_eq!(problem["errors"][0]["location"], json!("query.src"));
    let (status, problem) = explain("src=laptop").await;
    assert_eq!(
        (status, &problem["errors"][0]["location"]),
        (400, &json!("query.dst"))
    );
}
