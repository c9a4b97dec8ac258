//! How replicas talk: four lanes per ordered pair, each its own connection, so that neither a log
//! batch nor a snapshot can delay a heartbeat or a vote (HTTP/2 streams of one connection share its
//! TCP window). Control: heartbeats, votes, transfers, read index, probes. Log: append streams, and
//! forwarded commands, which may be large. Bulk: snapshots. Cargo: what is carried for the layer
//! above.

mod address;
mod client;
mod connection;
mod dialer;
mod envelope;
mod guard;
mod incarnations;
mod lanes;
mod leader_contact;
mod listener;
mod message;
mod service;
mod snapshot;

pub(crate) use self::address::AddressBook;
pub(crate) use self::client::NetworkFactory;
pub(crate) use self::connection::{Connections, Ends, PeerInfo, Services};
pub(crate) use self::dialer::{Dialer, connect};
pub(crate) use self::envelope::{Envelope, Refusal};
pub(crate) use self::guard::{Barred, Caller, Guard};
pub(crate) use self::incarnations::Incarnations;
pub(crate) use self::lanes::{CallError, Lane, Lanes, Opener};
#[cfg(test)]
pub(crate) use self::lanes::{ChannelError, PeerChannel, Reach, channel};
pub(crate) use self::leader_contact::LeaderContact;
pub(crate) use self::listener::Listener;
pub(crate) use self::service::PeerService;

/// Largest message either way. Entries are batched up to about 1 MiB and one may have 1 MiB itself.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Largest request of somebody without a certificate: a token, a name and a public key, or a greeting.
pub(crate) const JOIN_BYTES_MAX: usize = 16 << 10;

/// Bytes of a snapshot per message: large enough to amortise framing, small enough to cancel soon.
pub(crate) const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;
