//! The connections to other replicas, and calls over them.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use hydrascale_proto::raft::v1::peer_client::PeerClient;
use hydrascale_proto::raft::v1::{IdentifyReply, IdentifyRequest};
use hyper::rt;
use parking_lot::Mutex;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::{StdError, http};
use tonic::transport::{Endpoint, Uri};
use tonic::{Code, ConnectError, Request, Response, Status};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt, service_fn};

use super::envelope::incarnation_of;
use super::{AddressBook, Dialer, Envelope, Incarnations, MESSAGE_BYTES_MAX, Refusal};
use crate::fatal::chain;
use crate::fatal_slot::FatalSlot;
use crate::records::ClusterRecords;
use crate::tls::PeerName;
use crate::{FEATURE_LEVELS, Fatal};

/// Which of a pair's connections a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Small and urgent.
    Control,
    /// Log entries and forwarded commands.
    Log,
    /// Snapshots.
    Bulk,
    /// What is carried for the layer above.
    Cargo,
}

/// One connection to another replica, as calls see it.
pub(crate) type PeerChannel =
    BoxCloneSyncService<http::Request<Body>, http::Response<Body>, ChannelError>;

/// A call that the connection did not carry.
#[derive(Debug, thiserror::Error)]
#[error("transport error")]
pub(crate) struct ChannelError(#[source] pub(crate) StdError);

/// How one replica gets to the others.
pub(crate) trait Reach: Send + Sync {
    /// Opens a lane to a replica; the connection is made when it is first used.
    fn open(&self, target: u64, lane: Lane) -> PeerChannel;

    /// Whether the machine of replica `target` answers that nobody listens at its port. Silence is no
    /// such answer.
    fn is_refused(&self, target: u64) -> BoxFuture<'_, bool>;
}

/// The way to the others, whatever it is.
pub(crate) type Opener = Arc<dyn Reach>;

/// Connections to every other replica, made when first used and again when lost.
#[derive(Clone)]
pub(crate) struct Lanes(Arc<Inner>);

struct Inner {
    own: PeerName,
    incarnation: u64,
    advertised: String,
    open: Opener,
    addresses: AddressBook,
    channels: Mutex<BTreeMap<u64, PeerLanes>>,
    incarnations: Incarnations,
    fatal: FatalSlot,
    records: Arc<ArcSwap<ClusterRecords>>,
}

struct PeerLanes {
    control: PeerChannel,
    log: PeerChannel,
    bulk: PeerChannel,
    cargo: PeerChannel,
}

impl Lanes {
    /// Lanes from the replica `own`, which says of itself that it is at `advertised`. What it sends
    /// has the feature level in `records`.
    pub(crate) fn new(
        own: PeerName,
        incarnation: u64,
        advertised: String,
        (open, addresses): (Opener, AddressBook),
        incarnations: Incarnations,
        fatal: FatalSlot,
        records: Arc<ArcSwap<ClusterRecords>>,
    ) -> Self {
        let channels = Mutex::default();
        Self(Arc::new(Inner {
            own,
            incarnation,
            advertised,
            open,
            addresses,
            channels,
            incarnations,
            fatal,
            records,
        }))
    }

    /// This replica's id.
    pub(crate) fn own_id(&self) -> u64 {
        self.0.own.replica_id
    }

    /// Notes where the membership says that a replica is.
    pub(crate) fn list(&self, replica: u64, addr: &str) {
        self.0.addresses.list(replica, addr);
    }

    /// Whether the machine of `target` answers that nobody listens at its port.
    pub(crate) async fn is_refused(&self, target: u64) -> bool {
        self.0.open.is_refused(target).await
    }

    /// A client on one lane; connects when it is first used.
    pub(crate) fn client(&self, target: u64, lane: Lane) -> PeerClient<PeerChannel> {
        let mut channels = self.0.channels.lock();
        let lanes = channels
            .entry(target)
            .or_insert_with(|| self.lanes_to(target));
        let channel = match lane {
            Lane::Control => &lanes.control,
            Lane::Log => &lanes.log,
            Lane::Bulk => &lanes.bulk,
            Lane::Cargo => &lanes.cargo,
        };
        PeerClient::new(channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Puts a message into its envelope.
    pub(crate) fn request<T>(&self, target: u64, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let envelope = Envelope {
            cluster_id: self.0.own.cluster_id.clone(),
            from: self.0.own.replica_id,
            to: target,
            incarnation: self.0.incarnation,
            level: self.0.records.load().level().max(FEATURE_LEVELS.min),
            from_addr: self.0.advertised.clone(),
        };
        envelope.write(request.metadata_mut());
        request
    }

    /// Calls `target` on a lane and waits for the answer, `patience` at most.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(crate) async fn call<Q, R, F>(
        &self,
        target: u64,
        lane: Lane,
        patience: Duration,
        message: Q,
        method: impl FnOnce(PeerClient<PeerChannel>, Request<Q>) -> F,
    ) -> Result<R, CallError>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut request = self.request(target, message);
        request.set_timeout(patience);
        match timeout(patience, method(self.client(target, lane), request)).await {
            Ok(Ok(response)) => self.answer(target, response),
            Ok(Err(status)) => Err(self.judge(&status)),
            Err(_) => Err(CallError::TimedOut { patience }),
        }
    }

    /// Asks `target` who it is and how it does, urgently.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(crate) async fn identify(
        &self,
        target: u64,
        patience: Duration,
        request: IdentifyRequest,
    ) -> Result<IdentifyReply, CallError> {
        let method = |mut client: PeerClient<PeerChannel>, request| async move {
            client.identify(request).await
        };
        self.call(target, Lane::Control, patience, request, method)
            .await
    }

    /// The answer of the latest start of `target`.
    ///
    /// # Errors
    /// An older process has answered: what it says does not count.
    pub(crate) fn answer<R>(&self, target: u64, response: Response<R>) -> Result<R, CallError> {
        self.start_of(target, &response)?;
        Ok(response.into_inner())
    }

    /// Which start of `target` gives this answer.
    ///
    /// # Errors
    /// It does not say, or is not the latest.
    pub(crate) fn start_of<R>(
        &self,
        target: u64,
        response: &Response<R>,
    ) -> Result<u64, CallError> {
        let start = incarnation_of(response.metadata()).ok_or_else(|| CallError::Failed {
            reason: "the answer does not say of which start it is".to_owned(),
        })?;
        self.hear(target, start)?;
        Ok(start)
    }

    /// Takes note that `target` has answered as this start of it.
    ///
    /// # Errors
    /// A later start was heard of.
    pub(crate) fn hear(&self, target: u64, start: u64) -> Result<(), CallError> {
        let heard = self.0.incarnations.hear(target, start);
        heard.map_err(|latest| CallError::Failed {
            reason: format!(
                "start {start} of replica {target} has answered, but start {latest} was heard of \
                 already"
            ),
        })
    }

    /// Makes new connections for the calls to come, with the present certificate; calls that are under
    /// way end on the old ones. One replica after the other, and only once it has answered on the new
    /// connection: no call waits for a handshake.
    pub(crate) async fn redial(&self, patience: Duration) {
        let targets: Vec<u64> = self.0.channels.lock().keys().copied().collect();
        for target in targets {
            let lanes = self.lanes_to(target);
            for channel in [&lanes.control, &lanes.log] {
                let mut request = self.request(target, IdentifyRequest::default());
                request.set_timeout(patience);
                // One that does not answer is dialled when it is next called.
                let mut client = PeerClient::new(channel.clone());
                let _ = timeout(patience, client.identify(request)).await;
            }
            if let Some(before) = self.0.channels.lock().get_mut(&target) {
                *before = lanes;
            }
        }
    }

    fn lanes_to(&self, target: u64) -> PeerLanes {
        let open = |lane| self.0.open.open(target, lane);
        PeerLanes {
            control: open(Lane::Control),
            log: open(Lane::Log),
            bulk: open(Lane::Bulk),
            cargo: open(Lane::Cargo),
        }
    }

    /// Ends what is kept about replicas that were removed.
    pub(crate) fn forget(&self, removed: &BTreeSet<u64>) {
        self.0.channels.lock().retain(|id, _| !removed.contains(id));
        self.0.incarnations.forget(removed);
        self.0.addresses.forget(removed);
    }

    /// Sorts a failed call; an answer that ends this replica is reported.
    pub(crate) fn judge(&self, status: &Status) -> CallError {
        if Refusal::is_removed(status) {
            self.0.fatal.report(Fatal::Removed);
        } else if Refusal::is_replaced(status) {
            self.0.fatal.report(Fatal::Replaced);
        }
        CallError::of(status)
    }
}

impl Reach for Dialer {
    fn open(&self, target: u64, lane: Lane) -> PeerChannel {
        let dialer = self.clone();
        let connector = service_fn(move |_: Uri| {
            let dialer = dialer.clone();
            async move { dialer.dial(target).await }
        });
        channel(lane, connector)
    }

    fn is_refused(&self, target: u64) -> BoxFuture<'_, bool> {
        Box::pin(self.finds_nobody(target))
    }
}

/// A lane over the connections that `connector` makes, the first when it is first used. The connector
/// decides whom to connect to and checks it; the URI that it gets only fills the header.
pub(crate) fn channel<C>(lane: Lane, connector: C) -> PeerChannel
where
    C: Service<Uri> + Send + 'static,
    C::Response: rt::Read + rt::Write + Send + Unpin,
    C::Future: Send,
    StdError: From<C::Error>,
{
    let channel = Endpoint::from_static("http://replica")
        .initial_stream_window_size(stream_window(lane))
        .initial_connection_window_size(stream_window(lane).saturating_mul(4))
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector);
    BoxCloneSyncService::new(channel.map_err(|error| ChannelError(error.into())))
}

fn stream_window(lane: Lane) -> u32 {
    match lane {
        Lane::Control => 64 << 10,
        Lane::Log | Lane::Bulk | Lane::Cargo => 1 << 20,
    }
}

/// Why a call brought no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// There is no connection: nothing was sent.
    #[error("not connected: {reason}")]
    NotConnected {
        /// Why.
        reason: String,
    },
    /// The callee refused to look at the message.
    #[error("refused: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// The callee has too much to do and did not take the message.
    #[error("too busy: {reason}")]
    Busy {
        /// What it said.
        reason: String,
    },
    /// No answer in time: the message may have been dealt with.
    #[error("no answer within {patience:?}")]
    TimedOut {
        /// How long was waited.
        patience: Duration,
    },
    /// The connection broke or the callee failed: the message may have been dealt with.
    #[error("failed: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
}

impl CallError {
    /// Whether the callee certainly did nothing about the message.
    pub(crate) fn is_not_taken(&self) -> bool {
        match self {
            Self::NotConnected { .. } | Self::Refused { .. } | Self::Busy { .. } => true,
            Self::TimedOut { .. } | Self::Failed { .. } => false,
        }
    }

    fn of(status: &Status) -> Self {
        if let Some(error) = connect_error(status) {
            return Self::NotConnected {
                reason: chain(error),
            };
        }
        let reason = status.message().to_owned();
        match status.code() {
            Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented => {
                Self::Refused { reason }
            }
            Code::ResourceExhausted => Self::Busy { reason },
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Aborted
            | Code::OutOfRange
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
            | Code::Unauthenticated => Self::Failed { reason },
        }
    }
}

fn connect_error(status: &Status) -> Option<&(dyn Error + 'static)> {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

/// HTTP/2 pings find out about silent connections.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
