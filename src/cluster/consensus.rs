//! What the typed face needs from a consensus layer, so that tests can run on an in-process one.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::Serialize;

use super::{Administration, ProposeError, ReadError, UpgradeStatus};
use crate::types::{RegionId, Timestamp};

/// A totally ordered log of commands that [`super::Machine`] applies.
pub trait Consensus: Administration {
    /// Commits a command and answers its outcome once it is applied on this replica. Refused while the
    /// cluster's feature level is below `level`, which the command needs.
    fn propose(&self, command: Bytes, level: u32) -> BoxFuture<'_, Result<Bytes, ProposeError>>;

    /// Waits until everything acknowledged before the call is applied on this replica.
    fn read_index(&self) -> BoxFuture<'_, Result<u64, ReadError>>;

    /// The cluster as this replica sees it at this moment.
    fn status(&self) -> ClusterStatus;

    /// How long nothing has proven that a leader works, once that is longer than elections take; as
    /// of this call.
    fn lacks_leader(&self) -> Option<Duration>;
}

/// What a replica is to the cluster at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Has a vote, or will have one, and asks for votes.
    Candidate,
    /// Has a vote and follows the leader.
    #[default]
    Follower,
    /// Orders the log.
    Leader,
    /// Follows without a vote.
    Learner,
}

/// The cluster as one replica sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// UUID given at `cluster init`.
    pub cluster_id: String,
    /// The replica that looks.
    pub replica_id: u64,
    /// Its boot counter.
    pub incarnation: u64,
    /// Its role.
    pub role: Role,
    /// The leader that it knows.
    pub leader: Option<u64>,
    /// Its term.
    pub term: u64,
    /// Last entry that left its log for a snapshot.
    pub purged_index: u64,
    /// Last entry in its log.
    pub last_log_index: u64,
    /// Last entry that it knows to be committed, though it may not have it yet.
    pub committed_index: u64,
    /// Last entry that it has applied.
    pub applied_index: u64,
    /// How long nothing has proven that a leader works; near zero in a healthy cluster.
    pub leaderless_ms: u64,
    /// Whether there are other replicas and none has answered this one lately.
    pub cut_off: bool,
    /// Whether enough voters answer this replica to commit.
    pub quorum: bool,
    /// How many more voters may fail before the cluster stops taking changes.
    pub tolerated_failures: usize,
    /// Log index of the membership: another one is another membership.
    pub membership_index: u64,
    /// Whether a change of the membership is under way.
    pub joint: bool,
    /// Replicas that were removed for good and have left.
    pub removed: Vec<u64>,
    /// Members of the committed membership in id order.
    pub members: Vec<MemberStatus>,
    /// Id of the key that seals the cluster's secrets; nothing while they are not sealed.
    pub sealing_key: Option<String>,
    /// The certificate authority, once the cluster has recorded it.
    pub authority: Option<AuthorityStatus>,
    /// The cluster's feature level; absent before the cluster is known.
    pub feature_level: Option<u32>,
    /// How far an upgrade is; only in a report.
    pub upgrade: UpgradeStatus,
    /// What an operator should look into, one sentence each.
    pub warnings: Vec<String>,
}

/// One member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Replica id.
    pub id: u64,
    /// Configured name.
    pub name: String,
    /// `host:port` of its peer listener.
    pub addr: String,
    /// Whether it votes.
    pub voter: bool,
    /// It stays without a vote; any other learner votes once it has caught up.
    pub non_voting: bool,
    /// Its removal is recorded: it leaves once the cluster goes on without it.
    pub leaving: bool,
    /// The member whose place it takes once it has caught up.
    pub replaces: Option<u64>,
    /// Milliseconds since it last answered the leader; only known to the leader.
    pub last_contact_ms: Option<u64>,
    /// Last log entry that it is known to hold; only known to the leader.
    pub matched_index: Option<u64>,
    /// Last log entry that it had applied when it last answered this replica.
    pub applied_index: Option<u64>,
    /// Whether it answered this replica lately; true for this replica itself.
    pub reachable: bool,
    /// Ids of the sealing keys that it held when it last answered, the first in its file first.
    pub sealing_keys: Option<Vec<String>>,
    /// Its certificate, as of its last answer.
    pub certificate: Option<CertificateStatus>,
    /// Feature levels that it supports, when it last answered this replica.
    pub feature_levels: Option<FeatureLevels>,
    /// It wants to be asked before the feature level is raised (`cluster.auto_upgrade: false`).
    pub holds_level: bool,
    /// What it announced when it last started; nothing before it has.
    pub announced: Option<AnnouncedStatus>,
}

/// The certificate authority that admits replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityStatus {
    /// SHA-256 of the certificate of the one that signs, hex.
    pub id: String,
    /// The next one is made known; it signs once all members trust it.
    pub next_is_trusted: bool,
    /// The next one signs; the old one goes once all members have new certificates.
    pub old_is_trusted: bool,
    /// The members that the next step waits for.
    pub waits_for: Vec<u64>,
}

/// The certificate of a replica for other replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// When it ends; the replica renews it long before.
    pub expiry: Timestamp,
    /// A new one was asked for and is not there yet.
    pub renewing: bool,
}

/// A range of feature levels, both ends included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FeatureLevels {
    /// The lowest.
    pub min: u32,
    /// The highest.
    pub max: u32,
}

/// What a replica has told the cluster about itself, and what runs on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AnnouncedStatus {
    /// Version of its program.
    pub version: String,
    /// Digest of the configuration that must be equal on all replicas.
    pub config_digest: String,
    /// DERP region of its relay, when it has one.
    pub region_id: Option<RegionId>,
    /// Nodes whose newest map stream it holds.
    pub streams: usize,
    /// Nodes that are online and call its relay home.
    pub homes: usize,
    /// Its clients are sent elsewhere and kept away.
    pub drained: bool,
    /// It counts as dead.
    pub dead: bool,
}
