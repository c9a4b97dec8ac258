//! A small Tailscale client for measuring and for breaking things: it registers and streams
//! netmaps, and carries no traffic. The load generator `hs-load` is made of it.
//!
//! It shares no codec with the server, so that it is a second opinion on the wire format: JSON is
//! read as loose values, the record layer and the framing are written again here.

pub mod client;
pub mod load;
