//! The control protocol from a node's side.
//!
//! [`fetch_server_key`] -> [`Connection::open`] (Noise, then HTTP/2 inside) ->
//! [`Connection::register`] -> [`Connection::stream`].

mod connection;
mod handshake;
mod identity;
mod map;
mod record;

pub use connection::{Connection, Registered, Registration, fetch_server_key};
pub use identity::Identity;
pub use map::MapStream;

/// The capability version that this client claims, today's newest.
pub const CAPVER: u16 = 145;
