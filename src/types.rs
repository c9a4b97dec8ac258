//! Newtypes shared by every module: identifiers, keys and time.

mod ids;
mod keys;
mod time;

pub use self::ids::{NodeId, RegionId, ReplicaId, UserId};
pub use self::keys::{DiscoKey, KeyParseError, MachineKey, MachinePrivateKey, NodeKey};
pub use self::time::{Timestamp, TimestampParseError};
