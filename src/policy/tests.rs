//! Policies at work: whole files on small tailnets.

mod bounds;
mod checks;
mod fuzz;
mod old_names;
mod posture;
mod recorder;
mod tailnet;
mod via;
mod walkthrough;
mod warnings;
