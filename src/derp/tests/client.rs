//! A DERP client that shares no codec with the relay: a second opinion on the bytes.

use std::io;
use std::sync::Arc;

use crypto_box::SalsaBox;
use crypto_box::aead::Aead;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{PATIENCE, TestRelay};
use crate::types::NodeKey;
use crate::websocket::WebSocketIo;

/// How packets start that relays treat as path discovery.
const DISCO: &[u8] = b"TS\xf0\x9f\x92\xac";

/// What a client's bytes go over.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// A connected client.
pub(super) struct TestClient {
    pub(super) key: NodeKey,
    cipher: SalsaBox,
    io: Box<dyn Transport>,
}

/// The bytes of a frame.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind][..], &len, payload].concat()
}

/// The secret key that `seed` stands for.
fn secret(seed: u8) -> crypto_box::SecretKey {
    crypto_box::SecretKey::from([seed; 32])
}

/// The public key that `seed` stands for.
pub(super) fn key(seed: u8) -> NodeKey {
    NodeKey::from_bytes(*secret(seed).public_key().as_bytes())
}

/// TLS with the relay; its certificate must be the one it announces.
pub(super) async fn dial(relay: &TestRelay, alpn: &[&str]) -> io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = PinVerifier {
        pin: relay.cert_name.clone(),
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let tcp = TcpStream::connect(relay.addr()).await?;
    let name = ServerName::from(relay.addr().ip());
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}

impl TestClient {
    /// Upgrades to DERP and reads the relay's key.
    pub(super) async fn upgrade(relay: &TestRelay, seed: u8) -> Self {
        let mut io = dial(relay, &[]).await.unwrap();
        let request =
            b"GET /derp HTTP/1.1\r\nHost: r\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n";
        io.write_all(request).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(io.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101 Switching Protocols\r\n"));
        let mut client = Self::over(relay, seed, Box::new(io));
        client.expect_server_key(relay).await;
        client
    }

    /// Upgrades to DERP inside a WebSocket and reads the relay's key.
    pub(super) async fn websocket(relay: &TestRelay, seed: u8) -> Self {
        let io = Self::open_websocket(relay).await;
        let mut client = Self::over(relay, seed, io);
        client.expect_server_key(relay).await;
        client
    }

    /// Upgrades to DERP inside a WebSocket.
    pub(super) async fn open_websocket(relay: &TestRelay) -> Box<dyn Transport> {
        let mut io = dial(relay, &[]).await.unwrap();
        let request = b"GET /derp HTTP/1.1\r\nHost: r\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: derp\r\n\r\n";
        io.write_all(request).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(io.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "));
        let socket = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
        Box::new(WebSocketIo::new(socket))
    }

    /// Knows the relay's key: sends the upgrade, the introduction and a first packet in one piece
    /// and waits for nothing.
    pub(super) async fn fast_start(
        relay: &TestRelay,
        seed: u8,
        dst: NodeKey,
        packet: &[u8],
    ) -> Self {
        let io = dial(relay, &[]).await.unwrap();
        let mut client = Self::over(relay, seed, Box::new(io));
        let request = b"GET /derp HTTP/1.1\r\nHost: r\r\nUpgrade: DERP\r\n\
            Connection: Upgrade\r\nDerp-Fast-Start: 1\r\n\r\n";
        let wire = [
            request,
            &client.introduction(br#"{"version":2}"#)[..],
            &frame(0x04, &[&dst.as_bytes()[..], packet].concat()),
        ];
        client.io.write_all(&wire.concat()).await.unwrap();
        client.io.flush().await.unwrap();
        client.expect_server_key(relay).await;
        client.expect_server_info().await;
        client
    }

    fn over(relay: &TestRelay, seed: u8, io: Box<dyn Transport>) -> Self {
        let cipher = SalsaBox::new(&relay.public_key.into(), &secret(seed));
        Self {
            key: key(seed),
            cipher,
            io,
        }
    }

    async fn expect_server_key(&mut self, relay: &TestRelay) {
        let (kind, payload) = self.frame().await.unwrap();
        assert_eq!(kind, 0x01);
        assert_eq!(
            payload,
            [&b"DERP\xf0\x9f\x94\x91"[..], &relay.public_key].concat()
        );
    }

    /// The same, and introduces itself.
    pub(super) async fn connect(relay: &TestRelay, seed: u8) -> Self {
        let mut client = Self::upgrade(relay, seed).await;
        client
            .introduce(br#"{"version":2,"CanAckPings":true}"#)
            .await;
        client
    }

    /// Sends a box with this JSON.
    pub(super) async fn introduce(&mut self, json: &[u8]) {
        let wire = self.introduction(json);
        self.io.write_all(&wire).await.unwrap();
        self.io.flush().await.unwrap();
    }

    fn introduction(&self, json: &[u8]) -> Vec<u8> {
        let nonce = [0x42; 24];
        let sealed = self.cipher.encrypt(&nonce.into(), json).unwrap();
        frame(0x02, &[&self.key.as_bytes()[..], &nonce, &sealed].concat())
    }

    /// Reads the end of the handshake.
    pub(super) async fn expect_server_info(&mut self) {
        let (kind, payload) = self.frame().await.unwrap();
        assert_eq!(kind, 0x03);
        let (nonce, sealed) = payload.split_first_chunk::<24>().unwrap();
        let json = self.cipher.decrypt(&(*nonce).into(), sealed).unwrap();
        assert_eq!(json, br#"{"version":2}"#);
    }

    /// Sends any frame. A relay that refuses it by its header may be gone before its end.
    pub(super) async fn send_frame(&mut self, kind: u8, payload: &[u8]) {
        if self.io.write_all(&frame(kind, payload)).await.is_ok() {
            let _ = self.io.flush().await;
        }
    }

    /// Sends a packet.
    pub(super) async fn send(&mut self, dst: NodeKey, packet: &[u8]) {
        self.send_frame(0x04, &[&dst.as_bytes()[..], packet].concat())
            .await;
    }

    /// Sends a packet that looks like path discovery.
    pub(super) async fn send_disco(&mut self, dst: NodeKey, tail: &[u8]) {
        self.send(dst, &[DISCO, &[0; 56], tail].concat()).await;
    }

    /// The next frame; `None` when the relay closed the connection.
    pub(super) async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        timeout(PATIENCE, async {
            let kind = self.io.read_u8().await.ok()?;
            let len = self.io.read_u32().await.unwrap();
            let mut payload = vec![0; usize::try_from(len).unwrap()];
            self.io.read_exact(&mut payload).await.unwrap();
            Some((kind, payload))
        })
        .await
        .expect("a frame in time")
    }

    /// The next frame must be a packet from `src`; returns it.
    pub(super) async fn packet_from(&mut self, src: NodeKey) -> Vec<u8> {
        let (kind, payload) = self.frame().await.unwrap();
        assert_eq!(kind, 0x05, "{payload:?}");
        assert_eq!(payload[..32], src.as_bytes()[..]);
        payload[32..].to_vec()
    }

    /// The next frame must be a notice about `key`; returns its reason.
    pub(super) async fn gone(&mut self, key: NodeKey) -> u8 {
        let (kind, payload) = self.frame().await.unwrap();
        assert_eq!((kind, payload.len()), (0x08, 33));
        assert_eq!(payload[..32], key.as_bytes()[..]);
        payload[32]
    }

    /// Shows that the relay handled everything sent so far.
    pub(super) async fn sync(&mut self) {
        self.send_frame(0x12, b"sync-sync").await;
        let (kind, payload) = self.frame().await.unwrap();
        assert_eq!((kind, &payload[..]), (0x13, &b"sync-syn"[..]));
    }

    /// The relay must close the connection, perhaps after frames that do not matter.
    pub(super) async fn expect_end(&mut self) {
        while self.frame().await.is_some() {}
    }
}

/// Accepts the certificate whose hash the relay announces, as clients do for `sha256-raw` names.
#[derive(Debug)]
struct PinVerifier {
    pin: String,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        assert!(intermediates.is_empty(), "a pinned certificate comes alone");
        let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(end_entity));
        assert_eq!(self.pin, format!("sha256-raw:{hash}"));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
