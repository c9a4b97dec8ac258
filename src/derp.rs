//! DERP relay: carries packets between nodes that have no direct path.
//!
//! A client connects over TLS, upgrades an HTTP request to DERP (`http`), proves that it owns its
//! node key (`handshake`) and is admitted by the node table ([`Admission`]). From then on it sends
//! frames (`frame`) with packets for other keys, which the relay puts into the queues of their
//! connections (`clients`), or to the relay that they are connected to (`mesh`); packets are
//! encrypted between the nodes and mean nothing here.
//!
//! Every replica runs one relay, with a key, a certificate and a DERP region of its own. Not here:
//! the way between relays, the DERP map, STUN ([`crate::stun`]).

mod admission;
mod batch;
mod bootstrap;
mod client;
mod clients;
mod connection;
mod doorkeeper;
mod files;
mod frame;
mod handle;
mod handshake;
mod health;
mod http;
mod key;
mod limits;
mod listener;
mod mesh;
mod metrics;
mod progress;
mod queue;
mod server;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tls;
mod websocket;

pub use self::admission::{Admission, DenyReason, OpenAdmission, Verdict};
pub use self::bootstrap::{BootstrapDns, NameSource, Names, ResolvedNames, StaticNames};
pub use self::handle::{RelayHandle, RelayStats};
pub use self::health::RelayHealth;
pub use self::key::{RelayKeyError, RelayPrivateKey};
pub use self::listener::RelayListener;
pub use self::mesh::Arrivals;
pub use self::metrics::{Counter, RelayMetrics, Sample, Traffic};
pub use self::server::{RelayConfig, RelayServer};
pub use self::tls::{CertificateSource, RelayTls, TlsError};
