//! A replica's client side over an in-memory cluster, and a small client that speaks the whole
//! protocol to it: HTTP/1.1, the upgrade, Noise and HTTP/2.

mod client;
mod session;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use hydrascale_proto::state::v1::{self as pb, command::Op};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{DuplexStream, duplex};

pub(super) use self::client::TestClient;
pub(super) use self::session::{TestFrames, TestSession};
use super::{Connection, Control, ControlMetrics, ControlOptions, serve_connection};
use super::{router, with_security_headers};
use crate::cluster::{Cluster, LocalControl};
use crate::netmap::NetmapConfig;
use crate::session::MapStreams;
use crate::state::secret::{SecretKind, SecretText};
use crate::types::{ReplicaId, Timestamp, UserId};

/// How long anything that must happen may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// What today's clients send.
pub(super) const CAPVER: u16 = 145;

pub(super) const SERVER_URL: &str = "https://hydra.example";
const NOISE_KEY: [u8; 32] = [0x11; 32];
const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);
const REMOTE: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    4321,
);

/// One replica.
pub(super) struct TestServer {
    pub(super) control: Control,
    pub(super) cluster: Cluster,
    pub(super) log: LocalControl,
    router: Router,
}

impl TestServer {
    pub(super) async fn start() -> Self {
        let init = pb::InitTailnet {
            settings: Some(pb::Settings {
                ipv4_prefix: "100.64.0.0/10".to_owned(),
                ipv6_prefix: "fd7a:115c:a1e0::/48".to_owned(),
                ephemeral_inactivity_ms: 120_000,
                login_ttl_ms: 900_000,
                session_grace_ms: 10_000,
                replica_grace_ms: 25_000,
                ..pb::Settings::default()
            }),
            noise_private_key: NOISE_KEY.to_vec().into(),
            secret_pepper: vec![7; 32].into(),
        };
        let (cluster, log) = Cluster::local(init, NOW).await.unwrap();
        Self::on(cluster, log)
    }

    /// Another replica's client side over the same log.
    pub(super) async fn sibling(&self) -> Self {
        let cluster = self.log.join(ReplicaId(2)).await.unwrap();
        Self::on(cluster, self.log.clone())
    }

    /// A replica over the same log that is behind until it asks.
    pub(super) async fn lagging_sibling(&self) -> Self {
        let cluster = self.log.join_lagging(ReplicaId(3)).await.unwrap();
        Self::on(cluster, self.log.clone())
    }

    fn on(cluster: Cluster, log: LocalControl) -> Self {
        let clock = log.clone();
        let options = ControlOptions {
            clock: Arc::new(move || clock.now()),
            ..ControlOptions::new(SERVER_URL, Default::default())
        };
        let streams = test_streams(&cluster);
        let control = Control::new(cluster.clone(), streams, options, ControlMetrics::default());
        let router = with_security_headers(router(control.clone()));
        Self {
            control,
            cluster,
            log,
            router,
        }
    }

    /// A connection to the client port.
    pub(super) fn connect(&self) -> DuplexStream {
        let (near, far) = duplex(64 * 1024);
        let (control, router) = (self.control.clone(), self.router.clone());
        self.control.tasks().spawn(async move {
            serve_connection(&control, far, Connection::unlimited(REMOTE), router).await;
        });
        near
    }

    /// One plain request on a connection of its own.
    pub(super) async fn plain(&self, request: Request<Body>) -> (StatusCode, HeaderMap, Bytes) {
        let (mut sender, connection) = http1::handshake(TokioIo::new(self.connect()))
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let response = within(sender.send_request(request)).await.unwrap();
        let (head, body) = response.into_parts();
        let body = within(body.collect()).await.unwrap().to_bytes();
        connection.abort();
        (head.status, head.headers, body)
    }

    pub(super) async fn get(&self, path: &str) -> (StatusCode, HeaderMap, Bytes) {
        self.plain(Request::get(path).body(Body::empty()).unwrap())
            .await
    }

    pub(super) async fn create_user(&self, name: &str) -> UserId {
        let op = Op::CreateUser(pb::CreateUser {
            name: name.to_owned(),
            ..Default::default()
        });
        UserId(self.cluster.propose(op).await.unwrap().id)
    }

    /// A pre-auth key for a user; `edit` changes the command.
    pub(super) async fn create_key(
        &self,
        user: UserId,
        edit: impl FnOnce(&mut pb::CreatePreAuthKey),
    ) -> String {
        let key = SecretText::from_random(SecretKind::PreAuthKey, rand::random(), &rand::random());
        let pepper = *self.cluster.state().secret_pepper().unwrap();
        let mut op = pb::CreatePreAuthKey {
            prefix: key.prefix().to_owned(),
            secret_hash: key.hash(&pepper).to_vec().into(),
            user_id: Some(user.0),
            expires_at_ms: Some(self.log.now().unix_ms() + 3_600_000),
            ..Default::default()
        };
        edit(&mut op);
        self.cluster
            .propose(Op::CreatePreAuthKey(op))
            .await
            .unwrap();
        key.expose().to_string()
    }

    pub(super) async fn approve(&self, auth_url: &str, user: UserId) {
        let auth_id = auth_url.rsplit_once('/').unwrap().1.to_owned();
        let op = pb::ApproveLogin {
            auth_id,
            user_id: user.0,
            method: pb::RegisterMethod::Cli.into(),
            ..Default::default()
        };
        self.cluster.propose(Op::ApproveLogin(op)).await.unwrap();
    }
}

fn test_streams(cluster: &Cluster) -> MapStreams {
    MapStreams::new(cluster.clone(), NetmapConfig::default(), || NOW)
}

/// Fails the test instead of hanging.
pub(super) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it happens within the test's patience")
}
