//! The client's side of a replica: plain HTTP on the client port, and the routes inside Noise.
//!
//! ```text
//! listener -> plain (key, health, pages, verify)
//!          -> ts2021 -> noise -> inner (HTTP/2) -> register, map, ssh, small requests
//! ```
//!
//! Thin: state is read from and changed through `cluster`, maps come from `session`. Not here:
//! the API for administrators, the relay.

mod auth;
mod hostinfo;
mod inner;
pub mod limits;
mod listener;
mod map;
mod metrics;
mod options;
mod plain;
mod register;
mod source;
mod ssh;
mod ts2021;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::listener::{Connection, serve, serve_connection};
pub use self::metrics::{ControlMetrics, Limit};
pub use self::options::{
    BootstrapNames, Clock, ControlOptions, NoiseKeySource, ToolchainInfo, VersionInfo,
};
pub use self::plain::{router, with_security_headers};
use self::register::{LoginLimiter, LoginWatch, SourceLimiter};
use crate::cluster::Cluster;
use crate::session::MapStreams;
use crate::types::{MachinePrivateKey, Timestamp};

/// Everything that a request needs. Cloning is cheap.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: Cluster,
    streams: MapStreams,
    options: ControlOptions,
    metrics: ControlMetrics,
    logins: LoginWatch,
    login_limiter: LoginLimiter,
    ssh_check_limiter: LoginLimiter,
    source_limiter: SourceLimiter,
    handshakes: Arc<Semaphore>,
    large_bodies: Semaphore,
    drain: CancellationToken,
    tasks: TaskTracker,
}

impl Control {
    /// Binds the client's side to the cluster and to the map streams of this replica.
    pub fn new(
        cluster: Cluster,
        streams: MapStreams,
        options: ControlOptions,
        metrics: ControlMetrics,
    ) -> Self {
        let inner = Inner {
            logins: LoginWatch::spawn(&cluster),
            login_limiter: LoginLimiter::new(),
            ssh_check_limiter: LoginLimiter::new(),
            source_limiter: SourceLimiter::new(metrics.clone()),
            handshakes: Arc::new(Semaphore::new(limits::HANDSHAKES_MAX)),
            large_bodies: Semaphore::new(limits::LARGE_BODIES_MAX),
            drain: CancellationToken::new(),
            tasks: TaskTracker::new(),
            cluster,
            streams,
            options,
            metrics,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Resolves when a task that all sessions share has ended, which only a fault does; tells how.
    pub async fn ended(&self) -> String {
        self.inner.logins.ended().await
    }

    /// Stops accepting, asks every client to go elsewhere, spread over some seconds, and waits
    /// until they have left, or for [`limits::SHUT_DOWN_MAX`].
    pub async fn shut_down(&self) {
        self.inner.drain.cancel();
        self.inner.tasks.close();
        if timeout(limits::SHUT_DOWN_MAX, self.inner.tasks.wait())
            .await
            .is_err()
        {
            self.inner.metrics.limit_hit(Limit::ShutDown);
            tracing::warn!(
                connections = self.inner.tasks.len(),
                "some clients did not leave"
            );
        }
    }

    fn cluster(&self) -> &Cluster {
        &self.inner.cluster
    }

    fn streams(&self) -> &MapStreams {
        &self.inner.streams
    }

    fn options(&self) -> &ControlOptions {
        &self.inner.options
    }

    fn metrics(&self) -> &ControlMetrics {
        &self.inner.metrics
    }

    fn logins(&self) -> &LoginWatch {
        &self.inner.logins
    }

    fn login_limiter(&self) -> &LoginLimiter {
        &self.inner.login_limiter
    }

    fn source_limiter(&self) -> &SourceLimiter {
        &self.inner.source_limiter
    }

    fn ssh_check_limiter(&self) -> &LoginLimiter {
        &self.inner.ssh_check_limiter
    }

    fn handshakes(&self) -> Arc<Semaphore> {
        Arc::clone(&self.inner.handshakes)
    }

    fn large_bodies(&self) -> &Semaphore {
        &self.inner.large_bodies
    }

    fn drain(&self) -> &CancellationToken {
        &self.inner.drain
    }

    fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    fn now(&self) -> Timestamp {
        (self.inner.options.clock)()
    }

    /// The cluster's Noise key; `None` before the cluster's first command.
    fn noise_key(&self) -> Option<MachinePrivateKey> {
        (self.inner.options.noise_key)(&self.inner.cluster.state())
    }

    /// Whether clients are better off elsewhere when this replica cannot confirm that it is current:
    /// a leader was heard of within this time, and there is another replica to go to.
    fn others_serve_better(&self, within: Duration) -> bool {
        let status = self.inner.cluster.status();
        let heard = Duration::from_millis(status.leaderless_ms) < within;
        let me = status.replica_id;
        let mut others = status.members.iter().filter(|member| member.id != me);
        status.leader.is_some() && heard && others.any(|other| other.reachable)
    }

    /// How long nothing has proven that a leader works; near zero in a healthy cluster.
    fn leaderless(&self) -> Duration {
        Duration::from_millis(self.inner.cluster.status().leaderless_ms)
    }
}
