//! What the golden cases do not cover: keys, consistency, odd bodies, the cluster routes.

mod tags;

use std::time::Duration;

use hydrascale_proto::state::v1::{StartSshCheck, command::Op};
use serde_json::{Value, json};

use super::Access;
use super::testing::World;
use crate::telemetry::testing::Exports;
use crate::types::{ReplicaId, Timestamp};

async fn with_key(world: &World, path: &str, authorization: &str) -> u16 {
    let headers = [("authorization", authorization)];
    world
        .send(Access::ApiKey, "GET", path, &headers, None)
        .await
        .0
        .status()
        .as_u16()
}

#[tokio::test]
async fn a_request_belongs_to_the_trace_that_its_caller_names_and_a_strangers_does_not() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let world = World::new().await;
    let key = format!("Bearer {}", world.api_key(1, None).await);
    for (key, is_known) in [(key.as_str(), true), ("Bearer x", false)] {
        let exports = Exports::collect();
        let headers = [("authorization", key), ("traceparent", PARENT)];
        world
            .send(Access::ApiKey, "GET", "/user", &headers, None)
            .await;
        let parent = exports.parent_of("api_request").unwrap();
        assert_eq!(parent == PARENT[3..52], is_known, "{parent}");
    }
}

#[tokio::test]
async fn only_a_valid_key_gets_in() {
    let world = World::new().await;
    let key = world
        .api_key(1, Some(world.after(Duration::from_secs(60))))
        .await;
    let expired = world.api_key(2, Some(Timestamp::GO_ZERO)).await;
    let forged = format!(
        "{}{}",
        &key[..key.len() - 1],
        if key.ends_with('0') { '1' } else { '0' }
    );

    assert_eq!(
        with_key(&world, "/health", &format!("Bearer {key}")).await,
        200
    );
    assert_eq!(
        with_key(&world, "/user?consistency=stale", &format!("Bearer {key}")).await,
        200
    );
    for wrong in [
        format!("bearer {key}"),
        key.clone(),
        format!("Bearer {expired}"),
        format!("Bearer {forged}"),
        "Bearer hskey-api-".to_owned(),
        String::new(),
    ] {
        assert_eq!(with_key(&world, "/user", &wrong).await, 401, "{wrong}");
        assert_eq!(
            with_key(&world, "/user?consistency=stale", &wrong).await,
            401,
            "{wrong}"
        );
    }
    let (response, body) = world.send(Access::ApiKey, "GET", "/user", &[], None).await;
    assert_eq!(response.status(), 401);
    assert!(
        body["detail"]
            .as_str()
            .unwrap()
            .contains("Authorization: Bearer"),
        "{body}"
    );

    world.control.advance(Duration::from_secs(61));
    assert_eq!(
        with_key(&world, "/health", &format!("Bearer {key}")).await,
        401
    );
}

#[tokio::test]
async fn without_a_leader_only_stale_reads_and_the_status_answer() {
    let world = World::new().await;
    world.user("alice").await;
    world.control.set_available(false);

    let (response, body) = world
        .send(Access::LocalTrust, "GET", "/user", &[], None)
        .await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    assert!(
        body["detail"].as_str().unwrap().contains("try again"),
        "{body}"
    );
    let (status, body) = world.call("GET", "/user?consistency=stale", None).await;
    assert_eq!((status, &body["users"][0]["name"]), (200, &json!("alice")));
    assert_eq!(
        world
            .call(
                "POST",
                "/user?consistency=stale",
                Some(json!({"name": "bob"}))
            )
            .await
            .0,
        503
    );
    let (status, body) = world.call("GET", "/cluster/status", None).await;
    assert_eq!((status, &body["leader"]), (200, &Value::Null));
    assert_eq!(
        world.call("GET", "/user?consistency=odd", None).await.0,
        400
    );
}

#[tokio::test]
async fn the_digest_changes_with_the_state_alone() {
    let world = World::new().await;
    let digest = async || world.call("GET", "/cluster/digest", None).await.1["digest"].clone();
    let before = digest().await;
    assert_eq!(digest().await, before);
    world
        .call("POST", "/user", Some(json!({"name": "alice"})))
        .await;
    assert_ne!(digest().await, before);
}

#[tokio::test]
async fn an_answer_names_its_index_and_a_request_may_demand_one() {
    let world = World::new().await;
    let (response, _) = world
        .send(
            Access::LocalTrust,
            "POST",
            "/user",
            &[],
            Some(json!({"name": "alice"})),
        )
        .await;
    let index = response.headers()["x-raft-applied-index"]
        .to_str()
        .unwrap()
        .to_owned();
    assert_eq!(index, world.cluster.applied_index().to_string());
    let demand = async |index: &str| {
        let headers = [("x-raft-min-index", index)];
        world
            .send(Access::LocalTrust, "GET", "/user", &headers, None)
            .await
            .0
            .status()
            .as_u16()
    };
    assert_eq!(demand(&index).await, 200);
    assert_eq!(demand("soon").await, 400);
    tokio::time::pause();
    assert_eq!(demand("999999").await, 503);
}

#[tokio::test]
async fn odd_bodies_are_accepted_or_explained() {
    let world = World::new().await;
    let odd = json!({"name": "alice", "email": null, "unknown": [1, 2]});
    assert_eq!(world.call("POST", "/user", Some(odd)).await.0, 200);
    let number = json!({"user": 1, "expiration": null, "aclTags": null});
    assert_eq!(world.call("POST", "/preauthkey", Some(number)).await.0, 200);
    let (status, body) = world.call("POST", "/user", Some(json!({"name": 5}))).await;
    assert_eq!(
        (status, &body["errors"][0]["location"]),
        (422, &json!("body"))
    );
    assert_eq!(world.call("POST", "/user", None).await.0, 422);
    let huge = json!({"name": "x".repeat(300 * 1024)});
    assert_eq!(world.call("POST", "/user", Some(huge)).await.0, 413);
    assert_eq!(world.call("GET", "/nonsense", None).await.0, 404);
    assert_eq!(world.call("PATCH", "/user", None).await.0, 405);
}

#[tokio::test]
async fn a_new_key_shows_its_secret_once_and_lets_in() {
    let world = World::new().await;
    let expiration = world.after(Duration::from_secs(60));
    let made = world
        .ok("POST", "/apikey", json!({ "expiration": expiration }))
        .await;
    let key = made["apiKey"].as_str().unwrap();
    assert_eq!(
        with_key(&world, "/health", &format!("Bearer {key}")).await,
        200
    );
    let (_, list) = world.call("GET", "/apikey", None).await;
    let shown = list["apiKeys"][0]["prefix"].as_str().unwrap();
    assert!(
        shown.ends_with("-***") && key.starts_with(shown.trim_end_matches("***")),
        "{shown}"
    );
    assert_eq!(
        world
            .call("DELETE", &format!("/apikey/{shown}"), None)
            .await
            .0,
        200
    );
    assert_eq!(
        with_key(&world, "/health", &format!("Bearer {key}")).await,
        401
    );

    let never = world.ok("POST", "/apikey", json!({})).await;
    let never = format!("Bearer {}", never["apiKey"].as_str().unwrap());
    assert_eq!(with_key(&world, "/health", &never).await, 401);
}

#[tokio::test]
async fn nodes_are_expired_renamed_and_routed() {
    let mut world = World::new().await;
    world.node("alice", "node-a", &[]).await;
    world.node("bob", "node-b", &["tag:web"]).await;

    let node = world.ok("POST", "/node/1/expire", json!({})).await;
    assert_eq!(node["node"]["expiry"], json!(world.control.now()));
    let node = world
        .ok("POST", "/node/1/expire", json!({"disableExpiry": true}))
        .await;
    assert_eq!(node["node"]["expiry"], Value::Null);
    let both = json!({"disableExpiry": true, "expiry": "2030-01-01T00:00:00Z"});
    assert_eq!(
        world.call("POST", "/node/1/expire", Some(both)).await.0,
        400
    );

    assert_eq!(
        world.call("POST", "/node/1/rename/node-b", None).await.0,
        400
    );
    let node = world.ok("POST", "/node/1/rename/desk", json!({})).await;
    assert_eq!(node["node"]["givenName"], "desk");

    let routes = json!({"routes": ["10.1.0.9/16", "0.0.0.0/0", ""]});
    let node = world.ok("POST", "/node/1/approve_routes", routes).await;
    assert_eq!(
        node["node"]["approvedRoutes"],
        json!(["0.0.0.0/0", "10.1.0.0/16", "::/0"])
    );
    assert_eq!(
        node["node"]["subnetRoutes"],
        json!([]),
        "nothing is announced"
    );
    let bad = json!({"routes": ["10.0.0.0/33"]});
    assert_eq!(
        world
            .call("POST", "/node/1/approve_routes", Some(bad))
            .await
            .0,
        400
    );

    let (_, list) = world.call("GET", "/node", None).await;
    assert_eq!(list["nodes"][1]["user"]["name"], "tagged-devices");
    assert_eq!(world.call("GET", "/node?user=nobody", None).await.0, 404);
    assert_eq!(world.call("DELETE", "/user/1", None).await.0, 400);
}

#[tokio::test]
async fn a_made_up_login_is_registered_and_a_rejected_one_is_not() {
    let world = World::new().await;
    world.user("alice").await;
    let id = |digit: &str| format!("hskey-authreq-{}", digit.repeat(24));
    let debug =
        |key: &str| json!({"user": "alice", "key": key, "name": "dbg", "routes": ["10.0.0.0/8"]});

    let echo = world.ok("POST", "/debug/node", debug(&id("a"))).await;
    assert_eq!(
        (&echo["node"]["id"], &echo["node"]["name"]),
        (&json!("0"), &json!("dbg"))
    );
    let (status, body) = world
        .call("POST", "/auth/approve", Some(json!({"authId": id("a")})))
        .await;
    assert_eq!(status, 400, "{body}");
    let node = world
        .ok(
            "POST",
            "/auth/register",
            json!({"user": "alice", "authId": id("a")}),
        )
        .await;
    assert_eq!(node["node"]["availableRoutes"], json!(["10.0.0.0/8"]));
    let routes = json!({"routes": ["10.0.0.0/8", "10.1.0.0/16"]});
    let node = world.ok("POST", "/node/1/approve_routes", routes).await;
    assert_eq!(node["node"]["subnetRoutes"], json!(["10.0.0.0/8"]));
    let (_, list) = world.call("GET", "/node", None).await;
    assert_eq!(list["nodes"][0]["subnetRoutes"], json!(["10.0.0.0/8"]));
    let (_, alone) = world.call("GET", "/node/1", None).await;
    assert_eq!(alone["node"]["subnetRoutes"], json!([]), "as in headscale");

    world.ok("POST", "/debug/node", debug(&id("b"))).await;
    world
        .ok("POST", "/auth/reject", json!({"authId": id("b")}))
        .await;
    let late = json!({"user": "alice", "authId": id("b")});
    assert_eq!(
        world.call("POST", "/auth/register", Some(late)).await.0,
        400
    );
}

#[tokio::test]
async fn join_tokens_have_a_bounded_life() {
    let world = World::new().await;
    let create = async |after: u64| {
        let expiration = world.after(Duration::from_secs(after));
        world
            .call(
                "POST",
                "/cluster/join-token",
                Some(json!({ "expiration": expiration })),
            )
            .await
            .0
    };
    assert_eq!(create(0).await, 400);
    assert_eq!(create(8 * 86_400).await, 400);
    assert_eq!(create(60).await, 200);
}

#[tokio::test]
async fn join_tokens_are_listed_without_their_secrets_and_revoked_once() {
    let world = World::new().await;
    let expiration = world.after(Duration::from_secs(60));
    let body = json!({ "expiration": expiration, "replaces": 7 });
    let (status, answer) = world.call("POST", "/cluster/join-token", Some(body)).await;
    assert_eq!(status, 400, "{answer}");
    let body = json!({ "expiration": expiration, "replaces": 1 });
    let made = world.ok("POST", "/cluster/join-token", body).await;
    assert!(
        made["joinToken"]
            .as_str()
            .unwrap()
            .starts_with("hydra-join-")
    );
    for revoked in [false, true] {
        let (_, listed) = world.call("GET", "/cluster/join-token", None).await;
        let wanted = json!({ "joinTokens": [{
            "id": "token1", "expiration": expiration, "revoked": revoked, "usedBy": null,
            "usedAt": null, "replaces": 1,
        }] });
        assert_eq!(listed, wanted);
        let revoke = world
            .call("DELETE", "/cluster/join-token/token1", None)
            .await;
        assert_eq!(revoke.0, 200);
    }
    let unknown = world.call("DELETE", "/cluster/join-token/lost", None).await;
    assert_eq!(unknown.0, 400, "{}", unknown.1);
}

#[tokio::test]
async fn members_change_on_the_membership_that_was_seen_and_what_is_done_stays_done() {
    let world = World::new().await;
    world.control.join(ReplicaId(2)).await.unwrap();
    let seen = world.call("GET", "/cluster/status", None).await.1["membershipIndex"].clone();
    let body = json!({ "expectedMembership": seen });
    let changed = world
        .ok("POST", "/cluster/replica/2/demote", body.clone())
        .await;
    assert_eq!(changed["leader"], 1);
    let late = world
        .call("POST", "/cluster/replica/2/remove", Some(body))
        .await;
    assert_eq!(late.0, 400);
    let text = late.1["detail"].as_str().unwrap();
    assert!(text.contains("the membership has changed"), "{text}");
    for _ in 0..2 {
        world
            .ok("POST", "/cluster/replica/2/remove", json!({}))
            .await;
    }
    let (_, status) = world.call("GET", "/cluster/status", None).await;
    assert_eq!(status["removed"], json!([2]));
    let last = world.call("POST", "/cluster/replica/1/remove", None).await;
    assert_eq!(last.0, 400, "{}", last.1);
    let strange = world.call("POST", "/cluster/replica/x/remove", None).await;
    assert_eq!(strange.0, 400, "{}", strange.1);
}

#[tokio::test]
async fn an_ssh_login_is_approved_or_rejected_by_its_id_alone() {
    let mut world = World::new().await;
    world.node("alice", "laptop", &[]).await;
    world.node("bob", "desk", &[]).await;
    let decisions = [("a", "approve", true), ("b", "reject", false)];
    for (digit, path, approved) in decisions {
        let auth_id = format!("hskey-authreq-{}", digit.repeat(24));
        let op = StartSshCheck {
            auth_id: auth_id.clone(),
            src_node_id: 1,
            dst_node_id: 2,
            local_user: "root".to_owned(),
        };
        world.propose(Op::StartSshCheck(op)).await;
        let (path, body) = (format!("/auth/{path}"), json!({"authId": auth_id}));
        for _ in 0..2 {
            assert_eq!(world.ok("POST", &path, body.clone()).await, json!({}));
        }
        let check = world.cluster.state().ssh_check(&auth_id).cloned();
        assert_eq!(check.unwrap().approved, Some(approved));
        let other = if approved {
            "/auth/reject"
        } else {
            "/auth/approve"
        };
        assert_eq!(world.call("POST", other, Some(body)).await.0, 400);
    }
    let unknown = json!({"authId": format!("hskey-authreq-{}", "c".repeat(24))});
    for path in ["/auth/approve", "/auth/reject"] {
        assert_eq!(world.call("POST", path, Some(unknown.clone())).await.0, 404);
    }
}
