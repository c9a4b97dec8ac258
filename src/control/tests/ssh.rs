//! SSH logins that need a check: asked about at one replica, waited for at a second, decided at a
//! third.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use hydrascale_proto::state::v1::{self as pb, command::Op};
use serde_json::{Value, json};

use super::super::limits;
use super::super::metrics::Limit;
use super::super::testing::{SERVER_URL, TestClient, TestServer, TestSession, within};

/// Ann is checked as `deploy`, for an hour.
const POLICY: &str = r#"{"ssh": [{"action": "check", "src": ["ann@"], "dst": ["autogroup:self"],
    "users": ["deploy"], "checkPeriod": "1h"}]}"#;
/// The first login, as Go's client writes it: node 1 at node 2.
const ASK: &str = "/machine/ssh/action/1/to/2?local_user=deploy";

/// A replica with ann's nodes 1 and 2, and the client of node 2.
async fn tailnet() -> (TestServer, TestClient) {
    let server = TestServer::start().await;
    let user = server.create_user("ann").await;
    let key = server.create_key(user, |key| key.reusable = true).await;
    for seed in [1, 2] {
        let client = TestClient::new(seed);
        let request = client.register_request(json!({ "Auth": { "AuthKey": key } }));
        client.dial(&server).await.register(&request).await;
    }
    let policy = pb::SetPolicy {
        text: POLICY.to_owned(),
        ..Default::default()
    };
    propose(&server, Op::SetPolicy(policy)).await;
    (server, TestClient::new(2))
}

async fn propose(server: &TestServer, op: Op) {
    server.cluster.propose(op).await.unwrap();
}

async fn decide(server: &TestServer, auth_id: &str, approved: bool) {
    let auth_id = auth_id.to_owned();
    propose(
        server,
        Op::DecideSshCheck(pb::DecideSshCheck { auth_id, approved }),
    )
    .await;
}

async fn ask(session: &TestSession, path: &str) -> Value {
    let (status, body) = session.exchange(Method::GET, path, "").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Where an answer sends the client, as the client makes a request of it, and the id of the check.
fn delegated(action: &Value) -> (String, String) {
    let url = action["holdAndDelegate"].as_str().unwrap();
    let path = url.strip_prefix("https://unused").unwrap();
    let filled = [
        ("$SRC_NODE_ID", "1"),
        ("$DST_NODE_ID", "2"),
        ("$LOCAL_USER", "deploy"),
    ];
    let path = filled.iter().fold(path.to_owned(), |path, (name, value)| {
        path.replace(name, value)
    });
    let auth_id = path.rsplit_once("auth_id=").unwrap().1.to_owned();
    (path, auth_id)
}

/// What lets a login in by the policy above.
fn accepted() -> Value {
    json!({
        "accept": true, "allowAgentForwarding": true, "allowLocalPortForwarding": true,
        "allowRemotePortForwarding": true,
    })
}

#[tokio::test]
async fn a_login_asked_about_here_and_approved_elsewhere_goes_on_at_a_third_replica() {
    let (server, client) = tailnet().await;
    let (second, third) = (server.sibling().await, server.sibling().await);
    let held = ask(&client.dial(&server).await, ASK).await;
    let (path, auth_id) = delegated(&held);
    assert_eq!(
        held,
        json!({
            "message": format!(
                "# This login needs a check.\n# To authenticate, visit: {SERVER_URL}/auth/{auth_id}\n"
            ),
            "holdAndDelegate": format!(
                "https://unused/machine/ssh/action/$SRC_NODE_ID/to/$DST_NODE_ID\
                 ?local_user=$LOCAL_USER&auth_id={auth_id}"
            ),
        })
    );
    let session = client.dial(&second).await;
    let (answer, ()) = tokio::join!(ask(&session, &path), decide(&third, &auth_id, true));
    assert_eq!(answer, accepted());
    // A client that missed the answer asks once more, and so does the next login.
    assert_eq!(ask(&session, &path).await, accepted());
    assert_eq!(ask(&client.dial(&third).await, ASK).await, accepted());
    server.log.advance(Duration::from_secs(3600));
    let late = ask(&session, ASK).await;
    assert_ne!(delegated(&late).1, auth_id);
}

#[tokio::test]
async fn a_client_that_waits_at_a_replica_that_is_behind_begins_no_second_check() {
    let (server, client) = tailnet().await;
    let behind = server.lagging_sibling().await;
    let (path, auth_id) = delegated(&ask(&client.dial(&server).await, ASK).await);
    let session = client.dial(&behind).await;
    let mut answer = std::pin::pin!(ask(&session, &path));
    let mut changes = behind.cluster.subscribe();
    tokio::select! {
        answer = &mut answer => panic!("answered before the decision: {answer}"),
        learnt = within(changes.recv()) => learnt.unwrap(),
    };
    assert_eq!(server.cluster.state().ssh_checks().count(), 1);
    decide(&server, &auth_id, true).await;
    behind.cluster.linearizable().await.unwrap();
    assert_eq!(answer.await, accepted());
}

#[tokio::test]
async fn a_rejected_login_is_told_so() {
    let (server, client) = tailnet().await;
    let session = client.dial(&server).await;
    let (path, auth_id) = delegated(&ask(&session, ASK).await);
    let (answer, ()) = tokio::join!(ask(&session, &path), decide(&server, &auth_id, false));
    assert_eq!(answer["reject"], true);
    assert!(answer["message"].as_str().unwrap().contains("rejected"));
}

#[tokio::test]
async fn a_login_whose_time_is_up_leaves_nobody_waiting() {
    let (server, client) = tailnet().await;
    let session = client.dial(&server).await;
    let (path, auth_id) = delegated(&ask(&session, ASK).await);
    let expire = async {
        server.log.advance(Duration::from_secs(901));
        propose(&server, Op::Tick(pb::Tick {})).await;
    };
    let (answer, ()) = tokio::join!(ask(&session, &path), expire);
    // It depends on which came first: the end, or the client that waits for it.
    assert!(
        answer["reject"] == true || delegated(&answer).1 != auth_id,
        "{answer}"
    );
}

#[tokio::test]
async fn a_check_that_the_cluster_has_forgotten_is_begun_anew() {
    let (server, client) = tailnet().await;
    let session = client.dial(&server).await;
    let (path, auth_id) = delegated(&ask(&session, ASK).await);
    server.log.advance(Duration::from_secs(901));
    propose(&server, Op::Tick(pb::Tick {})).await;
    let (_, fresh) = delegated(&ask(&session, &path).await);
    assert_ne!(fresh, auth_id);
    assert!(server.cluster.state().ssh_check(&fresh).is_some());
}

#[tokio::test]
async fn nobody_but_the_destination_learns_or_begins_anything() {
    let (server, client) = tailnet().await;
    let (source, stranger) = (TestClient::new(1), TestClient::new(9));
    for other in [source, stranger] {
        let session = other.dial(&server).await;
        let (status, _) = session.exchange(Method::GET, ASK, "").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
    let session = client.dial(&server).await;
    for (path, wanted) in [
        (
            "/machine/ssh/action/1/to/9?local_user=deploy",
            StatusCode::UNAUTHORIZED,
        ),
        ("/machine/ssh/action/1/to/2", StatusCode::BAD_REQUEST),
        (
            "/machine/ssh/action/1/to/x?local_user=deploy",
            StatusCode::BAD_REQUEST,
        ),
    ] {
        let (status, body) = session.exchange(Method::GET, path, "").await;
        assert_eq!(status, wanted, "{path}: {body}");
    }
    // What is final is told to the person, and not asked again for half an hour.
    let gone = ask(&session, "/machine/ssh/action/9/to/2?local_user=deploy").await;
    assert_eq!(gone["reject"], true);
    let odd = ask(&session, "/machine/ssh/action/1/to/2?local_user=a%0Ab").await;
    assert_eq!(odd["reject"], true);
    let refused = ask(&session, "/machine/ssh/action/1/to/2?local_user=root").await;
    assert_eq!(refused["reject"], true);
    assert_eq!(server.cluster.state().ssh_checks().count(), 0);
}

#[tokio::test]
async fn without_a_leader_who_was_approved_gets_in_and_others_come_back() {
    let (server, client) = tailnet().await;
    let session = client.dial(&server).await;
    let (_, auth_id) = delegated(&ask(&session, ASK).await);
    server.log.set_available(false);
    let (status, _) = session.exchange(Method::GET, ASK, "").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    server.log.set_available(true);
    decide(&server, &auth_id, true).await;
    server.log.set_available(false);
    assert_eq!(ask(&session, ASK).await, accepted());
    let unknown = "/machine/ssh/action/9/to/2?local_user=deploy";
    let (status, _) = session.exchange(Method::GET, unknown, "").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    server
        .log
        .advance(limits::STALE_SERVICE_MAX + Duration::from_secs(1));
    let (status, _) = session.exchange(Method::GET, ASK, "").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(start_paused = true)]
async fn who_waits_at_a_replica_that_is_cut_off_is_sent_elsewhere() {
    let (server, client) = tailnet().await;
    let session = client.dial(&server).await;
    let (path, _) = delegated(&ask(&session, ASK).await);
    let cut_off = async {
        server.log.set_available(false);
        server.log.set_cut_off(true);
        server.log.advance(Duration::from_secs(31));
    };
    let waiting = session.exchange(Method::GET, &path, "");
    let ((status, _), ()) = tokio::join!(waiting, cut_off);
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_session_that_asks_beyond_its_rate_is_told_to_come_back() {
    let (server, client) = tailnet().await;
    let session = client.dial(&server).await;
    let refused = "/machine/ssh/action/1/to/2?local_user=root";
    let mut last = StatusCode::OK;
    for _ in 0..limits::SSH_ASKS_BURST * 2 {
        last = within(session.exchange(Method::GET, refused, "")).await.0;
        if last != StatusCode::OK {
            break;
        }
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    assert!(server.control.metrics().limit_hits(Limit::SshAsks) > 0);
    // Another one is not held back by that.
    ask(&client.dial(&server).await, refused).await;
}

#[tokio::test]
async fn a_crowd_of_logins_is_told_so_and_then_met_by_the_rate_of_the_replica() {
    let (server, client) = tailnet().await;
    let metrics = server.control.metrics();
    let mut asked = 0;
    while metrics.limit_hits(Limit::SshChecks) == 0 && asked < limits::LOGINS_BURST * 4 {
        let session = client.dial(&server).await;
        for _ in 0..limits::SSH_ASKS_BURST {
            within(session.exchange(Method::GET, ASK, "")).await;
            asked += 1;
        }
    }
    assert!(metrics.limit_hits(Limit::SshChecks) > 0);
    assert!(metrics.limit_hits(Limit::PendingSshChecks) > 0);
    assert!(server.cluster.state().ssh_checks().count() < 20);
}

#[tokio::test]
async fn the_page_says_whose_login_it_is_and_what_to_type() {
    let (server, client) = tailnet().await;
    let (_, auth_id) = delegated(&ask(&client.dial(&server).await, ASK).await);
    let (status, _, body) = server.get(&format!("/auth/{auth_id}")).await;
    let page = String::from_utf8(body.to_vec()).unwrap();
    assert_eq!(status, StatusCode::OK);
    assert!(
        page.contains(&format!("headscale auth approve --auth-id {auth_id}")),
        "{page}"
    );
    assert!(page.contains("<b>deploy</b>"), "{page}");
    let (status, _, body) = server
        .get(&format!("/auth/hskey-authreq-{}", "0".repeat(24)))
        .await;
    let page = String::from_utf8(body.to_vec()).unwrap();
    assert_eq!(status, StatusCode::OK);
    assert!(
        page.contains("auth approve") && !page.contains("<b>"),
        "{page}"
    );
    assert_eq!(
        server.get("/auth/nonsense").await.0,
        StatusCode::BAD_REQUEST
    );
}
