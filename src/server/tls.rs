//! TLS of the client port, for those who run without a terminating balancer.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsFiles;

/// Why the client port has no certificate.
#[derive(Debug, thiserror::Error)]
pub enum ClientTlsError {
    /// A file is missing or holds no PEM.
    #[error("{key}: no PEM data in {}", path.display())]
    Pem {
        /// The configuration's key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// Certificate and key do not belong together.
    #[error("tls_cert_path {} and its key do not work together", path.display())]
    Pair {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// TLS 1.2 and later with the configured certificate; HTTP/1.1 alone, since the Noise upgrade exists
/// only there.
///
/// # Errors
/// See [`ClientTlsError`].
pub(super) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, ClientTlsError> {
    let fault = |key, path: &PathBuf| {
        let path = path.clone();
        move |source| ClientTlsError::Pem { key, path, source }
    };
    let chain = CertificateDer::pem_file_iter(&files.cert_path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(fault("tls_cert_path", &files.cert_path))?;
    let key = PrivateKeyDer::from_pem_file(&files.key_path)
        .map_err(fault("tls_key_path", &files.key_path))?;
    let pair = |source| ClientTlsError::Pair {
        path: files.cert_path.clone(),
        source,
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
