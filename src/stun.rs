//! STUN responder for Tailscale clients.
