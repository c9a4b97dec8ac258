//! What arrives at the peer listener from those who are not, or not quite, a replica.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use hydrascale_proto::raft::v1 as pb;
use hydrascale_proto::raft::v1::join_client::JoinClient;
use hydrascale_proto::raft::v1::peer_client::PeerClient;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tower::service_fn;

use super::harness::{PATIENCE, TestCluster, TestReplica, add};
use crate::identity::Folder;
use crate::network::connect;
use crate::tls::{client_settings, join_settings, sha256};

/// Every unary method of the peer service.
const METHODS: [&str; 8] = [
    "Heartbeat",
    "Vote",
    "PreVote",
    "TransferLeader",
    "Forward",
    "ReadIndex",
    "Manage",
    "Identify",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_in_every_rpc_are_answered_with_an_error_and_change_nothing() {
    let (mut cluster, channel) = with_member_channel().await;
    let mut runner = TestRunner::deterministic();
    let bytes = prop::collection::vec(any::<u8>(), 0..200);
    let mut errors = 0;
    for method in METHODS
        .iter()
        .chain(&["Append", "InstallSnapshot", "NoSuchMethod"])
    {
        for _ in 0..12 {
            let body = bytes.new_tree(&mut runner).unwrap().current();
            let called = raw_call(channel.clone(), &cluster, method, body.into()).await;
            if let Err(status) = called {
                assert!(!status.message().contains("panic"), "{method}: {status}");
                errors += 1;
            }
        }
    }
    assert!(errors > 0);
    let first = &mut cluster.replicas[0];
    first.add("k", 1).await;
    first.stop().await;
    first.start().await;
    first.add("k", 1).await;
    assert_eq!(first.sums.get("k"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_messages_are_invalid_arguments_and_counted() {
    let (cluster, channel) = with_member_channel().await;
    let mut client = PeerClient::new(channel);
    let before = cluster.replicas[0].replica().metrics().requests_malformed;
    let voteless = client
        .vote(request(&cluster, pb::VoteRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(voteless.code(), Code::InvalidArgument);
    assert!(voteless.message().contains("vote"), "{voteless}");
    let headless = futures::stream::iter([pb::SnapshotChunk {
        part: Some(pb::snapshot_chunk::Part::Data(Bytes::from_static(b"x"))),
    }]);
    let headless = client
        .install_snapshot(request(&cluster, headless))
        .await
        .unwrap_err();
    assert_eq!(headless.code(), Code::InvalidArgument);
    let gap = futures::stream::iter([pb::AppendRequest::default()]);
    let mut replies = client
        .append(request(&cluster, gap))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        replies.message().await.unwrap_err().code(),
        Code::InvalidArgument
    );
    assert!(cluster.replicas[0].replica().metrics().requests_malformed > before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_sent_twice_applies_once_and_answers_the_same() {
    let (cluster, channel) = with_member_channel().await;
    let mut client = PeerClient::new(channel);
    let forward = || pb::ForwardRequest {
        proposal: Some(pb::Proposal {
            level: 0,
            stamped_ms: 0,
            client_id: Bytes::from_static(b"0123456789abcdef"),
            seq: 7,
            lowest_unacked: 7,
            body: Some(pb::proposal::Body::Command(add("k", 5))),
        }),
        deadline_ms: 5000,
        traceparent: String::new(),
    };
    for _ in 0..3 {
        let reply = client
            .forward(request(&cluster, forward()))
            .await
            .unwrap()
            .into_inner();
        let Some(pb::forward_reply::Result::Applied(applied)) = reply.result else {
            panic!("not applied: {reply:?}");
        };
        assert_eq!(applied.outcome, "5");
    }
    assert_eq!(cluster.replicas[0].sums.get("k"), 5);
    let mut stale = forward();
    stale.proposal.as_mut().unwrap().seq = 6;
    let reply = client
        .forward(request(&cluster, stale))
        .await
        .unwrap()
        .into_inner();
    assert!(
        matches!(reply.result, Some(pb::forward_reply::Result::Stale(_))),
        "{reply:?}"
    );
    let anonymous = pb::ForwardRequest {
        proposal: None,
        ..forward()
    };
    let reply = client
        .forward(request(&cluster, anonymous))
        .await
        .unwrap()
        .into_inner();
    assert!(
        matches!(reply.result, Some(pb::forward_reply::Result::Refused(_))),
        "{reply:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_of_a_certificate_that_is_no_member_changes_no_other_members() {
    use pb::manage_request::Op;
    let (cluster, channel) = with_member_channel().await;
    let mut client = PeerClient::new(channel);
    let ops = [
        Op::RemoveMember(pb::RemoveMember { replica_id: 1 }),
        Op::MoveLeadership(pb::MoveLeadership::default()),
        Op::ChangeVote(pb::ChangeVote {
            replica_id: 1,
            voting: false,
        }),
        Op::AddLearner(pb::AddLearner {
            replica_id: 77,
            ..Default::default()
        }),
    ];
    for op in ops {
        let asked = pb::ManageRequest {
            op: Some(op),
            deadline_ms: 5000,
            expected_membership: None,
        };
        let reply = client.manage(request(&cluster, asked)).await.unwrap();
        match reply.into_inner().result {
            Some(pb::manage_reply::Result::Refused(reason)) => assert!(
                reason.contains("no member") || reason.contains("itself only"),
                "{reason}"
            ),
            other => panic!("not refused: {other:?}"),
        }
    }
    cluster.replicas[0].add("k", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_an_unknown_kind_is_refused_and_halts_nobody() {
    let (cluster, channel) = with_member_channel().await;
    let forward = pb::ForwardRequest {
        proposal: Some(pb::Proposal {
            level: 0,
            stamped_ms: 0,
            client_id: Bytes::from_static(b"0123456789abcdef"),
            seq: 1,
            lowest_unacked: 1,
            // What decoding leaves of a change that a newer version knows.
            body: Some(pb::proposal::Body::Admin(pb::Admin { op: None })),
        }),
        deadline_ms: 5000,
        traceparent: String::new(),
    };
    let reply = PeerClient::new(channel)
        .forward(request(&cluster, forward))
        .await
        .unwrap()
        .into_inner();
    assert!(
        matches!(reply.result, Some(pb::forward_reply::Result::Refused(_))),
        "{reply:?}"
    );
    cluster.replicas[0].add("k", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_do_not_fit_their_certificate_or_receiver_are_refused_with_the_reason() {
    let (cluster, channel) = with_member_channel().await;
    let mut client = PeerClient::new(channel);
    let cases = [
        ("cluster-id", "other", "of cluster"),
        ("from-replica", "77", "certificate"),
        ("to-replica", "77", "not replica 77"),
        ("proto-level", "99", "level 99"),
        ("incarnation", "many", "incarnation"),
        ("from-replica", "1", "certificate"),
    ];
    for (field, value, reason) in cases {
        let mut request = request(&cluster, pb::IdentifyRequest::default());
        request
            .metadata_mut()
            .insert(field, MetadataValue::try_from(value).unwrap());
        let status = client.identify(request).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{field}");
        assert!(status.message().contains(reason), "{field}: {status}");
    }
    let fine = client
        .identify(request(&cluster, pb::IdentifyRequest::default()))
        .await
        .unwrap();
    assert_eq!(fine.into_inner().replica_id, 1);
    assert_eq!(cluster.replicas[0].replica().metrics().requests_refused, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_may_only_ask_to_join() {
    let cluster = TestCluster::single().await;
    let token = cluster.token().await;
    let settings = join_settings(token.cluster_id(), token.ca_sha256).unwrap();
    let name = format!("replica-0.{}", token.cluster_id());
    let channel = channel(&cluster, &name, settings).await.unwrap();
    let mut stranger = PeerClient::new(channel.clone());
    let status = stranger
        .identify(request(&cluster, pb::IdentifyRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(
        status.message().contains("certificate is required"),
        "{status}"
    );
    // Its bytes are not even decoded.
    for method in METHODS {
        let garbage = Bytes::from_static(&[0xff; 64]);
        let called = raw_call(channel.clone(), &cluster, method, garbage).await;
        let status = called.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{method}");
    }
    let nonsense = JoinClient::new(channel)
        .join(pb::JoinRequest::default())
        .await
        .unwrap();
    let nonsense = nonsense.into_inner().result;
    assert!(
        matches!(nonsense, Some(pb::join_reply::Result::Refused(_))),
        "{nonsense:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_of_another_cluster_gets_no_connection() {
    let cluster = TestCluster::single().await;
    let other = TestCluster::single().await;
    // Its own certificate, its own authority: the server is not who it expects.
    let foreign = credentials(&other.replicas[0]);
    let name = format!("replica-1.{}", cluster.replicas[0].replica().cluster_id());
    let settings = client_settings(&foreign).unwrap();
    assert!(channel(&cluster, &name, settings).await.is_err());
    // Trusting the right authority does not help: its certificate is not from there.
    let mut foreign = credentials(&other.replicas[0]);
    foreign.authority = credentials(&cluster.replicas[0]).authority;
    let settings = client_settings(&foreign).unwrap();
    if let Ok(channel) = channel(&cluster, &name, settings).await {
        // The server's refusal reaches a TLS 1.3 client only with its first answer.
        let refused = PeerClient::new(channel)
            .identify(pb::IdentifyRequest::default())
            .await;
        assert_ne!(refused.unwrap_err().code(), Code::FailedPrecondition);
    }
    let first = &cluster.replicas[0];
    let failed = async {
        while first.replica().metrics().handshakes_failed < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, failed).await.unwrap();
    first.add("k", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_tls_end_the_connection_and_nothing_else() {
    let cluster = TestCluster::single().await;
    let first = &cluster.replicas[0];
    let addr = cluster.overrides.resolve(&first.config.advertise_addr);
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    // It is counted once the connection is closed, which may be a moment after we hear of that.
    let counted = async {
        while first.replica().metrics().handshakes_failed == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.unwrap();
    assert_eq!(first.replica().metrics().handshakes_failed, 1);
    first.add("k", 1).await;
}

/// A running cluster of one, and a connection to it with the certificate of a replica that joined
/// but does not run.
async fn with_member_channel() -> (TestCluster, Channel) {
    let mut cluster = TestCluster::single().await;
    let token = cluster.token().await;
    let joiner = cluster.joiner("b");
    crate::Replica::join_cluster(&joiner.config, &token)
        .await
        .unwrap();
    let credentials = credentials(&joiner);
    assert_eq!(sha256(&credentials.authority), token.ca_sha256);
    let name = format!("replica-1.{}", token.cluster_id());
    let settings = client_settings(&credentials).unwrap();
    let channel = channel(&cluster, &name, settings).await.unwrap();
    cluster.replicas.push(joiner);
    (cluster, channel)
}

fn credentials(replica: &TestReplica) -> crate::tls::Credentials {
    Folder::new(&replica.config.data_dir).credentials().unwrap()
}

async fn channel(
    cluster: &TestCluster,
    name: &str,
    settings: std::sync::Arc<rustls::ClientConfig>,
) -> Result<Channel, tonic::transport::Error> {
    let addr = cluster
        .overrides
        .resolve(&cluster.replicas[0].config.advertise_addr);
    let name = name.to_owned();
    let connector = service_fn(move |_: Uri| {
        let (addr, name, settings) = (addr.clone(), name.clone(), settings.clone());
        async move { connect(&addr, &name, settings, Duration::from_secs(5)).await }
    });
    Endpoint::from_static("http://replica")
        .connect_with_connector(connector)
        .await
}

/// A request of the joined replica to the first one.
fn request<T>(cluster: &TestCluster, message: T) -> Request<T> {
    let identity = |replica: &TestReplica| {
        Folder::new(&replica.config.data_dir)
            .identity()
            .unwrap()
            .unwrap()
    };
    let from = cluster
        .replicas
        .get(1)
        .map_or(2, |joined| identity(joined).replica_id);
    let envelope = crate::network::Envelope {
        cluster_id: identity(&cluster.replicas[0]).cluster_id,
        from,
        to: 1,
        incarnation: 1,
        level: 1,
        from_addr: "b.test:1".to_owned(),
    };
    let mut request = Request::new(message);
    envelope.write(request.metadata_mut());
    request
}

async fn raw_call(
    channel: Channel,
    cluster: &TestCluster,
    method: &str,
    body: Bytes,
) -> Result<Bytes, Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::try_from(format!("/hydrascale.raft.v1.Peer/{method}")).unwrap();
    let call = grpc.unary(request(cluster, body), path, RawCodec);
    let answered = tokio::time::timeout(PATIENCE, call)
        .await
        .expect("an answer, good or bad");
    Ok(answered?.into_inner())
}

/// Passes bytes through as they are.
#[derive(Clone, Copy, Debug, Default)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buf.copy_to_bytes(buf.remaining())))
    }
}
