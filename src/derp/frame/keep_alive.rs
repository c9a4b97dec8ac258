//! `KeepAlive`: an empty frame that resets the client's read timeout.

/// The whole frame.
pub(crate) const KEEP_ALIVE: &[u8] = &[0x06, 0, 0, 0, 0];
