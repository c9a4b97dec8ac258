//! The secrets of the replicated state, sealed under a key that each replica reads from a file, and
//! sealed anew when that key rotates.
//!
//! Two things in the state are secret: the Noise private key, here, and the key of the cluster's
//! certificate authority, which the consensus layer keeps. All others are hashes of high-entropy
//! secrets, which need no seal. Who proposes seals; the log carries the result.

use std::sync::Arc;

use hydrascale_proto::state::v1::{ResealNoiseKey, command::Op};
use hydrascale_raft::{KeyId, SealingKeys, UnsealError};

use super::administration::refused;
use super::{Cluster, ProposeError};
use crate::state::State;
use crate::types::MachinePrivateKey;

/// Binds a sealed Noise key to its use.
const NOISE_KEY: &str = "hydrascale noise private key";

/// Under which key the secrets are to be sealed, and the keys that can do it.
#[derive(Debug)]
pub struct SealingPlan {
    /// The keys of this replica.
    pub keys: Arc<SealingKeys>,
    /// The one to use; `None`: the secrets are to be unsealed.
    pub key: Option<KeyId>,
}

/// Seals a new tailnet's Noise key under the first of `keys`, if there is one.
///
/// # Errors
/// None in practice: the key is among the keys.
pub fn seal_noise_key(keys: &SealingKeys, key: &MachinePrivateKey) -> Result<Vec<u8>, UnsealError> {
    keys.seal(keys.current(), NOISE_KEY, key.expose_bytes())
}

/// The tailnet's Noise key; `None` before there is a tailnet.
///
/// # Errors
/// It is sealed under a key that is not among `keys`, or damaged.
pub fn unseal_noise_key(
    keys: &SealingKeys,
    state: &State,
) -> Result<Option<MachinePrivateKey>, UnsealError> {
    let Some(stored) = state.noise_private_key() else {
        return Ok(None);
    };
    let secret = keys.unseal(NOISE_KEY, stored)?;
    let bytes = secret.as_slice().try_into().ok();
    Ok(bytes.map(MachinePrivateKey::from_bytes))
}

impl Cluster {
    /// Seals the cluster's secrets under the first key of this replica's file, or unseals them; tells
    /// the key. What is so already stays, so that it may be asked for again.
    ///
    /// # Errors
    /// As [`Self::propose`]; refused while a member does not hold the key.
    pub async fn rotate_sealing_key(&self, seal: bool) -> Result<Option<KeyId>, ProposeError> {
        let plan = self.inner.consensus.plan_sealing(seal).await?;
        self.reseal_noise_key(&plan).await?;
        // Last, because this one is what the status shows.
        self.inner.consensus.reseal_authority(plan.key).await?;
        tracing::info!(key = ?plan.key, "secrets are sealed anew");
        Ok(plan.key)
    }

    async fn reseal_noise_key(&self, plan: &SealingPlan) -> Result<(), ProposeError> {
        let state = self.state();
        let Some(stored) = state.noise_private_key() else {
            return Ok(());
        };
        if KeyId::sealing(stored) == plan.key {
            return Ok(());
        }
        let secret = plan.keys.unseal(NOISE_KEY, stored);
        let resealed = secret.and_then(|secret| plan.keys.seal(plan.key, NOISE_KEY, &secret));
        let op = Op::ResealNoiseKey(ResealNoiseKey {
            noise_private_key: resealed.map_err(|error| refused(error.to_string()))?.into(),
            replaces_digest: blake3::hash(stored).as_bytes().to_vec().into(),
        });
        self.propose(op).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::plain_tailnet;
    use crate::types::Timestamp;

    fn keys(temp: &tempfile::TempDir) -> Arc<SealingKeys> {
        let path = temp.path().join("sealing.key");
        SealingKeys::add_to_file(&path).unwrap();
        Arc::new(SealingKeys::read(&path).unwrap())
    }

    #[tokio::test]
    async fn the_noise_key_is_the_same_under_every_seal() {
        let temp = tempfile::tempdir().unwrap();
        let (cluster, _log) = Cluster::local(plain_tailnet(), Timestamp::default())
            .await
            .unwrap();
        let none = SealingKeys::default();
        let public = |keys: &SealingKeys| {
            let key = unseal_noise_key(keys, &cluster.state());
            key.map(|key| key.map(|key| key.public()))
        };
        let before = public(&none).unwrap();
        assert!(before.is_some());
        // Sealed, sealed under the next key, and unsealed.
        let (first, second) = (keys(&temp), keys(&temp));
        for (keys, key) in [
            (&first, first.current()),
            (&second, second.current()),
            (&second, None),
        ] {
            let keys = Arc::clone(keys);
            let plan = SealingPlan { keys, key };
            cluster.reseal_noise_key(&plan).await.unwrap();
            cluster.reseal_noise_key(&plan).await.unwrap();
            let state = cluster.state();
            let stored = state.noise_private_key().unwrap();
            assert_eq!(KeyId::sealing(stored), key);
            assert_eq!(public(&plan.keys), Ok(before));
            assert_eq!(public(&none).is_err(), key.is_some());
        }
    }
}
