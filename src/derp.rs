//! DERP relay: wire codec, registry of clients, server.
