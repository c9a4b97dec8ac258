//! Secrets sealed under a key file: who may start, join and reseal.

use futures::FutureExt;
use tokio::time::timeout;

use super::harness::{PATIENCE, TestCluster, patiently, refused};
use crate::{AdminError, Fatal, KeyId, Keyring, Replica, SealingKeys, Status};

/// A file with new keys, which each replica reads for itself.
struct KeyFile(tempfile::NamedTempFile);

impl KeyFile {
    fn new() -> Self {
        let file = Self(tempfile::NamedTempFile::new().unwrap());
        file.0.as_file().set_len(0).unwrap();
        std::fs::remove_file(file.0.path()).unwrap();
        file.add();
        file
    }

    fn add(&self) -> KeyId {
        SealingKeys::add_to_file(self.0.path()).unwrap()
    }

    fn read(&self) -> SealingKeys {
        SealingKeys::read(self.0.path()).unwrap()
    }

    fn current(&self) -> Option<KeyId> {
        self.read().current()
    }
}

fn stored_key(cluster: &TestCluster, at: usize) -> Vec<u8> {
    let core = cluster.replicas[at].replica().core();
    let records = core.records.load();
    records.cluster().unwrap().ca_private_key.to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_cluster_with_a_key_file_never_stores_its_authoritys_key_in_clear() {
    let file = KeyFile::new();
    let mut cluster =
        TestCluster::single_with(|config| config.keyring = Keyring::new(file.read())).await;
    cluster.token().await;
    assert_eq!(KeyId::sealing(&stored_key(&cluster, 0)), file.current());
    // Who has no key, or another one, is told which before a token is spent.
    let mut joiner = cluster.joiner("b");
    let token = cluster.token().await;
    for keyring in [Keyring::default(), Keyring::new(KeyFile::new().read())] {
        joiner.config.keyring = keyring;
        let reason = refused(Replica::join_cluster(&joiner.config, &token).await);
        let id = file.current().unwrap().to_string();
        assert!(reason.contains(&id), "{reason}");
    }
    joiner.config.keyring = Keyring::new(file.read());
    Replica::join_cluster(&joiner.config, &token).await.unwrap();
    joiner.start().await;
    // A start without the key says which one and where to put it.
    let first = &mut cluster.replicas[0];
    first.kill().await;
    first.config.keyring = Keyring::default();
    first.start().await;
    let fatal = timeout(PATIENCE, first.replica().fatal()).await.unwrap();
    assert!(matches!(fatal, Fatal::Sealed(_)), "{fatal:?}");
    let text = fatal.to_string();
    assert!(text.contains("cluster.sealing_key_file"), "{text}");
    first.kill().await;
    first.config.keyring = Keyring::new(file.read());
    first.start().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sealing_key_rotates_once_every_member_holds_the_new_one() {
    let file = KeyFile::new();
    let cluster = TestCluster::three().await;
    let asked = cluster.replicas[1].replica();
    // No file at all, then one that only the asked replica has.
    let error = asked.plan_sealing(true).await.unwrap_err();
    assert!(error.to_string().contains("no sealing key"), "{error}");
    cluster.replicas[1].config.keyring.replace(file.read());
    let error = asked.plan_sealing(true).await.unwrap_err();
    assert!(matches!(error, AdminError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("does not have it"), "{error}");
    // An unsealed cluster is sealed, then sealed anew, then unsealed.
    for _ in 0..2 {
        let key = file.current().unwrap();
        give_to_all(&cluster, &file, key).await;
        let planned = patiently(async || asked.plan_sealing(true).await);
        assert_eq!(planned.await.unwrap(), Some(key));
        // Again is fine.
        for _ in 0..2 {
            asked.reseal_authority(Some(key)).await.unwrap();
        }
        let sealed = |now: &Status| now.sealing_key == Some(key);
        cluster.until_all("the new seal", sealed).await;
        file.add();
    }
    assert_eq!(asked.plan_sealing(false).await.unwrap(), None);
    asked.reseal_authority(None).await.unwrap();
    let unsealed = |now: &Status| now.sealing_key.is_none();
    cluster.until_all("no seal", unsealed).await;
    // The authority still signs.
    let mut cluster = cluster;
    let joiner = cluster.joiner("d");
    cluster.join(joiner).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_loses_the_key_ends_and_says_which() {
    let file = KeyFile::new();
    let cluster =
        TestCluster::single_with(|config| config.keyring = Keyring::new(file.read())).await;
    cluster.token().await;
    let first = &cluster.replicas[0];
    first.config.keyring.replace(KeyFile::new().read());
    let fatal = timeout(PATIENCE, first.replica().fatal()).await.unwrap();
    let fatal = fatal.to_string();
    assert!(
        fatal.contains(&file.current().unwrap().to_string()),
        "{fatal}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_state_is_of_before_a_rotation_comes_back_without_the_old_key() {
    let file = KeyFile::new();
    let old = file.current().unwrap();
    let mut cluster = TestCluster::three().await;
    give_to_all(&cluster, &file, old).await;
    let seal = async |cluster: &TestCluster, key| {
        let asked = cluster.replicas[0].replica();
        asked.reseal_authority(key).await.unwrap();
    };
    seal(&cluster, Some(old)).await;
    let sealed = |now: &Status| now.sealing_key == Some(old);
    cluster.until_all("the seal", sealed).await;
    // It is away while the secrets are unsealed, and the setting is taken out.
    cluster.replicas[2].stop().await;
    cluster.leader().await;
    seal(&cluster, None).await;
    cluster.replicas[2].config.keyring = Keyring::default();
    cluster.replicas[2].start().await;
    let unsealed = |now: &Status| now.sealing_key.is_none();
    cluster.replicas[2].until("what came after", unsealed).await;
    cluster.replicas[2].add("k", 1).await;
    let ended = cluster.replicas[2].replica().fatal();
    assert!(ended.now_or_never().is_none());
}

/// Puts the file on every replica and waits until the asked one has heard so.
async fn give_to_all(cluster: &TestCluster, file: &KeyFile, key: KeyId) {
    for replica in &cluster.replicas {
        replica.config.keyring.replace(file.read());
    }
    let all_hold = |now: &Status| {
        now.members.iter().all(|member| {
            member
                .sealing_keys
                .as_ref()
                .is_some_and(|keys| keys.contains(&key))
        })
    };
    cluster.until_all("the key on all replicas", all_hold).await;
}
