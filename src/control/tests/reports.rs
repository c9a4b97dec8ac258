//! What nodes report about themselves.

use axum::http::StatusCode;
use serde_json::json;

use super::super::Limit;
use super::super::testing::within;
use super::map::{join, registered, report, server_with_key, stored};
use crate::state::{MAX_HOSTINFO_BYTES, Node};
use crate::types::DiscoKey;

#[tokio::test]
async fn a_report_to_a_replica_that_is_behind_is_not_lost() {
    let endpoint = |text| json!({ "Endpoints": [text], "EndpointTypes": [1] });
    let (server, key) = server_with_key().await;
    let behind = server.lagging_sibling().await;
    let (client, session) = join(&behind, &key, 1).await;
    let first = report(&client, endpoint("192.0.2.1:1"));
    session.post("/machine/map", &first).await;
    let has = |text: &'static str| {
        move |node: &Node| node.endpoints.iter().any(|e| e.addr.to_string() == text)
    };
    stored(&server, &client, has("192.0.2.1:1")).await;
    // The node is elsewhere for a while, of which the other replica learns nothing.
    let elsewhere = client.dial(&server).await;
    let mut frames = elsewhere.map(&client.map_request(json!({}))).await;
    frames.next().await.unwrap();
    let second = report(&client, endpoint("192.0.2.2:2"));
    elsewhere.post("/machine/map", &second).await;
    stored(&server, &client, has("192.0.2.2:2")).await;
    within(async {
        while server.cluster.state().sessions().next().is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    session.post("/machine/map", &first).await;
    stored(&server, &client, has("192.0.2.1:1")).await;
}

#[tokio::test]
async fn a_hostinfo_that_is_too_long_takes_nothing_else_with_it() {
    let (server, client, session) = registered().await;
    let hostinfo = json!({ "Hostname": "host", "OS": "x".repeat(MAX_HOSTINFO_BYTES) });
    let request = report(
        &client,
        json!({ "Hostinfo": hostinfo, "Endpoints": ["192.0.2.9:1"], "EndpointTypes": [1] }),
    );
    session.post("/machine/map", &request).await;
    stored(&server, &client, |node| node.endpoints.len() == 1).await;
    let metrics = server.control.metrics();
    assert_eq!(metrics.limit_hits(Limit::HostinfoBytes), 1);
}

#[tokio::test]
async fn a_report_is_stored_and_answered_with_nothing() {
    let (server, client, session) = registered().await;
    let disco = DiscoKey::from_bytes([5; 32]);
    let request = report(
        &client,
        json!({
            "DiscoKey": disco,
            "Endpoints": ["192.0.2.7:41641", "nonsense", "[2001:db8::1]:41641"],
            "EndpointTypes": [1, 0, 2],
            // The official Rust client's spelling.
            "HostInfo": { "Os": "linux", "NetInfo": { "PreferredDerp": 901 } },
        }),
    );
    let answer = session.post("/machine/map", &request).await;
    assert_eq!(answer, (StatusCode::OK, String::new()));
    stored(&server, &client, |node| {
        let kinds: Vec<u8> = node
            .endpoints
            .iter()
            .map(|endpoint| endpoint.kind)
            .collect();
        node.disco_key == Some(disco)
            && kinds == [1, 2]
            && node.home_derp.is_some_and(|region| region.0 == 901)
    })
    .await;
    // A report without endpoints takes them away; a streaming request after it changes nothing.
    session
        .post("/machine/map", &report(&client, json!({})))
        .await;
    stored(&server, &client, |node| node.endpoints.is_empty()).await;
    let index = server.cluster.applied_index();
    let late = json!({ "Endpoints": ["192.0.2.9:1"], "Stream": false, "OmitPeers": false });
    session
        .map(&client.map_request(late))
        .await
        .next()
        .await
        .unwrap();
    assert_eq!(server.cluster.applied_index(), index);
}

#[tokio::test]
async fn a_streaming_request_alone_reports_what_it_knows() {
    let (server, client, session) = registered().await;
    let request = client.map_request(json!({
        "DiscoKey": DiscoKey::default(),
        "Endpoints": ["192.0.2.7:41641"],
    }));
    let _frames = session.map(&request).await;
    stored(&server, &client, |node| node.endpoints.len() == 1).await;
    assert_eq!(
        server
            .cluster
            .state()
            .node_by_node_key(&client.node_key)
            .unwrap()
            .disco_key,
        None
    );
}
