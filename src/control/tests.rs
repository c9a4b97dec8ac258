//! End to end: a client that speaks the whole protocol to one replica, or to two.

mod map;
mod plain;
mod register;
mod session;
