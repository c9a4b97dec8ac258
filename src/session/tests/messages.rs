//! What is said, and to whom.

use super::*;
use crate::netmap::testing::client::Client;

#[tokio::test(start_paused = true)]
async fn the_first_message_is_whole_and_peers_are_sorted_without_the_viewer() {
    let mut tailnet = Tailnet::with_nodes(3).await;
    let mut frames = tailnet.stream(NodeId(2));
    let first = next(&mut frames).await;
    assert_eq!(first.node.as_ref().map(|node| node.id), Some(NodeId(2)));
    let peers: Vec<_> = first.peers.iter().map(|peer| peer.id.0).collect();
    assert_eq!(peers, [1, 3]);
    assert!(
        first
            .peers
            .iter()
            .all(|peer| peer.online == Some(false) && peer.machine.is_none())
    );
    assert!(first.derp_map.is_some() && first.dns_config.is_some() && first.ssh_policy.is_some());
    assert_eq!(first.user_profiles.len(), 1);
    assert!(first.packet_filters.contains_key("base"));
}

#[tokio::test(start_paused = true)]
async fn a_new_node_an_update_and_a_removal_reach_a_stream_as_deltas() {
    let mut tailnet = Tailnet::with_nodes(1).await;
    let mut frames = tailnet.stream(NodeId(1));
    settled(&mut frames).await;
    let id = tailnet.register(2).await;
    let added = next(&mut frames).await;
    assert_eq!(added.peers_changed.first().map(|peer| peer.id), Some(id));
    assert_eq!(added.user_profiles.len(), 1);
    assert!(added.derp_map.is_none() && added.dns_config.is_none() && added.node.is_none());
    settle().await;
    tailnet.update_endpoint(id, 41641);
    let moved = next(&mut frames).await;
    let patch = moved.peers_changed_patch.first().unwrap();
    assert_eq!(patch.endpoints.as_ref().map(Vec::len), Some(1));
    assert!(patch.online.is_none() && moved.peers_changed.is_empty());
    settle().await;
    tailnet.delete(id).await;
    assert_eq!(next(&mut frames).await.peers_removed, [id]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_streams_is_online_for_its_peers() {
    let mut tailnet = Tailnet::with_nodes(2).await;
    let mut frames = tailnet.stream(NodeId(1));
    settled(&mut frames).await;
    let _other = tailnet.stream(NodeId(2));
    let online = next(&mut frames).await;
    let patch = online.peers_changed_patch.first().unwrap();
    assert_eq!(
        (patch.node_id, patch.online, patch.last_seen),
        (NodeId(2), Some(true), None)
    );
}

#[tokio::test(start_paused = true)]
async fn all_receivers_of_a_change_share_its_bytes() {
    let mut tailnet = Tailnet::with_nodes(3).await;
    let mut streams = [1, 2, 3].map(|id| tailnet.stream(NodeId(id)));
    for frames in &mut streams {
        settled(frames).await;
    }
    tailnet.update_endpoint(NodeId(3), 1);
    let [first, second, _own] = &mut streams;
    let sent = [next_frame(first).await, next_frame(second).await];
    assert_eq!(sent[0].as_ptr(), sent[1].as_ptr());
}

#[tokio::test(start_paused = true)]
async fn compressed_streams_say_the_same() {
    let mut tailnet = Tailnet::with_nodes(2).await;
    let mut raw = tailnet.stream(NodeId(1));
    let plain = next_frame(&mut raw).await;
    let mut frames = tailnet.stream_with(
        StreamRequest {
            zstd: true,
            ..request(NodeId(1))
        },
        64,
    );
    let compressed = next_frame(&mut frames).await;
    let (len, payload) = compressed.split_at(4);
    assert_eq!(
        u32::from_le_bytes(len.try_into().unwrap()) as usize,
        payload.len()
    );
    let json = zstd::bulk::decompress(payload, 1 << 20).unwrap();
    let mut same: MapResponse = decode(&json).unwrap();
    let mut expected = message(&plain);
    // The first stream has made the node online meanwhile.
    same.node.as_mut().unwrap().online = None;
    expected.node.as_mut().unwrap().online = None;
    assert_eq!(same, expected);
}

#[tokio::test(start_paused = true)]
async fn one_shot_requests_get_one_message_and_leave_the_stream_alone() {
    let mut tailnet = Tailnet::with_nodes(1).await;
    let mut frames = tailnet.stream(NodeId(1));
    next(&mut frames).await;
    let once = StreamRequest {
        kind: MapKind::Once,
        stale: true,
        ..request(NodeId(1))
    };
    let mut once = tailnet.stream_with(once, 4);
    assert_eq!(tailnet.ended().await, StreamEnd::Sent);
    let message = next(&mut once).await;
    assert!(message.node.is_some() && !message.display_messages.is_empty());
    assert_eq!(once.recv().await, None);
    assert_eq!(tailnet.streams.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn streams_that_start_in_the_middle_of_changes_end_up_with_the_same_netmap() {
    let mut tailnet = Tailnet::with_nodes(6).await;
    let mut clients = Vec::new();
    for round in 0..30_u16 {
        let id = NodeId(u64::from(round % 5) + 1);
        tailnet.update_endpoint(id, round + 1);
        if round % 3 == 0 {
            let frames = tailnet.stream(NodeId(u64::from(round % 4) + 1));
            clients.push((Client::default(), frames));
        }
        if round == 17 {
            tailnet.delete(NodeId(6)).await;
        }
        sleep(GATHER_WINDOW / 3).await;
    }
    settle().await;
    // Of several streams of one node the last is left, and it followed to the end.
    for (client, frames) in clients.iter_mut().rev().take(4) {
        while let Ok(frame) = frames.try_recv() {
            client.take_frames(&frame);
        }
        let id = client.node.as_ref().unwrap().id;
        let mut fresh = Client::default();
        let once = StreamRequest {
            kind: MapKind::Once,
            ..request(id)
        };
        fresh.take_frames(&next_frame(&mut tailnet.stream_with(once, 4)).await);
        assert_eq!(client.peers, fresh.peers, "what node {id} knows");
        assert_eq!(client.peers.len(), 4);
    }
}
