//! A certificate of the relay's own, kept with its key in one PEM file.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use ::time::{Duration, OffsetDateTime};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use zeroize::Zeroizing;

use super::{TlsError, chain};
use crate::derp::files;
use crate::derp::limits::{CERTIFICATE_DAYS, CERTIFICATE_RENEW_DAYS};
use crate::types::Timestamp;

/// The PEM file at `path`; made anew when there is none, when it is for other names, or when it is
/// about to end.
pub(super) fn load_or_make(
    path: &Path,
    names: &[String],
    now: Timestamp,
) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    match fs::read(path).map(Zeroizing::new) {
        Ok(pem) if is_good(path, &pem, names, now)? => Ok(pem),
        Ok(_) => {
            tracing::info!(path = %path.display(), "relay certificate replaced");
            make(path, names, now)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path, names, now),
        Err(source) => Err(TlsError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Whether a stored certificate may be kept.
fn is_good(path: &Path, pem: &[u8], names: &[String], now: Timestamp) -> Result<bool, TlsError> {
    let damaged = || TlsError::Damaged {
        path: path.to_owned(),
    };
    let chain = chain(path, pem)?;
    let leaf = chain.first().ok_or_else(damaged)?;
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).map_err(|_| damaged())?;
    let days_left = (certificate.validity().not_after.timestamp() - seconds(now)) / 86_400;
    let wanted = names
        .iter()
        .map(|name| normal(name))
        .collect::<BTreeSet<_>>();
    Ok(days_left >= CERTIFICATE_RENEW_DAYS && subject_names(&certificate) == wanted)
}

fn make(path: &Path, names: &[String], now: Timestamp) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let pem = generate(names, now).map_err(|source| TlsError::Make {
        names: names.to_vec(),
        source,
    })?;
    files::write_private(path, &pem).map_err(|source| TlsError::Write {
        path: path.to_owned(),
        source,
    })?;
    Ok(pem)
}

/// ECDSA P-256, which makes the cheapest handshakes among the kinds that every client knows.
fn generate(names: &[String], now: Timestamp) -> Result<Zeroizing<Vec<u8>>, rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(names.to_vec())?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, "hydrascale relay");
    params.distinguished_name = subject;
    let now =
        OffsetDateTime::from_unix_timestamp(seconds(now)).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    // clients whose clocks are behind must find it valid, too
    params.not_before = now - Duration::DAY;
    params.not_after = params.not_before + Duration::days(CERTIFICATE_DAYS);
    let certificate = params.self_signed(&key)?;
    let key_pem = Zeroizing::new(key.serialize_pem());
    Ok(Zeroizing::new(
        [certificate.pem().as_bytes(), key_pem.as_bytes()].concat(),
    ))
}

fn seconds(now: Timestamp) -> i64 {
    now.unix_ms().div_euclid(1000)
}

/// The names and addresses that a certificate is for.
fn subject_names(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return BTreeSet::new();
    };
    let name_of = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(normal(name)),
        GeneralName::IPAddress(bytes) => address(bytes).map(|ip| ip.to_string()),
        GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::URI(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    };
    extension
        .value
        .general_names
        .iter()
        .filter_map(name_of)
        .collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// One spelling per name or address.
fn normal(name: &str) -> String {
    match name.parse::<IpAddr>() {
        Ok(ip) => ip.to_string(),
        Err(_) => name.to_ascii_lowercase(),
    }
}
