//! What is done to a cluster under test: processes are killed and frozen, links cut and slowed.
//!
//! A [`Nemesis`] draws a [`Fault`], which is pure; [`Executor`] installs it and takes it away.

mod executor;
mod fault;
mod topology;

pub use executor::Executor;
pub use fault::{Fault, Nemesis};
pub use topology::Cuts;
