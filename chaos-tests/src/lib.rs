//! Tests with real processes: replicas, a balancer and official clients, in a private network
//! namespace.
//!
//! A test file is a list of [`Scenario`]s given to [`runner::main`], which puts the process into a
//! namespace of its own and runs them one after another. `DESIGN.md` says what an outcome means.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "test output is this crate's work"
)]

pub mod balancer;
mod certificate;
pub mod checker;
pub mod clients;
pub mod cluster;
pub mod etcd;
pub mod flood;
pub mod history;
pub mod homes;
pub mod http;
pub mod links;
pub mod load;
pub mod log;
pub mod nemesis;
pub mod netns;
pub mod observer;
pub mod outcome;
pub mod process;
pub mod proxy;
pub mod requests;
pub mod run;
pub mod runner;
pub mod summary;
pub mod wait;
pub mod workload;
pub mod writes;

pub use runner::{Context, Scenario};
