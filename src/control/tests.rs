//! End to end: a client that speaks the whole protocol to one replica, or to two.

mod hostile;
mod logins;
mod map;
mod plain;
mod register;
mod reports;
mod session;
mod ssh;
mod tags;
