//! The sockets: one task each, a datagram in, at most one out, no memory per client.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::message::{self, REQUEST_BYTES, Response};
use super::metrics::StunMetrics;
use crate::derp::RelayHealth;

/// Room for a datagram. Longer ones are cut, and a request that is cut is not one of ours: the
/// fingerprint comes last.
const DATAGRAM_BYTES_MAX: usize = 4 * REQUEST_BYTES;

/// Receive buffer of a socket: a few thousand requests, for the moment when a relay's clients all
/// ask at once.
const RECEIVE_BUFFER_BYTES: usize = 1024 * 1024;

/// Datagrams after which a busy socket lets other tasks run.
const DATAGRAMS_PER_TURN: usize = 64;

/// Pause after the kernel reported a problem with reading.
const READ_RETRY_DELAY: Duration = Duration::from_millis(10);

/// Bound sockets.
#[derive(Debug)]
pub struct StunSockets(Vec<UdpSocket>);

impl StunSockets {
    /// Binds `addr`. `[::]` binds IPv6 and, on the same port, IPv4: two sockets. On a machine with
    /// several addresses name the one that clients know, as an answer from another is lost.
    ///
    /// # Errors
    /// The address is in use or not ours.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        let mut sockets = vec![bind(addr)?];
        if addr.is_ipv6() && addr.ip().is_unspecified() {
            let port = local_port(&sockets)?;
            sockets.push(bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))?);
        }
        Ok(Self(sockets))
    }

    /// Where they listen; tells the port when 0 was asked for.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn local_addrs(&self) -> io::Result<Vec<SocketAddr>> {
        self.0.iter().map(UdpSocket::local_addr).collect()
    }
}

fn bind(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if let Err(error) = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES) {
        tracing::debug!(%error, "stun receive buffer stays at its default");
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    UdpSocket::from_std(socket.into())
}

fn local_port(sockets: &[UdpSocket]) -> io::Result<u16> {
    let first = sockets.first().ok_or(io::ErrorKind::NotConnected)?;
    first.local_addr().map(|addr| addr.port())
}

/// A running STUN server. Dropping it ends its tasks.
#[derive(Debug)]
pub struct StunServer {
    tasks: JoinSet<()>,
    metrics: Arc<StunMetrics>,
}

impl StunServer {
    /// Answers requests while `health` says that the relay is worth coming to.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(sockets: StunSockets, health: &RelayHealth) -> Self {
        let metrics = Arc::new(StunMetrics::default());
        let mut tasks = JoinSet::new();
        for socket in sockets.0 {
            tasks.spawn(serve(socket, health.clone(), Arc::clone(&metrics)));
        }
        Self { tasks, metrics }
    }

    /// Counters.
    pub fn metrics(&self) -> Arc<StunMetrics> {
        Arc::clone(&self.metrics)
    }

    /// Resolves when a socket is no longer served, which only a panic does.
    pub async fn ended(&mut self) {
        let _ = self.tasks.join_next().await;
    }

    /// Ends the server.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn serve(socket: UdpSocket, health: RelayHealth, metrics: Arc<StunMetrics>) {
    let mut buf = [0; DATAGRAM_BYTES_MAX];
    let mut turn = 0;
    loop {
        let (len, source) = match socket.recv_from(&mut buf).await {
            Ok(received) => received,
            Err(error) => {
                metrics.read_error.increment();
                tracing::debug!(%error, "stun read failed");
                sleep(READ_RETRY_DELAY).await;
                continue;
            }
        };
        if let Some(response) = answer(
            buf.get(..len).unwrap_or_default(),
            source,
            &health,
            &metrics,
        ) {
            send(&socket, &response, source, &metrics).await;
        }
        turn = (turn + 1) % DATAGRAMS_PER_TURN;
        if turn == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// What to say to a datagram, if anything.
fn answer(
    datagram: &[u8],
    source: SocketAddr,
    health: &RelayHealth,
    metrics: &StunMetrics,
) -> Option<Response> {
    match message::parse_request(datagram) {
        Ok(_) if !health.is_healthy() => {
            metrics.quiet.increment();
            None
        }
        Ok(transaction) => Some(Response::new(&transaction, source)),
        Err(error) => {
            metrics.not_stun.increment();
            tracing::trace!(%error, "datagram not answered");
            None
        }
    }
}

async fn send(socket: &UdpSocket, response: &Response, to: SocketAddr, metrics: &StunMetrics) {
    match socket.send_to(response.as_bytes(), to).await {
        Ok(_) => {
            metrics.success.increment();
            match to.ip().to_canonical() {
                IpAddr::V4(_) => metrics.ipv4.increment(),
                IpAddr::V6(_) => metrics.ipv6.increment(),
            }
        }
        Err(error) => {
            metrics.write_error.increment();
            tracing::debug!(%error, "stun write failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::stun::message::tests::request;

    /// A server on loopback and a socket of a client.
    async fn server(health: &RelayHealth) -> (StunServer, UdpSocket) {
        let sockets = StunSockets::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let [addr] = sockets.local_addrs().unwrap()[..] else {
            panic!("one socket")
        };
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(addr).await.unwrap();
        (StunServer::start(sockets, health), client)
    }

    fn healthy() -> RelayHealth {
        let health = RelayHealth::default();
        health.set_accepting(true);
        health
    }

    async fn receive(client: &UdpSocket) -> Vec<u8> {
        let mut buf = [0; 100];
        let len = timeout(Duration::from_secs(5), client.recv(&mut buf))
            .await
            .unwrap()
            .unwrap();
        buf[..len].to_vec()
    }

    #[tokio::test]
    async fn a_request_is_answered_and_garbage_is_not() {
        let (server, client) = server(&healthy()).await;
        client.send(b"garbage").await.unwrap();
        client.send(&[0; 2000]).await.unwrap();
        client.send(&request()).await.unwrap();
        let answer = receive(&client).await;
        let transaction = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let expected = Response::new(&transaction, client.local_addr().unwrap());
        assert_eq!(answer, expected.as_bytes());
        let metrics = server.metrics();
        server.shutdown().await;
        assert_eq!((metrics.success.value(), metrics.ipv4.value()), (1, 1));
        assert_eq!(metrics.not_stun.value(), 2);
        assert_eq!(metrics.samples().iter().map(|s| s.value).sum::<u64>(), 4);
    }

    #[tokio::test]
    async fn an_unhealthy_relay_makes_no_answers() {
        let health = healthy();
        let (server, client) = server(&health).await;
        health.set_quiet(true);
        client.send(&request()).await.unwrap();
        while server.metrics().quiet.value() == 0 {
            tokio::task::yield_now().await;
        }
        health.set_quiet(false);
        client.send(&request()).await.unwrap();
        receive(&client).await;
        assert_eq!(
            server.metrics().success.value(),
            1,
            "the first one got none"
        );
    }

    #[tokio::test]
    async fn the_unspecified_ipv6_address_serves_both_families() {
        let Ok(sockets) = StunSockets::bind("[::]:0".parse().unwrap()) else {
            return; // a machine without IPv6
        };
        let port = sockets.local_addrs().unwrap()[0].port();
        let server = StunServer::start(sockets, &healthy());
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(("127.0.0.1", port)).await.unwrap();
        client.send(&request()).await.unwrap();
        assert_eq!(receive(&client).await.len(), 32);
        server.shutdown().await;
    }
}
