//! The cluster's certificate authority and the keys that it signs.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::PeerName;

/// A replica whose clock is behind the signer's must still accept the certificate.
const BACKDATED: Duration = Duration::days(1);

/// The authority lasts until it is replaced (`cluster rotate-ca`).
const AUTHORITY_LIFETIME: Duration = Duration::days(365 * 20);

/// A replica renews its certificate by itself, long before.
const CERTIFICATE_LIFETIME: Duration = Duration::days(365);

/// With less than this left a certificate is renewed: time enough to notice that it is not.
pub(crate) const RENEW_BEFORE: Duration = Duration::days(120);

/// The cluster's certificate authority, able to sign.
pub(crate) struct Authority {
    certificate: CertificateDer<'static>,
    key_pkcs8: Zeroizing<Vec<u8>>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes the authority of a new cluster.
    ///
    /// # Errors
    /// No key can be made.
    pub(crate) fn create(cluster_id: &str, now: OffsetDateTime) -> Result<Self, SignError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = common_name(&format!("hydrascale cluster {cluster_id}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, now, AUTHORITY_LIFETIME);
        let certificate = params.self_signed(&key)?.der().clone();
        Self::load(certificate, Zeroizing::new(key.serialize_der()))
    }

    /// Takes a stored authority up again.
    ///
    /// # Errors
    /// Certificate or key (PKCS#8 DER) are damaged.
    pub(crate) fn load(
        certificate: CertificateDer<'static>,
        key_pkcs8: Zeroizing<Vec<u8>>,
    ) -> Result<Self, SignError> {
        let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key_pkcs8.as_slice()))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self {
            certificate,
            key_pkcs8,
            issuer,
        })
    }

    /// The authority's own certificate.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The signing key, PKCS#8 DER; secret.
    pub(crate) fn key_pkcs8(&self) -> &[u8] {
        &self.key_pkcs8
    }

    /// Certifies that the owner of `public_key` (SubjectPublicKeyInfo DER) is `name`.
    ///
    /// # Errors
    /// The key is of no supported kind.
    pub(crate) fn sign(
        &self,
        name: &PeerName,
        public_key: &[u8],
        now: OffsetDateTime,
    ) -> Result<CertificateDer<'static>, SignError> {
        let public_key = SubjectPublicKeyInfo::from_der(public_key)?;
        let mut params = CertificateParams::new(vec![name.to_string()])?;
        params.distinguished_name = common_name(&format!("replica {}", name.replica_id));
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        set_validity(&mut params, now, CERTIFICATE_LIFETIME);
        Ok(params.signed_by(&public_key, &self.issuer)?.der().clone())
    }
}

/// A replica's own key pair; the private half never leaves the data folder.
pub(crate) struct ReplicaKey(KeyPair);

impl ReplicaKey {
    /// Makes a key.
    ///
    /// # Errors
    /// No key can be made.
    pub(crate) fn create() -> Result<Self, SignError> {
        Ok(Self(KeyPair::generate()?))
    }

    /// Reads a key stored as PEM.
    ///
    /// # Errors
    /// It is damaged.
    pub(crate) fn from_pem(pem: &str) -> Result<Self, SignError> {
        Ok(Self(KeyPair::from_pem(pem)?))
    }

    /// The key pair as PEM; secret.
    pub(crate) fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// The public half, SubjectPublicKeyInfo DER.
    pub(crate) fn public_key(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// The private half for rustls.
    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }
}

/// SHA-256 of a certificate's DER, as join tokens pin it.
pub(crate) fn sha256(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// When a certificate ends, milliseconds since the Unix epoch; 0 for one that cannot be read.
pub(crate) fn expires_ms(certificate: &CertificateDer<'_>) -> i64 {
    validity_ms(certificate).1
}

/// From when until when a certificate is valid, milliseconds since the Unix epoch; both 0 for one that
/// cannot be read.
pub(crate) fn validity_ms(certificate: &CertificateDer<'_>) -> (i64, i64) {
    let parsed = x509_parser::parse_x509_certificate(certificate);
    parsed.map_or((0, 0), |(_, certificate)| {
        let validity = certificate.validity();
        let ms = |at: x509_parser::time::ASN1Time| at.timestamp().saturating_mul(1000);
        (ms(validity.not_before), ms(validity.not_after))
    })
}

/// Whether a replica's certificate that ends then is valid now, both in milliseconds since the Unix
/// epoch: all last equally long.
pub(crate) fn is_valid(expires_ms: i64, now_ms: i64) -> bool {
    let left_ms = i128::from(expires_ms) - i128::from(now_ms);
    (1..=(CERTIFICATE_LIFETIME + BACKDATED).whole_milliseconds()).contains(&left_ms)
}

fn set_validity(params: &mut CertificateParams, now: OffsetDateTime, lifetime: Duration) {
    params.not_before = now.saturating_sub(BACKDATED);
    params.not_after = now.saturating_add(lifetime);
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// A key or certificate that cannot be made or read.
#[derive(Debug, thiserror::Error)]
#[error("key or certificate cannot be made or read")]
pub(crate) struct SignError(#[from] rcgen::Error);
