//! Generated protobuf types: replica RPC and log (`raft::v1`), commands and rows (`state::v1`),
//! packets between relays (`relay::v1`).
//! No logic lives here; the sources under `hydrascale/` carry the documentation.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    rustdoc::invalid_html_tags,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    rustdoc::invalid_html_tags,
    reason = "generated code; the .proto files are the documentation"
)]

/// What replicas write to each other and to disk.
pub mod raft {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("hydrascale.raft.v1");
    }
}

/// What relays of replicas tell each other.
pub mod relay {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("hydrascale.relay.v1");
    }
}

/// The tailnet's commands and stored rows.
pub mod state {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("hydrascale.state.v1");
    }
}
