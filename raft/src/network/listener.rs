//! Accepting connections of other replicas and of joiners: TCP, TLS, and how many of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::{Connections, PeerInfo};
use crate::counters::Counters;
use crate::timing::Timing;
use crate::tls::Tls;

/// Connections open at once: four lanes of each other replica, and some reserve.
const CONNECTIONS_MAX: usize = 256;

/// Connections without a certificate at once: joins are rare and short.
const UNCERTIFIED_MAX: usize = 16;

/// Handshakes at once: each costs a signature, and strangers can start them.
const HANDSHAKES_MAX: usize = 64;

/// Long enough for a join; a stranger must not hold a connection for longer.
const UNCERTIFIED_LIFETIME: Duration = Duration::from_secs(30);

/// Rest after a failed `accept`, which fails in a loop when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts and shakes hands.
pub(crate) struct Listener {
    tls: Tls,
    serving: Connections,
    timing: Timing,
    connections: Arc<Semaphore>,
    uncertified: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    counters: Arc<Counters>,
}

impl Listener {
    /// A listener that shakes hands as `tls` says and leaves the rest to `serving`.
    pub(crate) fn new(
        tls: Tls,
        serving: Connections,
        timing: Timing,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            tls,
            serving,
            timing,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            uncertified: Arc::new(Semaphore::new(UNCERTIFIED_MAX)),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            counters,
        }
    }

    /// Serves until connections are drained or closed.
    pub(crate) fn spawn(self, tcp: TcpListener) {
        let serving = self.serving.clone();
        serving.accept_with(Arc::new(self).accept(tcp));
    }

    async fn accept(self: Arc<Self>, tcp: TcpListener) {
        loop {
            let stream = match tcp.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "peer listener cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let slots = (
                Arc::clone(&self.connections).try_acquire_owned(),
                Arc::clone(&self.handshakes).try_acquire_owned(),
            );
            let (Ok(connection), Ok(shaking)) = slots else {
                self.counters.connections_refused.add_one();
                continue;
            };
            let listener = Arc::clone(&self);
            let serving = listener.shake_hands_and_serve(stream, (connection, shaking));
            self.serving.spawn(serving);
        }
    }

    async fn shake_hands_and_serve(
        self: Arc<Self>,
        stream: TcpStream,
        (_connection, shaking): (OwnedSemaphorePermit, OwnedSemaphorePermit),
    ) {
        // Heartbeats are small and urgent.
        let _ = stream.set_nodelay(true);
        let acceptor = TlsAcceptor::from(self.tls.server());
        let accepted = timeout(self.timing.handshake(), acceptor.accept(stream)).await;
        let Ok(Ok(stream)) = accepted else {
            self.counters.handshakes_failed.add_one();
            tracing::debug!("peer handshake failed");
            return;
        };
        drop(shaking);
        // The chain was verified in the handshake: what may be absent here is a certificate.
        let (_, session) = stream.get_ref();
        let chain = session.peer_certificates();
        let info = PeerInfo::of(chain.and_then(|chain| chain.first()));
        let certified = info.name().is_some();
        let serving = self.serving.serve(stream, info);
        if certified {
            self.counters.connections_accepted.add_one();
            serving.await;
        } else if let Ok(_stranger) = self.uncertified.try_acquire() {
            self.counters.connections_accepted.add_one();
            if timeout(UNCERTIFIED_LIFETIME, serving).await.is_err() {
                tracing::debug!("connection without a certificate ended");
            }
        } else {
            self.counters.connections_refused.add_one();
        }
    }
}
