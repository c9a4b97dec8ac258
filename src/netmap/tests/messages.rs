//! Exact messages.
