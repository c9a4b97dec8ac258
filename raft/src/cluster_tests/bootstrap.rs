//! Replicas that are started together and form a cluster by themselves.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use super::harness::{PATIENCE, TestCluster, TestReplica, voters};
use crate::{Begun, Bootstrap, BootstrapError, DialOverrides, SealingKeys, Status};

/// Long enough for many rounds of greetings.
const SEVERAL_ROUNDS: Duration = Duration::from_secs(2);

/// Replicas that expect each other, in the order of their names.
fn apart(names: &[&str], expect: usize) -> TestCluster {
    let overrides = DialOverrides::default();
    let secret = secret();
    let replicas = names.iter().map(|name| {
        let mut replica = TestReplica::new(name, &overrides);
        replica.config.bootstrap = Some(Bootstrap {
            expect,
            peers: names.iter().map(|name| format!("{name}.test:1")).collect(),
            secret: Arc::clone(&secret),
        });
        replica
    });
    TestCluster {
        replicas: replicas.collect(),
        overrides: overrides.clone(),
    }
}

fn secret() -> Arc<SealingKeys> {
    let (_, line) = SealingKeys::new_line();
    Arc::new(SealingKeys::parse(&line).unwrap())
}

async fn begin(cluster: &mut TestCluster) -> Vec<Result<Begun, BootstrapError>> {
    let all = join_all(cluster.replicas.iter_mut().map(TestReplica::bootstrap));
    timeout(PATIENCE, all).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_that_expect_each_other_become_one_cluster() {
    let mut cluster = apart(&["a", "b", "c"], 3);
    let begun = begin(&mut cluster).await;
    let made = |begun: &Result<Begun, _>| matches!(begun, Ok(Begun::Made(_)));
    assert!(made(&begun[0]), "{begun:?}");
    assert_eq!(begun.iter().filter(|begun| made(begun)).count(), 1);
    cluster
        .until_all("three voters", |now| voters(now) == 3 && !now.joint)
        .await;
    cluster.replicas[2].add("x", 1).await;

    // There is no fourth place, and who lost its data is told how to get its place back.
    for (name, expected) in [("d", "all the replicas"), ("c", "was used by replica")] {
        let mut late = TestReplica::new(name, &cluster.overrides);
        late.config.bootstrap = cluster.replicas[0].config.bootstrap.clone();
        let refused = late.bootstrap().await.unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
        assert!(refused.contains("cluster replace"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_comes_late_joins_the_cluster_of_the_others() {
    let mut cluster = apart(&["a", "b", "c"], 3);
    let late = cluster.replicas.split_off(2);
    let early = timeout(SEVERAL_ROUNDS, begin(&mut cluster)).await;
    assert!(early.is_err(), "two of three made a cluster: {early:?}");
    cluster.replicas.extend(late);
    let begun = begin(&mut cluster).await;
    assert!(begun.iter().all(Result::is_ok), "{begun:?}");
    cluster
        .until_all("three voters", |now| voters(now) == 3 && !now.joint)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_formed_itself_serves_again_after_most_were_demoted() {
    let mut cluster = apart(&["a", "b"], 2);
    let begun = begin(&mut cluster).await;
    assert!(begun.iter().all(Result::is_ok), "{begun:?}");
    let two = |now: &Status| voters(now) == 2 && !now.joint;
    cluster.until_all("two voters", two).await;
    let leader = cluster.leader().await;
    let other = cluster.replicas[1 - leader].id();
    let asked = cluster.replicas[leader].replica();
    asked.set_voting(other, false, None).await.unwrap();
    let one = |now: &Status| voters(now) == 1 && !now.joint;
    cluster.until_all("one voter", one).await;
    let voter = &mut cluster.replicas[leader];
    voter.stop().await;
    voter.start().await;
    timeout(PATIENCE, voter.replica().formed()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_another_secret_is_not_counted() {
    let mut cluster = apart(&["a", "b", "c"], 3);
    let last = cluster.replicas[2].config.bootstrap.as_mut().unwrap();
    last.secret = secret();
    let waited = timeout(SEVERAL_ROUNDS, begin(&mut cluster)).await;
    assert!(waited.is_err(), "a stranger was counted: {waited:?}");
}
