//! Who a data folder is: which replica of which cluster, and the keys that prove it.
//!
//! `identity.json` is written last, so that a folder has an identity or has none: what a broken-off
//! `init` or `join` leaves behind is recognised and used again. The store below the same folder
//! repeats cluster and replica id; a folder whose parts disagree is refused.

mod credentials;
mod exchange;
mod files;
mod filling;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use hydrascale_proto::raft::v1::InitCluster;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use self::files::{read_certificate, read_text, remove, to_pem, write_durably};
use crate::ReplicaId;
use crate::replica::{Cause, InitError};
use crate::tls::{Authority, Credentials, ReplicaKey};

/// Which replica of which cluster a data folder is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// UUID of the cluster.
    pub(crate) cluster_id: String,
    /// Given by the cluster, never reused.
    pub(crate) replica_id: u64,
    /// Replicas known when this one joined; later the membership tells.
    #[serde(default)]
    pub(crate) peers: Vec<KnownPeer>,
    /// Set once the store exists. A store that is missing afterwards was lost, and with it the
    /// votes that this replica gave and the entries that it acknowledged.
    #[serde(default)]
    pub(crate) has_store: bool,
    /// Set once the cluster has removed the replica: it must not start again.
    #[serde(default)]
    pub(crate) removed: bool,
    /// How many replicas the cluster was to begin with, where they formed it by themselves; else 0.
    #[serde(default)]
    pub(crate) expect: usize,
}

/// A replica that can be asked before the membership is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownPeer {
    /// Its id.
    pub(crate) replica_id: u64,
    /// `host:port` of its peer listener.
    pub(crate) addr: String,
}

/// A join that was begun: its key must be used again, so that the token is spent only once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Joining {
    token_id: String,
}

/// A replica's data folder, as far as identity goes.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder at `path`, which need not exist.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whose folder it is; `None` before `init` or `join` have finished.
    ///
    /// # Errors
    /// The identity cannot be read.
    pub(crate) fn identity(&self) -> Result<Option<Identity>, IdentityError> {
        let path = self.path.join(IDENTITY);
        let Some(text) = read_text(&path)? else {
            return Ok(None);
        };
        let identity = serde_json::from_str(&text);
        identity
            .map(Some)
            .map_err(|source| IdentityError::Malformed { path, source })
    }

    /// The certificates and the key.
    ///
    /// # Errors
    /// One of them is missing or damaged.
    pub(crate) fn credentials(&self) -> Result<Credentials, IdentityError> {
        if let Some(renewed) = credentials::read(&self.path.join(RENEWED))? {
            return Ok(renewed);
        }
        Ok(Credentials {
            authority: read_certificate(&self.path.join(CA_CERTIFICATE))?,
            also_trusted: Vec::new(),
            certificate: read_certificate(&self.path.join(CERTIFICATE))?,
            key: self.key()?,
            renewed_at: 0,
            as_of: 0,
        })
    }

    /// Stores renewed credentials, all of them at once; those of before go.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn renew(&self, credentials: &Credentials) -> io::Result<()> {
        credentials::write(&self.path.join(RENEWED), credentials)?;
        // The authority's key is the cluster's by now, should it still be here.
        [CA_KEY, KEY, CERTIFICATE, CA_CERTIFICATE]
            .iter()
            .try_for_each(|old| remove(&self.path.join(old)))
    }

    /// What the first entry of a new cluster must say, until the cluster has taken it over. Nobody
    /// but the first replica has anything to say.
    ///
    /// # Errors
    /// A file is damaged.
    pub(crate) fn bootstrap(
        &self,
        identity: &Identity,
    ) -> Result<Option<InitCluster>, IdentityError> {
        if identity.replica_id != FIRST_REPLICA {
            return Ok(None);
        }
        let Some(key) = read_text(&self.path.join(CA_KEY))? else {
            return Ok(None);
        };
        let key = ReplicaKey::from_pem(&key).map_err(|error| self.damaged(CA_KEY, error))?;
        let certificate = read_certificate(&self.path.join(CA_CERTIFICATE))?;
        Ok(Some(InitCluster {
            cluster_id: identity.cluster_id.clone(),
            ca_certificate: certificate.to_vec().into(),
            ca_private_key: key.private_key().secret_der().to_vec().into(),
            level: 0,
        }))
    }

    /// Removes the authority's key, durably: the cluster holds it now, or never will.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub(crate) fn forget_bootstrap(&self) -> io::Result<()> {
        remove(&self.path.join(CA_KEY))
    }

    /// Makes sure that the folder is free for a new identity, and creates it.
    ///
    /// # Errors
    /// It belongs to a replica, was not filled to the end, or holds something that this crate did not
    /// put there.
    pub(crate) fn claim(&self) -> Result<(), InitError> {
        self.check_unowned()?;
        if self.is_half_filled() {
            return Err(InitError::HalfRestored {
                path: self.path.clone(),
            });
        }
        self.prepare()
    }

    /// As [`Self::claim`], for filling the folder: what a broken-off attempt left is removed first.
    ///
    /// # Errors
    /// As [`Self::claim`], or another process fills the folder.
    pub(crate) fn claim_to_fill(&self) -> Result<(), InitError> {
        self.check_unowned()?;
        let discarded = self.discard_unfinished();
        discarded.map_err(|source| self.unusable(source))?;
        self.prepare()
    }

    fn check_unowned(&self) -> Result<(), InitError> {
        let identity = self.identity();
        match identity.map_err(|error| self.unusable(io::Error::other(error)))? {
            None => Ok(()),
            Some(identity) => Err(InitError::InUse {
                path: self.path.clone(),
                cluster_id: identity.cluster_id,
                replica: ReplicaId(identity.replica_id),
            }),
        }
    }

    fn unusable(&self, source: io::Error) -> InitError {
        InitError::Folder {
            path: self.path.clone(),
            source,
        }
    }

    fn prepare(&self) -> Result<(), InitError> {
        let folder = |source| self.unusable(source);
        files::create_private(&self.path).map_err(folder)?;
        for entry in std::fs::read_dir(&self.path).map_err(folder)? {
            let found = entry
                .map_err(folder)?
                .file_name()
                .to_string_lossy()
                .into_owned();
            if !OWN_LEFTOVERS.contains(&found.as_str()) {
                return Err(InitError::NotEmpty {
                    path: self.path.clone(),
                    found,
                });
            }
        }
        files::create_private(&self.path.join(TLS)).map_err(folder)
    }

    /// The key for a join with this token: the one of an earlier attempt, or a new durable one.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub(crate) fn joining_key(&self, token_id: &str) -> Result<ReplicaKey, IdentityError> {
        let path = self.path.join(JOINING);
        // A broken-off `init` leaves the key of an authority that nobody knows.
        self.forget_bootstrap()
            .map_err(|source| IdentityError::Io {
                path: self.path.join(CA_KEY),
                source,
            })?;
        if let Some(text) = read_text(&path)? {
            let joining: Joining =
                serde_json::from_str(&text).map_err(|source| IdentityError::Malformed {
                    path: path.clone(),
                    source,
                })?;
            if joining.token_id == token_id {
                return self.key();
            }
        }
        let key = ReplicaKey::create().map_err(|error| self.damaged(KEY, error))?;
        let joining = Joining {
            token_id: token_id.to_owned(),
        };
        remove(&path)
            .and_then(|()| write_durably(&self.path.join(KEY), key.to_pem().as_bytes()))
            .and_then(|()| write_durably(&path, &json(&joining)))
            .map_err(|source| IdentityError::Io { path, source })?;
        Ok(key)
    }

    /// Makes the folder a joined replica's; its key is there already.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn settle(
        &self,
        identity: &Identity,
        authority: &CertificateDer<'_>,
        certificate: &CertificateDer<'_>,
    ) -> io::Result<()> {
        write_durably(
            &self.path.join(CA_CERTIFICATE),
            to_pem(CERTIFICATE_LABEL, authority).as_bytes(),
        )?;
        write_durably(
            &self.path.join(CERTIFICATE),
            to_pem(CERTIFICATE_LABEL, certificate).as_bytes(),
        )?;
        write_durably(&self.path.join(IDENTITY), &json(identity))?;
        remove(&self.path.join(JOINING))
    }

    /// Makes the folder the first replica's of a new cluster.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn settle_first(
        &self,
        identity: &Identity,
        authority: &Authority,
        key: &ReplicaKey,
        certificate: &CertificateDer<'_>,
    ) -> io::Result<()> {
        let ca_key = to_pem(PRIVATE_KEY_LABEL, authority.key_pkcs8());
        write_durably(&self.path.join(CA_KEY), ca_key.as_bytes())?;
        write_durably(&self.path.join(KEY), key.to_pem().as_bytes())?;
        self.settle(identity, authority.certificate(), certificate)
    }

    /// Makes the folder, whose store is there already, the one replica's of a new cluster.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn settle_alone(
        &self,
        identity: &Identity,
        authority: &Authority,
        key: &ReplicaKey,
        certificate: &CertificateDer<'_>,
    ) -> io::Result<()> {
        files::create_private(&self.path.join(TLS))?;
        write_durably(&self.path.join(KEY), key.to_pem().as_bytes())?;
        self.settle(identity, authority.certificate(), certificate)
    }

    /// Notes, durably, that the store exists.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn mark_store(&self, identity: &Identity) -> io::Result<()> {
        let marked = Identity {
            has_store: true,
            ..identity.clone()
        };
        write_durably(&self.path.join(IDENTITY), &json(&marked))
    }

    /// Notes that the cluster has removed the replica.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn mark_removed(&self, identity: &Identity) -> io::Result<()> {
        let marked = Identity {
            has_store: true,
            removed: true,
            ..identity.clone()
        };
        write_durably(&self.path.join(IDENTITY), &json(&marked))
    }

    fn key(&self) -> Result<ReplicaKey, IdentityError> {
        let path = self.path.join(KEY);
        let pem = read_text(&path)?.ok_or(IdentityError::Missing { path })?;
        ReplicaKey::from_pem(&pem).map_err(|error| self.damaged(KEY, error))
    }

    fn damaged(&self, name: &str, source: impl Into<Cause>) -> IdentityError {
        IdentityError::Damaged {
            path: self.path.join(name),
            source: source.into(),
        }
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("plain strings and numbers serialize");
    text.push(b'\n');
    text
}

/// Why a folder's identity cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// A file cannot be read or written.
    #[error("{} cannot be read or written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is absent.
    #[error("{} is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file is not the JSON that belongs there.
    #[error("{} is malformed", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A key or certificate is damaged.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Cause,
    },
}

/// The first replica's id; joiners get log indexes, which are larger.
pub(crate) const FIRST_REPLICA: u64 = 1;

const IDENTITY: &str = "identity.json";
const JOINING: &str = "joining.json";
const TLS: &str = "tls";
const CA_CERTIFICATE: &str = "tls/ca.pem";
const CA_KEY: &str = "tls/ca.key";
const CERTIFICATE: &str = "tls/replica.pem";
const KEY: &str = "tls/replica.key";
const RENEWED: &str = "tls/credentials.json";
const CERTIFICATE_LABEL: &str = "CERTIFICATE";
const PRIVATE_KEY_LABEL: &str = "PRIVATE KEY";

/// What a broken-off `init` or `join` leaves, and what file systems put into every new folder.
const OWN_LEFTOVERS: [&str; 5] = [TLS, JOINING, "joining.tmp", "identity.tmp", "lost+found"];
