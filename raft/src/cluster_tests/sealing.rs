//! Secrets sealed under a key file: who may start, join and reseal.

use super::harness::{TestCluster, refused};
use crate::{AdminError, KeyId, Keyring, Replica, SealingKeys, StartError, Status};

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
    let error = first.try_start().await.unwrap_err();
    assert!(matches!(error, StartError::Sealed(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("cluster.sealing_key_file"), "{text}");
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
        assert_eq!(asked.plan_sealing(true).await.unwrap(), Some(key));
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
    let fatal = first.replica().fatal().await.to_string();
    assert!(
        fatal.contains(&file.current().unwrap().to_string()),
        "{fatal}"
    );
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
