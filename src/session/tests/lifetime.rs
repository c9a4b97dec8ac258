//! How streams begin and end.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_newer_stream_of_the_node_ends_the_older() {
    let mut tailnet = Tailnet::with_nodes(1).await;
    let mut older = tailnet.stream(NodeId(1));
    next(&mut older).await;
    let mut newer = tailnet.stream(NodeId(1));
    next(&mut newer).await;
    assert_eq!(tailnet.ended().await, StreamEnd::Replaced);
    assert_eq!(tailnet.streams.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_newer_stream_ends_an_older_that_is_stuck_in_the_middle_of_a_frame() {
    let mut tailnet = Tailnet::with_nodes(2).await;
    let stuck = tailnet.stream_with(request(NodeId(1)), 1);
    settle().await;
    tailnet.update_endpoint(NodeId(2), 1);
    settle().await;
    let mut newer = tailnet.stream(NodeId(1));
    next(&mut newer).await;
    assert_eq!(tailnet.ended().await, StreamEnd::Replaced);
    drop(stuck);
}

#[tokio::test(start_paused = true)]
async fn the_client_of_a_deleted_node_is_told_that_its_key_is_over() {
    let mut tailnet = Tailnet::with_nodes(1).await;
    let mut frames = tailnet.stream(NodeId(1));
    settled(&mut frames).await;
    tailnet.delete(NodeId(1)).await;
    let last = next(&mut frames).await.node.unwrap();
    assert!(last.expired && last.key_expiry.is_some_and(|at| at < NOW));
    assert_eq!(tailnet.ended().await, StreamEnd::Gone);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_ends_its_stream_and_goes_offline_after_its_grace() {
    let mut tailnet = Tailnet::with_nodes(2).await;
    let frames = tailnet.stream(NodeId(1));
    settle().await;
    assert!(tailnet.cluster.state().is_online(NodeId(1)));
    drop(frames);
    assert_eq!(tailnet.ended().await, StreamEnd::Closed);
    settle().await;
    assert!(
        tailnet.cluster.state().is_online(NodeId(1)),
        "within the grace"
    );
    tailnet.control.advance(Duration::from_secs(11));
    tailnet
        .cluster
        .propose(Op::Tick(pb::Tick {}))
        .await
        .unwrap();
    assert!(!tailnet.cluster.state().is_online(NodeId(1)));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_back_at_once_never_goes_offline() {
    let mut tailnet = Tailnet::with_nodes(2).await;
    let mut peer = tailnet.stream(NodeId(2));
    drop(tailnet.stream(NodeId(1)));
    settle().await;
    let _again = tailnet.stream(NodeId(1));
    settled(&mut peer).await;
    tailnet.control.advance(Duration::from_secs(60));
    tailnet
        .cluster
        .propose(Op::Tick(pb::Tick {}))
        .await
        .unwrap();
    assert!(tailnet.cluster.state().is_online(NodeId(1)));
    assert_eq!(settled(&mut peer).await, []);
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_a_stream_starts_and_is_recorded_once_there_is_one() {
    let mut tailnet = Tailnet::with_nodes(2).await;
    tailnet.control.set_available(false);
    let mut frames = tailnet.stream(NodeId(1));
    assert_eq!(next(&mut frames).await.peers.len(), 1);
    assert!(!tailnet.cluster.state().is_online(NodeId(1)));
    tailnet.control.set_available(true);
    sleep(Duration::from_secs(5)).await;
    assert!(tailnet.cluster.state().is_online(NodeId(1)));
}

#[tokio::test(start_paused = true)]
async fn clients_are_warned_while_there_is_no_leader_each_in_its_own_way() {
    let mut tailnet = Tailnet::with_nodes(2).await;
    let mut old = tailnet.stream_with(
        StreamRequest {
            capver: 116,
            ..request(NodeId(1))
        },
        64,
    );
    let mut new = tailnet.stream_with(
        StreamRequest {
            capver: 117,
            ..request(NodeId(2))
        },
        64,
    );
    settled(&mut old).await;
    settled(&mut new).await;
    tailnet.control.set_available(false);
    tailnet.control.advance(Duration::from_secs(4));
    sleep(Duration::from_secs(1)).await;
    let (to_old, to_new) = (settled(&mut old).await, settled(&mut new).await);
    assert!(matches!(&*to_old, [only] if only.health.as_ref().is_some_and(|all| all.len() == 1)));
    assert!(matches!(&*to_new, [only] if only.display_messages.values().all(Option::is_some)));
    tailnet.control.set_available(true);
    sleep(Duration::from_secs(1)).await;
    let (to_old, to_new) = (settled(&mut old).await, settled(&mut new).await);
    assert!(matches!(&*to_old, [only] if only.health == Some(vec![])));
    assert!(matches!(&*to_new, [only] if only.display_messages.values().all(Option::is_none)));
}

#[tokio::test(start_paused = true)]
async fn streams_that_are_handed_off_end_at_different_moments_within_the_time_given() {
    let mut tailnet = Tailnet::with_nodes(20).await;
    let mut streams: Vec<_> = (1..=19).map(|id| tailnet.stream(NodeId(id))).collect();
    settle().await;
    let spread = Duration::from_secs(20);
    let start = Instant::now();
    tailnet.streams.hand_off(spread);
    // One that comes too late gets its map all the same, and leaves like the others.
    streams.push(tailnet.stream(NodeId(20)));
    next(streams.last_mut().unwrap()).await;
    let mut moments = Vec::new();
    for _ in 0..20 {
        assert_eq!(tailnet.ended().await, StreamEnd::HandedOff);
        moments.push(start.elapsed());
    }
    assert!(
        moments
            .iter()
            .all(|moment| *moment <= spread + 2 * GATHER_WINDOW)
    );
    moments.dedup();
    assert!(moments.len() > 10, "{moments:?}");
}
