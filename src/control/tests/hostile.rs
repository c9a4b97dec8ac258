//! What strangers may send: garbage at each layer, bodies that never end, and too many of them.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::time::{Instant, timeout};

use super::super::limits::{self, LARGE_BODIES_MAX, LARGE_BODY_BYTES};
use super::super::testing::{CAPVER, TestClient, TestServer, within};
use super::super::{Limit, inner};
use crate::noise::{NoiseStream, SessionKeys};
use crate::types::MachineKey;

#[tokio::test]
async fn garbage_at_each_layer_closes_only_that_connection() {
    let server = TestServer::start().await;
    let bystander = TestClient::new(1).dial(&server).await;
    let client = TestClient::new(2);
    let mut rest = Vec::new();

    let mut http = server.connect();
    http.write_all(b"\x16\x03\x01 garbage\r\n\r\n")
        .await
        .unwrap();
    within(http.read_to_end(&mut rest)).await.unwrap();

    let (mut records, _) = client.upgrade(&server).await.unwrap();
    records.write_all(&[0xff; 64]).await.unwrap();
    rest.clear();
    // A close or a reset: both are an end.
    let _ = within(records.read_to_end(&mut rest)).await;

    let (io, noise) = client.upgrade(&server).await.unwrap();
    let mut http2 = TestClient::secure(io, noise).await;
    http2
        .write_all(b"GET / HTTP/1.1\r\n\r\n this is no preface")
        .await
        .unwrap();
    http2.flush().await.unwrap();
    rest.clear();
    let _ = within(http2.read_to_end(&mut rest)).await;

    let (status, _) = bystander.exchange(Method::GET, "/machine/whoami", "").await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    let server = TestServer::start().await;
    let session = TestClient::new(1).dial(&server).await;
    let (response, mut body) = session
        .open(Method::POST, "/machine/register")
        .await
        .unwrap();
    body.send_data(Bytes::from_static(b"{"), false).unwrap();
    let started = Instant::now();
    assert_eq!(
        response.await.unwrap().status(),
        StatusCode::REQUEST_TIMEOUT
    );
    assert!(started.elapsed() >= limits::BODY_TIMEOUT);
    assert_eq!(server.control.metrics().limit_hits(Limit::BodyTime), 1);
}

#[tokio::test]
async fn long_bodies_are_few_and_short_ones_pass_them_by() {
    let server = TestServer::start().await;
    let mut held = Vec::new();
    let mut sessions = Vec::new();
    while held.len() < LARGE_BODIES_MAX {
        let session = TestClient::new(1).dial(&server).await;
        for _ in 0..limits::BODIES_PER_SESSION_MAX.min(LARGE_BODIES_MAX - held.len()) {
            let (response, mut body) = session
                .open(Method::POST, "/machine/register")
                .await
                .unwrap();
            body.send_data(Bytes::from(vec![b' '; LARGE_BODY_BYTES + 1]), false)
                .unwrap();
            held.push((response, body));
        }
        sessions.push(session);
    }
    within(async {
        while server.control.large_bodies().available_permits() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let session = TestClient::new(2).dial(&server).await;
    let long = vec![b' '; LARGE_BODY_BYTES + 1];
    let (status, _) = session
        .exchange(Method::POST, "/machine/register", long)
        .await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(server.control.metrics().limit_hits(Limit::LargeBodies), 1);
    let (status, _) = session
        .exchange(Method::POST, "/machine/register", "short")
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

/// Time is free under the paused clock: whatever waits for bytes gives up at last.
const LAST: Duration = Duration::from_secs(3600);

fn run<F: Future>(future: F) -> F::Output {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}

/// Serves `bytes` as what a client sends inside a finished handshake.
async fn serve_http2(bytes: &[u8]) {
    let server = TestServer::start().await;
    let keys = SessionKeys {
        client_to_server: [1; 32],
        server_to_client: [2; 32],
    };
    let (near, far) = duplex(1 << 20);
    let (opener, sealer) = keys.client_halves();
    let mut client = NoiseStream::new(near, opener, sealer, BytesMut::new(), BytesMut::new());
    client.write_all(bytes).await.unwrap();
    client.flush().await.unwrap();
    let (opener, sealer) = keys.server_halves();
    let stream = NoiseStream::new(far, opener, sealer, BytesMut::new(), BytesMut::new());
    let machine_key = MachineKey::from_bytes([3; 32]);
    let peer = inner::Peer {
        machine_key,
        capver: CAPVER,
        remote: None,
        source: None,
    };
    let permit = server.control.handshakes().try_acquire_owned().unwrap();
    let serving = Box::pin(inner::serve(server.control.clone(), stream, peer, permit));
    let served = timeout(LAST, serving).await;
    assert!(served.is_ok(), "the session ends by itself");
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Frames with a true length, so that more than the first of them is looked at.
fn arb_frames() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(any::<u8>(), 0..64);
    let frame =
        (0_u8..12, any::<u8>(), 0_u32..8, payload).prop_map(|(kind, flags, id, payload)| {
            let len = u8::try_from(payload.len()).unwrap();
            let mut frame = vec![0, 0, len, kind, flags];
            frame.extend_from_slice(&id.to_be_bytes());
            frame.extend(payload);
            frame
        });
    prop::collection::vec(frame, 0..12).prop_map(|frames| frames.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_http2_frames_panic_or_hold_a_session(frames in arb_frames()) {
        run(serve_http2(&[PREFACE, SETTINGS, &frames].concat()));
    }

    #[test]
    fn no_bytes_panic_or_hold_a_session(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        run(serve_http2(&bytes));
    }

    #[test]
    fn no_bytes_panic_or_hold_the_client_port(
        start in prop::sample::select(vec!["", "GET ", "POST /ts2021 HTTP/1.1\r\n"]),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        run(async {
            let server = TestServer::start().await;
            let mut connection = server.connect();
            connection.write_all(start.as_bytes()).await.unwrap();
            // The server may have hung up already.
            let _ = connection.write_all(&bytes).await;
            let mut answer = Vec::new();
            let read = timeout(LAST, connection.read_to_end(&mut answer)).await;
            prop_assert!(read.is_ok(), "the connection ends by itself");
            Ok(())
        })?;
    }
}
