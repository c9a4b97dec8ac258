//! Who may use the relay: asked once per connection, after the client proved its key.

use std::net::IpAddr;

use futures::future::BoxFuture;

use crate::types::NodeKey;

/// Decides about clients, by the node table or otherwise.
///
/// Asked at connect only: whoever removes a node also calls
/// [`super::RelayHandle::close_where`]. Removal and connect may cross; the relay then asks again.
pub trait Admission: Send + Sync + 'static {
    /// Whether the owner of `key`, which connects from `source`, may come in. An answer that takes
    /// longer than 5 s counts as [`DenyReason::Unavailable`].
    fn admit(&self, key: NodeKey, source: IpAddr) -> BoxFuture<'_, Verdict>;
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Come in.
    Allow,
    /// Stay out.
    Deny(DenyReason),
}

/// Why a client stays out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenyReason {
    /// No node of the tailnet has this key.
    UnknownNode,
    /// The node's key has expired.
    Expired,
    /// It could not be found out in time.
    Unavailable,
}

impl DenyReason {
    /// The label of logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownNode => "unknown_node",
            Self::Expired => "expired",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Lets everybody in: `derp.server.verify_clients: false`.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenAdmission;

impl Admission for OpenAdmission {
    fn admit(&self, _key: NodeKey, _source: IpAddr) -> BoxFuture<'_, Verdict> {
        Box::pin(std::future::ready(Verdict::Allow))
    }
}
