//! A relay on loopback, for tests.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tempfile::TempDir;

use super::{
    Admission, CertificateSource, RelayConfig, RelayHandle, RelayListener, RelayPrivateKey,
    RelayServer, RelayTls, StaticNames, Verdict,
};
use crate::types::{NodeKey, Timestamp};

/// The longest that a test waits for anything.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A relay on loopback.
pub(crate) struct TestRelay {
    pub(super) server: RelayServer,
    pub(crate) handle: RelayHandle,
    pub(super) public_key: [u8; 32],
    pub(super) cert_name: String,
    _folder: TempDir,
}

impl TestRelay {
    /// A relay that lets in whom `admission` likes.
    pub(crate) fn start(admission: impl Fn(NodeKey) -> Verdict + Send + Sync + 'static) -> Self {
        Self::start_with(admission, |_| {})
    }

    /// The same, with other settings.
    pub(super) fn start_with(
        admission: impl Fn(NodeKey) -> Verdict + Send + Sync + 'static,
        adjust: impl FnOnce(&mut RelayConfig),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relay-cert.pem");
        let names = vec!["127.0.0.1".to_owned()];
        let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
        let source = CertificateSource::SelfSigned { path, names };
        let key = RelayPrivateKey::generate();
        let tls = RelayTls::load(source, &key.public_hex(), Timestamp::from_unix_ms(now)).unwrap();
        let mut config = RelayConfig::new(
            key,
            tls,
            Arc::new(AdmitBy(admission)),
            Arc::new(StaticNames::default()),
        );
        adjust(&mut config);
        let listener = RelayListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let server = RelayServer::start(listener, config).unwrap();
        let handle = server.handle();
        let cert_name = handle.cert_name().borrow().clone().unwrap();
        Self {
            public_key: handle.public_key(),
            server,
            handle,
            cert_name,
            _folder: folder,
        }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Waits until a counter of the relay says so.
    pub(super) async fn wait_for(&self, what: &str, mut is_so: impl FnMut(&RelayHandle) -> bool) {
        let wait = async {
            while !is_so(&self.handle) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"));
    }
}

/// Decides by a function.
struct AdmitBy<F>(F);

impl<F: Fn(NodeKey) -> Verdict + Send + Sync + 'static> Admission for AdmitBy<F> {
    fn admit(&self, key: NodeKey, source: IpAddr) -> BoxFuture<'_, Verdict> {
        assert!(source.is_loopback());
        Box::pin(std::future::ready((self.0)(key)))
    }
}
