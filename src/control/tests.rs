//! End to end: a client that speaks the whole protocol to one replica, or to two.

mod hostile;
mod map;
mod plain;
mod register;
mod session;
mod ssh;
mod tags;
