//! Hydrascale: a self-hosted control plane for official Tailscale clients, without a single head.
//!
//! Three or more equal replicas hold the tailnet's state in one Raft group; any replica terminates
//! any client's Noise session and streams its netmap.
//!
//! The core (`types tailcfg state policy netmap dns session::state noise::{handshake,record}
//! derp::frame stun::message`) is pure: no async, clock, randomness, IO or lock. Thin drivers do
//! the IO. Arrows between modules point one way; `server` is the composition root.

pub mod api;
pub mod backup;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod control;
pub mod demo;
pub mod derp;
pub mod dns;
pub mod netmap;
pub mod noise;
pub mod policy;
pub mod server;
pub mod session;
pub mod state;
pub mod stun;
pub mod tailcfg;
pub mod tasks;
pub mod telemetry;
pub mod types;
mod websocket;
mod yaml;
