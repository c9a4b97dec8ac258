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
    forget(user, replicas);
    for other in (0..replicas).filter(|other| *other != home) {
        ip(&format!("rule add {}", unreachable_stun(user, other)))?;
    }
    Ok(())
}

/// Lets the client of `user` measure every replica again. It stays where it is, until something
/// makes another home better.
///
/// # Errors
/// When the kernel refuses, as when it was not pinned.
pub fn unpin(user: u32, home: usize, replicas: usize) -> Result<()> {
    for other in (0..replicas).filter(|other| *other != home) {
        ip(&format!("rule del {}", unreachable_stun(user, other)))?;
    }
    Ok(())
}

/// Removes what an earlier scenario with a client of the same user has left behind.
fn forget(user: u32, replicas: usize) {
    let pinned = (0..replicas).map(|replica| unreachable_stun(user, replica));
    for rule in pinned.chain([stun_allowed(user), udp_forbidden(user)]) {
        // A rule that is not there is what is wanted.
        let _ = ip(&format!("rule del {rule}"));
    }
}

fn unreachable_stun(user: u32, replica: usize) -> String {
    let address = replica_address(replica);
    format!("pref 10 uidrange {user}-{user} ipproto udp dport {STUN_PORT} to {address} unreachable")
}

fn stun_allowed(user: u32) -> String {
    format!("pref 20 uidrange {user}-{user} ipproto udp dport {STUN_PORT} lookup local")
}

fn udp_forbidden(user: u32) -> String {
    format!("pref 30 uidrange {user}-{user} ipproto udp unreachable")
}

/// Forbids the client of `user` all UDP but STUN: what it sends to peers goes through relays.
///
/// The official client's own switch for this, `TS_DEBUG_ALWAYS_USE_DERP`, forbids it STUN as well,
/// and then its home is anybody's guess.
///
/// # Errors
/// When the kernel refuses a rule.
pub fn forbid_direct_paths(user: u32) -> Result<()> {
    ip(&format!("rule add {}", stun_allowed(user)))?;
    ip(&format!("rule add {}", udp_forbidden(user)))
}
