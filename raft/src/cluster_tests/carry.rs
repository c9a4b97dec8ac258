//! Messages of the layer above go from replica to replica, in order and under the sender's name.

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, stream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::harness::{PATIENCE, TestCluster, patiently};
use crate::{Hold, ReplicaId, Unloading};

/// Hands what comes to a test.
struct Quay(mpsc::Sender<(ReplicaId, Bytes)>);

struct Crane {
    from: ReplicaId,
    quay: mpsc::Sender<(ReplicaId, Bytes)>,
}

impl Hold for Quay {
    fn open(&self, from: ReplicaId) -> Box<dyn Unloading> {
        let quay = self.0.clone();
        Box::new(Crane { from, quay })
    }
}

impl Unloading for Crane {
    fn take(&mut self, message: Bytes) {
        self.quay.try_send((self.from, message)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_arrive_in_order_and_tell_their_sender() {
    let cluster = TestCluster::three().await;
    let mut running = cluster.running();
    let (from, to) = (running.next().unwrap(), running.next().unwrap());
    let messages = || stream::iter(["one", "two"].map(|text| Bytes::from_static(text.as_bytes())));
    let refused = from.replica().carry(to.id(), messages()).await;
    let reason = refused.unwrap_err().reason;
    assert!(reason.contains("nothing takes"), "{reason}");

    let (quay, mut arrived) = mpsc::channel(8);
    assert!(to.replica().set_hold(Arc::new(Quay(quay.clone()))));
    assert!(!to.replica().set_hold(Arc::new(Quay(quay))));
    let carried = timeout(PATIENCE, from.replica().carry(to.id(), messages()));
    carried.await.unwrap().unwrap();
    for expected in ["one", "two"] {
        let (sender, message) = arrived.recv().await.unwrap();
        assert_eq!(
            (sender, message),
            (from.id(), Bytes::from_static(expected.as_bytes()))
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_the_replica_that_takes_it() {
    let mut cluster = TestCluster::three().await;
    let (quay, mut arrived) = mpsc::channel(8);
    let to = cluster.replicas[1].id();
    assert!(cluster.replicas[1].replica().set_hold(Arc::new(Quay(quay))));
    let from = cluster.replicas[0].replica().clone();
    let carrying = tokio::spawn(async move { from.carry(to, endless()).await });
    let hello = timeout(PATIENCE, arrived.recv()).await.unwrap();
    assert_eq!(hello.unwrap().1, Bytes::from_static(b"hello"));
    cluster.replicas[1].stop().await;
    let ended = timeout(PATIENCE, carrying).await.unwrap().unwrap();
    assert_eq!(ended.unwrap_err().to, to);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_a_replica_that_was_removed_ends_though_its_process_goes_on() {
    let cluster = TestCluster::three().await;
    let (quay, mut arrived) = mpsc::channel(8);
    let to = &cluster.replicas[0];
    assert!(to.replica().set_hold(Arc::new(Quay(quay))));
    let gone = cluster.replicas[2].id();
    let (from, to) = (cluster.replicas[2].replica().clone(), to.id());
    let carrying = tokio::spawn(async move { from.carry(to, endless()).await });
    timeout(PATIENCE, arrived.recv()).await.unwrap().unwrap();
    let asked = cluster.replicas[1].replica();
    let removed = patiently(async || asked.remove_member(gone, None).await);
    removed.await.unwrap();
    let ended = timeout(PATIENCE, carrying).await.unwrap().unwrap();
    assert_eq!(ended.unwrap_err().to, to);
}

/// One message, and no end.
fn endless() -> impl Stream<Item = Bytes> + Send + 'static {
    stream::unfold(true, |first| async move {
        match first {
            true => Some((Bytes::from_static(b"hello"), false)),
            false => std::future::pending().await,
        }
    })
}
