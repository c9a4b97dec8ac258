//! Map streams over a cluster in memory, as a client sees them, under a clock that stands still
//! until everybody waits.

mod lifetime;
mod messages;
mod pace;

use std::time::Duration;

use bytes::Bytes;
use hydrascale_proto::state::v1::{self as pb, command::Op};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{FrameSink, GATHER_WINDOW, MapKind, MapStreams, SinkError, StreamEnd, StreamRequest};
use crate::cluster::{Cluster, LocalControl};
use crate::netmap::NetmapConfig;
use crate::tailcfg::{MapResponse, decode};
use crate::types::{NodeId, ReplicaId, Timestamp};

const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);
/// How long anything that must happen may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long a client may take nothing.
const STALL: Duration = Duration::from_secs(30);

/// A client that keeps what it is sent.
struct TestSink(mpsc::Sender<Bytes>);

impl FrameSink for TestSink {
    async fn send(&mut self, frame: Bytes) -> Result<(), SinkError> {
        let sent = timeout(STALL, self.0.send(frame)).await;
        sent.map_err(|_| SinkError::Stalled)?
            .map_err(|_| SinkError::Closed)
    }

    async fn closed(&mut self) {
        self.0.closed().await;
    }
}

/// A client that is there and never has a frame whole.
struct NobodyReads;

impl FrameSink for NobodyReads {
    async fn send(&mut self, _: Bytes) -> Result<(), SinkError> {
        std::future::pending().await
    }

    async fn closed(&mut self) {
        std::future::pending().await
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
        let streams = streams_on(&cluster);
        let tailnet = Self {
            cluster,
            control,
            streams,
            tasks: JoinSet::new(),
        };
        for seed in 1..=count {
            tailnet.register(seed).await;
        }
        settle().await;
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
        self.stream_with(request(node_id), 64)
    }

    /// A stream whose client takes `room` frames before it blocks.
    fn stream_with(&mut self, request: StreamRequest, room: usize) -> mpsc::Receiver<Bytes> {
        self.stream_on(&self.streams.clone(), request, room)
    }

    fn stream_on(
        &mut self,
        streams: &MapStreams,
        request: StreamRequest,
        room: usize,
    ) -> mpsc::Receiver<Bytes> {
        let (sender, frames) = mpsc::channel(room);
        let (streams, found) = (streams.clone(), self.cluster.state());
        self.tasks
            .spawn(async move { streams.serve(request, found, &mut TestSink(sender)).await });
        frames
    }

    /// Serves a client of another kind.
    fn serve_to(&mut self, request: StreamRequest, mut sink: impl FrameSink + 'static) {
        let (streams, found) = (self.streams.clone(), self.cluster.state());
        self.tasks
            .spawn(async move { streams.serve(request, found, &mut sink).await });
    }

    /// How the next stream to end did end.
    async fn ended(&mut self) -> StreamEnd {
        timeout(PATIENCE, self.tasks.join_next())
            .await
            .expect("an end")
            .unwrap()
            .unwrap()
    }

    fn update_endpoint(&self, node: NodeId, port: u16) {
        self.cluster.update_node(pb::UpdateNode {
            node_id: node.0,
            endpoints: Some(pb::Endpoints {
                addresses: vec![format!("192.0.2.1:{port}")],
                types: vec![1],
            }),
            ..Default::default()
        });
    }

    async fn delete(&self, node: NodeId) {
        self.cluster
            .propose(Op::DeleteNode(pb::DeleteNode { node_id: node.0 }))
            .await
            .unwrap();
    }
}

fn streams_on(cluster: &Cluster) -> MapStreams {
    MapStreams::new(cluster.clone(), NetmapConfig::default(), || NOW)
}

fn request(node_id: NodeId) -> StreamRequest {
    StreamRequest {
        node_id,
        kind: MapKind::Stream,
        zstd: false,
        capver: 130,
        stale: false,
    }
}

/// Lets everything happen that is on its way, and the gathering window pass.
async fn settle() {
    sleep(2 * GATHER_WINDOW).await;
}

fn message(frame: &[u8]) -> MapResponse {
    let (len, payload) = frame.split_at(4);
    assert_eq!(
        u32::from_le_bytes(len.try_into().unwrap()) as usize,
        payload.len()
    );
    decode(payload).unwrap()
}

async fn next_frame(frames: &mut mpsc::Receiver<Bytes>) -> Bytes {
    timeout(PATIENCE, frames.recv())
        .await
        .expect("a frame")
        .expect("a stream")
}

async fn next(frames: &mut mpsc::Receiver<Bytes>) -> MapResponse {
    message(&next_frame(frames).await)
}

/// All messages that have come by the time that everything settled.
async fn settled(frames: &mut mpsc::Receiver<Bytes>) -> Vec<MapResponse> {
    settle().await;
    let mut messages = Vec::new();
    while let Ok(frame) = frames.try_recv() {
        messages.push(message(&frame));
    }
    messages
}
