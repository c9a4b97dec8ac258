//! The certificate by which a relay tells its key, last in the chain.
//!
//! Clients that see it inside TLS 1.3 need not ask for the key: they send the upgrade and their
//! introduction at once and save a round trip (fast start, `derphttp` `parseMetaCert`).

use ::time::{Duration, OffsetDateTime};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, PKCS_ED25519, SerialNumber,
};
use rustls_pki_types::CertificateDer;

/// DERP's version, which clients read from the serial number.
const PROTOCOL_VERSION: u8 = 2;
/// Nobody checks it; long enough for any process.
const VALID: Duration = Duration::days(3650);

/// A self-signed certificate that names the relay's public key; `now_s` is in Unix seconds.
pub(super) fn certificate(
    relay_public_hex: &str,
    now_s: i64,
) -> Result<CertificateDer<'static>, rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, format!("derpkey{relay_public_hex}"));
    params.distinguished_name = subject;
    params.serial_number = Some(SerialNumber::from_slice(&[PROTOCOL_VERSION]));
    // With basic constraints: macOS refuses chains with certificates that lack them.
    params.is_ca = IsCa::ExplicitNoCa;
    let now = OffsetDateTime::from_unix_timestamp(now_s).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    params.not_before = now - Duration::days(30);
    params.not_after = now + VALID;
    Ok(params.self_signed(&key)?.der().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_the_key_and_the_version() {
        let key = "5e".repeat(32);
        let der = certificate(&key, 1_790_000_000).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        let name = parsed.subject().iter_common_name().next().unwrap();
        assert_eq!(name.as_str().unwrap(), format!("derpkey{key}"));
        assert_eq!(parsed.raw_serial(), [PROTOCOL_VERSION]);
        let constraints = parsed.basic_constraints().unwrap().unwrap();
        assert!(!constraints.value.ca);
    }
}
