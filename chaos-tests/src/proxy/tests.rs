use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::*;

/// Long enough to see that nothing comes.
const SILENCE: Duration = Duration::from_millis(60);
/// Long enough for anything that comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Both ends of a connection through a proxy.
struct Pair {
    proxy: Proxy,
    listener: TcpListener,
    near: TcpStream,
    far: TcpStream,
}

impl Pair {
    async fn new() -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(any).await.unwrap();
        let proxy = Proxy::start(any, listener.local_addr().unwrap())
            .await
            .unwrap();
        let near = TcpStream::connect(proxy.address()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        Self {
            proxy,
            listener,
            near,
            far,
        }
    }

    fn set_there(&self, there: Flow) {
        self.proxy.set(Modes {
            there,
            ..self.proxy.modes()
        });
    }

    fn set_back(&self, back: Flow) {
        self.proxy.set(Modes {
            back,
            ..self.proxy.modes()
        });
    }
}

async fn expect(stream: &mut TcpStream, text: &str) {
    let mut read = vec![0; text.len()];
    timeout(PATIENCE, stream.read_exact(&mut read))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(read, text.as_bytes());
}

async fn expect_silence(stream: &mut TcpStream) {
    let read = timeout(SILENCE, stream.read_u8()).await;
    assert!(read.is_err(), "{read:?}");
}

async fn expect_reset(stream: &mut TcpStream) {
    let read = timeout(PATIENCE, stream.read_u8()).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn everything_passes_both_ways_to_the_end() {
    let mut pair = Pair::new().await;
    pair.near.write_all(b"question").await.unwrap();
    expect(&mut pair.far, "question").await;
    pair.near.shutdown().await.unwrap();
    let ended = timeout(PATIENCE, pair.far.read_u8()).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    pair.far.write_all(b"answer").await.unwrap();
    expect(&mut pair.near, "answer").await;
}

#[tokio::test]
async fn what_is_held_back_comes_when_the_link_is_whole_again() {
    let mut pair = Pair::new().await;
    pair.set_there(Flow::Hold);
    pair.near.write_all(b"late").await.unwrap();
    expect_silence(&mut pair.far).await;
    // The other direction does not care.
    pair.far.write_all(b"hello").await.unwrap();
    expect(&mut pair.near, "hello").await;
    pair.set_there(Flow::Pass);
    expect(&mut pair.far, "late").await;
}

#[tokio::test]
async fn answers_can_be_lost_alone() {
    let mut pair = Pair::new().await;
    pair.set_back(Flow::Hold);
    pair.near.write_all(b"question").await.unwrap();
    expect(&mut pair.far, "question").await;
    pair.far.write_all(b"answer").await.unwrap();
    expect_silence(&mut pair.near).await;
}

#[tokio::test]
async fn no_connection_comes_about_while_one_direction_is_held() {
    let pair = Pair::new().await;
    pair.set_back(Flow::Hold);
    let _near = TcpStream::connect(pair.proxy.address()).await.unwrap();
    assert!(timeout(SILENCE, pair.listener.accept()).await.is_err());
    pair.set_back(Flow::Pass);
    timeout(PATIENCE, pair.listener.accept())
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_reset_meets_open_and_new_connections() {
    let mut pair = Pair::new().await;
    pair.proxy.set(Modes {
        reset: true,
        ..Modes::default()
    });
    expect_reset(&mut pair.near).await;
    expect_reset(&mut pair.far).await;
    let mut near = TcpStream::connect(pair.proxy.address()).await.unwrap();
    expect_reset(&mut near).await;
}

#[tokio::test]
async fn a_target_that_is_gone_looks_like_a_reset() {
    let Pair {
        proxy, listener, ..
    } = Pair::new().await;
    drop(listener);
    let mut near = TcpStream::connect(proxy.address()).await.unwrap();
    expect_reset(&mut near).await;
}

#[tokio::test]
async fn a_connection_is_cut_after_so_many_bytes() {
    let mut pair = Pair::new().await;
    pair.set_there(Flow::CutAfter(10));
    pair.near.write_all(b"0123456").await.unwrap();
    expect(&mut pair.far, "0123456").await;
    pair.near.write_all(b"789abc").await.unwrap();
    expect_reset(&mut pair.near).await;
    // What came before the reset may be read still, but never more.
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, pair.far.read_to_end(&mut rest))
        .await
        .unwrap();
    assert!(ended.is_err());
    assert!(b"789".starts_with(&rest), "{rest:?}");
}

#[tokio::test]
async fn delay_and_throttle_take_their_time_and_lose_nothing() {
    let mut pair = Pair::new().await;
    pair.set_there(Flow::Delay(Duration::from_millis(80)));
    let begin = Instant::now();
    pair.near.write_all(b"slow").await.unwrap();
    expect(&mut pair.far, "slow").await;
    assert!(begin.elapsed() >= Duration::from_millis(80));

    pair.set_there(Flow::Throttle(1000));
    let begin = Instant::now();
    let text = "x".repeat(200);
    pair.near.write_all(text.as_bytes()).await.unwrap();
    expect(&mut pair.far, &text).await;
    assert!(begin.elapsed() >= Duration::from_millis(100));
}
