//! A device: its keys, its handshake and what it asks.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use bytes::BytesMut;
use data_encoding::BASE64;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{CAPVER, NOISE_KEY, TestServer, TestSession, within};
use crate::noise::record::SessionKeys;
use crate::noise::upgrade::{HANDSHAKE_NAME, PROTOCOL};
use crate::noise::{NoiseStream, handshake};
use crate::types::{MachinePrivateKey, NodeKey};

/// A device with its keys.
#[derive(Clone)]
pub(in crate::control) struct TestClient {
    pub(in crate::control) machine: MachinePrivateKey,
    pub(in crate::control) node_key: NodeKey,
    pub(in crate::control) capver: u16,
}

impl TestClient {
    pub(in crate::control) fn new(seed: u8) -> Self {
        Self {
            machine: MachinePrivateKey::from_bytes([seed; 32]),
            node_key: Self::node_key(seed),
            capver: CAPVER,
        }
    }

    /// A node key that belongs to no other seed.
    pub(in crate::control) fn node_key(seed: u8) -> NodeKey {
        let private = MachinePrivateKey::from_bytes([seed ^ 0x80; 32]);
        NodeKey::from_bytes(*private.public().as_bytes())
    }

    /// `/ts2021` up to the answer's head; the upgraded connection with the Noise state.
    pub(in crate::control) async fn upgrade(
        &self,
        server: &TestServer,
    ) -> Result<
        (
            impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
            snow::HandshakeState,
        ),
        StatusCode,
    > {
        let mut noise = self.initiator();
        let request = Request::post("http://hydra.example/ts2021")
            .header(header::UPGRADE, PROTOCOL)
            .header(header::CONNECTION, "upgrade")
            .header(HANDSHAKE_NAME, BASE64.encode(&self.initiation(&mut noise)))
            .body(Body::empty())
            .unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(server.connect()))
            .await
            .unwrap();
        tokio::spawn(connection.with_upgrades());
        let response = within(sender.send_request(request)).await.unwrap();
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(response.status());
        }
        assert_eq!(response.headers()[header::UPGRADE], PROTOCOL);
        let upgraded = within(hyper::upgrade::on(response)).await.unwrap();
        Ok((TokioIo::new(upgraded), noise))
    }

    pub(in crate::control) fn initiator(&self) -> snow::HandshakeState {
        let prologue = format!("Tailscale Control Protocol v{}", self.capver);
        snow::Builder::new("Noise_IK_25519_ChaChaPoly_BLAKE2s".parse().unwrap())
            .local_private_key(self.machine.expose_bytes())
            .unwrap()
            .remote_public_key(MachinePrivateKey::from_bytes(NOISE_KEY).public().as_bytes())
            .unwrap()
            .prologue(prologue.as_bytes())
            .unwrap()
            .build_initiator()
            .unwrap()
    }

    pub(in crate::control) fn initiation(&self, noise: &mut snow::HandshakeState) -> Vec<u8> {
        let mut message = vec![0; handshake::INITIATION_LEN];
        message[..2].copy_from_slice(&self.capver.to_be_bytes());
        message[2..5].copy_from_slice(&[1, 0, 96]);
        assert_eq!(noise.write_message(&[], &mut message[5..]), Ok(96));
        message
    }

    /// The record layer after the server's response; the early payload is not read yet.
    pub(in crate::control) async fn secure<T: AsyncRead + AsyncWrite + Unpin>(
        mut io: T,
        mut noise: snow::HandshakeState,
    ) -> NoiseStream<T> {
        let mut response = [0; handshake::RESPONSE_LEN];
        within(io.read_exact(&mut response)).await.unwrap();
        assert_eq!(response[..3], [2, 0, 48]);
        noise.read_message(&response[3..], &mut []).unwrap();
        let (client_to_server, server_to_client) = noise.dangerously_get_raw_split();
        let keys = SessionKeys {
            client_to_server,
            server_to_client,
        };
        let (opener, sealer) = keys.client_halves();
        NoiseStream::new(io, opener, sealer, BytesMut::new(), BytesMut::new())
    }

    /// The WebSocket variant of the upgrade, as clients in a browser do it.
    pub(in crate::control) async fn upgrade_websocket(
        &self,
        server: &TestServer,
        handshake: Option<&[u8]>,
    ) -> WebSocketStream<TokioIo<Upgraded>> {
        let query = handshake.map(|bytes| {
            let text = BASE64.encode(bytes).replace('+', "%2B").replace('/', "%2F");
            format!("?{HANDSHAKE_NAME}={text}")
        });
        let request = Request::get(format!("/ts2021{}", query.unwrap_or_default()))
            .header(header::UPGRADE, "websocket")
            .header(header::CONNECTION, "Upgrade")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==")
            .header(header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL)
            .header(header::ORIGIN, "https://elsewhere.example")
            .body(Body::empty())
            .unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(server.connect()))
            .await
            .unwrap();
        tokio::spawn(connection.with_upgrades());
        let response = within(sender.send_request(request)).await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()[header::SEC_WEBSOCKET_PROTOCOL], PROTOCOL);
        let upgraded = within(hyper::upgrade::on(response)).await.unwrap();
        WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await
    }

    /// A whole session, ready for requests.
    pub(in crate::control) async fn dial(&self, server: &TestServer) -> TestSession {
        let (io, noise) = self.upgrade(server).await.unwrap();
        let mut stream = Self::secure(io, noise).await;
        let mut head = [0; 9];
        within(stream.read_exact(&mut head)).await.unwrap();
        assert_eq!(head[..5], *b"\xff\xff\xffTS");
        let len = u32::from_be_bytes(head[5..].try_into().unwrap());
        within(stream.read_exact(&mut vec![0; len as usize]))
            .await
            .unwrap();
        TestSession::start(stream).await
    }

    /// A registration as Go's client writes it; `edit` changes members.
    pub(in crate::control) fn register_request(&self, edit: Value) -> Value {
        let mut request = json!({
            "Version": self.capver,
            "NodeKey": self.node_key,
            "OldNodeKey": NodeKey::default(),
            "NLKey": "",
            "Expiry": "0001-01-01T00:00:00Z",
            "Followup": "",
            "Hostinfo": { "OS": "linux", "Hostname": "device" },
        });
        merge(&mut request, edit);
        request
    }
}

impl TestClient {
    /// A streaming map request; `edit` changes members.
    pub(in crate::control) fn map_request(&self, edit: Value) -> Value {
        let mut request = json!({
            "Version": self.capver,
            "KeepAlive": true,
            "NodeKey": self.node_key,
            "Stream": true,
        });
        merge(&mut request, edit);
        request
    }
}

fn merge(into: &mut Value, edit: Value) {
    if let (Value::Object(into), Value::Object(edit)) = (into, edit) {
        into.extend(edit);
    }
}
