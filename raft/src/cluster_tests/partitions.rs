//! Replicas that cannot reach each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::harness::{TestCluster, add};
use crate::{DialOverrides, ProposeError, ReadError};

/// The replica that soon gives up what it is asked.
const HASTY: usize = 0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_cut_off_from_everybody_acknowledges_nothing_and_the_others_go_on() {
    let (cluster, links) = three_with_links().await;
    cluster.replicas[0].add("k", 1).await;
    let (old, other) = (HASTY, HASTY + 1);
    cluster.lead(old).await;
    let id = cluster.replicas[old].id();
    links.isolate(old);
    // Asks the silent leader first, and does not wait for it longer than for the next one.
    cluster.replicas[other].add("k", 10).await;
    cluster.replicas[other]
        .until("another leader", |now| now.leader.is_some_and(|l| l != id))
        .await;
    let isolated = &cluster.replicas[old];
    let doubtful = match isolated.replica().propose(add("k", 100)).await {
        Ok(proposed) => panic!("acknowledged without a majority: {proposed:?}"),
        Err(error) => i64::from(error.is_outcome_unknown()) * 100,
    };
    let read = isolated.replica().read_index().await.unwrap_err();
    assert!(matches!(read, ReadError::Unavailable { .. }), "{read}");
    let cut_off = isolated
        .until("being cut off", |now| now.is_cut_off(Instant::now()))
        .await;
    assert!(cut_off.time_without_leader(Instant::now()) > Duration::from_secs(1));
    // By now it knows that asking is of no use, and says so at once.
    assert!(isolated.replica().lacks_leader().is_some());
    let started = Instant::now();
    let refused = isolated.replica().propose(add("k", 1000)).await;
    assert!(matches!(refused, Err(ProposeError::NotProposed { .. })));
    assert!(started.elapsed() < isolated.config.request_timeout / 2);
    links.heal();
    isolated
        .until("a leader again", |now| {
            now.time_without_leader(Instant::now()) < Duration::from_secs(1)
        })
        .await;
    let healed = isolated.add("k", 1).await;
    cluster.applied(healed.index).await;
    for replica in &cluster.replicas {
        let sum = replica.sums.get("k");
        assert!(sum == 12 || sum == 12 + doubtful, "{sum}");
        assert_eq!(sum, isolated.sums.get("k"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_fails_in_one_direction_stops_nobody_for_long() {
    let (cluster, links) = three_with_links().await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    links.block(leader, follower);
    cluster.replicas[(leader + 2) % 3].add("k", 1).await;
    cluster.replicas[leader].add("k", 1).await;
    links.heal();
    let last = cluster.replicas[follower].add("k", 1).await;
    cluster.applied(last.index).await;
    assert!(
        cluster
            .replicas
            .iter()
            .all(|replica| replica.sums.get("k") == 3)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_cut_off_does_not_disturb_the_leader_when_it_is_back() {
    let (cluster, links) = three_with_links().await;
    let leader = cluster.lasting_leader().await;
    let follower = (leader + 1) % 3;
    cluster.replicas[follower].elect(true);
    let before = cluster.replicas[leader].replica().status().borrow().term;
    links.isolate(follower);
    cluster.replicas[follower]
        .until("being cut off", |now| now.is_cut_off(Instant::now()))
        .await;
    cluster.replicas[leader].add("k", 1).await;
    links.heal();
    cluster.replicas[follower]
        .until("a leader again", |now| {
            now.time_without_leader(Instant::now()) < Duration::from_secs(1)
        })
        .await;
    let last = cluster.replicas[follower].add("k", 1).await;
    cluster.applied(last.index).await;
    // Pre-vote: who cannot win does not raise the term.
    assert_eq!(
        cluster.replicas[leader].replica().status().borrow().term,
        before
    );
}

/// Three replicas, each reaching each other one through a link of its own.
async fn three_with_links() -> (TestCluster, Links) {
    let mut cluster = TestCluster::three().await;
    cluster.replicas[HASTY].config.request_timeout = Duration::from_secs(6);
    let mut links = Links::default();
    for from in 0..3 {
        let own = DialOverrides::default();
        for to in (0..3).filter(|to| *to != from) {
            let addr = cluster.replicas[to].config.advertise_addr.clone();
            own.set(
                addr.clone(),
                links.open(from, to, addr, cluster.overrides.clone()).await,
            );
        }
        cluster.replicas[from].stop().await;
        cluster.replicas[from].config.dial_overrides = own;
        cluster.replicas[from].start().await;
    }
    cluster
        .until_all("a leader", |now| now.leader.is_some())
        .await;
    (cluster, links)
}

/// A proxy for each ordered pair of replicas.
#[derive(Default)]
struct Links(BTreeMap<(usize, usize), Link>);

struct Link {
    blocked: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Links {
    async fn open(
        &mut self,
        from: usize,
        to: usize,
        target: String,
        addresses: DialOverrides,
    ) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (blocked, gate) = watch::channel(false);
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let target = addresses.resolve(&target);
                tokio::spawn(carry(near, target, gate.clone()));
            }
        });
        self.0.insert((from, to), Link { blocked, accepting });
        addr
    }

    /// Lets no byte through in either direction of this link, whoever sends it.
    fn block(&self, from: usize, to: usize) {
        self.0[&(from, to)].blocked.send_replace(true);
    }

    fn isolate(&self, replica: usize) {
        for (pair, link) in &self.0 {
            if pair.0 == replica || pair.1 == replica {
                link.blocked.send_replace(true);
            }
        }
    }

    fn heal(&self) {
        for link in self.0.values() {
            link.blocked.send_replace(false);
        }
    }
}

async fn carry(near: TcpStream, target: String, gate: watch::Receiver<bool>) {
    let mut open = gate.clone();
    if open.wait_for(|blocked| !blocked).await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else {
        return;
    };
    let (near, far) = (near.into_split(), far.into_split());
    let gate = Arc::new(gate);
    tokio::select! {
        () = pump(near.0, far.1, (*gate).clone()) => {}
        () = pump(far.0, near.1, (*gate).clone()) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut gate: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if gate.wait_for(|blocked| !blocked).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
