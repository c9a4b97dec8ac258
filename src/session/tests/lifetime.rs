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
async fn a_node_that_is_deleted_before_its_first_map_is_told_so_too() {
    let tailnet = Tailnet::with_nodes(1).await;
    let found = tailnet.cluster.state();
    tailnet.delete(NodeId(1)).await;
    let (sender, mut frames) = mpsc::channel(64);
    let mut sink = TestSink(sender);
    let stream = tailnet.streams.serve(request(NodeId(1)), found, &mut sink);
    assert_eq!(stream.await, StreamEnd::Gone);
    assert!(next(&mut frames).await.node.unwrap().expired);
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
async fn the_streams_of_a_replica_that_is_cut_off_end_at_different_moments() {
    let mut tailnet = Tailnet::with_nodes(20).await;
    let streams: Vec<_> = (1..=20).map(|id| tailnet.stream(NodeId(id))).collect();
    settle().await;
    tailnet.control.set_available(false);
    tailnet.control.set_cut_off(true);
    tailnet.control.advance(Duration::from_secs(31));
    let start = Instant::now();
    let mut moments = Vec::new();
    for _ in 0..20 {
        assert_eq!(tailnet.ended().await, StreamEnd::HandedOff);
        moments.push(start.elapsed());
    }
    assert!(
        moments
            .iter()
            .all(|moment| *moment <= Duration::from_secs(16))
    );
    moments.dedup();
    assert!(moments.len() > 10, "{moments:?}");
    assert_eq!(tailnet.streams.metrics().ends(StreamEnd::HandedOff), 20);
    drop(streams);
}

/// Another replica of the tailnet, with map streams of its own.
async fn second_replica(tailnet: &Tailnet) -> (Cluster, MapStreams) {
    let cluster = tailnet.control.join(ReplicaId(2)).await.unwrap();
    let streams = streams_on(&cluster);
    (cluster, streams)
}

fn holder(tailnet: &Tailnet, node: NodeId) -> Option<ReplicaId> {
    let state = tailnet.cluster.state();
    state.session(node).map(|session| session.replica)
}

async fn tick(tailnet: &Tailnet) {
    let tick = Op::Tick(pb::Tick {});
    tailnet.cluster.propose(tick).await.unwrap();
}

async fn declare_down(tailnet: &Tailnet) {
    let down = pb::ReplicaDown {
        replica_id: 1,
        incarnation: 1,
        last_heard_ms: None,
        silence_ms: None,
    };
    let op = Op::ReplicaDown(down);
    tailnet.cluster.propose(op).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn streams_that_outlive_the_death_of_their_replica_show_online_again() {
    let mut tailnet = Tailnet::with_nodes(1).await;
    let _frames = tailnet.stream(NodeId(1));
    settle().await;
    declare_down(&tailnet).await;
    tailnet.control.advance(Duration::from_secs(26));
    tick(&tailnet).await;
    assert!(!tailnet.cluster.state().is_online(NodeId(1)));
    sleep(Duration::from_secs(5)).await;
    assert!(!tailnet.cluster.state().is_online(NodeId(1)), "still dead");
    let up = LocalControl::up(ReplicaId(1));
    tailnet.cluster.propose(up).await.unwrap();
    sleep(Duration::from_secs(2)).await;
    assert!(tailnet.cluster.state().is_online(NodeId(1)));
}

#[tokio::test(start_paused = true)]
async fn an_old_stream_leaves_the_session_alone_that_its_node_has_on_another_replica() {
    let mut tailnet = Tailnet::with_nodes(1).await;
    let _half_dead = tailnet.stream(NodeId(1));
    settle().await;
    declare_down(&tailnet).await;
    tailnet.control.advance(Duration::from_secs(26));
    let (_, others) = second_replica(&tailnet).await;
    let _moved = tailnet.stream_on(&others, request(NodeId(1)), 64);
    settle().await;
    let up = LocalControl::up(ReplicaId(1));
    tailnet.cluster.propose(up).await.unwrap();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(holder(&tailnet, NodeId(1)), Some(ReplicaId(2)));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ended_with_its_outcome_unknown_takes_no_session_from_another_replica() {
    let mut tailnet = Tailnet::with_nodes(1).await;
    tailnet.control.set_forgetful(true);
    drop(tailnet.stream(NodeId(1)));
    settle().await;
    let (_, others) = {
        tailnet.control.set_forgetful(false);
        second_replica(&tailnet).await
    };
    let moved = tailnet.stream_on(&others, request(NodeId(1)), 64);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(holder(&tailnet, NodeId(1)), Some(ReplicaId(2)));
    tailnet.control.advance(Duration::from_secs(30));
    tick(&tailnet).await;
    assert!(tailnet.cluster.state().is_online(NodeId(1)));
    drop(moved);
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_answer_was_lost_is_closed_when_its_stream_ends() {
    let mut tailnet = Tailnet::with_nodes(1).await;
    tailnet.control.set_forgetful(true);
    let frames = tailnet.stream(NodeId(1));
    settle().await;
    assert_eq!(holder(&tailnet, NodeId(1)), Some(ReplicaId(1)));
    let opened = tailnet.cluster.newest_session(NodeId(1));
    sleep(Duration::from_secs(5)).await;
    assert_eq!(
        tailnet.cluster.newest_session(NodeId(1)),
        opened,
        "opened once"
    );
    tailnet.control.set_forgetful(false);
    drop(frames);
    sleep(Duration::from_secs(5)).await;
    tailnet.control.advance(Duration::from_secs(11));
    tick(&tailnet).await;
    assert!(!tailnet.cluster.state().is_online(NodeId(1)));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_begins_before_its_replica_is_announced_is_recorded_once_it_is() {
    let mut tailnet = Tailnet::with_nodes(1).await;
    let unknown = tailnet.control.handle(ReplicaId(2));
    let streams = streams_on(&unknown);
    let _frames = tailnet.stream_on(&streams, request(NodeId(1)), 64);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(holder(&tailnet, NodeId(1)), None);
    let up = LocalControl::up(ReplicaId(2));
    tailnet.cluster.propose(up).await.unwrap();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(holder(&tailnet, NodeId(1)), Some(ReplicaId(2)));
}

#[tokio::test(start_paused = true)]
async fn a_stream_takes_the_node_back_when_its_session_elsewhere_ends() {
    let mut tailnet = Tailnet::with_nodes(1).await;
    let _stays = tailnet.stream(NodeId(1));
    settle().await;
    let (other, others) = second_replica(&tailnet).await;
    let late = tailnet.stream_on(&others, request(NodeId(1)), 64);
    settle().await;
    assert_eq!(holder(&tailnet, NodeId(1)), Some(ReplicaId(2)));
    drop(late);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(holder(&tailnet, NodeId(1)), Some(ReplicaId(1)));
    drop(other);
}

#[tokio::test(start_paused = true)]
async fn the_streams_of_a_drained_replica_leave_without_a_warning_until_it_is_undrained() {
    let mut tailnet = Tailnet::with_nodes(20).await;
    let mut streams: Vec<_> = (1..=20).map(|id| tailnet.stream(NodeId(id))).collect();
    for stream in &mut streams {
        settled(stream).await;
    }
    let me = tailnet.cluster.replica_id();
    // Nobody would take them.
    tailnet.cluster.set_drained(me, true).await.unwrap_err();
    tailnet.control.join(ReplicaId(2)).await.unwrap();
    tailnet.cluster.set_drained(me, true).await.unwrap();
    let start = Instant::now();
    let mut moments = Vec::new();
    for _ in 0..20 {
        assert_eq!(tailnet.ended().await, StreamEnd::HandedOff);
        moments.push(start.elapsed());
    }
    assert!(
        moments
            .iter()
            .all(|moment| *moment <= Duration::from_secs(16))
    );
    moments.dedup();
    assert!(moments.len() > 10, "{moments:?}");
    for stream in &mut streams {
        let told = settled(stream).await;
        assert!(
            told.iter()
                .all(|message| message.display_messages.is_empty())
        );
    }
    // Who comes all the same is served, and asked to leave again.
    let mut late = tailnet.stream(NodeId(1));
    assert_eq!(next(&mut late).await.peers.len(), 19);
    assert_eq!(tailnet.ended().await, StreamEnd::HandedOff);
    tailnet.cluster.set_drained(me, false).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let _stays = tailnet.stream(NodeId(1));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(tailnet.streams.count(), 1);
}
