//! Logins that a person decides.

use std::time::Duration;

use axum::http::StatusCode;
use hydrascale_proto::state::v1::{self as pb, command::Op};
use serde_json::json;

use super::super::limits;
use super::super::metrics::Limit;
use super::super::testing::{SERVER_URL, TestClient, TestServer, within};
#[tokio::test]
async fn a_login_begun_here_and_approved_elsewhere_wakes_the_waiting_client() {
    let server = TestServer::start().await;
    let sibling = server.sibling().await;
    let user = server.create_user("ann").await;
    let client = TestClient::new(1);
    let session = client.dial(&server).await;
    let begun = session.register(&client.register_request(json!({}))).await;
    let url = begun["AuthURL"].as_str().unwrap();
    assert!(
        url.starts_with(&format!("{SERVER_URL}/register/hskey-authreq-")),
        "{url}"
    );
    assert_eq!(begun["MachineAuthorized"], false);
    let followup = client.register_request(json!({ "Followup": url }));
    // The client waits at another replica than the one it began at.
    let waiting = client.dial(&sibling).await;
    let (response, ()) = tokio::join!(waiting.register(&followup), server.approve(url, user));
    assert_eq!(
        (&response["MachineAuthorized"], &response["AuthURL"]),
        (&json!(true), &json!(""))
    );
    // A client that missed the answer asks once more.
    let again = session.register(&followup).await;
    assert_eq!(again["MachineAuthorized"], true);
}

#[tokio::test]
async fn a_client_that_waits_at_a_replica_that_is_behind_begins_no_second_login() {
    let server = TestServer::start().await;
    let behind = server.lagging_sibling().await;
    let user = server.create_user("ann").await;
    let client = TestClient::new(1);
    let session = client.dial(&server).await;
    let begun = session.register(&client.register_request(json!({}))).await;
    let url = begun["AuthURL"].as_str().unwrap();
    let followup = client.register_request(json!({ "Followup": url }));
    let waiting = client.dial(&behind).await;
    let mut response = std::pin::pin!(waiting.register(&followup));
    let mut changes = behind.cluster.subscribe();
    tokio::select! {
        answer = &mut response => panic!("answered before the decision: {answer}"),
        learnt = within(changes.recv()) => learnt.unwrap(),
    };
    let logins = server.cluster.state().pending_logins().count();
    assert_eq!(logins, 1);
    server.approve(url, user).await;
    behind.cluster.linearizable().await.unwrap();
    assert_eq!(response.await["MachineAuthorized"], true);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_at_a_replica_that_is_cut_off_is_sent_elsewhere() {
    let server = TestServer::start().await;
    let client = TestClient::new(1);
    let session = client.dial(&server).await;
    let begun = session.register(&client.register_request(json!({}))).await;
    let followup = client.register_request(json!({ "Followup": begun["AuthURL"] }));
    let cut_off = async {
        server.log.set_available(false);
        server.log.set_cut_off(true);
        server.log.advance(Duration::from_secs(31));
    };
    let waiting = session.post("/machine/register", &followup);
    let ((status, _), ()) = tokio::join!(waiting, cut_off);
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_rejected_or_unknown_login_gives_a_new_url() {
    let server = TestServer::start().await;
    let client = TestClient::new(1);
    let session = client.dial(&server).await;
    let begun = session.register(&client.register_request(json!({}))).await;
    let url = begun["AuthURL"].as_str().unwrap();
    let auth_id = url.rsplit_once('/').unwrap().1.to_owned();
    server
        .cluster
        .propose(Op::RejectLogin(pb::RejectLogin { auth_id }))
        .await
        .unwrap();
    let unknown = format!("{SERVER_URL}/register/hskey-authreq-{}", "0".repeat(24));
    for old in [url, &unknown] {
        let response = session
            .register(&client.register_request(json!({ "Followup": old })))
            .await;
        let new = response["AuthURL"].as_str().unwrap();
        assert!(!new.is_empty() && new != old, "{response}");
    }
}

#[tokio::test]
async fn a_login_whose_time_is_up_gives_the_waiting_client_a_new_url() {
    let server = TestServer::start().await;
    let client = TestClient::new(1);
    let session = client.dial(&server).await;
    let begun = session.register(&client.register_request(json!({}))).await;
    let url = begun["AuthURL"].as_str().unwrap();
    let followup = client.register_request(json!({ "Followup": url }));
    let expire = async {
        server.log.advance(Duration::from_secs(901));
        server.cluster.propose(Op::Tick(pb::Tick {})).await.unwrap();
    };
    let (response, ()) = tokio::join!(session.register(&followup), expire);
    let new = response["AuthURL"].as_str().unwrap();
    assert!(!new.is_empty() && new != url, "{response}");
}

#[tokio::test]
async fn somebody_elses_login_cannot_be_followed() {
    let server = TestServer::start().await;
    let user = server.create_user("ann").await;
    let (client, thief) = (TestClient::new(1), TestClient::new(2));
    let begun = client
        .dial(&server)
        .await
        .register(&client.register_request(json!({})))
        .await;
    let url = begun["AuthURL"].as_str().unwrap();
    server.approve(url, user).await;
    let session = thief.dial(&server).await;
    let response = session
        .register(&thief.register_request(json!({ "Followup": url })))
        .await;
    assert_eq!(response["MachineAuthorized"], false);
    assert_ne!(response["AuthURL"], url);
}

#[tokio::test]
async fn logins_beyond_the_rate_are_told_to_come_back() {
    let server = TestServer::start().await;
    let client = TestClient::new(1);
    let session = client.dial(&server).await;
    let request = client.register_request(json!({}));
    let mut last = StatusCode::OK;
    for _ in 0..limits::LOGINS_BURST * 2 {
        last = within(session.post("/machine/register", &request)).await.0;
        if last != StatusCode::OK {
            break;
        }
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    // All of them come from one address.
    assert!(server.control.metrics().limit_hits(Limit::SourceLogins) > 0);
}
