//! STUN responder for Tailscale clients: tells a client which address its packets come from.
//!
//! Clients ask every region's STUN server to learn their public endpoints, the kind of their NAT
//! and which relay is near. Only what these clients send is answered (`message`), and only while
//! the relay beside it is healthy, since a client stays with a relay whose STUN answers.

mod message;
mod metrics;
mod server;

pub use self::metrics::StunMetrics;
pub use self::server::{StunServer, StunSockets};
