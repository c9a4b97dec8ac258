//! Making a new cluster, offline.

use time::OffsetDateTime;
use uuid::Uuid;

use crate::identity::{FIRST_REPLICA, Folder, Identity};
use crate::tls::{Authority, PeerName, ReplicaKey};
use crate::{InitError, ReplicaConfig};

/// `expect`: as in the identity.
pub(crate) fn init_cluster(config: &ReplicaConfig, expect: usize) -> Result<String, InitError> {
    let folder = Folder::new(&config.data_dir);
    folder.claim()?;
    let cluster_id = Uuid::new_v4().to_string();
    let now = OffsetDateTime::now_utc();
    let failed = |error: crate::tls::SignError| InitError::Certificates(error.into());
    let authority = Authority::create(&cluster_id, now).map_err(failed)?;
    let key = ReplicaKey::create().map_err(failed)?;
    let name = PeerName::new(cluster_id.clone(), FIRST_REPLICA);
    let certificate = authority
        .sign(&name, &key.public_key(), now)
        .map_err(failed)?;
    let identity = Identity {
        cluster_id: cluster_id.clone(),
        replica_id: FIRST_REPLICA,
        peers: Vec::new(),
        has_store: false,
        removed: false,
        expect,
    };
    folder
        .settle_first(&identity, &authority, &key, &certificate)
        .map_err(|source| InitError::Folder {
            path: config.data_dir.clone(),
            source,
        })?;
    Ok(cluster_id)
}
