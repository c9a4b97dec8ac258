//! A backup of a replica with a store of its own, and what begins with it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use hydrascale_proto::state::v1::{CreateUser, command::Op};
use hydrascale_raft::{BackupError, Replica, ReplicaConfig};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::check;
use crate::cli::{Hooks, Output, run};
use crate::cluster::{Cluster, Machine, plain_tailnet};
use crate::config::Environment;
use crate::control::VersionInfo;
use crate::types::ReplicaId;

/// The backup of a cluster of one with a tailnet and a user, and the state that it is of.
async fn backup(folder: &TempDir) -> (Vec<u8>, Arc<Machine>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let config = ReplicaConfig::new(folder.path().join("old"), "old", addr);
    Replica::init_cluster(&config).unwrap();
    let machine = Arc::new(Machine::new());
    let replica = Replica::start(config, listener, machine.clone())
        .await
        .unwrap();
    let id = ReplicaId(replica.id().0);
    let cluster = Cluster::new(Arc::new(replica.clone()), machine.clone(), id, 1);
    cluster
        .propose(Op::InitTailnet(plain_tailnet()))
        .await
        .unwrap();
    let user = CreateUser {
        name: "alice".to_owned(),
        ..CreateUser::default()
    };
    cluster.propose(Op::CreateUser(user)).await.unwrap();
    cluster.linearizable().await.unwrap();
    let mut stream = cluster.backup().unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    replica.shutdown().await;
    (bytes, machine)
}

/// Exit code, output, error output.
fn call(folder: &Path, words: &[&str]) -> (u8, String, String) {
    let config = folder.join("config.yaml");
    let text = "server_url: http://x.test\nprefixes:\n  v4: 100.64.0.0/10\ndns:\n  base_domain: tail.test\n  override_local_dns: false\n\
                cluster:\n  data_dir: new\n  replica_name: new\n";
    fs::write(&config, text).unwrap();
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

#[tokio::test]
async fn a_backup_is_counted_and_a_damaged_one_is_refused() {
    let folder = TempDir::new().unwrap();
    let (bytes, machine) = backup(&folder).await;
    let contents = check(bytes.as_slice()).unwrap();
    assert_eq!((contents.users, contents.nodes), (1, 0));
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
async fn a_restored_folder_has_the_state_and_is_restored_once() {
    let folder = TempDir::new().unwrap();
    let (bytes, machine) = backup(&folder).await;
    let file = folder.path().join("b.backup");
    let name = file.display().to_string();
    fs::write(&file, &bytes[..bytes.len() - 3]).unwrap();
    let (path, words) = (
        folder.path().to_owned(),
        ["backup", "restore", &name].map(str::to_owned),
    );
    let call = move |words: &[String]| {
        let (path, words) = (path.clone(), words.to_vec());
        // Commands make a runtime of their own.
        std::thread::spawn(move || {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            call(&path, &words)
        })
        .join()
        .unwrap()
    };
    let (code, _, err) = call(&words);
    assert!(code == 1 && err.contains("cut short"), "{err}");

    fs::write(&file, &bytes).unwrap();
    let (code, out, err) = call(&["backup", "verify", &name].map(str::to_owned));
    assert!(code == 0 && out.contains("1 users, 0 nodes"), "{out}{err}");
    let (code, out, err) = call(&words);
    assert!(
        code == 0 && out.contains("start it with `serve`"),
        "{out}{err}"
    );
    let (code, _, err) = call(&words);
    assert!(code == 1 && err.contains("choose an empty folder"), "{err}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let config = ReplicaConfig::new(folder.path().join("new"), "new", addr);
    let restored = Arc::new(Machine::new());
    let replica = Replica::start(config, listener, restored.clone())
        .await
        .unwrap();
    assert_eq!(restored.state().digest(), machine.state().digest());
    replica.shutdown().await;
}
