//! When messages come: keep-alives, gathering, and clients that are slow.

use futures::FutureExt;
use parking_lot::Mutex;

use super::*;
use crate::session::Bound;
use crate::session::feed::DELTAS_KEPT;
use crate::session::held::SLOW_BYTES_MAX;
use crate::session::whole_maps::{PLACE_TIME, PLACES};

const KEEP_ALIVE: &[u8] = b"\x12\0\0\0{\"KeepAlive\":true}";

#[tokio::test(start_paused = true)]
async fn silence_is_broken_every_50_to_60_seconds_with_the_same_bytes() {
    let mut tailnet = Tailnet::with_nodes(1).await;
    let mut frames = tailnet.stream(NodeId(1));
    settled(&mut frames).await;
    let mut gaps = Vec::new();
    let mut last = Instant::now();
    for _ in 0..20 {
        assert_eq!(next_frame(&mut frames).await, KEEP_ALIVE);
        gaps.push(last.elapsed().as_secs());
        last = Instant::now();
    }
    assert!(gaps.iter().all(|gap| (49..=60).contains(gap)), "{gaps:?}");
    gaps.dedup();
    assert!(gaps.len() > 3, "no two streams stay in step: {gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_compressed_keep_alive_is_one_constant_frame() {
    let mut tailnet = Tailnet::with_nodes(1).await;
    let mut frames = tailnet.stream_with(
        StreamRequest {
            zstd: true,
            ..request(NodeId(1))
        },
        64,
    );
    settle().await;
    while frames.try_recv().is_ok() {}
    let first = next_frame(&mut frames).await;
    // Length 27; magic, one segment of 18 bytes, one raw block that is the last.
    assert_eq!(&first[..13], b"\x1b\0\0\0\x28\xb5\x2f\xfd\x20\x12\x91\0\0");
    assert_eq!(&first[13..], b"{\"KeepAlive\":true}");
    assert_eq!(next_frame(&mut frames).await, first);
}

#[tokio::test(start_paused = true)]
async fn any_message_puts_the_keep_alive_off() {
    let mut tailnet = Tailnet::with_nodes(2).await;
    let mut frames = tailnet.stream(NodeId(1));
    settled(&mut frames).await;
    sleep(Duration::from_secs(45)).await;
    tailnet.update_endpoint(NodeId(2), 1);
    assert!(!next(&mut frames).await.keep_alive);
    let start = Instant::now();
    assert!(next(&mut frames).await.keep_alive);
    assert!(start.elapsed() >= Duration::from_secs(50));
}

#[tokio::test(start_paused = true)]
async fn a_lone_change_goes_out_at_once_and_a_storm_in_one_message_per_window() {
    let mut tailnet = Tailnet::with_nodes(2).await;
    let mut frames = tailnet.stream(NodeId(1));
    settled(&mut frames).await;
    let start = Instant::now();
    tailnet.update_endpoint(NodeId(2), 1);
    next(&mut frames).await;
    assert!(start.elapsed() < GATHER_WINDOW);
    for port in 2..50 {
        tailnet.update_endpoint(NodeId(2), port);
        sleep(Duration::from_millis(1)).await;
    }
    let storm = settled(&mut frames).await;
    assert!(storm.len() <= 3, "{} messages", storm.len());
    let last = storm.last().unwrap().peers_changed_patch.first().unwrap();
    assert_eq!(last.endpoints, Some(vec!["192.0.2.1:49".parse().unwrap()]));
}

#[tokio::test(start_paused = true)]
async fn what_concerns_nobody_is_not_sent() {
    let mut tailnet = Tailnet::with_nodes(2).await;
    let mut frames = tailnet.stream(NodeId(1));
    settled(&mut frames).await;
    let key = pb::CreateApiKey {
        prefix: "0123456789ab".to_owned(),
        secret_hash: vec![3; 32].into(),
        expires_at_ms: None,
    };
    tailnet
        .cluster
        .propose(Op::CreateApiKey(key))
        .await
        .unwrap();
    assert_eq!(settled(&mut frames).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_loses_its_stream() {
    let mut tailnet = Tailnet::with_nodes(2).await;
    let _frames = tailnet.stream_with(request(NodeId(1)), 1);
    settle().await;
    let start = Instant::now();
    tailnet.update_endpoint(NodeId(2), 1);
    assert_eq!(tailnet.ended().await, StreamEnd::Stalled);
    assert!(start.elapsed() >= STALL - Duration::from_secs(1));
    assert_eq!(tailnet.streams.metrics().ends(StreamEnd::Stalled), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_lags_far_behind_gets_a_fresh_full_map() {
    let mut tailnet = Tailnet::with_nodes(2).await;
    let mut frames = tailnet.stream_with(request(NodeId(1)), 1);
    settle().await;
    for port in 1..=u16::try_from(DELTAS_KEPT).unwrap() + 8 {
        tailnet.update_endpoint(NodeId(2), port);
        sleep(Duration::from_millis(60)).await;
    }
    let port = u16::try_from(DELTAS_KEPT).unwrap() + 8;
    let newest = format!("192.0.2.1:{port}").parse().unwrap();
    let mut messages = Vec::new();
    while let Ok(Some(frame)) = timeout(Duration::from_secs(5), frames.recv()).await {
        messages.push(message(&frame));
    }
    let full = messages
        .iter()
        .rev()
        .find(|message| !message.peers.is_empty())
        .unwrap();
    assert!(full.node.is_some());
    assert_eq!(full.peers[0].endpoints, Some(vec![newest]));
    assert!(messages.len() < 10, "{} messages", messages.len());
    let metrics = tailnet.streams.metrics();
    assert_eq!(
        (metrics.resent(), metrics.bound_hits(Bound::Deltas)),
        (1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_herd_is_served_whole_maps_that_hold_everything_and_falls_behind_on_nothing() {
    let mut tailnet = Tailnet::with_nodes(40).await;
    let mut herd: Vec<_> = (1..=40).map(|id| tailnet.stream(NodeId(id))).collect();
    for (id, frames) in (1..).zip(&mut herd) {
        let first = next(frames).await;
        assert_eq!(first.node.unwrap().id, NodeId(id));
        assert_eq!(first.peers.len(), 39);
    }
    settle().await;
    assert_eq!(tailnet.streams.metrics().resent(), 0);
    assert!((1..=40).all(|id| tailnet.cluster.state().is_online(NodeId(id))));
}

#[tokio::test(start_paused = true)]
async fn slow_clients_do_not_keep_others_from_their_first_map() {
    // A stream and a single map of each node take all places.
    let nodes = u8::try_from(PLACES / 2).unwrap();
    let mut tailnet = Tailnet::with_nodes(nodes + 1).await;
    for id in (1..=nodes).map(|id| NodeId(id.into())) {
        tailnet.serve_to(request(id), NobodyReads);
        tailnet.serve_to(once(id), NobodyReads);
    }
    settle().await;
    let start = Instant::now();
    let mut frames = tailnet.stream(NodeId(u64::from(nodes) + 1));
    next(&mut frames).await;
    assert!(start.elapsed() <= PLACE_TIME + Duration::from_secs(1));
    let metrics = tailnet.streams.metrics();
    assert_eq!(metrics.bound_hits(Bound::WholeMaps), 1);
    assert!(metrics.bound_hits(Bound::PlaceTime) >= 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_is_cut_off_when_others_hold_all_the_memory_for_slow_ones() {
    let mut tailnet = Tailnet::with_nodes(1).await;
    let streams = tailnet.streams.clone();
    let mut held = Vec::new();
    let mut left = SLOW_BYTES_MAX as usize;
    while left > 0 {
        let mut place = streams.inner.whole_maps.place().await;
        place.hold(left).await;
        let slow = place.give_up().unwrap();
        left -= slow.len();
        held.push(slow);
    }
    let start = Instant::now();
    tailnet.serve_to(request(NodeId(1)), NobodyReads);
    assert_eq!(tailnet.ended().await, StreamEnd::Slow);
    assert_eq!(start.elapsed().as_secs(), PLACE_TIME.as_secs());
    assert_eq!(streams.metrics().bound_hits(Bound::SlowBytes), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_gets_to_the_end_of_its_netmap_is_cut_off() {
    let mut tailnet = Tailnet::with_nodes(1).await;
    tailnet.serve_to(request(NodeId(1)), NobodyReads);
    assert_eq!(tailnet.ended().await, StreamEnd::Slow);
    assert_eq!(tailnet.streams.metrics().bound_hits(Bound::Rate), 1);
}

#[tokio::test(start_paused = true)]
async fn single_maps_of_one_node_that_nobody_reads_do_not_add_up() {
    let mut tailnet = Tailnet::with_nodes(1).await;
    for _ in 0..3 {
        tailnet.serve_to(once(NodeId(1)), NobodyReads);
        settle().await;
    }
    for _ in 0..2 {
        assert_eq!(tailnet.ended().await, StreamEnd::Replaced);
    }
    assert_eq!(tailnet.tasks.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_first_message_of_a_single_map_is_the_map_however_long_it_takes() {
    let mut tailnet = Tailnet::with_nodes(1).await;
    let streams = tailnet.streams.clone();
    let mut places = Vec::new();
    for _ in 0..PLACES {
        places.push(streams.inner.whole_maps.place().await);
    }
    let mut single = tailnet.stream_with(once(NodeId(1)), 4);
    let mut stream = tailnet.stream(NodeId(1));
    assert!(next(&mut stream).await.keep_alive);
    sleep(Duration::from_secs(60)).await;
    drop(places);
    assert!(next(&mut single).await.node.is_some());
}

/// Netmaps wait for it to tell the time.
static CLOCK: Mutex<()> = Mutex::new(());

#[tokio::test(start_paused = true)]
async fn no_state_stays_in_memory_when_a_client_left_while_its_netmap_was_made() {
    let tailnet = Tailnet::with_nodes(1).await;
    let streams = MapStreams::new(tailnet.cluster.clone(), NetmapConfig::default(), || {
        drop(CLOCK.lock());
        NOW
    });
    let stopped = CLOCK.lock();
    let mut sink = NobodyReads;
    let serve = streams.serve(request(NodeId(1)), tailnet.cluster.state(), &mut sink);
    assert_eq!(Box::pin(serve).now_or_never(), None);
    drop(stopped);
    assert!(!streams.inner.whole_maps.holds_a_state().await);
}

fn once(node_id: NodeId) -> StreamRequest {
    StreamRequest {
        kind: MapKind::Once,
        ..request(node_id)
    }
}

#[tokio::test(start_paused = true)]
async fn a_fresh_full_map_without_peers_names_those_that_are_gone() {
    let mut tailnet = Tailnet::with_nodes(2).await;
    let mut frames = tailnet.stream_with(request(NodeId(1)), 1);
    settle().await;
    // The client has no room for this one, and the next it misses.
    tailnet.update_endpoint(NodeId(2), 1);
    settle().await;
    tailnet.delete(NodeId(2)).await;
    for number in 0..DELTAS_KEPT + 8 {
        let rename = pb::RenameUser {
            user_id: 1,
            name: format!("alice{number}"),
        };
        tailnet
            .cluster
            .propose(Op::RenameUser(rename))
            .await
            .unwrap();
        sleep(Duration::from_millis(60)).await;
    }
    let mut gone = Vec::new();
    while let Ok(Some(frame)) = timeout(Duration::from_secs(5), frames.recv()).await {
        let message = message(&frame);
        if message.node.is_some() && !message.peers_removed.is_empty() {
            gone = message.peers_removed;
        }
    }
    assert_eq!(gone, [NodeId(2)]);
}
