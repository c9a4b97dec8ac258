//! Map streams: the pure machine, its driver, and the registry.
