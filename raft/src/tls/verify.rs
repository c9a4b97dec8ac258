//! How a joiner recognises its cluster: by the hash of the authority's certificate.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use subtle::ConstantTimeEq;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::{PeerName, sha256};

/// Told to whoever joins with a token that names another authority.
const UNPINNED: &str = "the replica's certificate authority is not the one that the join token names: \
                        it was replaced since (`cluster rotate-ca`), or this is another cluster; make \
                        a new token with `cluster join-token create`";

/// Accepts any replica of the cluster whose authority has the expected hash.
///
/// The joiner knows addresses, not replica ids, so that any id will do; the cluster's id and its
/// authority are what the token pins. Servers send their authority's certificate for this.
#[derive(Debug)]
pub(super) struct PinnedAuthority {
    pin: Option<Pin>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// What a join token says of the cluster.
#[derive(Debug)]
struct Pin {
    cluster_id: String,
    ca_sha256: [u8; 32],
}

impl PinnedAuthority {
    pub(super) fn new(
        cluster_id: &str,
        ca_sha256: [u8; 32],
        provider: &CryptoProvider,
    ) -> Arc<Self> {
        let pin = Pin {
            cluster_id: cluster_id.to_owned(),
            ca_sha256,
        };
        Arc::new(Self {
            pin: Some(pin),
            algorithms: provider.signature_verification_algorithms,
        })
    }

    /// Accepts anybody: greetings before there is a cluster are sealed in themselves.
    pub(super) fn nobodys(provider: &CryptoProvider) -> Arc<Self> {
        Arc::new(Self {
            pin: None,
            algorithms: provider.signature_verification_algorithms,
        })
    }
}

impl Pin {
    fn find<'a>(&self, intermediates: &'a [CertificateDer<'_>]) -> Option<&'a CertificateDer<'a>> {
        intermediates.iter().find(|certificate| {
            bool::from(
                sha256(certificate)
                    .as_slice()
                    .ct_eq(self.ca_sha256.as_slice()),
            )
        })
    }
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(pin) = &self.pin else {
            return Ok(ServerCertVerified::assertion());
        };
        let unknown = || Error::General(UNPINNED.to_owned());
        let authority = pin.find(intermediates).ok_or_else(unknown)?;
        let anchor = anchor_from_trusted_cert(authority).map_err(bad_encoding)?;
        let certificate = EndEntityCert::try_from(end_entity).map_err(bad_encoding)?;
        certificate
            .verify_for_usage(
                self.algorithms.all,
                &[anchor],
                &[],
                now,
                KeyUsage::server_auth(),
                None,
                None,
            )
            .map_err(|error| Error::General(error.to_string()))?;
        match PeerName::of(end_entity) {
            Ok(name) if name.cluster_id == pin.cluster_id => Ok(ServerCertVerified::assertion()),
            Ok(_) | Err(_) => Err(Error::InvalidCertificate(CertificateError::NotValidForName)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn bad_encoding(_: webpki::Error) -> Error {
    Error::InvalidCertificate(CertificateError::BadEncoding)
}
