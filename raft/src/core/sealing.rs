//! The cluster's own secret, the authority's key: read, sealed, and sealed anew under another key.

use std::sync::Arc;

use hydrascale_proto::raft::v1::{Admin, ClusterRow, ResealAuthority, admin};
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use super::Core;
use crate::sealing::{KeyId, UnsealError};
use crate::timing::now;
use crate::tls::{Authority, SignError};
use crate::{AdminError, Fatal};

/// Binds a sealed authority's key to its use.
pub(crate) const AUTHORITY_KEY: &str = "hydrascale certificate authority key";

impl Core {
    /// The cluster's authority, able to sign.
    pub(crate) fn authority(&self, cluster: &ClusterRow) -> Result<Authority, AuthorityError> {
        let keys = self.config.keyring.keys();
        let key = keys.unseal(AUTHORITY_KEY, &cluster.ca_private_key)?;
        let certificate = CertificateDer::from(cluster.ca_certificate.to_vec());
        Ok(Authority::load(certificate, key)?)
    }

    /// The key that seals the cluster's secrets, as far as applied here; `None` while they are not
    /// sealed.
    pub(crate) fn sealing_key(&self) -> Option<KeyId> {
        let records = self.records.load();
        let cluster = records.cluster()?;
        KeyId::sealing(&cluster.ca_private_key)
    }

    /// A replica that cannot read the cluster's secrets must not go on. What it has applied may be old,
    /// and its key in use again or no longer: a leader confirms first that it is not.
    pub(super) async fn end_without_key(&self) {
        if self.check_seal().is_ok() || self.read_index().await.is_err() {
            return;
        }
        if let Err(error) = self.check_seal() {
            self.fatal.report(Fatal::Sealed(error));
        }
    }

    fn check_seal(&self) -> Result<(), UnsealError> {
        let records = self.records.load();
        let keys = self.config.keyring.keys();
        let cluster = records.cluster();
        cluster.map_or(Ok(()), |cluster| keys.check(&cluster.ca_private_key))
    }

    /// Seals a new cluster's authority where this replica has a key for it.
    pub(super) fn seal_authority_key(&self, stored: &[u8]) -> Result<Vec<u8>, UnsealError> {
        let keys = self.config.keyring.keys();
        let key = keys.unseal(AUTHORITY_KEY, stored)?;
        keys.seal(keys.current(), AUTHORITY_KEY, &key)
    }

    /// Seals the key of the next authority as that of the present one is.
    pub(super) fn seal_next_authority(&self, key: &[u8]) -> Result<Vec<u8>, UnsealError> {
        let keys = self.config.keyring.keys();
        keys.seal(self.sealing_key(), AUTHORITY_KEY, key)
    }

    /// The key under which the secrets are to be sealed: the first of this replica's file, which
    /// every member must hold by now. Without `seal` none.
    pub(crate) async fn plan_sealing(&self, seal: bool) -> Result<Option<KeyId>, AdminError> {
        let read = self.read_index().await;
        read.map_err(|error| AdminError::Unavailable {
            reason: error.to_string(),
        })?;
        if !seal {
            return Ok(None);
        }
        let keys = self.config.keyring.keys();
        let refused = |reason| AdminError::Refused { reason };
        let key = keys.current().ok_or_else(|| {
            refused(format!(
                "replica {} has no sealing key: make a file with `hydrascale generate sealing-key`, \
                 copy it to every replica, and name it in cluster.sealing_key_file",
                self.id()
            ))
        })?;
        let without: Vec<String> = self
            .others()
            .into_iter()
            .filter_map(|id| Some(format!("replica {id} {}", self.lack_of(id, key)?)))
            .collect();
        if without.is_empty() {
            return Ok(Some(key));
        }
        Err(refused(format!(
            "{}: every replica must hold key {key} first; put it into the file that \
             cluster.sealing_key_file names and send SIGHUP or restart, or remove the replica",
            without.join(", ")
        )))
    }

    /// Why a member cannot read what is sealed under `key`.
    fn lack_of(&self, id: u64, key: KeyId) -> Option<&'static str> {
        let answer = self.probes.last(id);
        let within = self.timing.reachable_within();
        let fresh = answer.filter(|last| now().saturating_duration_since(last.at) <= within);
        match fresh {
            None => Some("does not answer"),
            Some(answer) => (!answer.sealing_keys.contains(&key)).then_some("does not have it"),
        }
    }

    /// Seals the authority's key under `key`, or not at all. What is so already stays.
    pub(crate) async fn reseal_authority(&self, key: Option<KeyId>) -> Result<(), AdminError> {
        let records = self.records.load_full();
        let cluster = records.cluster().ok_or_else(|| AdminError::Unavailable {
            reason: "the cluster has not recorded its authority yet".to_owned(),
        })?;
        let stored = &cluster.ca_private_key;
        if KeyId::sealing(stored) == key {
            return Ok(());
        }
        let keys = self.config.keyring.keys();
        let resealed = keys
            .unseal(AUTHORITY_KEY, stored)
            .and_then(|secret| keys.seal(key, AUTHORITY_KEY, &secret));
        let resealed = resealed.map_err(|error| AdminError::Refused {
            reason: error.to_string(),
        })?;
        let op = admin::Op::ResealAuthority(ResealAuthority {
            ca_private_key: resealed.into(),
            replaces_sha256: Sha256::digest(stored).to_vec().into(),
        });
        let proposed = self.propose_admin(Admin { op: Some(op) }).await;
        proposed.map(drop).map_err(AdminError::from)
    }

    /// The keys of this replica's file, as others are told.
    pub(crate) fn sealing_keys(&self) -> Arc<[KeyId]> {
        self.config.keyring.keys().ids().collect()
    }
}

/// Why the authority cannot sign here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// Its key is sealed.
    #[error(transparent)]
    Sealed(#[from] UnsealError),
    /// It is damaged.
    #[error(transparent)]
    Damaged(#[from] SignError),
}
