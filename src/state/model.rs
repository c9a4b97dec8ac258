//! Decoded rows: what [`super::State`] holds in memory and readers see.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::types::{DiscoKey, MachineKey, NodeId, NodeKey, RegionId, ReplicaId, Timestamp, UserId};

pub use hydrascale_proto::state::v1::{RegisterMethod, UserRole};

/// A person or service account that owns nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Never reused.
    pub id: UserId,
    /// Unique among local users.
    pub name: String,
    /// Shown to people; may be empty.
    pub display_name: String,
    /// May be empty.
    pub email: String,
    /// URL of a picture; may be empty.
    pub picture_url: String,
    /// `""` for local users, `"oidc"` for those of an identity provider.
    pub provider: String,
    /// `<issuer>/<subject>` at the identity provider; empty for local users.
    pub provider_id: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// What `autogroup:admin` and its like mean by this user.
    pub role: UserRole,
}

/// A device of the tailnet (`tailcfg.Node`).
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Never reused.
    pub id: NodeId,
    /// Noise key of the device; fixed for the life of the node.
    pub machine_key: MachineKey,
    /// WireGuard key of the current login.
    pub node_key: NodeKey,
    /// Path discovery key, once known.
    pub disco_key: Option<DiscoKey>,
    /// Owner; a tagged node has none.
    pub user_id: Option<UserId>,
    /// How it was let in.
    pub register_method: RegisterMethod,
    /// Host name as the client said it.
    pub hostname: String,
    /// DNS label, unique in the tailnet.
    pub given_name: String,
    /// Tailnet address; absent when the tailnet has no IPv4 prefix.
    pub ipv4: Option<Ipv4Addr>,
    /// Tailnet address; absent when the tailnet has no IPv6 prefix.
    pub ipv6: Option<Ipv6Addr>,
    /// `tailcfg.Hostinfo` as stored: JSON with Go's field names.
    pub hostinfo_json: Arc<[u8]>,
    /// The same, decoded; defaults where the JSON is not understood.
    pub hostinfo: Arc<crate::tailcfg::Hostinfo>,
    /// Where the node believes that it can be reached.
    pub endpoints: Arc<[Endpoint]>,
    /// Home relay, once chosen.
    pub home_derp: Option<RegionId>,
    /// Capability version of its client.
    pub capver: u16,
    /// `tag:…`, sorted and unique.
    pub tags: Vec<String>,
    /// Routes that an administrator or the policy allowed, sorted and unique.
    pub approved_routes: Vec<IpNet>,
    /// Version of the policy under which an administrator set [`Self::approved_routes`]: that
    /// policy approves nothing by itself then. 0 when nobody has since the node has had this owner
    /// and advertised these routes.
    pub routes_set_under: u64,
    /// The key that let it in.
    pub pre_auth_key_id: Option<u64>,
    /// Deleted some time after it went offline, and at once when it logs out.
    pub ephemeral: bool,
    /// When its node key ceases to be valid.
    pub expires_at: Option<Timestamp>,
    /// When it first registered.
    pub created_at: Timestamp,
    /// When its last map stream ended; absent before the first ended.
    pub last_seen: Option<Timestamp>,
}

/// An address of a node and how it was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Address and port.
    pub addr: SocketAddr,
    /// `tailcfg.EndpointType`: 0 unknown, 1 local, 2 STUN, 3 port-mapped, 4 STUN with local port,
    /// 5 explicit.
    pub kind: u8,
}

/// A key that lets nodes in without a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreAuthKey {
    /// Never reused.
    pub id: u64,
    /// Public part, 12 hex digits.
    pub prefix: String,
    /// Hash of the secret part.
    pub secret_hash: [u8; 32],
    /// Owner of the nodes that it lets in; for a tagged key whoever made it, if anybody.
    pub user_id: Option<UserId>,
    /// May let in more than one node.
    pub reusable: bool,
    /// Its nodes are ephemeral.
    pub ephemeral: bool,
    /// Let in its one node; stays false for reusable keys.
    pub used: bool,
    /// Ended by an administrator.
    pub revoked: bool,
    /// When it ceases to be valid; absent = at once, as in headscale's API.
    pub expires_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Tags of the nodes that it lets in.
    pub tags: Vec<String>,
}

/// A key for the REST API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Never reused.
    pub id: u64,
    /// Public part, 12 hex digits.
    pub prefix: String,
    /// Hash of the secret part.
    pub secret_hash: [u8; 32],
    /// When it ceases to be valid; absent = never.
    pub expires_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// An interactive login that waits for approval, or was decided a moment ago.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingLogin {
    /// `hskey-authreq-` and 24 hex digits.
    pub auth_id: String,
    /// Noise key of the device.
    pub machine_key: MachineKey,
    /// Key under which the login will be stored.
    pub node_key: NodeKey,
    /// `tailcfg.Hostinfo` as JSON.
    pub hostinfo_json: Arc<[u8]>,
    /// Capability version of the client.
    pub capver: u16,
    /// The client asked to be ephemeral.
    pub ephemeral: bool,
    /// The client asked for an earlier expiry.
    pub requested_expiry: Option<Timestamp>,
    /// When it began; its time is up after [`Settings::login_ttl`].
    pub created_at: Timestamp,
    /// The node that an approval made or updated.
    pub approved_node: Option<NodeId>,
    /// An administrator said no.
    pub rejected: bool,
}

/// A login over SSH that waits for approval, or was decided a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshCheck {
    /// `hskey-authreq-` and 24 hex digits; no interactive login has the same.
    pub auth_id: String,
    /// Where the person sits.
    pub src: NodeId,
    /// Where the person logs in.
    pub dst: NodeId,
    /// As whom the person logs in.
    pub local_user: String,
    /// When it began; its time is up after [`Settings::login_ttl`].
    pub created_at: Timestamp,
    /// What was decided, once it is.
    pub approved: Option<bool>,
}

impl SshCheck {
    /// The login that it is about.
    pub fn login(&self) -> SshLogin {
        SshLogin {
            src: self.src,
            dst: self.dst,
            local_user: self.local_user.clone(),
        }
    }
}

/// Logins over SSH that are one to whoever approves them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SshLogin {
    /// Where the person sits.
    pub src: NodeId,
    /// Where the person logs in.
    pub dst: NodeId,
    /// As whom.
    pub local_user: String,
}

/// Somebody approved logins over SSH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshApproval {
    /// Which. The destination's row may be gone.
    pub login: SshLogin,
    /// When.
    pub approved_at: Timestamp,
    /// Version of the policy that was in force; the approval means nothing under another.
    pub policy_version: u64,
}

/// Orders the map streams of all nodes: position of the opening command in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionNo {
    /// Log index.
    pub index: u64,
    /// Position inside a batch.
    pub position: u32,
}

/// The newest map stream of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Whose stream.
    pub node_id: NodeId,
    /// Later streams have greater numbers.
    pub no: SessionNo,
    /// Where it runs.
    pub replica: ReplicaId,
    /// Boot counter of that replica when it opened.
    pub incarnation: u64,
    /// When it opened.
    pub opened_at: Timestamp,
    /// When it closed; the node counts as online for a grace time after that.
    pub closed_at: Option<Timestamp>,
}

/// One version of the policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyVersion {
    /// Counts up from 1; the greatest is in force.
    pub version: u64,
    /// As written, with comments.
    pub text: String,
    /// Who or what set it.
    pub author: String,
    /// When.
    pub created_at: Timestamp,
}

/// One of our server processes, as it announced itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Never reused.
    pub id: ReplicaId,
    /// Durable boot counter.
    pub incarnation: u64,
    /// Configured name.
    pub name: String,
    /// Version of its program.
    pub version: String,
    /// Feature levels that its program speaks.
    pub levels: (u32, u32),
    /// Digest of the configuration that must be equal on all replicas.
    pub config_digest: String,
    /// Its relay, when it runs one.
    pub relay: Option<Relay>,
    /// The DERP region that its relay was given; kept for good.
    pub region_id: Option<RegionId>,
    /// Set while the leader counts it as dead.
    pub down_since: Option<Timestamp>,
    /// Set while it shall have no clients and not lead.
    pub drained_since: Option<Timestamp>,
    /// It has said that it is about to stop, and has not started again.
    pub stopping: bool,
    /// The last face of a relay that it no longer runs, for nodes that still call it home.
    pub retired_relay: Option<Relay>,
    /// Set once it is out of the cluster; the row stays, because its ids are never reused.
    pub removed_at: Option<Timestamp>,
    /// Earlier incarnations and when they ended, as long as sessions of theirs count as online.
    pub ended: Vec<(u64, Timestamp)>,
}

/// The public face of a replica's relay (`tailcfg.DERPNode`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Region code; empty = derived from the replica's name.
    pub region_code: String,
    /// Region name; empty = derived from the replica's name.
    pub region_name: String,
    /// Name or address that clients dial.
    pub hostname: String,
    /// Literal address, `""` for DNS, `"none"` for off.
    pub ipv4: String,
    /// Literal address, `""` for DNS, `"none"` for off.
    pub ipv6: String,
    /// TCP port.
    pub derp_port: u16,
    /// UDP port, -1 = off.
    pub stun_port: i32,
    /// `sha256-raw:<hex>` pins a self-signed certificate.
    pub cert_name: String,
    /// Clients skip certificate checks: demo and tests only.
    pub insecure_for_tests: bool,
    /// `/generate_204` answers on port 80.
    pub can_port_80: bool,
    /// Curve25519 key of the relay.
    pub public_key: [u8; 32],
}

/// What apply needs to know of the configuration, fixed in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where IPv4 addresses come from.
    pub ipv4_prefix: Option<Ipv4Net>,
    /// Where IPv6 addresses come from.
    pub ipv6_prefix: Option<Ipv6Net>,
    /// Addresses are drawn at random instead of in order.
    pub random_allocation: bool,
    /// An ephemeral node is deleted when it was offline this long.
    pub ephemeral_inactivity: Duration,
    /// Default life of a node key; absent = for ever.
    pub node_expiry: Option<Duration>,
    /// How long an interactive login waits, and one over SSH.
    pub login_ttl: Duration,
    /// A node stays online this long after its stream closed.
    pub session_grace: Duration,
    /// A node stays online this long after its replica died.
    pub replica_grace: Duration,
}
