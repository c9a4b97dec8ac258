//! Whole clusters in one process: real TLS over loopback, real stores in temporary folders.

mod backup;
mod bootstrap;
mod carry;
mod certificates;
mod failures;
mod harness;
mod identity;
mod membership;
mod partitions;
mod proposals;
mod sealing;
mod upgrade;
mod voters;
mod wire;
