//! Names of span and log fields, so that one thing has one name in every line.

/// [`crate::types::NodeId`].
pub const NODE_ID: &str = "node.id";
/// [`crate::types::NodeKey`] in its short form.
pub const NODE_KEY: &str = "node.key";
/// [`crate::types::UserId`].
pub const USER_ID: &str = "user.id";
/// Capability version of a client.
pub const CAPVER: &str = "capver";
/// [`crate::types::ReplicaId`].
pub const REPLICA_ID: &str = "replica.id";
/// Consensus term.
pub const RAFT_TERM: &str = "raft.term";
/// Log index.
pub const RAFT_INDEX: &str = "raft.index";
/// The leader's replica id.
pub const RAFT_LEADER: &str = "raft.leader";
/// [`crate::types::RegionId`].
pub const DERP_REGION: &str = "derp.region";
/// Address of the other end of a connection; DEBUG at most.
pub const REMOTE_ADDR: &str = "remote.addr";
/// The matched route, never the raw path.
pub const HTTP_ROUTE: &str = "http.route";
