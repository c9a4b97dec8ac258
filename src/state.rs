//! The tailnet's state and the one pure function that changes it.
//!
//! [`State::apply`] takes a command and gives rows to write, an outcome for the proposer and a
//! [`Change`] for readers; [`State::load`] rebuilds the same state from the rows. Nothing here does
//! IO, reads a clock or draws randomness. What it guarantees and why it is built so: `DESIGN.md` in
//! the folder of the same name.

mod allocate;
mod apply;
mod change;
mod convert;
mod crowd;
mod decode;
mod derp_map;
mod due;
mod hostinfo;
mod index;
mod level;
mod load;
mod model;
mod names;
mod planted;
mod query;
mod rows;
pub mod secret;
mod store;
mod tailnet;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod testing;

pub use self::apply::{Applied, ApplyContext, ApplyError, POLICY_BYTES_MAX};
pub use self::change::{Change, NodeChange};
pub use self::crowd::SshCrowd;
pub(crate) use self::hostinfo::MAX_HOSTINFO_BYTES;
pub use self::level::level_of;
pub use self::load::{LoadError, Loader};
pub use self::model::{
    ApiKey, Endpoint, Node, PendingLogin, PolicyVersion, PreAuthKey, RegisterMethod, Relay,
    Replica, Session, SessionNo, Settings, SshApproval, SshCheck, SshLogin, User, UserRole,
};
pub(crate) use self::names::tags_not_permitted;
pub use self::store::State;
pub use self::tailnet::Tailnet;
#[cfg(test)]
pub(crate) use self::testing::assert_unique;
