//! Chooses which relay a client makes its home, and whether it may use direct paths.
//!
//! Clients take the region that answers STUN fastest, and on one machine all answer alike. Every
//! client runs as a user of its own, so rules of the kernel can single it out: STUN to the other
//! replicas is unreachable for it, everything else works.

use anyhow::Result;

use crate::netns::{ip, replica_address};

/// UDP port of every replica's STUN responder.
pub const STUN_PORT: u16 = 3478;

/// Lets the client of `user` measure only replica `home`, of `replicas`.
///
/// # Errors
/// When the kernel refuses a rule.
pub fn pin(user: u32, home: usize, replicas: usize) -> Result<()> {
    for other in (0..replicas).filter(|other| *other != home) {
        let address = replica_address(other);
        ip(&format!(
            "rule add pref 10 uidrange {user}-{user} ipproto udp dport {STUN_PORT} to {address} \
             unreachable"
        ))?;
    }
    Ok(())
}

/// Forbids the client of `user` all UDP but STUN: what it sends to peers goes through relays.
///
/// The official client's own switch for this, `TS_DEBUG_ALWAYS_USE_DERP`, forbids it STUN as well,
/// and then its home is anybody's guess.
///
/// # Errors
/// When the kernel refuses a rule.
pub fn forbid_direct_paths(user: u32) -> Result<()> {
    ip(&format!(
        "rule add pref 20 uidrange {user}-{user} ipproto udp dport {STUN_PORT} lookup local"
    ))?;
    ip(&format!(
        "rule add pref 30 uidrange {user}-{user} ipproto udp unreachable"
    ))
}
