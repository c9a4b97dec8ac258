//! Connecting to another replica: TCP, TLS, and the certainty that it is the one meant.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::AddressBook;
use crate::DialOverrides;
use crate::tls::{PeerName, Tls};

/// Connects to replicas by their id.
#[derive(Clone)]
pub(crate) struct Dialer {
    own: PeerName,
    tls: Tls,
    addresses: AddressBook,
    overrides: DialOverrides,
    patience: Duration,
    /// When it was last said that a replica's place is taken.
    told: Arc<Mutex<BTreeMap<u64, Instant>>>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer")
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

/// A connection to another replica, as hyper takes it.
pub(crate) type Dialled = TokioIo<TlsStream<TcpStream>>;

impl Dialer {
    /// A dialer for the replica `own`; TCP and TLS together may take `patience`.
    pub(crate) fn new(
        own: PeerName,
        tls: Tls,
        addresses: AddressBook,
        overrides: DialOverrides,
        patience: Duration,
    ) -> Self {
        Self {
            own,
            tls,
            addresses,
            overrides,
            patience,
            told: Arc::default(),
        }
    }

    /// Connects to replica `target`; whoever answers has proven to be it.
    ///
    /// # Errors
    /// There is no address, nobody answers, or somebody else does.
    pub(crate) async fn dial(&self, target: u64) -> Result<Dialled, DialError> {
        if target == self.own.replica_id {
            return Err(DialError::OwnId);
        }
        let addr = self
            .address(target)
            .ok_or(DialError::NoAddress { target })?;
        let name = PeerName::new(self.own.cluster_id.clone(), target).to_string();
        let connected = connect(&addr, &name, self.tls.client(), self.patience).await;
        match &connected {
            Err(error @ DialError::Stranger { .. }) if self.is_news(target) => {
                tracing::warn!(replica.id = target, %error, "replica is not who it was");
            }
            Ok(_) | Err(_) => {}
        }
        connected
    }

    /// Whether nobody was told of a stranger in this replica's place for a while.
    fn is_news(&self, target: u64) -> bool {
        let mut told = self.told.lock();
        let last = told.insert(target, Instant::now());
        let is_news = last.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        if let Some(last) = last.filter(|_| !is_news) {
            told.insert(target, last);
        }
        is_news
    }

    /// Whether the machine of replica `target` answers that nobody listens at its port. Silence is
    /// no such answer.
    pub(super) async fn finds_nobody(&self, target: u64) -> bool {
        let Some(addr) = self.address(target) else {
            return false;
        };
        let connected = timeout(self.patience, TcpStream::connect(addr)).await;
        connected.is_ok_and(|tcp| {
            tcp.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        })
    }

    fn address(&self, target: u64) -> Option<String> {
        let addr = self.addresses.find(target)?;
        Some(self.overrides.resolve(&addr))
    }
}

/// Connects to `addr` and shakes hands, expecting a certificate for `name` as `tls` judges it.
///
/// # Errors
/// Nobody answers in time, or the handshake fails.
pub(crate) async fn connect(
    addr: &str,
    name: &str,
    tls: Arc<ClientConfig>,
    patience: Duration,
) -> Result<Dialled, DialError> {
    let server_name = ServerName::try_from(name.to_owned()).map_err(|_| DialError::Name {
        name: name.to_owned(),
    })?;
    let connecting = async {
        let tcp = TcpStream::connect(addr)
            .await
            .map_err(|source| DialError::Connect {
                addr: addr.to_owned(),
                source,
            })?;
        // Heartbeats are small and urgent.
        tcp.set_nodelay(true).map_err(|source| DialError::Connect {
            addr: addr.to_owned(),
            source,
        })?;
        let stream = TlsConnector::from(tls).connect(server_name, tcp).await;
        stream.map_err(|source| refused_handshake(addr, source))
    };
    match timeout(patience, connecting).await {
        Ok(connected) => connected.map(TokioIo::new),
        Err(_) => Err(DialError::TimedOut {
            addr: addr.to_owned(),
            patience,
        }),
    }
}

fn refused_handshake(addr: &str, source: io::Error) -> DialError {
    let addr = addr.to_owned();
    let rustls = source.get_ref().and_then(|error| error.downcast_ref());
    match rustls {
        Some(rustls::Error::InvalidCertificate(_)) => DialError::Stranger { addr, source },
        Some(_) | None => DialError::Handshake { addr, source },
    }
}

/// Why there is no connection; nothing was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// A replica does not connect to itself.
    #[error("a replica does not connect to itself")]
    OwnId,
    /// Neither membership nor the replica itself has said where it is.
    #[error("no address of replica {target} is known")]
    NoAddress {
        /// The replica.
        target: u64,
    },
    /// The name cannot be in a certificate.
    #[error("{name} is not a host name")]
    Name {
        /// The name.
        name: String,
    },
    /// TCP failed.
    #[error("connect to {addr}")]
    Connect {
        /// Where.
        addr: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// TLS failed: another cluster, another replica, or something else altogether.
    #[error("TLS handshake with {addr}")]
    Handshake {
        /// Where.
        addr: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else's certificate.
    #[error(
        "whoever answers at {addr} is not the replica of this cluster that was there: if a backup was \
         restored there, or a lost quorum recovered, this replica's cluster is no more; empty its data \
         folder and join the new one"
    )]
    Stranger {
        /// Where.
        addr: String,
        /// What rustls says.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("{addr} did not answer within {patience:?}")]
    TimedOut {
        /// Where.
        addr: String,
        /// How long was waited.
        patience: Duration,
    },
}

/// Replicas dial several times a second.
const TELL_EVERY: Duration = Duration::from_secs(60);
