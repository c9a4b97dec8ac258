//! The cluster's certificate authority and how its key is sealed.

use bytes::Bytes;
use hydrascale_proto::raft::v1::ResealAuthority;
use sha2::{Digest, Sha256};

use super::{Applied, CLUSTER_KEY, ClusterRecords, put};

impl ClusterRecords {
    /// The same key under another seal; apply holds no sealing key and takes it as it comes.
    pub(super) fn reseal_authority(&mut self, op: &ResealAuthority) -> Applied {
        let cluster = self
            .cluster
            .as_mut()
            .ok_or("the cluster has not recorded its authority yet")?;
        if cluster.ca_private_key == op.ca_private_key {
            return Ok((Vec::new(), 0));
        }
        if Sha256::digest(&cluster.ca_private_key).as_slice() != op.replaces_sha256.as_ref() {
            return Err(
                "the authority's key was resealed meanwhile: see `cluster status`, then try again"
                    .to_owned(),
            );
        }
        cluster.ca_private_key = op.ca_private_key.clone();
        Ok((vec![put(Bytes::from_static(CLUSTER_KEY), cluster)], 0))
    }
}
