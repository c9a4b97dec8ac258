//! Renewed credentials in one file: key, certificate and trusted authorities belong together, and a
//! crash must not leave some of one and some of the other.

use std::io;
use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::files::{read_text, to_pem, write_durably};
use super::{CERTIFICATE_LABEL, IdentityError};
use crate::replica::Cause;
use crate::tls::{Credentials, ReplicaKey};

#[derive(Serialize, Deserialize)]
struct Stored {
    renewed_at: u64,
    as_of: u64,
    /// PEM, as all below.
    authority: String,
    also_trusted: Vec<String>,
    certificate: String,
    key: String,
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// Reads the file; `None` when nothing was ever renewed.
pub(super) fn read(path: &Path) -> Result<Option<Credentials>, IdentityError> {
    let Some(text) = read_text(path)?.map(Zeroizing::new) else {
        return Ok(None);
    };
    let stored: Stored =
        serde_json::from_str(&text).map_err(|source| IdentityError::Malformed {
            path: path.to_owned(),
            source,
        })?;
    let damaged = |source: Cause| IdentityError::Damaged {
        path: path.to_owned(),
        source,
    };
    let certificate = |pem: &String| {
        let read = CertificateDer::from_pem_slice(pem.as_bytes());
        read.map_err(|error| damaged(error.into()))
    };
    let also_trusted: Result<Vec<_>, _> = stored.also_trusted.iter().map(certificate).collect();
    Ok(Some(Credentials {
        authority: certificate(&stored.authority)?,
        also_trusted: also_trusted?,
        certificate: certificate(&stored.certificate)?,
        key: ReplicaKey::from_pem(&stored.key).map_err(|error| damaged(error.into()))?,
        renewed_at: stored.renewed_at,
        as_of: stored.as_of,
    }))
}

/// Writes the file, durable on return.
pub(super) fn write(path: &Path, credentials: &Credentials) -> io::Result<()> {
    let pem = |certificate: &CertificateDer<'_>| to_pem(CERTIFICATE_LABEL, certificate);
    let stored = Stored {
        renewed_at: credentials.renewed_at,
        as_of: credentials.as_of,
        authority: pem(&credentials.authority),
        also_trusted: credentials.also_trusted.iter().map(pem).collect(),
        certificate: pem(&credentials.certificate),
        key: credentials.key.to_pem(),
    };
    let text = Zeroizing::new(serde_json::to_vec(&stored)?);
    write_durably(path, &text)
}
