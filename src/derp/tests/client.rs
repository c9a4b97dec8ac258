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
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{PATIENCE, TestRelay};
use crate::types::NodeKey;

/// How packets start that relays treat as path discovery.
const DISCO: &[u8] = b"TS\xf0\x9f\x92\xac";

/// A connected client.
pub(super) struct TestClient {
    pub(super) key: NodeKey,
    cipher: SalsaBox,
    io: TlsStream<TcpStream>,
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
        let cipher = SalsaBox::new(&relay.public_key.into(), &secret(seed));
        let mut client = Self {
            key: key(seed),
            cipher,
            io,
        };
        let (kind, payload) = client.frame().await.unwrap();
        assert_eq!(kind, 0x01);
        assert_eq!(
            payload,
            [&b"DERP\xf0\x9f\x94\x91"[..], &relay.public_key].concat()
        );
        client
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
        let nonce = [0x42; 24];
        let sealed = self.cipher.encrypt(&nonce.into(), json).unwrap();
        let payload = [&self.key.as_bytes()[..], &nonce, &sealed].concat();
        self.send_frame(0x02, &payload).await;
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
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&[kind][..], &len, payload].concat();
        if self.io.write_all(&frame).await.is_ok() {
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
