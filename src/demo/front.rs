//! The front port of the demo: a TCP proxy that sends each connection to the next replica that
//! accepts it. Real deployments put a balancer there; see `deploy/haproxy.cfg`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Connections through the front: a demo has a handful of clients.
const CONNECTIONS_MAX: usize = 1024;
/// A replica on loopback accepts at once or is dead.
const DIAL_TIMEOUT: Duration = Duration::from_millis(500);
/// Pause after the system refused to accept, for example for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Proxies until dropped.
pub(super) async fn run(listener: TcpListener, replicas: Vec<SocketAddr>) {
    let replicas: Arc<[SocketAddr]> = replicas.into();
    let next = Arc::new(AtomicUsize::new(0));
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        while connections.try_join_next().is_some() {}
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (replicas, next) = (Arc::clone(&replicas), Arc::clone(&next));
        connections.spawn(async move {
            proxy(client, &replicas, &next).await;
            drop(slot);
        });
    }
}

async fn proxy(mut client: TcpStream, replicas: &[SocketAddr], next: &AtomicUsize) {
    let first = next.fetch_add(1, Ordering::Relaxed);
    let turn = replicas
        .iter()
        .cycle()
        .skip(first % replicas.len().max(1))
        .take(replicas.len());
    for replica in turn {
        if let Ok(Ok(mut server)) = timeout(DIAL_TIMEOUT, TcpStream::connect(replica)).await {
            // Either side may end the connection at any time.
            let _ = copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
    tracing::debug!("no replica accepts connections");
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_dead_replica_is_passed_over() {
        let alive = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = {
            let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
            closed.local_addr().unwrap()
        };
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = front.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(run(front, vec![dead, alive.local_addr().unwrap()]));
        tasks.spawn(async move {
            while let Ok((mut connection, _)) = alive.accept().await {
                connection.write_all(b"hello").await.unwrap();
            }
        });
        for _ in 0..4 {
            let mut client = TcpStream::connect(addr).await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"hello");
        }
    }
}
