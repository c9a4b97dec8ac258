//! The sealing keys of a running replica: read at the start, read again on SIGHUP, and what happens
//! when the secrets cannot be read with them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hydrascale_raft::{Keyring, SealingFileError, SealingKeys, UnsealError};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::cluster::{Cluster, unseal_noise_key};
use crate::control::NoiseKeySource;

/// Between looks at whether the Noise key can still be read.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The keys that the configuration names; none without a file.
pub(super) fn keyring(path: Option<&Path>) -> Result<Keyring, SealingFileError> {
    let keys = path.map(SealingKeys::read).transpose()?;
    Ok(Keyring::new(keys.unwrap_or_default()))
}

/// Unseals the Noise key for each handshake, so that it lies open no longer than that takes.
pub(super) fn noise_key_source(keyring: Keyring) -> NoiseKeySource {
    Arc::new(move |state| unseal_noise_key(&keyring.keys(), state).ok().flatten())
}

/// Reads the key file again whenever `reload` says so and passes the word on to `then`. The answer
/// tells when the Noise key can no longer be read, now or after a change by others.
pub(super) fn spawn(
    path: Option<PathBuf>,
    keyring: Keyring,
    cluster: &Cluster,
    reload: Arc<Notify>,
    then: Arc<Notify>,
    tasks: &mut JoinSet<()>,
) -> oneshot::Receiver<UnsealError> {
    let (lost, answer) = oneshot::channel();
    let cluster = cluster.clone();
    tasks.spawn(async move {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = reload.notified() => {
                    reread(path.as_deref(), &keyring, &cluster);
                    then.notify_one();
                }
                _ = looks.tick() => {
                    if let Err(error) = confirmed(&keyring, &cluster).await {
                        // The server may be ending already.
                        let _ = lost.send(error);
                        return;
                    }
                }
            }
        }
    });
    answer
}

/// Whether the Noise key can be read. What is applied here may be older than a change of its seal: a
/// leader confirms that it is not before it counts as unreadable.
async fn confirmed(keyring: &Keyring, cluster: &Cluster) -> Result<(), UnsealError> {
    let check = || unseal_noise_key(&keyring.keys(), &cluster.state()).map(drop);
    if check().is_ok() || cluster.linearizable().await.is_err() {
        return Ok(());
    }
    check()
}

/// Takes the file's keys, unless what is sealed could not be read with them.
fn reread(path: Option<&Path>, keyring: &Keyring, cluster: &Cluster) {
    let Some(path) = path else {
        return;
    };
    let keys = match SealingKeys::read(path) {
        Ok(keys) => keys,
        Err(error) => {
            let error = hydrascale_raft::chain(&error);
            return tracing::error!(error, "sealing keys stay as they were");
        }
    };
    let in_use = cluster.status().sealing_key;
    let lacks = |id: &String| !keys.ids().any(|known| known.to_string() == *id);
    if let Err(error) = unseal_noise_key(&keys, &cluster.state()) {
        tracing::error!(%error, "sealing keys stay as they were");
    } else if let Some(key) = in_use.filter(lacks) {
        tracing::error!(
            key,
            "sealing keys stay as they were: the file lacks the one in use"
        );
    } else {
        tracing::info!(?keys, "sealing keys read again");
        keyring.replace(keys);
    }
}
