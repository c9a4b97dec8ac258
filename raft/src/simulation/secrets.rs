//! What simulated replicas prove themselves with, and how that changes while they run. Keys and
//! certificates differ from run to run; nothing that a simulation decides depends on their bytes.

use std::path::{Path, PathBuf};

use hydrascale_proto::raft::v1::{Admin, InitCluster, admin};
use time::OffsetDateTime;

use super::{chance, random};
use crate::identity::Folder;
use crate::tls::{Authority, Credentials, PeerName, ReplicaKey};
use crate::{FEATURE_LEVELS, Keyring, Replica, SealingKeys};

/// The authority that a simulated cluster begins with, and its sealing keys.
pub(super) struct Secrets {
    cluster_id: &'static str,
    authority: Authority,
    keys: PathBuf,
}

impl Secrets {
    /// Makes them; the sealing keys are in a file in `folder`.
    pub(super) fn create(cluster_id: &'static str, folder: &Path) -> Self {
        let keys = folder.join("sealing-keys");
        SealingKeys::add_to_file(&keys).expect("a file for the sealing keys");
        let authority = Authority::create(cluster_id, OffsetDateTime::now_utc());
        Self {
            cluster_id,
            authority: authority.expect("an authority"),
            keys,
        }
    }

    /// The sealing keys that every replica holds.
    pub(super) fn keyring(&self) -> Keyring {
        Keyring::new(SealingKeys::read(&self.keys).expect("the sealing keys"))
    }

    /// Makes the folder of a replica, with a certificate in it.
    pub(super) fn certify(&self, id: u64, folder: &Path) {
        let key = ReplicaKey::create().expect("a key");
        let name = PeerName::new(self.cluster_id, id);
        let now = OffsetDateTime::now_utc();
        let certificate = self.authority.sign(&name, &key.public_key(), now);
        let credentials = Credentials {
            authority: self.authority.certificate().clone(),
            also_trusted: Vec::new(),
            certificate: certificate.expect("a certificate"),
            key,
            renewed_at: 0,
            as_of: 0,
        };
        let folder = Folder::new(folder);
        folder.claim().expect("an empty folder");
        let stored = folder.renew(&credentials);
        stored.expect("the certificate can be stored");
    }

    /// What records the authority in the cluster, as the first leader of a real one does.
    pub(super) fn init(&self) -> Admin {
        let init = InitCluster {
            cluster_id: self.cluster_id.to_owned(),
            ca_certificate: self.authority.certificate().to_vec().into(),
            ca_private_key: self.authority.key_pkcs8().to_vec().into(),
            level: FEATURE_LEVELS.max,
        };
        let op = Some(admin::Op::Init(init));
        Admin { op }
    }
}

/// Asks for new certificates, for another authority, or for its key to be sealed or unsealed.
/// Refused or not: the cluster must bear it.
pub(super) async fn rotate(asked: &Replica) {
    let core = asked.core();
    match random(0..3) {
        0 => drop(asked.renew_certificates(&[]).await),
        1 => {
            let held = core.certificate_state().issuer_sha256;
            drop(asked.rotate_authority(&held).await);
        }
        _ => {
            if let Ok(key) = asked.plan_sealing(chance(60)).await {
                drop(asked.reseal_authority(key).await);
            }
        }
    }
}
