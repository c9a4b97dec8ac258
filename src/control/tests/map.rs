//! Map requests: who gets a map, and how streams end.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use hydrascale_proto::state::v1::{self as pb, command::Op};
use serde_json::{Value, json};

use super::super::limits;
use super::super::testing::{PATIENCE, TestClient, TestFrames, TestServer, TestSession, within};
use crate::state::Node;
use crate::telemetry::testing::Exports;
use crate::types::ReplicaId;

/// A server with a reusable key.
pub(super) async fn server_with_key() -> (TestServer, String) {
    let server = TestServer::start().await;
    let key = server
        .create_key(server.create_user("ann").await, |key| key.reusable = true)
        .await;
    (server, key)
}

pub(super) async fn join(server: &TestServer, key: &str, seed: u8) -> (TestClient, TestSession) {
    let client = TestClient::new(seed);
    let session = client.dial(server).await;
    let request = client.register_request(json!({ "Auth": { "AuthKey": key } }));
    session.register(&request).await;
    (client, session)
}

/// A server, a registered client and its session.
pub(super) async fn registered() -> (TestServer, TestClient, TestSession) {
    let (server, key) = server_with_key().await;
    let (client, session) = join(&server, &key, 1).await;
    (server, client, session)
}

pub(super) fn report(client: &TestClient, edit: Value) -> Value {
    let mut request = client.map_request(json!({ "Stream": false, "OmitPeers": true }));
    request
        .as_object_mut()
        .unwrap()
        .extend(edit.as_object().unwrap().clone());
    request
}

/// Waits until the node is stored as the test wants it.
pub(super) async fn stored(
    server: &TestServer,
    client: &TestClient,
    wanted: impl Fn(&Node) -> bool,
) {
    let mut changes = server.cluster.subscribe();
    let is_stored = || {
        server
            .cluster
            .state()
            .node_by_node_key(&client.node_key)
            .is_some_and(|n| wanted(n))
    };
    let waiting = async {
        while !is_stored() {
            changes.recv().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("the report is stored");
}

/// Reads on until a message has what the test looks for.
async fn until(frames: &mut TestFrames, wanted: impl Fn(&Value) -> bool) -> Value {
    loop {
        let message = frames.next().await.expect("the stream goes on");
        if wanted(&message) {
            return message;
        }
    }
}

#[tokio::test]
async fn from_key_to_delta_in_both_encodings_and_across_replicas() {
    let (server, key) = server_with_key().await;
    let sibling = server.sibling().await;
    let (client, session) = join(&server, &key, 1).await;
    let mut plain = session.map(&client.map_request(json!({}))).await;
    let first = plain.next().await.unwrap();
    assert_eq!(first["Node"]["Key"], client.node_key.to_string());
    assert_eq!(first["Node"]["MachineAuthorized"], true);
    let (other, other_session) = join(&sibling, &key, 2).await;
    let added = until(&mut plain, |message| message["PeersChanged"].is_array()).await;
    assert_eq!(added["PeersChanged"][0]["Key"], other.node_key.to_string());
    let mut packed = other_session
        .map(&other.map_request(json!({ "Compress": "zstd" })))
        .await;
    let first = packed.next().await.unwrap();
    assert_eq!(first["Peers"][0]["Key"], client.node_key.to_string());
    let report = report(
        &client,
        json!({ "Endpoints": ["192.0.2.7:41641"], "EndpointTypes": [1] }),
    );
    session.post("/machine/map", &report).await;
    let patched = until(&mut packed, |message| {
        message.to_string().contains("192.0.2.7")
    })
    .await;
    assert!(patched.get("Node").is_none(), "{patched}");
}

#[tokio::test]
async fn a_node_that_was_deleted_meanwhile_is_told_so_instead_of_an_empty_answer() {
    let (server, key) = server_with_key().await;
    let behind = server.lagging_sibling().await;
    let (client, session) = join(&behind, &key, 1).await;
    let node = behind.cluster.state();
    let node = node.node_by_node_key(&client.node_key).unwrap();
    let delete = pb::DeleteNode { node_id: node.id.0 };
    server
        .cluster
        .propose(Op::DeleteNode(delete))
        .await
        .unwrap();
    let request = client.map_request(json!({}));
    let (status, text) = session.post("/machine/map", &request).await;
    assert_eq!(
        (status, text.as_str()),
        (StatusCode::NOT_FOUND, "node not found")
    );
}

#[tokio::test]
async fn one_map_is_one_frame() {
    let (_server, client, session) = registered().await;
    let mut frames = session
        .map(&client.map_request(json!({ "Stream": false })))
        .await;
    assert!(frames.next().await.is_some());
    assert_eq!(frames.next().await, None);
}

#[tokio::test]
async fn a_newer_stream_of_the_node_ends_the_older_and_only_that() {
    let (server, client, session) = registered().await;
    let mut older = session.map(&client.map_request(json!({}))).await;
    older.next().await.unwrap();
    let second = client.dial(&server).await;
    let mut newer = second.map(&client.map_request(json!({}))).await;
    newer.next().await.unwrap();
    while older.next().await.is_some() {}
    let (status, _) = session.exchange(Method::GET, "/machine/whoami", "").await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn a_lost_connection_ends_the_stream_and_starts_the_grace() {
    let (server, client, session) = registered().await;
    let mut frames = session.map(&client.map_request(json!({}))).await;
    frames.next().await.unwrap();
    let mut changes = server.cluster.subscribe();
    let has = |closed: bool| {
        let state = server.cluster.state();
        state
            .sessions()
            .any(|session| session.closed_at.is_some() == closed)
    };
    within(async {
        while !has(false) {
            changes.recv().await.unwrap();
        }
    })
    .await;
    drop((frames, session));
    within(async {
        while !has(true) {
            // A close alone alters nothing that others see.
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_deleted_nodes_stream_ends() {
    let (server, client, session) = registered().await;
    let mut frames = session.map(&client.map_request(json!({}))).await;
    frames.next().await.unwrap();
    server
        .cluster
        .propose(Op::DeleteNode(pb::DeleteNode { node_id: 1 }))
        .await
        .unwrap();
    while frames.next().await.is_some() {}
    let (status, _) = session
        .post("/machine/map", &client.map_request(json!({})))
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_node_unknown_or_of_another_machine_is_not_found() {
    let (server, client, session) = registered().await;
    let stranger = TestClient {
        node_key: TestClient::node_key(7),
        ..client.clone()
    };
    let (status, _) = session
        .post("/machine/map", &stranger.map_request(json!({})))
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let thief = TestClient {
        node_key: client.node_key,
        ..TestClient::new(2)
    };
    let session = thief.dial(&server).await;
    let (status, _) = session
        .post("/machine/map", &thief.map_request(json!({})))
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_map_from_a_replica_that_lags_behind_a_working_leader_is_refused_for_now() {
    let (server, client, session) = registered().await;
    let _other = server.sibling().await;
    server.log.set_behind(1);
    let (status, reason) = session
        .post("/machine/map", &client.map_request(json!({})))
        .await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{reason}");
    server.log.set_available(false);
    let stale = session
        .map(&client.map_request(json!({})))
        .await
        .next()
        .await;
    assert!(stale.is_some(), "no leader: what is there is served");
}

#[tokio::test]
async fn a_replica_with_nobody_to_send_its_clients_to_serves_them_what_it_has() {
    let (server, client, session) = registered().await;
    // Its own leader, and the disk does not keep up.
    server.log.set_behind(1);
    let first = session.map(&client.map_request(json!({}))).await;
    let first = { first }.next().await.unwrap();
    assert!(first.to_string().contains("degraded"), "{first}");
    let _other = server.sibling().await;
    server.log.set_cut_off(true);
    let cut_off = session.map(&client.map_request(json!({}))).await;
    assert!({ cut_off }.next().await.is_some());
}

#[tokio::test]
async fn a_session_with_its_map_stream_and_its_changes_is_traced() {
    let exports = Exports::collect();
    let (server, client, session) = registered().await;
    let mut frames = session.map(&client.map_request(json!({}))).await;
    frames.next().await.unwrap();
    drop((frames, session));
    within(async {
        let missing = |name: &&str| !exports.names().iter().any(|found| found == name);
        while ["session", "map_stream", "propose", "apply"]
            .iter()
            .any(missing)
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(server);
}

#[tokio::test]
async fn a_replica_without_a_leader_serves_known_nodes_with_a_warning_but_not_for_ever() {
    let (server, client, session) = registered().await;
    server.log.set_available(false);
    let mut frames = session.map(&client.map_request(json!({}))).await;
    let first = frames.next().await.unwrap();
    assert!(first.to_string().contains("degraded"), "{first}");
    let stranger = TestClient {
        node_key: TestClient::node_key(7),
        ..client.clone()
    };
    let (status, _) = session
        .post("/machine/map", &stranger.map_request(json!({})))
        .await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    server
        .log
        .advance(limits::STALE_SERVICE_MAX + Duration::from_secs(1));
    let (status, _) = session
        .post("/machine/map", &client.map_request(json!({})))
        .await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(start_paused = true)]
async fn a_draining_replica_ends_its_map_streams() {
    let (server, client, session) = registered().await;
    let mut frames = session.map(&client.map_request(json!({}))).await;
    frames.next().await.unwrap();
    let control = server.control.clone();
    let draining = tokio::spawn(async move { control.shut_down().await });
    // The patience of the test is longer than a drain takes.
    while frames.next().await.is_some() {}
    drop((frames, session));
    draining.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drained_replica_ends_streams_with_their_connections_so_that_clients_go_elsewhere() {
    let (server, client, session) = registered().await;
    server.log.join(ReplicaId(2)).await.unwrap();
    let mut frames = session.map(&client.map_request(json!({}))).await;
    frames.next().await.unwrap();
    let drained = server
        .cluster
        .set_drained(server.cluster.replica_id(), true);
    drained.await.unwrap();
    tokio::time::sleep(Duration::from_secs(25)).await;
    while frames.next().await.is_some() {}
    let again = session.send(Method::GET, "/machine/whoami", "").await;
    assert!(again.is_err(), "the connection is closed, too");
    let (status, _, body) = server.get("/health/ready").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let body = String::from_utf8_lossy(&body).into_owned();
    assert!(
        body.contains("this replica is drained, until `cluster undrain`"),
        "{body}"
    );
    let undrained = server
        .cluster
        .set_drained(server.cluster.replica_id(), false);
    undrained.await.unwrap();
    assert_eq!(server.get("/health/ready").await.0, StatusCode::OK);
}
