//! Netmaps as clients end up with them.

mod convergence;
mod messages;
mod policy;
mod scenarios;
