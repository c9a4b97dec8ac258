//! What is done to a cluster under test: processes are killed and frozen, links cut and slowed,
//! clocks set, disks filled, files damaged, and members changed.
//!
//! A [`Nemesis`] draws a [`Fault`], which is pure; [`Executor`] installs it and takes it away.

mod executor;
mod fault;
mod kind;
mod topology;

pub use executor::Executor;
pub use fault::{ChurnStep, Damage, Fault, FileKind, How, Skew};
pub use kind::Nemesis;
pub use topology::Cuts;
