//! What clients of a relay see.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::client::key;
use super::*;
use crate::derp::DenyReason;
use crate::derp::limits::PENDING_WEBSOCKETS_MAX;

fn allow(_key: NodeKey) -> Verdict {
    Verdict::Allow
}

#[tokio::test]
async fn two_clients_exchange_packets_both_ways() {
    let relay = TestRelay::start(allow);
    let (mut a, mut b) = (relay.client(1).await, relay.client(2).await);
    for len in [0, 1, 200, 1400, 65_536] {
        let packet = vec![0xab; len];
        a.send(b.key, &packet).await;
        assert_eq!(b.packet_from(a.key).await, packet);
        b.send(a.key, &packet).await;
        assert_eq!(a.packet_from(b.key).await, packet);
    }
    a.send_disco(b.key, b"call me maybe").await;
    assert!(b.packet_from(a.key).await.ends_with(b"call me maybe"));
    a.send(a.key, b"to myself").await;
    assert_eq!(a.packet_from(a.key).await, b"to myself");
    let metrics = relay.handle.metrics();
    assert_eq!(
        (
            metrics.received.data.value(),
            metrics.received.disco.value()
        ),
        (11, 1)
    );
    assert_eq!(relay.handle.stats().clients, 2);
}

#[tokio::test]
async fn the_first_packets_may_come_with_the_introduction() {
    let relay = TestRelay::start(allow);
    let mut b = relay.client(2).await;
    let mut a = TestClient::connect(&relay, 1).await;
    a.send_frame(0x07, &[1]).await;
    a.send(b.key, b"early").await;
    assert_eq!(b.packet_from(a.key).await, b"early");
    a.expect_server_info().await;
    assert_eq!(relay.handle.stats().home_connections, 1);
    drop(a);
    relay
        .wait_for("home left", |relay| relay.stats().home_connections == 0)
        .await;
}

#[tokio::test]
async fn a_client_in_a_browser_exchanges_packets_with_one_that_is_not() {
    let relay = TestRelay::start(allow);
    let mut a = TestClient::websocket(&relay, 1).await;
    a.introduce(br#"{"version":2}"#).await;
    a.expect_server_info().await;
    let mut b = relay.client(2).await;
    for len in [0, 1, 1400, 65_536] {
        let packet = vec![0xab; len];
        a.send(b.key, &packet).await;
        assert_eq!(b.packet_from(a.key).await, packet);
        b.send(a.key, &packet).await;
        assert_eq!(a.packet_from(b.key).await, packet);
    }
    assert_eq!(relay.handle.metrics().websocket_accepts.value(), 1);
}

#[tokio::test]
async fn strangers_with_websockets_cannot_fill_the_memory() {
    let relay = TestRelay::start(allow);
    let mut strangers = Vec::new();
    for _ in 0..PENDING_WEBSOCKETS_MAX {
        strangers.push(TestClient::websocket(&relay, 9).await);
    }
    let mut io = TestClient::open_websocket(&relay).await;
    assert!(io.read_u8().await.is_err(), "no place is left");
    assert_eq!(relay.handle.metrics().connections_refused.value(), 1);
    let mut admitted = strangers.pop().unwrap();
    admitted.introduce(br#"{"version":2}"#).await;
    admitted.expect_server_info().await;
    TestClient::websocket(&relay, 1).await;
}

#[tokio::test]
async fn a_client_that_knows_the_key_waits_for_nothing() {
    let relay = TestRelay::start(allow);
    let mut b = relay.client(2).await;
    let mut a = TestClient::fast_start(&relay, 1, b.key, b"in the first flight").await;
    assert_eq!(b.packet_from(a.key).await, b"in the first flight");
    a.sync().await;
    assert_eq!(relay.handle.metrics().fast_starts.value(), 1);
}

#[tokio::test]
async fn seekers_of_unknown_peers_are_told_a_few_times() {
    let relay = TestRelay::start(allow);
    let mut a = relay.client(1).await;
    a.send(key(9), b"data finds out by itself").await;
    for _ in 0..10 {
        a.send_disco(key(9), b"").await;
    }
    for _ in 0..3 {
        assert_eq!(a.gone(key(9)).await, 0x01);
    }
    let metrics = relay.handle.metrics();
    relay
        .wait_for("all dropped", |_| {
            metrics.dropped_unknown.disco.value() == 10
        })
        .await;
    assert_eq!(metrics.dropped_unknown.data.value(), 1);
    assert!(metrics.peer_gone_rate_limited.value() > 0);
}

#[tokio::test]
async fn receivers_learn_that_a_sender_left() {
    let relay = TestRelay::start(allow);
    let (mut a, mut b, mut c) = (
        relay.client(1).await,
        relay.client(2).await,
        relay.client(3).await,
    );
    let a_key = a.key;
    a.send(b.key, b"hello").await;
    assert_eq!(b.packet_from(a_key).await, b"hello");
    a.send(b.key, b"bye").await;
    drop(a);
    assert_eq!(
        b.packet_from(a_key).await,
        b"bye",
        "what it sent comes before the notice"
    );
    assert_eq!(b.gone(a_key).await, 0x00);
    c.sync().await; // got nothing from it, and so no notice
}

#[tokio::test]
async fn of_two_connections_of_a_key_the_last_writer_gets_the_packets() {
    let relay = TestRelay::start(allow);
    let mut peer = relay.client(1).await;
    let mut old = relay.client(2).await;
    let mut new = relay.client(2).await;
    let (kind, _) = old.frame().await.unwrap();
    assert_eq!(kind, 0x06, "the superseded one is probed by a keep-alive");
    peer.send(key(2), b"one").await;
    assert_eq!(new.packet_from(peer.key).await, b"one");
    old.sync().await;
    peer.send(key(2), b"two").await;
    assert_eq!(old.packet_from(peer.key).await, b"two");
    let metrics = relay.handle.metrics();
    assert_eq!(metrics.current_dup_client_keys.value(), 1);
    assert_eq!(metrics.current_dup_client_conns.value(), 2);
    old.send(peer.key, b"three").await;
    assert_eq!(peer.packet_from(key(2)).await, b"three");
    drop(old);
    relay
        .wait_for("duplicate gone", |_| {
            metrics.current_dup_client_keys.value() == 0
        })
        .await;
    peer.send(key(2), b"four").await;
    assert_eq!(new.packet_from(peer.key).await, b"four");
    drop(new);
    assert_eq!(
        peer.gone(key(2)).await,
        0x00,
        "told once, when the last one left"
    );
}

#[tokio::test]
async fn a_key_may_not_hold_connections_without_end() {
    let relay = TestRelay::start(allow);
    let mut first = relay.client(1).await;
    let mut others = Vec::new();
    for _ in 0..16 {
        others.push(relay.client(1).await);
    }
    first.expect_end().await;
    assert_eq!(relay.handle.stats().connections, 16);
    assert_eq!(relay.handle.metrics().evicted_connections.value(), 1);
}

#[tokio::test]
async fn pings_are_answered() {
    let relay = TestRelay::start(allow);
    let mut a = relay.client(1).await;
    a.sync().await;
    a.sync().await;
    assert_eq!(relay.handle.metrics().got_ping.value(), 2);
}

#[tokio::test]
async fn who_is_denied_is_closed_after_the_introduction() {
    let relay = TestRelay::start(|asked| match asked {
        _ if asked == key(1) => Verdict::Allow,
        _ if asked == key(2) => Verdict::Deny(DenyReason::Expired),
        _ => Verdict::Deny(DenyReason::UnknownNode),
    });
    let mut good = relay.client(1).await;
    TestClient::connect(&relay, 2).await.expect_end().await;
    TestClient::connect(&relay, 3).await.expect_end().await;
    let metrics = relay.handle.metrics();
    relay
        .wait_for("counted", |_| metrics.denied_unknown.value() == 1)
        .await;
    assert_eq!(metrics.denied_expired.value(), 1);
    good.sync().await;
    assert_eq!(relay.handle.stats().connections, 1);
}

#[tokio::test]
async fn a_node_that_is_removed_loses_its_connections() {
    let relay = TestRelay::start(allow);
    let (mut a, mut b) = (relay.client(1).await, relay.client(2).await);
    let mut a_again = relay.client(1).await;
    assert_eq!(relay.handle.close_where(|asked| *asked == key(1)), 2);
    a.expect_end().await;
    a_again.expect_end().await;
    relay
        .wait_for("gone", |relay| relay.stats().clients == 1)
        .await;
    assert_eq!(relay.handle.close_where(|asked| *asked == key(1)), 0);
    b.sync().await;
    assert_eq!(relay.handle.close_where(|asked| *asked != key(2)), 0);
    assert_eq!(relay.handle.close_where(|asked| *asked == key(2)), 1);
    b.expect_end().await;
}

#[tokio::test]
async fn a_node_removed_while_it_is_being_admitted_does_not_slip_in() {
    static HANDLE: OnceLock<RelayHandle> = OnceLock::new();
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let relay = TestRelay::start(|key| {
        if ASKED.fetch_add(1, Ordering::SeqCst) > 0 {
            return Verdict::Deny(DenyReason::UnknownNode);
        }
        // the removal is applied between this answer and the registry
        assert_eq!(HANDLE.get().unwrap().close_where(|out| *out == key), 0);
        Verdict::Allow
    });
    assert!(HANDLE.set(relay.handle.clone()).is_ok());
    let mut a = TestClient::connect(&relay, 1).await;
    a.expect_end().await;
    assert_eq!(ASKED.load(Ordering::SeqCst), 2);
    relay
        .wait_for("nobody left", |relay| relay.stats().connections == 0)
        .await;
}

#[tokio::test]
async fn garbage_before_admission_ends_one_connection_and_nothing_else() {
    let relay = TestRelay::start(allow);
    let mut witness = relay.client(1).await;
    let metrics = relay.handle.metrics();

    let mut tcp = TcpStream::connect(relay.addr()).await.unwrap();
    tcp.write_all(b"GET /derp HTTP/1.1\r\n\r\n").await.unwrap();
    read_to_end(&mut tcp).await;
    relay
        .wait_for("tls error", |_| metrics.tls_handshake_errors.value() == 1)
        .await;

    let mut tls = dial(&relay, &[]).await.unwrap();
    tls.write_all(b"\0\x01\x02 nonsense\r\n\r\n").await.unwrap();
    assert!(read_to_end(&mut tls).await.starts_with("HTTP/1.1 400 "));
    relay
        .wait_for("http error", |_| metrics.http_errors.value() == 1)
        .await;

    let introductions = [
        (0x04, vec![0; 60]),           // a packet before the introduction
        (0x02, vec![0; 8 * 1024 + 1]), // an introduction without end
        (0x02, vec![0; 100]),          // a key of low order
        (0x02, vec![9; 100]),          // a box that does not open
    ];
    for (number, (kind, payload)) in (1..).zip(introductions) {
        let mut client = TestClient::upgrade(&relay, 2).await;
        client.send_frame(kind, &payload).await;
        client.expect_end().await;
        relay
            .wait_for("counted", |_| metrics.handshake_errors.value() == number)
            .await;
    }
    let mut client = TestClient::upgrade(&relay, 2).await;
    client.introduce(b"not json").await;
    client.expect_end().await;
    witness.sync().await;
    assert_eq!(relay.handle.stats().connections, 1);
}

#[tokio::test]
async fn garbage_from_an_admitted_client_ends_its_connection_and_nothing_else() {
    let relay = TestRelay::start(allow);
    let mut witness = relay.client(1).await;
    let metrics = relay.handle.metrics();
    let frames = [
        (0x04, vec![0; 31]),     // no room for the key
        (0x04, vec![0; 65_569]), // a packet that is too long
        (0x07, vec![7]),         // neither home nor not
        (0x0a, vec![0; 70]),     // a relay's frame
        (0x12, vec![0; 7]),      // too short a ping
    ];
    for (number, (kind, payload)) in (1..).zip(frames) {
        let mut client = relay.client(2).await;
        client.send_frame(kind, &payload).await;
        client.expect_end().await;
        relay
            .wait_for("counted", |_| metrics.frame_errors.value() == number)
            .await;
    }
    witness.sync().await;
    relay
        .wait_for("only the witness", |relay| relay.stats().connections == 1)
        .await;
}

#[tokio::test]
async fn latency_checks_share_a_connection() {
    let relay = TestRelay::start(allow);
    let mut io = dial(&relay, &["http/1.1"]).await.unwrap();
    let expected = "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 0\r\n\r\n";
    for _ in 0..3 {
        io.write_all(b"GET /derp/latency-check HTTP/1.1\r\nHost: r\r\n\r\n")
            .await
            .unwrap();
        let mut answer = vec![0; expected.len()];
        timeout(PATIENCE, io.read_exact(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(answer, expected.as_bytes());
    }
}

#[tokio::test]
async fn http_2_is_not_negotiated() {
    let relay = TestRelay::start(allow);
    assert!(dial(&relay, &["h2"]).await.is_err());
    let io = dial(&relay, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(io.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn a_full_relay_refuses_more_and_says_so() {
    let relay = TestRelay::start_with(allow, |config| config.connections_max = 1);
    let mut a = relay.client(1).await;
    assert!(dial(&relay, &[]).await.is_err());
    assert!(!relay.handle.health().is_healthy());
    a.sync().await;
    drop(a);
    relay
        .wait_for("room again", |relay| relay.stats().healthy)
        .await;
    relay.client(1).await;
}

#[tokio::test]
async fn a_drained_relay_says_goodbye_to_its_clients_one_by_one() {
    let relay = TestRelay::start(allow);
    let mut clients = Vec::new();
    for seed in 1..=4 {
        clients.push(relay.client(seed).await);
    }
    assert!(relay.handle.stats().healthy);
    let farewells = async {
        for client in &mut clients {
            let mut frames = Vec::new();
            while let Some((kind, _)) = client.frame().await {
                frames.push(kind);
            }
            assert_eq!(frames, [0x15]);
        }
    };
    let (start, over) = (Instant::now(), Duration::from_millis(400));
    tokio::join!(relay.server.drain(over), farewells);
    relay
        .wait_for("nobody left", |relay| relay.stats().connections == 0)
        .await;
    assert!(start.elapsed() >= over * 3 / 4, "not all at once");
    assert!(!relay.handle.stats().healthy && relay.handle.stats().draining);
    relay.server.ended().await;
    assert!(dial(&relay, &[]).await.is_err());
    relay.server.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_relay_that_sends_its_clients_away_goes_on_accepting_them() {
    let relay = TestRelay::start(allow);
    let mut client = relay.client(1).await;
    relay.handle.send_away(Duration::ZERO).await;
    while client.frame().await.is_some() {}
    assert!(!relay.handle.stats().draining);
    relay.client(1).await;
}

#[tokio::test]
async fn shutdown_ends_everything_in_bounded_time() {
    let relay = TestRelay::start(allow);
    let mut a = relay.client(1).await;
    let idle = dial(&relay, &[]).await.unwrap();
    let handle = relay.handle.clone();
    let start = Instant::now();
    relay.server.shutdown(Duration::from_secs(5)).await;
    assert!(start.elapsed() < Duration::from_secs(5));
    a.expect_end().await;
    assert_eq!((handle.stats().connections, handle.stats().pending), (0, 0));
    drop(idle);
}

/// Everything until the relay closes the connection, by FIN or by RST.
async fn read_to_end(io: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, io.read_to_end(&mut bytes))
        .await
        .expect("an end in time");
    String::from_utf8_lossy(&bytes).into_owned()
}
