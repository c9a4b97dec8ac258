//! The relay as a whole: its accept loop, its tasks, and how it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TrackedFuture;

use super::admission::Admission;
use super::bootstrap::BootstrapDns;
use super::client::CloseReason;
use super::clients::Clients;
use super::connection;
use super::doorkeeper::Doorkeeper;
use super::handle::RelayHandle;
use super::health::RelayHealth;
use super::http::Site;
use super::key::RelayPrivateKey;
use super::limits::{
    ACCEPT_RETRY_DELAY, CERTIFICATE_CHECK_INTERVAL, CONNECTIONS_MAX, PENDING_WEBSOCKETS_MAX,
};
use super::listener::RelayListener;
use super::metrics::RelayMetrics;
use super::tls::RelayTls;
use crate::tasks::{Tasks, joined};
use crate::types::Timestamp;

/// What a relay is made of.
pub struct RelayConfig {
    /// Its identity.
    pub key: RelayPrivateKey,
    /// Its certificate.
    pub tls: RelayTls,
    /// Who may come in.
    pub admission: Arc<dyn Admission>,
    /// What `/bootstrap-dns` tells.
    pub bootstrap: Arc<dyn BootstrapDns>,
    /// The most connections at a time; each needs a file descriptor.
    pub connections_max: usize,
}

impl RelayConfig {
    /// A relay with the default limit of 65,536 connections.
    pub fn new(
        key: RelayPrivateKey,
        tls: RelayTls,
        admission: Arc<dyn Admission>,
        bootstrap: Arc<dyn BootstrapDns>,
    ) -> Self {
        Self {
            key,
            tls,
            admission,
            bootstrap,
            connections_max: CONNECTIONS_MAX,
        }
    }
}

/// A running relay; owns all of its tasks. Dropping it ends them at once.
pub struct RelayServer {
    relay: Arc<Relay>,
    local_addr: SocketAddr,
    /// Those that run as long as the relay accepts connections.
    lasting: Tasks,
}

/// What the tasks of a relay share.
pub(crate) struct Relay {
    pub(crate) key: RelayPrivateKey,
    pub(crate) public_key_hex: String,
    pub(crate) admission: Arc<dyn Admission>,
    pub(crate) bootstrap: Arc<dyn BootstrapDns>,
    pub(crate) clients: Clients,
    pub(crate) metrics: Arc<RelayMetrics>,
    pub(crate) next_connection: AtomicU64,
    pub(crate) door: Arc<Doorkeeper>,
    pub(crate) pending_websockets: Arc<Semaphore>,
    pub(crate) health: RelayHealth,
    pub(crate) cert_name: watch::Sender<Option<String>>,
    tls: RelayTls,
    draining: AtomicBool,
    /// No more connections.
    stop_accepting: CancellationToken,
    /// Every task ends where it stands.
    abort: CancellationToken,
    tasks: TaskTracker,
}

impl RelayServer {
    /// Serves the connections that `listener` gets, from now on.
    ///
    /// # Errors
    /// The listener has no address.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(listener: RelayListener, config: RelayConfig) -> std::io::Result<Self> {
        let local_addr = listener.local_addr()?;
        let metrics = Arc::new(RelayMetrics::default());
        let health = RelayHealth::default();
        let relay = Arc::new(Relay {
            public_key_hex: config.key.public_hex(),
            key: config.key,
            admission: config.admission,
            bootstrap: config.bootstrap,
            clients: Clients::new(Arc::clone(&metrics)),
            metrics,
            next_connection: AtomicU64::new(1),
            pending_websockets: Arc::new(Semaphore::new(PENDING_WEBSOCKETS_MAX)),
            door: Arc::new(Doorkeeper::new(config.connections_max, health.clone())),
            health,
            cert_name: watch::Sender::new(config.tls.cert_name()),
            tls: config.tls,
            draining: AtomicBool::new(false),
            stop_accepting: CancellationToken::new(),
            abort: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let mut lasting = JoinSet::new();
        lasting.spawn(relay.lasting(accept_connections(Arc::clone(&relay), listener)));
        lasting.spawn(relay.lasting(refresh_certificate(Arc::clone(&relay))));
        tracing::info!(addr = %local_addr, "relay started");
        Ok(Self {
            relay,
            local_addr,
            lasting: Tasks::new("the relay", lasting),
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// A handle for everybody else; it does not keep the relay running.
    pub fn handle(&self) -> RelayHandle {
        RelayHandle::new(Arc::clone(&self.relay))
    }

    /// Resolves when one of its tasks has ended: it drains, or accepts no more connections or looks
    /// after its certificate no more through a fault; tells how.
    pub async fn ended(&self) -> String {
        self.lasting.ended().await
    }

    /// Stops accepting and closes the connections one after another over `over`, so that their
    /// owners do not arrive elsewhere all at once. Returns when none is left, or a second later.
    pub async fn drain(&self, over: Duration) {
        let relay = &self.relay;
        relay.health.set_quiet(true);
        relay.draining.store(true, Ordering::SeqCst);
        relay.stop_accepting.cancel();
        relay.send_away(over).await;
        let _ = timeout(Duration::from_secs(1), relay.wait_until_empty()).await;
    }

    /// Ends the relay: asks every connection to close, and ends by force what has not after
    /// `limit`.
    pub async fn shutdown(self, limit: Duration) {
        let relay = &self.relay;
        relay.health.set_quiet(true);
        relay.draining.store(true, Ordering::SeqCst);
        relay.stop_accepting.cancel();
        for client in relay.clients.all() {
            client.queue.close(CloseReason::ShuttingDown);
        }
        relay.tasks.close();
        if timeout(limit, relay.wait_until_empty()).await.is_err() {
            tracing::warn!(
                clients = relay.clients.all().len(),
                "relay connections cut off"
            );
        }
        relay.abort.cancel();
        relay.tasks.wait().await;
        tracing::info!("relay stopped");
    }
}

impl Drop for RelayServer {
    fn drop(&mut self) {
        self.relay.stop_accepting.cancel();
        self.relay.abort.cancel();
    }
}

impl Relay {
    /// Closes the connections that are there one after another over `over`.
    pub(crate) async fn send_away(&self, over: Duration) {
        let clients = self.clients.all();
        tracing::info!(clients = clients.len(), "relay drains");
        let start = Instant::now();
        let count = u32::try_from(clients.len()).unwrap_or(u32::MAX).max(1);
        for (turn, client) in (0u32..).zip(clients) {
            sleep_until(start + over.mul_f64(f64::from(turn) / f64::from(count))).await;
            client.queue.close(CloseReason::Draining);
        }
    }

    /// Accepts TLS with the current certificate.
    pub(crate) fn tls_acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.tls.server_config())
    }

    /// What requests are answered with.
    pub(crate) fn site(&self) -> Site<'_> {
        Site {
            public_key_hex: &self.public_key_hex,
            bootstrap: &*self.bootstrap,
            metrics: &self.metrics,
        }
    }

    /// Whether clients should go elsewhere.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Runs a task until it ends or the relay is aborted.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(until_aborted(self.abort.clone(), task));
    }

    /// The same, to be watched by its owner.
    fn lasting<F>(&self, task: F) -> TrackedFuture<impl Future<Output = ()> + Send + use<F>>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = until_aborted(self.abort.clone(), task);
        self.tasks.track_future(task)
    }

    /// Waits until no client is registered.
    async fn wait_until_empty(&self) {
        const POLL: Duration = Duration::from_millis(10);
        while self.metrics.current_connections.value() > 0 {
            sleep(POLL).await;
        }
    }
}

async fn until_aborted(abort: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        () = abort.cancelled() => {}
        () = task => {}
    }
}

/// Marks the relay as not accepting when the accept loop ends, even by a panic.
struct Accepting(RelayHealth);

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.set_accepting(false);
    }
}

async fn accept_connections(relay: Arc<Relay>, listener: RelayListener) {
    let accepting = Accepting(relay.health.clone());
    loop {
        accepting.0.set_accepting(true);
        let accepted = tokio::select! {
            biased;
            () = relay.stop_accepting.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, remote) = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                relay.metrics.accept_errors.increment();
                tracing::warn!(%error, "relay cannot accept");
                accepting.0.set_accepting(false);
                sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            }
        };
        relay.metrics.accepts.increment();
        match relay.door.enter(remote.ip()) {
            Some(place) => {
                relay.spawn(connection::serve(Arc::clone(&relay), stream, remote, place));
            }
            None => relay.metrics.connections_refused.increment(),
        }
    }
}

/// Keeps the certificate fresh and tells whoever publishes its pin.
async fn refresh_certificate(relay: Arc<Relay>) {
    let mut ticks = interval(CERTIFICATE_CHECK_INTERVAL);
    ticks.tick().await; // the first is at once, and the certificate was just loaded
    loop {
        ticks.tick().await;
        let tls = relay.tls.clone();
        let refreshing = tokio::task::spawn_blocking(move || tls.refresh(now()));
        let Some(refreshed) = joined(refreshing.await) else {
            return;
        };
        match refreshed {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!("relay certificate exchanged");
                relay.cert_name.send_replace(relay.tls.cert_name());
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, "relay certificate cannot be refreshed");
            }
        }
    }
}

fn now() -> Timestamp {
    let since_epoch = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}
