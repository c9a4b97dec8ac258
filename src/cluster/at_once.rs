//! What two replicas propose while neither knows of the other's change.

use bytes::Bytes;
use hydrascale_proto::state::v1::{self as pb, command::Op};

use super::{Cluster, plain_tailnet};
use crate::state::assert_unique;
use crate::types::{ReplicaId, Timestamp};

const PREFIX: &str = "0123456789ab";
const SECRET_HASH: Bytes = Bytes::from_static(&[3; 32]);

async fn make_key(cluster: &Cluster) {
    let user = pb::CreateUser {
        name: "owner".to_owned(),
        ..Default::default()
    };
    let user = cluster.propose(Op::CreateUser(user)).await.unwrap();
    let key = pb::CreatePreAuthKey {
        prefix: PREFIX.to_owned(),
        secret_hash: SECRET_HASH,
        user_id: Some(user.id),
        reusable: true,
        expires_at_ms: Some(86_400_000),
        ..Default::default()
    };
    cluster.propose(Op::CreatePreAuthKey(key)).await.unwrap();
}

fn registration(device: u8) -> Op {
    Op::RegisterNode(pb::RegisterNode {
        machine_key: vec![device; 32].into(),
        node_key: vec![100 + device; 32].into(),
        hostinfo_json: Bytes::from_static(b"{}"),
        capver: 130,
        auth_key: Some(pb::PreAuthKeyProof {
            prefix: PREFIX.to_owned(),
            secret_hash: SECRET_HASH,
        }),
        entropy: device.into(),
        ..Default::default()
    })
}

#[tokio::test(start_paused = true)]
async fn nodes_registered_at_once_on_two_replicas_share_nothing() {
    let (here, control) = Cluster::local(plain_tailnet(), Timestamp::default())
        .await
        .unwrap();
    make_key(&here).await;
    let there = control.join_lagging(ReplicaId(2)).await.unwrap();
    for round in 0..5 {
        let (one, other) = (1 + 2 * round, 2 + 2 * round);
        here.propose(registration(one)).await.unwrap();
        assert_eq!(there.state().nodes().count(), usize::from(2 * round));
        there.propose(registration(other)).await.unwrap();
    }
    for cluster in [&here, &there] {
        assert_eq!(cluster.state().nodes().count(), 10);
        assert_unique(&cluster.state());
    }
    assert_eq!(here.state().digest(), there.state().digest());
}

/// The test above in a process of its own, in which a bug is planted.
#[cfg(feature = "planted-bugs")]
#[test]
fn a_planted_bug_that_lets_the_proposer_choose_addresses_is_caught() {
    use hydrascale_raft::{Bug, PLANTED_BUG};

    let name = "nodes_registered_at_once_on_two_replicas_share_nothing";
    let path = format!("cluster::at_once::{name}");
    let run = |bug: &str| {
        let program = std::env::current_exe().unwrap();
        let mut command = std::process::Command::new(program);
        let command = command.args(["--exact", &path]).env(PLANTED_BUG, bug);
        let done = command.output().unwrap();
        (
            done.status.success(),
            String::from_utf8_lossy(&done.stdout).into_owned(),
        )
    };
    let (green, said) = run("");
    assert!(green && said.contains("1 passed"), "{said}");
    let bug = Bug::AddressByProposer.name();
    let (green, said) = run(bug);
    let found = said.lines().find(|line| line.contains("is there twice"));
    let found = found.unwrap_or_else(|| panic!("{bug} was not seen: {said}"));
    assert!(!green);
    println!("| {bug} | registrations at once on two replicas, unique: {found} | the only run |");
}
