//! Connections over pipes in memory, under a paused clock.

use std::time::Duration;

use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::derp::progress::Counted;

/// A registry and what it counts.
struct World {
    clients: Arc<Clients>,
    metrics: Arc<RelayMetrics>,
    next: u64,
}

/// The far end of a connection.
struct Peer {
    key: NodeKey,
    io: DuplexStream,
    client: Arc<Client>,
    task: JoinHandle<CloseReason>,
}

impl World {
    fn new() -> Self {
        let metrics = Arc::new(RelayMetrics::default());
        Self {
            clients: Arc::new(Clients::new(Arc::clone(&metrics))),
            metrics,
            next: 0,
        }
    }

    /// A client whose transport holds `capacity` bytes each way.
    fn connect(&mut self, key: u8, capacity: usize) -> Peer {
        let (ours, theirs) = duplex(capacity);
        let (counted, progress) = Counted::new(theirs);
        self.next += 1;
        let (key, remote) = (
            NodeKey::from_bytes([key; 32]),
            "192.0.2.1:1".parse().unwrap(),
        );
        let client = Arc::new(Client::new(
            ConnectionId(self.next),
            key,
            remote,
            Instant::now(),
        ));
        self.clients.insert(&client);
        let (clients, metrics) = (Arc::clone(&self.clients), Arc::clone(&self.metrics));
        let served = Arc::clone(&client);
        let task = tokio::spawn(async move {
            let around = Surroundings {
                clients: &clients,
                metrics: &metrics,
            };
            let reason = serve(counted, BytesMut::new(), progress, &served, &around).await;
            clients.remove(&served);
            reason
        });
        Peer {
            key,
            io: ours,
            client,
            task,
        }
    }
}

impl Peer {
    async fn send(&mut self, dst: &Self, packet: &[u8]) {
        let len = u32::try_from(32 + packet.len()).unwrap().to_be_bytes();
        let frame = [&[0x04][..], &len, dst.key.as_bytes(), packet].concat();
        self.io.write_all(&frame).await.unwrap();
    }

    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let kind = self.io.read_u8().await.unwrap();
        let len = self.io.read_u32().await.unwrap();
        let mut payload = vec![0; usize::try_from(len).unwrap()];
        self.io.read_exact(&mut payload).await.unwrap();
        (kind, payload)
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_gets_keep_alives_below_the_limit_of_65_seconds() {
    let mut world = World::new();
    let mut a = world.connect(1, 1024);
    for _ in 0..5 {
        let start = Instant::now();
        assert_eq!(a.frame().await, (0x06, vec![]));
        let waited = start.elapsed();
        assert!((60..=65).contains(&waited.as_secs()), "{waited:?}");
    }
    assert_eq!(world.metrics.keep_alives.value(), 5);
}

#[tokio::test(start_paused = true)]
async fn traffic_stands_in_for_keep_alives() {
    let mut world = World::new();
    let (mut a, mut b) = (world.connect(1, 4096), world.connect(2, 4096));
    for _ in 0..5 {
        sleep(Duration::from_secs(50)).await;
        a.send(&b, b"x").await;
        assert_eq!(b.frame().await.0, 0x05);
    }
    let start = Instant::now();
    assert_eq!(b.frame().await.0, 0x06);
    assert!(start.elapsed() >= Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut_off_after_two_seconds() {
    let mut world = World::new();
    let (mut a, b) = (world.connect(1, 4096), world.connect(2, 1000));
    let start = Instant::now();
    a.send(&b, &[0; 1400]).await;
    assert_eq!(b.task.await.unwrap(), CloseReason::WriteStalled);
    assert!(
        (2..4).contains(&start.elapsed().as_secs()),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(world.metrics.write_timeouts.value(), 1);
    assert_eq!(world.metrics.dropped_write_error.data.value(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_is_not() {
    let mut world = World::new();
    let (mut a, mut b) = (world.connect(1, 4096), world.connect(2, 100));
    a.send(&b, &[0; 1400]).await;
    for _ in 0..14 {
        sleep(Duration::from_millis(1500)).await;
        b.io.read_exact(&mut [0; 100]).await.unwrap();
    }
    assert!(!b.task.is_finished());
    b.io.read_exact(&mut [0; 37]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_slow_receiver_gets_the_newest_packets_and_holds_up_nobody() {
    let mut world = World::new();
    let mut sender = world.connect(1, 64 * 1024);
    let (mut slow, mut fast) = (world.connect(2, 1000), world.connect(3, 64 * 1024));
    for number in 0..500u16 {
        sender
            .send(&slow, &[&number.to_be_bytes()[..], &[0; 500]].concat())
            .await;
        sender.send(&fast, &number.to_be_bytes()).await;
        let (kind, payload) = fast.frame().await;
        assert_eq!((kind, &payload[32..]), (0x05, &number.to_be_bytes()[..]));
    }
    let mut numbers = Vec::new();
    while numbers.last() != Some(&499) {
        let (_, payload) = slow.frame().await;
        numbers.push(u16::from_be_bytes([payload[32], payload[33]]));
    }
    assert!(numbers.is_sorted());
    let fresh = (468..500).collect::<Vec<u16>>();
    assert!(
        numbers.ends_with(&fresh),
        "the last queue's worth is there: {numbers:?}"
    );
    let dropped = world.metrics.dropped_queue_head.data.value();
    assert_eq!(dropped, 500 - u64::try_from(numbers.len()).unwrap());
    assert!(dropped > 400);
    assert_eq!(world.metrics.dropped_write_error.data.value(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_burst_in_one_read_does_not_overflow_the_queue_of_a_fast_receiver() {
    let mut world = World::new();
    let (mut a, mut b) = (world.connect(1, 256 * 1024), world.connect(2, 256 * 1024));
    for _ in 0..500 {
        a.send(&b, &[7; 60]).await;
    }
    for _ in 0..500 {
        assert_eq!(b.frame().await.1[32..], [7; 60]);
    }
    assert_eq!(world.metrics.dropped_queue_head.data.value(), 0);
}

#[tokio::test(start_paused = true)]
async fn closing_interrupts_a_write() {
    let mut world = World::new();
    let (mut a, b) = (world.connect(1, 4096), world.connect(2, 100));
    a.send(&b, &[0; 1400]).await;
    sleep(Duration::from_millis(10)).await;
    let start = Instant::now();
    b.client.queue.close(CloseReason::Removed);
    assert_eq!(b.task.await.unwrap(), CloseReason::Removed);
    assert!(start.elapsed() <= CLOSE_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_moved_home_is_counted_after_a_while() {
    let mut world = World::new();
    let mut a = world.connect(1, 1024);
    let note = |home: u8| [0x07, 0, 0, 0, 1, home];
    a.io.write_all(&note(1)).await.unwrap();
    sleep(Duration::from_secs(6)).await;
    let metrics = &world.metrics;
    assert_eq!(
        (
            metrics.current_home_connections.value(),
            metrics.home_moves_in.value()
        ),
        (1, 0)
    );
    a.io.write_all(&[note(0), note(0), note(1)].concat())
        .await
        .unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(
        (
            metrics.home_moves_out.value(),
            metrics.home_moves_in.value()
        ),
        (1, 1)
    );
    drop(a.io);
    assert_eq!(a.task.await.unwrap(), CloseReason::PeerClosed);
    assert_eq!(metrics.current_home_connections.value(), 0);
}
