//! rustls configurations for the three roles: serving replicas, calling replicas, joining.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use super::verify::PinnedAuthority;
use super::{Authority, PeerName, ReplicaKey, SignError};

const ALPN_HTTP2: &[u8] = b"h2";

/// What a replica proves its identity with and checks others against.
pub(crate) struct Credentials {
    /// The authority that signed the certificate.
    pub(crate) authority: CertificateDer<'static>,
    /// Other authorities whose certificates count while one replaces another.
    pub(crate) also_trusted: Vec<CertificateDer<'static>>,
    /// This replica's certificate.
    pub(crate) certificate: CertificateDer<'static>,
    /// Its private key.
    pub(crate) key: ReplicaKey,
    /// Log index of the newest request for a new certificate that this one answers.
    pub(crate) renewed_at: u64,
    /// Log index of the records that all this was made by: older ones change nothing.
    pub(crate) as_of: u64,
}

impl Credentials {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        // The authority goes along for joiners, who know only its hash.
        vec![self.certificate.clone(), self.authority.clone()]
    }

    /// All authorities whose certificates count.
    pub(crate) fn trusted(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        std::iter::once(&self.authority).chain(&self.also_trusted)
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in self.trusted() {
            roots.add(authority.clone())?;
        }
        Ok(Arc::new(roots))
    }
}

/// Serving: certificates of the cluster are verified, their absence is left to each RPC to judge.
///
/// # Errors
/// The credentials do not fit together.
pub(crate) fn server_settings(credentials: &Credentials) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(credentials.roots()?, Arc::clone(&provider))
            .allow_unauthenticated()
            .build()?;
    let mut settings = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(credentials.chain(), credentials.key.private_key())?;
    settings.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    // Connections are few and long-lived: resumption would only add a way around verification.
    settings.send_tls13_tickets = 0;
    Ok(Arc::new(settings))
}

/// Calling another replica; its name is given per connection.
///
/// # Errors
/// The credentials do not fit together.
pub(crate) fn client_settings(credentials: &Credentials) -> Result<Arc<ClientConfig>, TlsError> {
    let mut settings = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(credentials.roots()?)
        .with_client_auth_cert(credentials.chain(), credentials.key.private_key())?;
    settings.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    Ok(Arc::new(settings))
}

/// The settings of a running replica, for connections made from now on: both are replaced together
/// when its certificate is renewed. Connections that are open go on.
#[derive(Clone)]
pub(crate) struct Tls(Arc<ArcSwap<(Arc<ServerConfig>, Arc<ClientConfig>)>>);

impl Tls {
    /// Settings for these credentials.
    ///
    /// # Errors
    /// The credentials do not fit together.
    pub(crate) fn new(credentials: &Credentials) -> Result<Self, TlsError> {
        let both = (server_settings(credentials)?, client_settings(credentials)?);
        Ok(Self(Arc::new(ArcSwap::from_pointee(both))))
    }

    /// For connections that others make.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.load().0)
    }

    /// For connections to others.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0.load().1)
    }

    /// Takes other settings.
    pub(crate) fn replace(&self, by: &Self) {
        self.0.store(by.0.load_full());
    }
}

/// Joining: no certificate yet, and any replica below the pinned authority will do.
///
/// # Errors
/// The TLS library refuses the protocol version.
pub(crate) fn join_settings(
    cluster_id: &str,
    ca_sha256: [u8; 32],
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let verifier = PinnedAuthority::new(cluster_id, ca_sha256, &provider);
    without_certificate(provider, verifier)
}

/// Serving before there is a cluster: with a certificate that means nothing, and asking for none.
///
/// # Errors
/// No key can be made.
pub(crate) fn uncertified_server(now: OffsetDateTime) -> Result<Arc<ServerConfig>, TlsError> {
    let authority = Authority::create(NO_CLUSTER, now)?;
    let key = ReplicaKey::create()?;
    let certificate = authority.sign(&PeerName::new(NO_CLUSTER, 0), &key.public_key(), now)?;
    let mut settings = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key.private_key())?;
    settings.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    settings.send_tls13_tickets = 0;
    Ok(Arc::new(settings))
}

/// Calling whoever answers: what is said must prove itself.
///
/// # Errors
/// The TLS library refuses the protocol version.
pub(crate) fn uncertified_client() -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let verifier = PinnedAuthority::nobodys(&provider);
    without_certificate(provider, verifier)
}

fn without_certificate(
    provider: Arc<CryptoProvider>,
    verifier: Arc<PinnedAuthority>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut settings = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    settings.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    Ok(Arc::new(settings))
}

/// Stands where the cluster's id does while there is none.
const NO_CLUSTER: &str = "none";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Credentials that do not fit together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// Certificate, key or protocol version is refused.
    #[error("certificate or key is refused")]
    Rustls(#[from] rustls::Error),
    /// No certificate can be made.
    #[error("no certificate can be made")]
    Sign(#[from] SignError),
    /// The authority cannot verify clients.
    #[error("the authority cannot verify replicas")]
    Verifier(#[from] VerifierBuilderError),
}
