//! The cluster's certificate authority: how its key is sealed, how it is replaced, and who was asked
//! for a new certificate.
//!
//! Replacing it takes three steps, each an entry in the log: the next authority is trusted beside the
//! one that signs; it signs, and the old one is still trusted; the old one is gone. Whoever leads takes
//! a step once all members have done what the one before asks for.

use bytes::Bytes;
use hydrascale_proto::raft::v1::{
    AdvanceAuthority, ClusterRow, RenewCertificates, RenewalRow, ResealAuthority, RotateAuthority,
    UseJoinToken,
};
use sha2::{Digest, Sha256};

use super::{Applied, CLUSTER_KEY, ClusterRecords, RENEWAL_PREFIX, numbered, put};
use crate::identity::FIRST_REPLICA;
use crate::{KeyId, RowWrite};

impl ClusterRecords {
    /// Log index of the newest request for a new certificate of this replica; 0: there was none.
    pub(crate) fn renewal_of(&self, replica_id: u64) -> u64 {
        self.renewals.get(&replica_id).copied().unwrap_or(0)
    }

    /// The same key under another seal; apply holds no sealing key and takes it as it comes.
    pub(super) fn reseal_authority(&mut self, op: &ResealAuthority) -> Applied {
        let cluster = self.recorded()?;
        if cluster.ca_private_key == op.ca_private_key {
            return Ok((Vec::new(), 0));
        }
        if !cluster.next_ca_private_key.is_empty() {
            return Err(
                "the certificate authority is being replaced: try again when `cluster status` says \
                 no more of it"
                    .to_owned(),
            );
        }
        if !has_digest(&cluster.ca_private_key, &op.replaces_sha256) {
            return Err(
                "the authority's key was resealed meanwhile: see `cluster status`, then try again"
                    .to_owned(),
            );
        }
        cluster.ca_private_key = op.ca_private_key.clone();
        Ok((vec![stored(cluster)], 0))
    }

    pub(super) fn renew_certificates(
        &mut self,
        index: u64,
        op: &RenewCertificates,
    ) -> (Vec<RowWrite>, u64) {
        let asked = op.replica_ids.iter().map(|id| {
            let row = RenewalRow {
                replica_id: *id,
                index,
            };
            self.renewals.insert(*id, index);
            put(numbered(RENEWAL_PREFIX, *id), &row)
        });
        (asked.collect(), 0)
    }

    /// A replacement that is under way stays as it is: asking twice begins one.
    pub(super) fn rotate_authority(&mut self, op: &RotateAuthority) -> Applied {
        let newest_join = self.newest_join();
        let cluster = self.recorded()?;
        let under_way = is_replaced(cluster);
        // Who asks has seen this authority: if it is gone, what was asked for is done.
        if under_way || !has_digest(&cluster.ca_certificate, &op.replaces_sha256) {
            return Ok((Vec::new(), 0));
        }
        // The next key would be the only one under a seal that nobody uses any more.
        if KeyId::sealing(&op.next_ca_private_key) != KeyId::sealing(&cluster.ca_private_key) {
            return Err("the authority's key was resealed meanwhile: try again".to_owned());
        }
        // The joiner would trust an authority that goes.
        if op.newest_join != 0 && op.newest_join < newest_join {
            return Err(format!(
                "replica {newest_join} has used its join token meanwhile: try again when it is a member"
            ));
        }
        cluster.next_ca_certificate = op.next_ca_certificate.clone();
        cluster.next_ca_private_key = op.next_ca_private_key.clone();
        Ok((vec![stored(cluster)], 0))
    }

    pub(super) fn advance_authority(&mut self, op: &AdvanceAuthority) -> Applied {
        let cluster = self.recorded()?;
        // A step that was decided on what is no longer so.
        if !is_replaced(cluster) || !has_digest(&cluster.ca_certificate, &op.current_sha256) {
            return Ok((Vec::new(), 0));
        }
        if cluster.next_ca_certificate.is_empty() {
            cluster.retired_ca_certificate = Bytes::new();
        } else {
            let next = std::mem::take(&mut cluster.next_ca_certificate);
            cluster.retired_ca_certificate = std::mem::replace(&mut cluster.ca_certificate, next);
            cluster.ca_private_key = std::mem::take(&mut cluster.next_ca_private_key);
        }
        Ok((vec![stored(cluster)], 0))
    }

    /// The greatest id that a join token gave; at least the first replica's.
    pub(crate) fn newest_join(&self) -> u64 {
        let used = self.tokens().filter_map(|token| token.r#use.as_ref());
        used.map(|used| used.replica_id)
            .fold(FIRST_REPLICA, u64::max)
    }

    /// Whoever joins while the authority is replaced, or was since a certificate was promised, would not
    /// know whom to trust.
    pub(super) fn check_joinable(&self, op: &UseJoinToken) -> Result<(), String> {
        match &self.cluster {
            Some(cluster) if is_replaced(cluster) => Err(BEING_REPLACED.to_owned()),
            Some(cluster)
                if !op.ca_sha256.is_empty()
                    && !has_digest(&cluster.ca_certificate, &op.ca_sha256) =>
            {
                Err(
                    "the cluster's certificate authority was replaced meanwhile: make a new token"
                        .to_owned(),
                )
            }
            Some(_) | None => Ok(()),
        }
    }

    fn recorded(&mut self) -> Result<&mut ClusterRow, String> {
        let cluster = self.cluster.as_mut();
        cluster.ok_or_else(|| "the cluster has not recorded its authority yet".to_owned())
    }
}

/// Whether the authority is being replaced.
pub(crate) fn is_replaced(cluster: &ClusterRow) -> bool {
    !cluster.next_ca_certificate.is_empty() || !cluster.retired_ca_certificate.is_empty()
}

/// Why nobody joins meanwhile.
pub(crate) const BEING_REPLACED: &str = "the cluster's certificate authority is being replaced: \
    `cluster status` shows when that is done; make a new token then";

fn has_digest(bytes: &[u8], sha256: &[u8]) -> bool {
    Sha256::digest(bytes).as_slice() == sha256
}

fn stored(cluster: &ClusterRow) -> RowWrite {
    put(Bytes::from_static(CLUSTER_KEY), cluster)
}
