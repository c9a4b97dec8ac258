//! Map streams over a cluster in memory, as a client sees them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hydrascale_proto::state::v1::{self as pb, command::Op};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{FrameSink, MapKind, MapStreams, SinkClosed, StreamEnd, StreamRequest};
use crate::cluster::{Cluster, LocalControl};
use crate::netmap::NetmapConfig;
use crate::policy::AllowAll;
use crate::tailcfg::{MapResponse, decode};
use crate::types::{NodeId, Timestamp};

const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);
/// How long anything that must happen may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client that keeps what it is sent.
struct TestSink(mpsc::Sender<Bytes>);

impl FrameSink for TestSink {
    async fn send(&mut self, frame: Bytes) -> Result<(), SinkClosed> {
        self.0.send(frame).await.map_err(|_| SinkClosed)
    }

    async fn closed(&mut self) {
        self.0.closed().await;
    }
}

struct Tailnet {
    cluster: Cluster,
    control: LocalControl,
    streams: MapStreams,
    tasks: JoinSet<StreamEnd>,
}

impl Tailnet {
    async fn with_nodes(count: u8) -> Self {
        let settings = pb::Settings {
            ipv4_prefix: "100.64.0.0/10".to_owned(),
            ipv6_prefix: "fd7a:115c:a1e0::/48".to_owned(),
            ephemeral_inactivity_ms: 120_000,
            login_ttl_ms: 900_000,
            session_grace_ms: 10_000,
            replica_grace_ms: 25_000,
            ..Default::default()
        };
        let init = pb::InitTailnet {
            settings: Some(settings),
            noise_private_key: vec![1; 32].into(),
            secret_pepper: vec![2; 32].into(),
        };
        let (cluster, control) = Cluster::local(init, NOW).await.unwrap();
        let user = pb::CreateUser {
            name: "alice".to_owned(),
            ..Default::default()
        };
        cluster.propose(Op::CreateUser(user)).await.unwrap();
        let key = pb::CreatePreAuthKey {
            prefix: "0123456789ab".to_owned(),
            secret_hash: vec![3; 32].into(),
            user_id: Some(1),
            reusable: true,
            expires_at_ms: Some(NOW.unix_ms() + 1_000_000),
            ..Default::default()
        };
        cluster.propose(Op::CreatePreAuthKey(key)).await.unwrap();
        let streams = MapStreams::new(
            cluster.clone(),
            NetmapConfig::default(),
            Arc::new(AllowAll),
            || NOW,
        );
        let tailnet = Self {
            cluster,
            control,
            streams,
            tasks: JoinSet::new(),
        };
        for seed in 1..=count {
            tailnet.register(seed).await;
        }
        tailnet
    }

    async fn register(&self, seed: u8) -> NodeId {
        let register = pb::RegisterNode {
            machine_key: vec![seed; 32].into(),
            node_key: vec![seed + 100; 32].into(),
            hostinfo_json: format!(r#"{{"Hostname":"host{seed}"}}"#)
                .into_bytes()
                .into(),
            capver: 130,
            auth_key: Some(pb::PreAuthKeyProof {
                prefix: "0123456789ab".to_owned(),
                secret_hash: vec![3; 32].into(),
            }),
            ..Default::default()
        };
        NodeId(
            self.cluster
                .propose(Op::RegisterNode(register))
                .await
                .unwrap()
                .id,
        )
    }

    fn stream(&mut self, node_id: NodeId) -> mpsc::Receiver<Bytes> {
        let (sender, frames) = mpsc::channel(16);
        let streams = self.streams.clone();
        let request = StreamRequest {
            node_id,
            kind: MapKind::Stream,
            zstd: false,
            capver: 130,
            stale: false,
        };
        self.tasks
            .spawn(async move { streams.serve(request, &mut TestSink(sender)).await });
        frames
    }
}

async fn next(frames: &mut mpsc::Receiver<Bytes>) -> MapResponse {
    let frame = timeout(PATIENCE, frames.recv())
        .await
        .expect("a frame")
        .expect("a stream");
    let (len, payload) = frame.split_at(4);
    assert_eq!(
        u32::from_le_bytes(len.try_into().unwrap()) as usize,
        payload.len()
    );
    decode(payload).unwrap()
}

/// Skips what other nodes' coming and going causes.
async fn next_matching(
    frames: &mut mpsc::Receiver<Bytes>,
    wanted: impl Fn(&MapResponse) -> bool,
) -> MapResponse {
    loop {
        let message = next(frames).await;
        if wanted(&message) {
            return message;
        }
    }
}

#[tokio::test]
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

#[tokio::test]
async fn a_new_node_an_update_and_a_removal_reach_a_stream_as_deltas() {
    let mut tailnet = Tailnet::with_nodes(1).await;
    let mut frames = tailnet.stream(NodeId(1));
    next(&mut frames).await;
    let id = tailnet.register(2).await;
    let added = next_matching(&mut frames, |message| !message.peers_changed.is_empty()).await;
    assert_eq!(added.peers_changed.first().map(|peer| peer.id), Some(id));
    assert_eq!(added.user_profiles.len(), 1);
    assert!(added.derp_map.is_none() && added.dns_config.is_none() && added.node.is_none());
    tailnet.cluster.update_node(pb::UpdateNode {
        node_id: id.0,
        endpoints: Some(pb::Endpoints {
            addresses: vec!["192.0.2.1:41641".to_owned()],
            types: vec![1],
        }),
        ..Default::default()
    });
    let moved = next_matching(&mut frames, |message| {
        !message.peers_changed_patch.is_empty()
    })
    .await;
    let patch = moved.peers_changed_patch.first().unwrap();
    assert_eq!(patch.endpoints.as_ref().map(Vec::len), Some(1));
    assert!(patch.online.is_none() && moved.peers_changed.is_empty());
    tailnet
        .cluster
        .propose(Op::DeleteNode(pb::DeleteNode { node_id: id.0 }))
        .await
        .unwrap();
    let gone = next_matching(&mut frames, |message| !message.peers_removed.is_empty()).await;
    assert_eq!(gone.peers_removed, [id]);
}

#[tokio::test]
async fn a_node_that_streams_is_online_for_its_peers() {
    let mut tailnet = Tailnet::with_nodes(2).await;
    let mut frames = tailnet.stream(NodeId(1));
    next(&mut frames).await;
    let _other = tailnet.stream(NodeId(2));
    let online = next_matching(&mut frames, |message| {
        !message.peers_changed_patch.is_empty()
    })
    .await;
    let patch = online.peers_changed_patch.first().unwrap();
    assert_eq!(
        (patch.node_id, patch.online, patch.last_seen),
        (NodeId(2), Some(true), None)
    );
}

#[tokio::test]
async fn a_newer_stream_of_the_node_ends_the_older() {
    let mut tailnet = Tailnet::with_nodes(1).await;
    let mut older = tailnet.stream(NodeId(1));
    next(&mut older).await;
    let mut newer = tailnet.stream(NodeId(1));
    next(&mut newer).await;
    let ended = timeout(PATIENCE, tailnet.tasks.join_next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(ended, StreamEnd::Replaced);
    assert_eq!(tailnet.streams.count(), 1);
}

#[tokio::test]
async fn a_deleted_node_loses_its_stream() {
    let mut tailnet = Tailnet::with_nodes(1).await;
    let mut frames = tailnet.stream(NodeId(1));
    next(&mut frames).await;
    tailnet
        .cluster
        .propose(Op::DeleteNode(pb::DeleteNode { node_id: 1 }))
        .await
        .unwrap();
    let ended = timeout(PATIENCE, tailnet.tasks.join_next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(ended, StreamEnd::Gone);
}

#[tokio::test]
async fn without_a_leader_a_stream_starts_and_is_recorded_once_there_is_one() {
    let mut tailnet = Tailnet::with_nodes(2).await;
    tailnet.control.set_available(false);
    let mut frames = tailnet.stream(NodeId(1));
    assert_eq!(next(&mut frames).await.peers.len(), 1);
    assert!(!tailnet.cluster.state().is_online(NodeId(1)));
    let mut changes = tailnet.cluster.subscribe();
    tailnet.control.set_available(true);
    let online = async {
        while !tailnet.cluster.state().is_online(NodeId(1)) {
            changes.recv().await.unwrap();
        }
    };
    timeout(PATIENCE, online).await.unwrap();
}

#[tokio::test]
async fn one_shot_requests_get_one_message_and_leave_the_stream_alone() {
    let mut tailnet = Tailnet::with_nodes(1).await;
    let mut frames = tailnet.stream(NodeId(1));
    next(&mut frames).await;
    let (sender, mut once) = mpsc::channel(4);
    let request = StreamRequest {
        node_id: NodeId(1),
        kind: MapKind::Once,
        zstd: false,
        capver: 130,
        stale: true,
    };
    let end = tailnet.streams.serve(request, &mut TestSink(sender)).await;
    assert_eq!(end, StreamEnd::Sent);
    let message = next(&mut once).await;
    assert!(message.node.is_some() && !message.display_messages.is_empty());
    assert_eq!(tailnet.streams.count(), 1);
}
