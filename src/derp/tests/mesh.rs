//! Several relays, joined as replicas join them.

use futures::StreamExt;
use tokio::task::JoinHandle;

use super::*;
use crate::types::ReplicaId;

const ONE: ReplicaId = ReplicaId(1);
const TWO: ReplicaId = ReplicaId(2);
const THREE: ReplicaId = ReplicaId(3);
const DISCONNECTED: u8 = 0;
const NOT_HERE: u8 = 1;

fn relay() -> TestRelay {
    TestRelay::start(|_| Verdict::Allow)
}

/// Carries what `from` has for `to`, until it is aborted.
fn carry(from: (&TestRelay, ReplicaId), to: (&TestRelay, ReplicaId)) -> JoinHandle<()> {
    let batches = from.0.handle.link(to.1);
    let mut arrivals = to.0.handle.arrivals(from.1);
    tokio::spawn(async move {
        let mut batches = std::pin::pin!(batches);
        while let Some(batch) = batches.next().await {
            arrivals.take(batch);
        }
    })
}

/// Both ways.
fn join(a: (&TestRelay, ReplicaId), b: (&TestRelay, ReplicaId)) -> [JoinHandle<()>; 2] {
    [carry(a, b), carry(b, a)]
}

/// Waits until the relay knows of so many clients of others.
async fn remote_clients(relay: &TestRelay, count: u64) {
    let what = format!("{count} clients elsewhere");
    let knows = |relay: &RelayHandle| relay.metrics().clients_remote.value() == count;
    relay.wait_for(&what, knows).await;
}

#[tokio::test]
async fn packets_reach_clients_of_another_relay_both_ways() {
    let (one, two) = (relay(), relay());
    // One client is there before the relays meet, the other comes afterwards.
    let mut a = one.client(1).await;
    let _links = join((&one, ONE), (&two, TWO));
    let mut b = two.client(2).await;
    remote_clients(&one, 1).await;
    remote_clients(&two, 1).await;
    for len in [0, 1, 200, 1400, 65_536] {
        let packet = vec![0xab; len];
        a.send(b.key, &packet).await;
        assert_eq!(b.packet_from(a.key).await, packet);
        b.send(a.key, &packet).await;
        assert_eq!(a.packet_from(b.key).await, packet);
    }
    let metrics = one.handle.metrics();
    assert_eq!(metrics.forwarded_out.data.value(), 5);
    assert_eq!(metrics.forwarded_in.data.value(), 5);
    assert_eq!(metrics.mesh_links.value(), 1);
    let drops = metrics.samples().into_iter();
    let drops = drops.filter(|sample| sample.name == "derp_packets_dropped");
    assert_eq!(drops.map(|sample| sample.value).sum::<u64>(), 0);
}

#[tokio::test]
async fn who_is_nowhere_in_the_cluster_is_not_here() {
    let (one, two) = (relay(), relay());
    let mut a = one.client(1).await;
    let _links = join((&one, ONE), (&two, TWO));
    let b = two.client(2).await;
    remote_clients(&one, 1).await;
    let gone = b.key;
    drop(b);
    remote_clients(&one, 0).await;
    a.send_disco(gone, b"anybody?").await;
    assert_eq!(a.gone(gone).await, NOT_HERE);
}

#[tokio::test]
async fn a_peer_is_told_gone_when_it_is_connected_nowhere_any_more() {
    let (one, two) = (relay(), relay());
    let _links = join((&one, ONE), (&two, TWO));
    let mut b = two.client(2).await;
    let mut a_here = one.client(1).await;
    remote_clients(&two, 1).await;
    remote_clients(&one, 1).await;
    a_here.send(b.key, b"hello").await;
    assert_eq!(b.packet_from(a_here.key).await, b"hello");
    // It moves to the other relay: the route to it stays good.
    let mut a_there = two.client(1).await;
    let key = a_there.key;
    drop(a_here);
    remote_clients(&two, 0).await;
    a_there.send(b.key, b"still here").await;
    assert_eq!(b.packet_from(key).await, b"still here");
    // And back, with the route handed on.
    let mut a_here = one.client(1).await;
    remote_clients(&two, 1).await;
    drop(a_there);
    two.wait_for("it left", |two| two.stats().clients == 1)
        .await;
    a_here.send(b.key, b"back").await;
    assert_eq!(b.packet_from(key).await, b"back");
    drop(a_here);
    assert_eq!(b.gone(key).await, DISCONNECTED);
}

#[tokio::test]
async fn a_client_at_two_relays_gets_its_packets_at_home() {
    let (one, two, three) = (relay(), relay(), relay());
    let mut a = one.client(1).await;
    let mut home = two.client(2).await;
    home.send_frame(0x07, &[1]).await;
    two.wait_for("home", |two| two.stats().home_connections == 1)
        .await;
    let mut other = three.client(2).await;
    let _links = (
        join((&one, ONE), (&two, TWO)),
        join((&one, ONE), (&three, THREE)),
    );
    let _witness = (two.client(3).await, three.client(4).await);
    remote_clients(&one, 3).await;
    a.send(home.key, b"at home").await;
    assert_eq!(home.packet_from(a.key).await, b"at home");
    // The home moves: it is said at the new one, and then at the old one.
    other.send_frame(0x07, &[1]).await;
    home.send_frame(0x07, &[0]).await;
    three
        .wait_for("home", |three| three.stats().home_connections == 1)
        .await;
    two.wait_for("moved", |two| two.stats().home_connections == 0)
        .await;
    let _witness = (two.client(5).await, three.client(6).await);
    remote_clients(&one, 5).await;
    a.send(other.key, b"moved").await;
    assert_eq!(other.packet_from(a.key).await, b"moved");
}

#[tokio::test]
async fn a_packet_goes_one_relay_far() {
    let (one, two, three) = (relay(), relay(), relay());
    // Relay two believes that the client is at three, and one that it is at two.
    let mut a = one.client(1).await;
    let c = three.client(3).await;
    let _to_two = carry((&three, THREE), (&two, TWO));
    let _back = carry((&two, TWO), (&three, THREE));
    let _forth = carry((&one, ONE), (&two, TWO));
    let mut lie = one.handle.arrivals(TWO);
    lie.take(three_as_two(c.key));
    remote_clients(&two, 2).await;
    a.send(c.key, b"too far").await;
    let dropped = |two: &RelayHandle| two.metrics().dropped_unknown_on_forward.data.value() == 1;
    two.wait_for("the packet is dropped", dropped).await;
    assert_eq!(two.handle.metrics().forwarded_out.data.value(), 0);
}

/// A message that calls `key` present.
fn three_as_two(key: NodeKey) -> bytes::Bytes {
    use hydrascale_proto::relay::v1::{MeshBatch, Presence};
    use prost::Message;
    let presence = Presence {
        key: key.as_bytes().to_vec().into(),
        here: true,
        home: false,
    };
    let batch = MeshBatch {
        presences: vec![presence],
        packets: Vec::new(),
    };
    batch.encode_to_vec().into()
}

#[tokio::test]
async fn a_broken_stream_is_forgotten_and_a_new_one_starts_from_the_beginning() {
    let (one, two) = (relay(), relay());
    let [there, back] = join((&one, ONE), (&two, TWO));
    let mut b = two.client(2).await;
    let mut a = one.client(1).await;
    remote_clients(&one, 1).await;
    back.abort();
    there.abort();
    remote_clients(&one, 0).await;
    one.wait_for("no link", |one| one.metrics().mesh_links.value() == 0)
        .await;
    let _links = join((&one, ONE), (&two, TWO));
    remote_clients(&one, 1).await;
    a.send(b.key, b"again").await;
    assert_eq!(b.packet_from(a.key).await, b"again");
}

#[tokio::test]
async fn what_waits_for_a_slow_relay_is_bounded_and_the_oldest_make_room() {
    let (one, two) = (relay(), relay());
    let mut a = one.client(1).await;
    let b = two.client(2).await;
    let _back = carry((&two, TWO), (&one, ONE));
    remote_clients(&one, 1).await;
    // A stream that nobody reads.
    let _stuck = std::pin::pin!(one.handle.link(TWO));
    for _ in 0..100 {
        a.send(b.key, &[7; 65_536]).await;
    }
    let counted = |one: &RelayHandle| one.metrics().forwarded_out.data.value() == 100;
    one.wait_for("all packets", counted).await;
    assert_eq!(one.handle.metrics().dropped_mesh_queue.data.value(), 36);
}

#[tokio::test]
async fn nonsense_from_another_relay_is_counted_and_changes_nothing() {
    let one = relay();
    let mut arrivals = one.handle.arrivals(TWO);
    arrivals.take(bytes::Bytes::from_static(b"\xff\xff nonsense"));
    arrivals.take(three_as_two(NodeKey::from_bytes([9; 32])).slice(..20));
    assert_eq!(one.handle.metrics().mesh_malformed.value(), 2);
    assert_eq!(one.handle.metrics().clients_remote.value(), 0);
}
