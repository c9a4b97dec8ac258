//! The ts2021 transport: handshake, record codec, upgrade.
