//! The relay's certificate and TLS settings.
//!
//! A configured certificate is read from its files, again whenever they change. Without one, the
//! relay makes a self-signed certificate that the DERP map pins by hash (`DERPNode.CertName`), so
//! it must live long: every change makes the region's clients dial anew. Behind a configured
//! certificate comes one that tells the relay's key; behind a pinned one not, since clients before
//! 1.84 expect it alone.

mod meta;
mod self_signed;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

use crate::types::Timestamp;

/// Where the relay's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// PEM files that somebody else keeps up to date.
    Files {
        /// The chain, leaf first.
        cert: PathBuf,
        /// The leaf's private key.
        key: PathBuf,
    },
    /// Made by the relay and kept in the file at `path`.
    SelfSigned {
        /// PEM file with certificate and key.
        path: PathBuf,
        /// Names and addresses that clients dial.
        names: Vec<String>,
    },
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not PEM, or holds no certificate or key.
    #[error("no certificate or key in PEM form in {}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// The key does not fit the certificate, or is of an unknown kind.
    #[error("certificate {} and its key do not work together", path.display())]
    Pair {
        /// The certificate file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The stored self-signed certificate is damaged.
    #[error("{} holds no certificate: remove it, a new one is made", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A self-signed certificate cannot be made.
    #[error("cannot make a certificate for {names:?}")]
    Make {
        /// The names that it should have.
        names: Vec<String>,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// A self-signed certificate cannot be stored.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The certificate that tells the relay's key cannot be made.
    #[error("cannot make the certificate that tells the relay's key")]
    Meta(#[source] rcgen::Error),
    /// The TLS library refuses its own defaults.
    #[error("cannot set up TLS")]
    Setup(#[source] rustls::Error),
}

/// TLS settings with a certificate that can be exchanged while they are in use.
#[derive(Clone)]
pub struct RelayTls {
    source: CertificateSource,
    /// Comes last in a chain that is not pinned.
    meta: CertificateDer<'static>,
    current: Arc<Current>,
    server_config: Arc<ServerConfig>,
}

/// The certificate that handshakes use.
#[derive(Debug)]
struct Current {
    certified: ArcSwap<CertifiedKey>,
    /// One exchange at a time.
    exchange: Mutex<()>,
}

impl RelayTls {
    /// Reads the certificate, or makes one, for the relay with this public key (64 hex digits).
    /// Blocks on files.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn load(
        source: CertificateSource,
        relay_public_hex: &str,
        now: Timestamp,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let meta = meta::certificate(relay_public_hex, now.unix_ms().div_euclid(1000))
            .map_err(TlsError::Meta)?;
        let certified = ArcSwap::from_pointee(load(&source, &meta, &provider, now)?);
        let current = Arc::new(Current {
            certified,
            exchange: Mutex::new(()),
        });
        let server_config = server_config(provider, Arc::clone(&current))?;
        Ok(Self {
            source,
            meta,
            current,
            server_config,
        })
    }

    /// Looks whether the certificate should be exchanged, and does so: its files changed, or it is
    /// self-signed and near its end. Returns whether it was. On an error the old one stays in use.
    /// Blocks on files.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn refresh(&self, now: Timestamp) -> Result<bool, TlsError> {
        let _exchange = self.current.exchange.lock();
        let provider = self.server_config.crypto_provider();
        let fresh = load(&self.source, &self.meta, provider, now)?;
        let changed = fresh.cert != self.current.certified.load().cert;
        if changed {
            self.current.certified.store(Arc::new(fresh));
        }
        Ok(changed)
    }

    /// What `DERPNode.CertName` must say: `sha256-raw:<hex>` for a self-signed certificate, nothing
    /// for one that clients check by name.
    pub fn cert_name(&self) -> Option<String> {
        match self.source {
            CertificateSource::Files { .. } => None,
            CertificateSource::SelfSigned { .. } => {
                let certified = self.current.certified.load();
                let leaf = certified.cert.first()?;
                Some(format!(
                    "sha256-raw:{}",
                    HEXLOWER.encode(&Sha256::digest(leaf))
                ))
            }
        }
    }

    /// The settings for accepting connections.
    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server_config)
    }
}

impl fmt::Debug for RelayTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayTls")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified.load_full())
    }
}

/// TLS 1.2 and 1.3, HTTP/1.1 only, and nothing kept for resumption, which DERP clients never ask
/// for: a ticket would cost two records per handshake.
fn server_config(
    provider: Arc<CryptoProvider>,
    certificate: Arc<Current>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

fn load(
    source: &CertificateSource,
    meta: &CertificateDer<'static>,
    provider: &CryptoProvider,
    now: Timestamp,
) -> Result<CertifiedKey, TlsError> {
    match source {
        CertificateSource::Files { cert, key } => {
            let mut certified = certified(cert, &read(cert)?, key, &read(key)?, provider)?;
            certified.cert.push(meta.clone());
            Ok(certified)
        }
        CertificateSource::SelfSigned { path, names } => {
            let pem = self_signed::load_or_make(path, names, now)?;
            certified(path, &pem, path, &pem, provider)
        }
    }
}

fn certified(
    cert_path: &Path,
    cert_pem: &[u8],
    key_path: &Path,
    key_pem: &[u8],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let chain = chain(cert_path, cert_pem)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|source| TlsError::Pem {
        path: key_path.to_owned(),
        source,
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|source| TlsError::Pair {
        path: cert_path.to_owned(),
        source,
    })
}

/// The certificates of a PEM file; at least one.
fn chain(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = |source| TlsError::Pem {
        path: path.to_owned(),
        source,
    };
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(error)?;
    if chain.is_empty() {
        Err(error(pem::Error::NoItemsFound))
    } else {
        Ok(chain)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_790_000_000_000);
    const KEY: &str = "5e5e";
    const DAY: Duration = Duration::from_secs(86_400);

    fn self_signed(folder: &Path, names: &[&str]) -> CertificateSource {
        CertificateSource::SelfSigned {
            path: folder.join("relay-cert.pem"),
            names: names.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn a_self_signed_certificate_survives_restarts_and_is_pinned() {
        let folder = tempfile::tempdir().unwrap();
        let source = self_signed(folder.path(), &["relay.example", "192.0.2.1"]);
        let tls = RelayTls::load(source.clone(), KEY, NOW).unwrap();
        let pin = tls.cert_name().unwrap();
        assert_eq!(pin.len(), "sha256-raw:".len() + 64, "{pin}");
        let later = NOW.saturating_add(DAY * 200);
        assert_eq!(
            RelayTls::load(source, KEY, later)
                .unwrap()
                .cert_name()
                .unwrap(),
            pin
        );
        assert!(!tls.refresh(later).unwrap());
        assert_eq!(
            tls.current.certified.load().cert.len(),
            1,
            "a pinned one comes alone"
        );
    }

    #[test]
    fn a_self_signed_certificate_is_renewed_before_its_end_and_for_new_names() {
        let folder = tempfile::tempdir().unwrap();
        let tls = RelayTls::load(self_signed(folder.path(), &["relay.example"]), KEY, NOW).unwrap();
        let pin = tls.cert_name();
        assert!(tls.refresh(NOW.saturating_add(DAY * 350)).unwrap());
        let renewed = tls.cert_name();
        assert_ne!(renewed, pin);
        let moved = self_signed(folder.path(), &["other.example"]);
        let moved = RelayTls::load(moved, KEY, NOW.saturating_add(DAY * 350)).unwrap();
        assert_ne!(moved.cert_name(), renewed);
    }

    #[test]
    fn configured_files_are_read_again_when_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (
            folder.path().join("cert.pem"),
            folder.path().join("key.pem"),
        );
        let write = || {
            let made = rcgen::generate_simple_self_signed(vec!["relay.example".into()]).unwrap();
            fs::write(&cert, made.cert.pem()).unwrap();
            fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        };
        write();
        let source = CertificateSource::Files {
            cert: cert.clone(),
            key: key.clone(),
        };
        let tls = RelayTls::load(source, KEY, NOW).unwrap();
        assert_eq!(tls.cert_name(), None);
        let chain = |tls: &RelayTls| tls.current.certified.load().cert.len();
        assert_eq!(chain(&tls), 2, "the relay's key comes behind it");
        assert!(!tls.refresh(NOW).unwrap());
        write();
        assert!(tls.refresh(NOW).unwrap());
        fs::write(&key, "half a ke").unwrap();
        let error = tls.refresh(NOW).unwrap_err();
        assert!(error.to_string().contains("key.pem"), "{error}");
    }

    #[test]
    fn problems_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relay-cert.pem");
        fs::write(&path, "no certificate").unwrap();
        let error =
            RelayTls::load(self_signed(folder.path(), &["a.example"]), KEY, NOW).unwrap_err();
        assert!(error.to_string().contains("relay-cert.pem"), "{error}");
        let missing = folder.path().join("missing.pem");
        let source = CertificateSource::Files {
            cert: missing.clone(),
            key: missing,
        };
        let error = RelayTls::load(source, KEY, NOW).unwrap_err();
        assert!(error.to_string().contains("missing.pem"), "{error}");
    }
}
