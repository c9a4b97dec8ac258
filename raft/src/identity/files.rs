//! Small files that must survive a crash whole: written beside, synced, renamed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use data_encoding::BASE64;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::IdentityError;

/// Creates a folder that only its owner can enter; an existing one is left as it is.
pub(super) fn create_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file whole or not at all, durable on return, readable by its owner only.
pub(super) fn write_durably(path: &Path, content: &[u8]) -> Result<(), io::Error> {
    let temp = path.with_extension("tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temp)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temp, path)?;
    sync_parent(path)
}

/// Removes a file, durable on return; absent is fine.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// A small text file; `None` when absent.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, IdentityError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(IdentityError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// A certificate stored as PEM.
pub(super) fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, IdentityError> {
    let missing = || IdentityError::Missing {
        path: path.to_owned(),
    };
    let text = read_text(path)?.ok_or_else(missing)?;
    CertificateDer::from_pem_slice(text.as_bytes()).map_err(|source| IdentityError::Damaged {
        path: path.to_owned(),
        source: source.into(),
    })
}

/// DER as PEM (RFC 7468).
pub(super) fn to_pem(label: &str, der: &[u8]) -> String {
    let base64 = BASE64.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(PEM_LINE));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Characters per line of PEM.
const PEM_LINE: usize = 64;
