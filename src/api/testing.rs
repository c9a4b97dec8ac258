//! A tailnet of one in-memory replica and requests against its API.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, Response};
use hydrascale_proto::state::v1::{
    CreateApiKey, Done, InitTailnet, PreAuthKeyProof, RegisterNode, Settings, StartLogin,
    command::Op,
};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{Access, ApiState, Clock, router};
use crate::cluster::{Cluster, LocalControl};
use crate::config::PolicyMode;
use crate::netmap::NetmapConfig;
use crate::session::MapStreams;
use crate::state::secret::{SecretKind, SecretText};
use crate::types::Timestamp;

/// When the tailnet begins.
const START_MS: i64 = 1_750_000_000_123;
const PEPPER: [u8; 32] = [7; 32];

pub(crate) struct World {
    pub(crate) cluster: Cluster,
    streams: MapStreams,
    pub(crate) control: LocalControl,
    pub(crate) policy_mode: PolicyMode,
    devices: u8,
}

impl World {
    pub(crate) async fn new() -> Self {
        let init = InitTailnet {
            settings: Some(Settings {
                ipv4_prefix: "100.64.0.0/10".to_owned(),
                ephemeral_inactivity_ms: 120_000,
                login_ttl_ms: 900_000,
                session_grace_ms: 10_000,
                replica_grace_ms: 25_000,
                ..Default::default()
            }),
            noise_private_key: vec![1; 32].into(),
            secret_pepper: PEPPER.to_vec().into(),
        };
        let start = Timestamp::from_unix_ms(START_MS);
        let (cluster, control) = Cluster::local(init, start).await.unwrap();
        let clock = || Timestamp::from_unix_ms(START_MS);
        let streams = MapStreams::new(cluster.clone(), NetmapConfig::default(), clock);
        Self {
            cluster,
            streams,
            control,
            policy_mode: PolicyMode::Database,
            devices: 0,
        }
    }

    pub(crate) fn router(&self, access: Access) -> Router {
        let control = self.control.clone();
        let clock = Clock::new(move || control.now());
        router(ApiState {
            cluster: self.cluster.clone(),
            streams: self.streams.clone(),
            access,
            clock,
            policy_mode: self.policy_mode,
        })
    }

    /// A request with local trust; the body of the answer is null when it is empty.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let (response, body) = self.send(Access::LocalTrust, method, path, &[], body).await;
        (response.status().as_u16(), body)
    }

    /// A request that must succeed.
    pub(crate) async fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(method, path, Some(body)).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }

    pub(crate) async fn send(
        &self,
        access: Access,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> (Response<()>, Value) {
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(format!("/api/v1{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let response = self
            .router(access)
            .oneshot(request.body(body).unwrap())
            .await
            .unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 1 << 20).await.unwrap();
        let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        (Response::from_parts(parts, ()), json)
    }

    pub(crate) async fn propose(&self, op: Op) -> Done {
        self.cluster.propose(op).await.unwrap()
    }

    /// A time from now on the log's clock.
    pub(crate) fn after(&self, by: Duration) -> Timestamp {
        self.control.now().saturating_add(by)
    }

    pub(crate) async fn user(&self, name: &str) {
        self.ok("POST", "/user", json!({ "name": name })).await;
    }

    /// A user of that name with a node that a fresh key let in.
    pub(crate) async fn node(&mut self, user: &str, hostname: &str, tags: &[&str]) {
        let created = self.ok("POST", "/user", json!({ "name": user })).await;
        let body = json!({
            "user": created["user"]["id"], "aclTags": tags,
            "expiration": self.after(Duration::from_secs(3600)),
        });
        let key = self.ok("POST", "/preauthkey", body).await;
        let text = key["preAuthKey"]["key"].as_str().unwrap();
        let secret = SecretText::parse(SecretKind::PreAuthKey, text).unwrap();
        let proof = PreAuthKeyProof {
            prefix: secret.prefix().to_owned(),
            secret_hash: secret.hash(&PEPPER).to_vec().into(),
        };
        self.devices += 1;
        self.propose(Op::RegisterNode(RegisterNode {
            machine_key: vec![self.devices; 32].into(),
            node_key: vec![self.devices + 100; 32].into(),
            hostinfo_json: json!({ "Hostname": hostname })
                .to_string()
                .into_bytes()
                .into(),
            capver: 130,
            auth_key: Some(proof),
            ..Default::default()
        }))
        .await;
    }

    pub(crate) async fn pending_login(&mut self, auth_id: &str, hostname: &str) {
        self.devices += 1;
        self.propose(Op::StartLogin(StartLogin {
            auth_id: auth_id.to_owned(),
            machine_key: vec![self.devices; 32].into(),
            node_key: vec![self.devices + 100; 32].into(),
            hostinfo_json: json!({ "Hostname": hostname })
                .to_string()
                .into_bytes()
                .into(),
            capver: 130,
            ..Default::default()
        }))
        .await;
    }

    /// Stores an API key as it is and returns its text.
    pub(crate) async fn api_key(&self, seed: u8, expires_at: Option<Timestamp>) -> String {
        let secret = SecretText::from_random(SecretKind::ApiKey, [seed; 6], &[seed; 32]);
        self.propose(Op::CreateApiKey(CreateApiKey {
            prefix: secret.prefix().to_owned(),
            secret_hash: secret.hash(&PEPPER).to_vec().into(),
            expires_at_ms: expires_at.map(Timestamp::unix_ms),
        }))
        .await;
        secret.expose().to_string()
    }
}
