//! Noise sessions: the handshake, HTTP/2 inside, and garbage at each layer.

use std::future::ready;

use axum::extract::ws::Message;
use axum::http::{Method, StatusCode};
use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as Ws};

use super::super::limits;
use super::super::metrics::Limit;
use super::super::testing::{TestClient, TestServer, TestSession, within};
use crate::types::MachinePrivateKey;
use crate::websocket::WebSocketIo;

#[tokio::test]
async fn whoami_names_the_machine_that_the_handshake_proved() {
    let server = TestServer::start().await;
    let client = TestClient::new(1);
    let session = client.dial(&server).await;
    let (status, text) = session.exchange(Method::GET, "/machine/whoami", "").await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        text.contains(&client.machine.public().to_string()),
        "{text}"
    );
}

#[tokio::test]
async fn a_client_with_another_server_key_is_refused_before_the_upgrade() {
    let server = TestServer::start().await;
    let client = TestClient::new(1);
    let mut noise = client.initiator();
    let mut initiation = client.initiation(&mut noise);
    initiation[60] ^= 1;
    let request = axum::http::Request::post("/ts2021")
        .header("upgrade", "tailscale-control-protocol")
        .header(
            "x-tailscale-handshake",
            data_encoding::BASE64.encode(&initiation),
        )
        .body(axum::body::Body::empty())
        .unwrap();
    assert_eq!(server.plain(request).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn an_old_client_finishes_its_handshake_and_is_told_why_it_is_not_served() {
    let server = TestServer::start().await;
    let client = TestClient {
        capver: 82,
        ..TestClient::new(1)
    };
    let session = client.dial(&server).await;
    for path in ["/machine/register", "/machine/map"] {
        let (status, text) = session
            .post(path, &client.register_request(json!({})))
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(text.starts_with("unsupported client version"), "{text}");
    }
}

#[tokio::test]
async fn unsupported_paths_say_so_also_to_get_with_a_body() {
    let server = TestServer::start().await;
    let session = TestClient::new(1).dial(&server).await;
    let get = session
        .exchange(Method::GET, "/machine/tka/sync/offer", "{}")
        .await;
    assert_eq!(
        get,
        (
            StatusCode::NOT_IMPLEMENTED,
            "this server does not support tailnet lock".into()
        )
    );
    let (status, _) = session.post("/machine/set-dns", &json!({})).await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
    let (status, _) = session.exchange(Method::GET, "/machine/nothing", "").await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
    let (status, _) = session.exchange(Method::GET, "/nothing", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn health_reports_are_taken_from_nodes_only() {
    let server = TestServer::start().await;
    let client = TestClient::new(1);
    let session = client.dial(&server).await;
    let report = json!({ "Subsys": "dns", "Error": "broken", "NodeKey": client.node_key });
    let (status, _) = session.post("/machine/update-health", &report).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let key = server
        .create_key(server.create_user("ann").await, |_| {})
        .await;
    session
        .register(&client.register_request(json!({ "Auth": { "AuthKey": key } })))
        .await;
    let (status, _) = session.post("/machine/update-health", &report).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_the_session_lives_on() {
    let server = TestServer::start().await;
    let session = TestClient::new(1).dial(&server).await;
    let long = vec![b' '; limits::BODY_BYTES_MAX + 1];
    let (status, _) = session
        .exchange(Method::POST, "/machine/register", long)
        .await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(server.control.metrics().limit_hits(Limit::BodyBytes), 1);
    let (status, _) = session.exchange(Method::GET, "/machine/whoami", "").await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn bodies_that_are_no_message_are_refused_and_the_session_lives_on() {
    let server = TestServer::start().await;
    let session = TestClient::new(1).dial(&server).await;
    for body in ["", "{", "[]", "\u{0}", r#"{"NodeKey":"nodekey:00"}"#, "{}"] {
        let (status, text) = session
            .exchange(Method::POST, "/machine/register", body)
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}: {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_speaks_http2_is_dropped() {
    let server = TestServer::start().await;
    let client = TestClient::new(1);
    let (mut io, _noise) = client.upgrade(&server).await.unwrap();
    let mut rest = Vec::new();
    io.read_to_end(&mut rest).await.unwrap();
    assert_eq!(server.control.metrics().limit_hits(Limit::HandshakeTime), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_without_requests_is_asked_to_leave() {
    let server = TestServer::start().await;
    let session = TestClient::new(1).dial(&server).await;
    tokio::time::sleep(limits::IDLE_TIMEOUT + limits::DRAIN_GRACE * 2).await;
    assert_eq!(server.control.metrics().limit_hits(Limit::Idle), 1);
    assert!(
        session
            .send(Method::GET, "/machine/whoami", "")
            .await
            .is_err()
    );
}

#[tokio::test(start_paused = true)]
async fn a_draining_replica_ends_its_sessions_within_seconds() {
    let server = TestServer::start().await;
    let client = TestClient::new(1);
    let session = client.dial(&server).await;
    let waiting = client.register_request(json!({}));
    let url = session.register(&waiting).await["AuthURL"].clone();
    let followup = client.register_request(json!({ "Followup": url }));
    let long_poll = session.post("/machine/register", &followup);
    tokio::pin!(long_poll);
    tokio::select! {
        biased;
        _ = &mut long_poll => panic!("nobody decided"),
        () = tokio::time::sleep(limits::DRAIN_GRACE) => {}
    }
    let started = tokio::time::Instant::now();
    server.control.shut_down().await;
    assert!(started.elapsed() <= limits::DRAIN_SPREAD + limits::DRAIN_GRACE * 3);
}

#[tokio::test]
async fn the_server_key_is_the_clusters() {
    let server = TestServer::start().await;
    let other = TestServer::start().await.sibling().await;
    let key = |server: &TestServer| server.control.noise_key().map(|key| key.public());
    assert_eq!(key(&server), key(&other));
    assert_eq!(
        key(&server),
        Some(MachinePrivateKey::from_bytes([0x11; 32]).public())
    );
}

#[tokio::test]
async fn a_client_in_a_browser_speaks_noise_inside_a_websocket() {
    let server = TestServer::start().await;
    let client = TestClient::new(1);
    let mut noise = client.initiator();
    let initiation = client.initiation(&mut noise);
    let socket = client.upgrade_websocket(&server, Some(&initiation)).await;
    let socket = socket
        .with(|message: Message| ready(Ok::<_, WsError>(Ws::Binary(message.into_data()))))
        .map(|message| message.map(|message| Message::Binary(message.into_data())));
    // No early payload comes this way.
    let stream = TestClient::secure(WebSocketIo::new(socket), noise).await;
    let session = TestSession::start(stream).await;
    let (status, text) = session.exchange(Method::GET, "/machine/whoami", "").await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        text.contains(&client.machine.public().to_string()),
        "{text}"
    );
}

#[tokio::test]
async fn a_websocket_without_a_good_handshake_is_closed_as_a_policy_violation() {
    let server = TestServer::start().await;
    let client = TestClient::new(1);
    let damaged = {
        let mut initiation = client.initiation(&mut client.initiator());
        initiation[60] ^= 1;
        initiation
    };
    for handshake in [None, Some(b"short".as_slice()), Some(&damaged)] {
        let mut socket = client.upgrade_websocket(&server, handshake).await;
        let Some(Ok(Ws::Close(Some(frame)))) = within(socket.next()).await else {
            panic!("the socket is closed with a reason");
        };
        assert_eq!(u16::from(frame.code), 1008);
        assert!(!frame.reason.is_empty());
    }
}
