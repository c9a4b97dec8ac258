//! What the client's side counts.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Bounds of [`super::limits`] as label values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Limit {
    /// `CONNECTIONS_MAX`
    Connections,
    /// `HANDSHAKES_MAX`
    Handshakes,
    /// `HANDSHAKE_TIMEOUT`
    HandshakeTime,
    /// `BODY_BYTES_MAX` and `VERIFY_BODY_BYTES_MAX`
    BodyBytes,
    /// `BODY_TIMEOUT`
    BodyTime,
    /// `LARGE_BODIES_MAX`
    LargeBodies,
    /// `BODIES_PER_SESSION_MAX`
    BodiesPerSession,
    /// `REQUESTS_PER_SESSION_MAX`
    RequestsPerSession,
    /// `state::MAX_HOSTINFO_BYTES`
    HostinfoBytes,
    /// `state::MAX_PENDING_LOGINS`
    PendingLogins,
    /// `IDLE_TIMEOUT`
    Idle,
    /// `LOGINS_PER_SECOND`
    Logins,
    /// The bounds of `State::ssh_crowd`
    PendingSshChecks,
    /// `LOGINS_PER_SECOND`, of logins over SSH
    SshChecks,
    /// `SOURCE_LOGINS_PER_SECOND`
    SourceLogins,
    /// `LOGIN_SOURCES_MAX`
    LoginSources,
    /// `SSH_ASKS_PER_SECOND`
    SshAsks,
    /// `BARRIER_TIMEOUT`
    Barrier,
    /// `STALE_SERVICE_MAX`
    StaleService,
    /// `SHUT_DOWN_MAX`
    ShutDown,
    /// The HTTP/1 parser's own bounds: head size, number of headers, head timeout.
    Http1,
}

/// How a Noise handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Handshake {
    /// A session began.
    Done,
    /// The request was malformed.
    Malformed,
    /// The client has another server key, or sent damaged bytes.
    Unauthentic,
    /// The connection ended between the 101 and HTTP/2.
    Broken,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum SessionEnd {
    /// The client left.
    Closed,
    /// Bytes that are no HTTP/2 or no record, or a broken connection.
    Error,
    /// No answer to a ping.
    Silent,
    /// No request for a long time.
    Idle,
    /// This replica drains.
    Drained,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: Limit,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabel {
    result: Handshake,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabel {
    reason: SessionEnd,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabel {
    route: &'static str,
    status: u16,
}

/// Counters and gauges of the client's side. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct ControlMetrics {
    limits: Family<LimitLabel, Counter>,
    handshakes: Family<HandshakeLabel, Counter>,
    session_ends: Family<EndLabel, Counter>,
    requests: Family<RequestLabel, Counter>,
    /// Sessions that are open.
    pub(super) sessions: Gauge,
}

impl ControlMetrics {
    /// Puts everything into `registry`, which adds the prefix `hydrascale`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "client_limit_hits",
            "Requests or connections that met a bound",
            self.limits.clone(),
        );
        registry.register(
            "noise_handshakes",
            "Noise handshakes",
            self.handshakes.clone(),
        );
        registry.register(
            "noise_session_ends",
            "Ended sessions",
            self.session_ends.clone(),
        );
        registry.register(
            "noise_requests",
            "Requests inside sessions that were answered",
            self.requests.clone(),
        );
        registry.register("noise_sessions", "Open sessions", self.sessions.clone());
    }

    pub(super) fn limit_hit(&self, limit: Limit) {
        self.limits.get_or_create(&LimitLabel { limit }).inc();
    }

    pub(super) fn handshake(&self, result: Handshake) {
        self.handshakes
            .get_or_create(&HandshakeLabel { result })
            .inc();
    }

    pub(super) fn session_end(&self, reason: SessionEnd) {
        self.session_ends.get_or_create(&EndLabel { reason }).inc();
    }

    pub(super) fn request(&self, route: &'static str, status: u16) {
        self.requests
            .get_or_create(&RequestLabel { route, status })
            .inc();
    }

    /// How often a bound was met.
    pub fn limit_hits(&self, limit: Limit) -> u64 {
        self.limits.get_or_create(&LimitLabel { limit }).get()
    }
}
