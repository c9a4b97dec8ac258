//! The certificate of a scenario that uses TLS, which the clients in it trust.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// What clients trust beside the system's authorities, and what configurations name.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// Both in one file, as HAProxy wants them.
const BOTH: &str = "tls.pem";

/// Makes a certificate for `name`, an address or a host's name, in files below `scratch`.
///
/// # Errors
/// When they cannot be written.
pub(crate) fn make(scratch: &Path, name: &str) -> Result<()> {
    let made = rcgen::generate_simple_self_signed([name.to_owned()])?;
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let files = [
        (CERTIFICATE, &certificate),
        (KEY, &key),
        (BOTH, &format!("{certificate}{key}")),
    ];
    for (file, text) in files {
        let path = scratch.join(file);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// The certificate.
pub(crate) fn certificate(scratch: &Path) -> PathBuf {
    scratch.join(CERTIFICATE)
}

/// Its key.
pub(crate) fn key(scratch: &Path) -> PathBuf {
    scratch.join(KEY)
}

/// Both.
pub(crate) fn both(scratch: &Path) -> PathBuf {
    scratch.join(BOTH)
}
