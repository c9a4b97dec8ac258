//! A replicated state machine on openraft, RocksDB and tonic that knows nothing of what it
//! replicates: commands and rows are opaque bytes, `apply` hands it puts and deletes, it writes them.
//!
//! No type of openraft crosses this crate's public API.

mod codec;
mod engine;
mod fatal;
mod identity;
mod log_store;
mod machine;
mod machine_store;
mod records;
mod replica;
mod snapshot;
mod storage;
mod tls;
mod token;
mod type_config;

pub use self::machine::{
    ApplyContext, Effects, MachineError, ReplicaId, Row, RowWrite, StateMachine,
};
pub use self::replica::{
    AdminError, Cause, Clock, DialOverrides, Fatal, InitError, JoinError, MemberStatus,
    ProposeError, Proposed, QuorumHealth, ReadError, Replica, ReplicaConfig, ReplicaMetrics, Role,
    StartError, Status,
};
pub use self::token::{JoinToken, JoinTokenError};
