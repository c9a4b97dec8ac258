//! The client port outside Noise.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::testing::{TestClient, TestServer, within};
use super::super::{Limit, limits};

fn json(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

#[tokio::test]
async fn key_answers_by_capability_version() {
    let server = TestServer::start().await;
    let (status, headers, body) = server.get("/key?v=145").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers[header::CONTENT_TYPE], "application/json");
    let public = "mkey:7b4e909bbe7ffe44c465a220037d608ee35897d31ef972f07f74892cb0f73f13";
    let legacy = format!("mkey:{}", "0".repeat(64));
    assert_eq!(
        json(&body),
        json!({ "legacyPublicKey": legacy, "publicKey": public })
    );
    // The official Rust client names the host in the target.
    let (status, _, same) = server.get("http://127.0.0.1:8080/key?v=130").await;
    assert_eq!((status, same), (StatusCode::OK, body));
    let (status, _, body) = server.get("/key?v=38").await;
    assert_eq!((status, body.len()), (StatusCode::OK, 0));
    for path in ["/key", "/key?v=x"] {
        assert_eq!(server.get(path).await.0, StatusCode::BAD_REQUEST, "{path}");
    }
}

#[tokio::test]
async fn every_answer_carries_the_security_headers() {
    let server = TestServer::start().await;
    for path in [
        "/",
        "/health",
        "/robots.txt",
        "/nothing",
        "/key",
        "/apple",
        "/windows",
    ] {
        let (_, headers, _) = server.get(path).await;
        assert_eq!(headers[header::X_FRAME_OPTIONS], "DENY", "{path}");
        assert_eq!(
            headers[header::CONTENT_SECURITY_POLICY],
            "frame-ancestors 'none'",
            "{path}"
        );
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
        assert_eq!(headers[header::REFERRER_POLICY], "no-referrer", "{path}");
    }
}

#[tokio::test]
async fn a_replica_without_a_leader_is_healthy_but_not_ready_and_says_why() {
    let server = TestServer::start().await;
    let (status, headers, body) = server.get("/health").await;
    assert_eq!(
        (status, json(&body)),
        (StatusCode::OK, json!({ "status": "pass" }))
    );
    assert_eq!(headers[header::CONTENT_TYPE], "application/health+json");
    assert_eq!(server.get("/health/ready").await.0, StatusCode::OK);
    server.log.set_available(false);
    server.log.advance(Duration::from_secs(3));
    assert_eq!(server.get("/health/ready").await.0, StatusCode::OK);
    server.log.advance(Duration::from_millis(500));
    assert_eq!(server.get("/health").await.0, StatusCode::OK);
    let (status, _, body) = server.get("/health/ready").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let reason = json(&body)["output"].as_str().unwrap().to_owned();
    assert_eq!(reason, "no leader for 3.5 s");
}

#[tokio::test]
async fn a_replica_that_has_not_caught_up_since_its_start_is_not_ready() {
    let server = TestServer::start().await;
    server.log.set_behind(1);
    let sibling = server.sibling().await;
    let (status, _, body) = sibling.get("/health/ready").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let reason = json(&body)["output"].as_str().unwrap().to_owned();
    assert_eq!(reason, "this replica has not caught up since it started");
    server.log.set_behind(0);
    within(async {
        while sibling.get("/health/ready").await.0 != StatusCode::OK {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_replica_that_lags_is_not_ready_and_says_by_how_much() {
    let server = TestServer::start().await;
    server.log.set_behind(limits::LAG_READY_MAX);
    assert_eq!(server.get("/health/ready").await.0, StatusCode::OK);
    server.log.set_behind(limits::LAG_READY_MAX + 1);
    let (status, _, body) = server.get("/health/ready").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let reason = json(&body)["output"].as_str().unwrap().to_owned();
    assert_eq!(reason, "this replica is 1001 log entries behind");
}

#[tokio::test]
async fn the_register_page_shows_the_command_for_valid_ids_only() {
    let server = TestServer::start().await;
    let auth_id = "hskey-authreq-0123456789abcdef01234567";
    let (status, _, body) = server.get(&format!("/register/{auth_id}")).await;
    assert_eq!(status, StatusCode::OK);
    let page = String::from_utf8(body.to_vec()).unwrap();
    let command = format!("headscale auth register --auth-id {auth_id} --user USERNAME");
    assert!(page.contains(&command), "{page}");
    for bad in ["hskey-authreq-0", "nodekey:00", "%3Cscript%3E"] {
        assert_eq!(
            server.get(&format!("/register/{bad}")).await.0,
            StatusCode::BAD_REQUEST
        );
    }
}

#[tokio::test]
async fn verify_knows_node_keys_and_bounds_its_body() {
    let server = TestServer::start().await;
    let user = server.create_user("ann").await;
    let key = server.create_key(user, |_| {}).await;
    let client = TestClient::new(1);
    let request = client.register_request(json!({ "Auth": { "AuthKey": key } }));
    client.dial(&server).await.register(&request).await;
    let verify = |body: String| server.plain(Request::post("/verify").body(body.into()).unwrap());
    let known = json!({ "NodePublic": client.node_key, "Source": "192.0.2.1" }).to_string();
    assert_eq!(json(&verify(known).await.2), json!({ "Allow": true }));
    let unknown = json!({ "NodePublic": TestClient::node_key(9) }).to_string();
    assert_eq!(json(&verify(unknown).await.2), json!({ "Allow": false }));
    assert_eq!(verify("{".to_owned()).await.0, StatusCode::BAD_REQUEST);
    let long = "x".repeat(limits::VERIFY_BODY_BYTES_MAX + 1);
    assert_eq!(verify(long).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(server.control.metrics().limit_hits(Limit::BodyBytes), 1);
}

#[tokio::test]
async fn an_unknown_key_is_not_denied_by_a_replica_that_may_lag() {
    let server = TestServer::start().await;
    server.log.set_available(false);
    let body = json!({ "NodePublic": TestClient::node_key(9) }).to_string();
    let request = Request::post("/verify").body(Body::from(body)).unwrap();
    assert_eq!(
        server.plain(request).await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn an_apple_profile_names_the_server() {
    let server = TestServer::start().await;
    let (status, headers, body) = server.get("/apple/ios").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        headers[header::CONTENT_TYPE],
        "application/x-apple-aspen-config"
    );
    let profile = String::from_utf8(body.to_vec()).unwrap();
    assert!(profile.contains("<key>ControlURL</key><string>https://hydra.example</string>"));
    assert_eq!(server.get("/apple/vms").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_request_head_over_the_limit_is_refused() {
    let server = TestServer::start().await;
    let mut connection = server.connect();
    let head = format!(
        "GET /key HTTP/1.1\r\nx: {}\r\n",
        "y".repeat(limits::HEAD_BYTES_MAX)
    );
    // The server may close before it has read everything.
    let _ = connection.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    within(connection.read_to_end(&mut answer)).await.unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 431"),
        "{:?}",
        String::from_utf8_lossy(&answer)
    );
    assert_eq!(server.control.metrics().limit_hits(Limit::Http1), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_sends_no_request_is_closed() {
    let server = TestServer::start().await;
    let mut connection = server.connect();
    connection
        .write_all(b"GET /key HTTP/1.1\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let started = tokio::time::Instant::now();
    connection.read_to_end(&mut answer).await.unwrap();
    assert!(started.elapsed() >= limits::HEAD_TIMEOUT);
    assert_eq!(server.control.metrics().limit_hits(Limit::Http1), 1);
}

#[tokio::test]
async fn a_malformed_upgrade_is_told_what_is_wrong() {
    let server = TestServer::start().await;
    let post = |pairs: &[(&str, &str)]| {
        let mut request = Request::post("/ts2021");
        for (name, value) in pairs {
            request = request.header(*name, *value);
        }
        server.plain(request.body(Body::empty()).unwrap())
    };
    let (status, _, body) = post(&[]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.starts_with(b"missing next protocol"));
    let upgrade = ("upgrade", "tailscale-control-protocol");
    let (status, _, body) = post(&[upgrade, ("x-tailscale-handshake", "AAAA")]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.starts_with(b"handshake initiation is 3 bytes long"));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    let server = TestServer::start().await;
    let mut connection = server.connect();
    let head = b"POST /verify HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\n{";
    connection.write_all(head).await.unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 408"),
        "{:?}",
        String::from_utf8_lossy(&answer)
    );
    assert_eq!(server.control.metrics().limit_hits(Limit::BodyTime), 1);
}
