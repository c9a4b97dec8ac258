//! The policy interface: who sees whom, and with which packet filter.
