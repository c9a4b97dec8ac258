//! A backup of a replica with a store of its own, what begins with it, and what begins with the store.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use hydrascale_proto::state::v1::{
    CreateApiKey, CreatePreAuthKey, CreateUser, InitTailnet, command::Op,
};
use hydrascale_raft::{BackupError, KeyId, Replica, ReplicaConfig, SealingKeys};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::{check, sealing_key};
use crate::cli::{Hooks, Output, run};
use crate::cluster::{Cluster, Machine, plain_tailnet, seal_noise_key};
use crate::config::Environment;
use crate::control::VersionInfo;
use crate::state::State;
use crate::state::secret::{SecretKind, SecretText, same_hash};
use crate::types::{MachinePrivateKey, ReplicaId};

/// Tests share the machine with others.
const TIMING_MULTIPLIER: u32 = 3;

/// The backup of a cluster of one with a tailnet, a user and keys, and the state that it is of.
async fn backup(folder: &TempDir) -> (Vec<u8>, Arc<Machine>) {
    backup_of(folder, plain_tailnet()).await
}

async fn backup_of(folder: &TempDir, tailnet: InitTailnet) -> (Vec<u8>, Arc<Machine>) {
    let (replica, machine) = start(&folder.path().join("old"), tailnet).await;
    replica.read_index().await.unwrap();
    let mut stream = replica.backup().unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    replica.shutdown().await;
    (bytes, machine)
}

/// A cluster of one with a tailnet, a user and keys.
async fn start(data_dir: &Path, tailnet: InitTailnet) -> (Replica, Arc<Machine>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let mut config = ReplicaConfig::new(data_dir, "old", addr);
    config.timing_multiplier = TIMING_MULTIPLIER;
    Replica::init_cluster(&config).unwrap();
    let machine = Arc::new(Machine::new());
    let replica = Replica::start(config, listener, machine.clone())
        .await
        .unwrap();
    let id = ReplicaId(replica.id().0);
    let cluster = Cluster::new(Arc::new(replica.clone()), machine.clone(), id, 1);
    cluster.propose(Op::InitTailnet(tailnet)).await.unwrap();
    let user = CreateUser {
        name: "alice".to_owned(),
        ..CreateUser::default()
    };
    let user = cluster.propose(Op::CreateUser(user)).await.unwrap();
    let pepper = *cluster.state().secret_pepper().unwrap();
    let (api, auth) = (secret(SecretKind::ApiKey), secret(SecretKind::PreAuthKey));
    let api = CreateApiKey {
        prefix: api.prefix().to_owned(),
        secret_hash: api.hash(&pepper).to_vec().into(),
        ..CreateApiKey::default()
    };
    cluster.propose(Op::CreateApiKey(api)).await.unwrap();
    let auth = CreatePreAuthKey {
        prefix: auth.prefix().to_owned(),
        secret_hash: auth.hash(&pepper).to_vec().into(),
        user_id: Some(user.id),
        reusable: true,
        expires_at_ms: Some(IN_2100_MS),
        ..CreatePreAuthKey::default()
    };
    cluster.propose(Op::CreatePreAuthKey(auth)).await.unwrap();
    (replica, machine)
}

/// What the owner of a key holds.
fn secret(kind: SecretKind) -> SecretText {
    SecretText::from_random(kind, [7; 6], &[9; 32])
}

/// The user and the keys are there, and the secrets that were given out are the keys'.
fn check_keys(state: &State) {
    let user = state.user_by_name("alice").unwrap();
    let pepper = state.secret_pepper().unwrap();
    let api = secret(SecretKind::ApiKey);
    let stored = state.api_key_by_prefix(api.prefix()).unwrap();
    assert!(same_hash(&api.hash(pepper), &stored.secret_hash));
    assert_eq!(stored.expires_at, None);
    let auth = secret(SecretKind::PreAuthKey);
    let stored = state.pre_auth_key_by_prefix(auth.prefix()).unwrap();
    assert!(same_hash(&auth.hash(pepper), &stored.secret_hash));
    assert_eq!(stored.user_id, Some(user.id));
    assert!(stored.reusable && !stored.used && !stored.revoked);
    let expiry = stored.expires_at.map(|at| at.unix_ms());
    assert_eq!(expiry, Some(IN_2100_MS));
}

/// A tailnet whose Noise key is sealed under the key in a new file at `path`.
fn sealed_tailnet(path: &Path) -> (KeyId, InitTailnet) {
    let key = SealingKeys::add_to_file(path).unwrap();
    let keys = SealingKeys::read(path).unwrap();
    let noise_key = MachinePrivateKey::from_bytes([7; 32]);
    let tailnet = InitTailnet {
        noise_private_key: seal_noise_key(&keys, &noise_key).unwrap().into(),
        ..plain_tailnet()
    };
    (key, tailnet)
}

/// Exit code, output, error output.
fn call(folder: &Path, words: &[&str]) -> (u8, String, String) {
    let config = folder.join("config.yaml");
    let text = "server_url: http://x.test\nprefixes:\n  v4: 100.64.0.0/10\ndns:\n  base_domain: tail.test\n  override_local_dns: false\n\
                cluster:\n  data_dir: new\n  replica_name: new\n";
    // Its key, where the folder holds one.
    let keys = match folder.join(KEY_FILE).exists() {
        true => format!("  sealing_key_file: {KEY_FILE}\n"),
        false => String::new(),
    };
    fs::write(&config, format!("{text}{keys}")).unwrap();
    let config = config.display().to_string();
    let argv = ["hydrascale", "-c", &config]
        .into_iter()
        .chain(words.iter().copied());
    let argv: Vec<_> = argv.map(Into::into).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut input: &[u8] = b"";
    let hooks = Hooks {
        serve: |_| Ok(()),
        demo: |_, _| Ok(()),
        version: VersionInfo::default(),
    };
    let mut output = Output::new(&mut out, &mut err, &mut input, false);
    let code = run(&argv, &Environment::default(), &hooks, &mut output);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (code, text(out), text(err))
}

/// The same from within a runtime: commands make one of their own.
fn call_apart(folder: &Path, words: &[&str]) -> (u8, String, String) {
    std::thread::scope(|scope| scope.spawn(|| call(folder, words)).join()).unwrap()
}

#[tokio::test]
async fn a_backup_is_counted_and_a_damaged_one_is_refused() {
    let folder = TempDir::new().unwrap();
    let (bytes, machine) = backup(&folder).await;
    let contents = check(bytes.as_slice()).unwrap();
    assert_eq!((contents.users, contents.nodes), (1, 0));
    assert_eq!((contents.pre_auth_keys, contents.api_keys), (1, 1));
    assert_eq!(contents.index, machine.applied_index());
    assert_eq!(contents.replicas, ["old (1)"]);
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 4;
    let refused = check(flipped.as_slice());
    assert!(
        matches!(refused, Err(BackupError::Unusable { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_restored_folder_has_the_state_with_its_keys_and_is_restored_once() {
    let folder = TempDir::new().unwrap();
    let (bytes, machine) = backup(&folder).await;
    let file = folder.path().join("b.backup");
    let name = file.display().to_string();
    fs::write(&file, &bytes[..bytes.len() - 3]).unwrap();
    let words = ["backup", "restore", &name];
    let (code, _, err) = call_apart(folder.path(), &words);
    assert!(code == 1 && err.contains("cut short"), "{err}");

    fs::write(&file, &bytes).unwrap();
    let (code, out, err) = call_apart(folder.path(), &["backup", "verify", &name]);
    assert!(code == 0 && out.contains("1 users, 0 nodes"), "{out}{err}");
    assert!(out.contains("secrets not sealed"), "{out}");
    let (code, out, err) = call_apart(folder.path(), &words);
    assert!(
        code == 0 && out.contains("start it with `serve`"),
        "{out}{err}"
    );
    let (code, _, err) = call_apart(folder.path(), &words);
    assert!(code == 1 && err.contains("choose an empty folder"), "{err}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let mut config = ReplicaConfig::new(folder.path().join("new"), "new", addr);
    config.timing_multiplier = TIMING_MULTIPLIER;
    let restored = Arc::new(Machine::new());
    let replica = Replica::start(config, listener, restored.clone())
        .await
        .unwrap();
    assert_eq!(restored.state().digest(), machine.state().digest());
    check_keys(&restored.state());
    replica.shutdown().await;
}

#[tokio::test]
async fn a_sealed_backup_names_its_key_and_is_not_restored_without_it() {
    let folder = TempDir::new().unwrap();
    let made = folder.path().join("made.key");
    let (key, sealed) = sealed_tailnet(&made);
    let (bytes, _) = backup_of(&folder, sealed).await;
    let (found, mut again) = sealing_key(bytes.as_slice()).unwrap();
    assert_eq!(found, Some(key));
    let mut whole = Vec::new();
    again.read_to_end(&mut whole).unwrap();
    assert!(whole == bytes, "what was looked at is read again");

    let file = folder.path().join("b.backup");
    fs::write(&file, &bytes).unwrap();
    let name = file.display().to_string();
    let (code, out, err) = call_apart(folder.path(), &["backup", "verify", &name]);
    let named = format!("secrets sealed under key {key}");
    assert!(code == 0 && out.contains(&named), "{out}{err}");
    let restore = ["backup", "restore", &name];
    let (code, _, err) = call_apart(folder.path(), &restore);
    let refused = format!("sealed under key {key}, and no key is configured");
    assert!(code == 1 && err.contains(&refused), "{err}");
    assert!(!folder.path().join("new").exists(), "nothing was begun");

    fs::rename(&made, folder.path().join(KEY_FILE)).unwrap();
    let (code, out, err) = call_apart(folder.path(), &restore);
    assert_eq!(code, 0, "{out}{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_not_recovered_where_it_could_not_start_for_lack_of_the_sealing_key() {
    let folder = TempDir::new().unwrap();
    let made = folder.path().join("made.key");
    let (key, sealed) = sealed_tailnet(&made);
    let data = folder.path().join("new");
    let (first, _) = start(&data, sealed).await;
    let lost = join(&first, &folder.path().join("lost")).await;
    for replica in [lost, first] {
        replica.abort().await;
    }
    let identity = fs::read(data.join("identity.json")).unwrap();
    let before = names(&data);

    let recover = ["cluster", "recover", "--unsafe", "--yes"];
    let (code, _, err) = call_apart(folder.path(), &recover);
    let refused = format!("sealed under key {key}, and no key is configured");
    assert!(code == 1 && err.contains(&refused), "{err}");
    assert!(err.contains("then recover again"), "{err}");
    assert_eq!(names(&data), before, "nothing is changed");
    assert!(fs::read(data.join("identity.json")).unwrap() == identity);

    fs::rename(&made, folder.path().join(KEY_FILE)).unwrap();
    let (code, out, err) = call_apart(folder.path(), &recover);
    assert!(
        code == 0 && out.contains("Start with `serve`"),
        "{out}{err}"
    );
}

/// Another member, so that there is a quorum to lose.
async fn join(first: &Replica, data_dir: &Path) -> Replica {
    let token = first.create_join_token(PATIENCE, None).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let mut config = ReplicaConfig::new(data_dir, "other", addr);
    config.timing_multiplier = TIMING_MULTIPLIER;
    Replica::join_cluster(&config, &token).await.unwrap();
    let machine = Arc::new(Machine::new());
    let other = Replica::start(config, listener, machine).await.unwrap();
    let mut status = first.status();
    let member = status.wait_for(|now| now.members.len() == 2);
    timeout(PATIENCE, member).await.unwrap().unwrap();
    other
}

fn names(folder: &Path) -> BTreeSet<OsString> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

const KEY_FILE: &str = "sealing.key";
/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(30);
const IN_2100_MS: i64 = 4_102_444_800_000;
