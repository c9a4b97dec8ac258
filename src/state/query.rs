//! What readers ask of the state.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;

use super::{
    ApiKey, Node, PendingLogin, PolicyVersion, PreAuthKey, Replica, Session, Settings, SshCheck,
    SshLogin, State, Tailnet, User, hostinfo,
};
use crate::types::{MachineKey, NodeId, NodeKey, RegionId, ReplicaId, Timestamp, UserId};

/// Logins that wait at one time in the whole tailnet; the oldest goes when one more comes. Anybody
/// who reaches the server can begin logins, so their memory is bounded (headscale keeps as many).
pub(super) const MAX_PENDING_LOGINS: usize = 1024;

/// SSH logins that wait, or were decided a moment ago, in the whole tailnet; the oldest decided one
/// goes when one more comes. As many as interactive logins.
pub(super) const MAX_SSH_CHECKS: usize = 1024;
/// Longest time for which an approval of SSH logins is kept: no policy may ask for more.
pub(super) const SSH_APPROVAL_LIFE: Duration = Duration::from_hours(168);

impl State {
    /// The tailnet; absent before the cluster's first command.
    pub fn tailnet(&self) -> Option<&Tailnet> {
        self.tailnet.as_deref()
    }

    /// The present as far as this state goes: the later of a local clock and the time up to which
    /// expiries were announced. A clock that is a little behind must not call a key valid that the
    /// cluster has let expire.
    pub fn present(&self, clock: Timestamp) -> Timestamp {
        let announced = self.tailnet().map(|tailnet| tailnet.announced_until);
        announced.map_or(clock, |announced| announced.max(clock))
    }

    /// The settings; absent before the cluster's first command.
    pub fn settings(&self) -> Option<&Settings> {
        self.tailnet().map(|tailnet| &tailnet.settings)
    }

    /// The control plane's Noise private key as stored: 32 raw bytes, or sealed ones.
    pub fn noise_private_key(&self) -> Option<&[u8]> {
        self.tailnet()
            .map(|tailnet| tailnet.noise_private_key.as_ref())
    }

    /// The key for [`super::secret::hash_secret`].
    pub fn secret_pepper(&self) -> Option<&[u8; 32]> {
        self.tailnet().map(|tailnet| &tailnet.secret_pepper)
    }

    /// All users in id order.
    pub fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.values()
    }

    /// All users by id.
    pub(crate) const fn user_rows(&self) -> &OrdMap<UserId, Arc<User>> {
        &self.users
    }

    /// The user with this id.
    pub fn user(&self, id: UserId) -> Option<&Arc<User>> {
        self.users.get(&id)
    }

    /// Users with this name in id order: at most one local one, and any from identity providers.
    pub fn users_by_name(&self, name: &str) -> impl Iterator<Item = &Arc<User>> {
        self.index
            .users_by_name
            .of(name.to_owned())
            .filter_map(|id| self.users.get(id))
    }

    /// The user with this name: the local one, else the only one of an identity provider.
    pub fn user_by_name(&self, name: &str) -> Option<&Arc<User>> {
        if let Some(local) = self
            .users_by_name(name)
            .find(|user| user.provider.is_empty())
        {
            return Some(local);
        }
        let mut users = self.users_by_name(name);
        users.next().filter(|_| users.next().is_none())
    }

    /// The user whom an identity provider knows as `<issuer>/<subject>`.
    pub fn user_by_provider_id(&self, provider_id: &str) -> Option<&Arc<User>> {
        self.index
            .user_by_provider
            .get(provider_id)
            .and_then(|id| self.users.get(id))
    }

    /// All nodes in id order.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The node with this id.
    pub fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(&id)
    }

    /// Nodes of this device in id order: one per owner.
    pub fn nodes_by_machine(&self, key: MachineKey) -> impl Iterator<Item = &Arc<Node>> {
        self.index
            .nodes_by_machine
            .of(key)
            .filter_map(|id| self.nodes.get(id))
    }

    /// The node of this device that the user owns, `None` for the one that tags own.
    pub fn node_by_machine_and_user(
        &self,
        key: MachineKey,
        user: Option<UserId>,
    ) -> Option<&Arc<Node>> {
        self.nodes_by_machine(key).find(|node| node.user_id == user)
    }

    /// Nodes that this user owns, in id order.
    pub fn nodes_by_user(&self, user: UserId) -> impl Iterator<Item = &Arc<Node>> {
        self.index
            .nodes_by_user
            .of(user)
            .filter_map(|id| self.nodes.get(id))
    }

    /// The node with this node key.
    pub fn node_by_node_key(&self, key: &NodeKey) -> Option<&Arc<Node>> {
        self.index
            .node_by_key
            .get(key)
            .and_then(|id| self.nodes.get(id))
    }

    /// The node with this DNS label.
    pub fn node_by_given_name(&self, name: &str) -> Option<&Arc<Node>> {
        self.index
            .node_by_name
            .get(name)
            .and_then(|id| self.nodes.get(id))
    }

    /// The node with this tailnet address.
    pub fn node_by_ip(&self, ip: IpAddr) -> Option<&Arc<Node>> {
        self.index
            .node_by_ip
            .get(&ip)
            .and_then(|id| self.nodes.get(id))
    }

    /// All addresses of nodes, with whose they are.
    pub(crate) const fn addresses(&self) -> &OrdMap<IpAddr, NodeId> {
        &self.index.node_by_ip
    }

    /// All pre-auth keys in id order.
    pub fn pre_auth_keys(&self) -> impl Iterator<Item = &Arc<PreAuthKey>> {
        self.pre_auth_keys.values()
    }

    /// The pre-auth key with this id.
    pub fn pre_auth_key(&self, id: u64) -> Option<&Arc<PreAuthKey>> {
        self.pre_auth_keys.get(&id)
    }

    /// The pre-auth key with this public part.
    pub fn pre_auth_key_by_prefix(&self, prefix: &str) -> Option<&Arc<PreAuthKey>> {
        let id = self.index.pre_auth_key_by_prefix.get(prefix)?;
        self.pre_auth_keys.get(id)
    }

    /// All API keys in id order.
    pub fn api_keys(&self) -> impl Iterator<Item = &Arc<ApiKey>> {
        self.api_keys.values()
    }

    /// The API key with this id.
    pub fn api_key(&self, id: u64) -> Option<&Arc<ApiKey>> {
        self.api_keys.get(&id)
    }

    /// The API key with this public part.
    pub fn api_key_by_prefix(&self, prefix: &str) -> Option<&Arc<ApiKey>> {
        self.index
            .api_key_by_prefix
            .get(prefix)
            .and_then(|id| self.api_keys.get(id))
    }

    /// All interactive logins that wait or were decided a moment ago, in order of their ids.
    pub fn pending_logins(&self) -> impl Iterator<Item = &Arc<PendingLogin>> {
        self.pending_logins.values()
    }

    /// Whether one more interactive login takes the place of the oldest.
    pub fn is_full_of_logins(&self) -> bool {
        self.index.logins_by_age.len() >= MAX_PENDING_LOGINS
    }

    /// The interactive login with this auth id.
    pub fn pending_login(&self, auth_id: &str) -> Option<&Arc<PendingLogin>> {
        self.pending_logins.get(auth_id)
    }

    /// All SSH logins that wait for approval or were decided a moment ago, in order of their ids.
    pub fn ssh_checks(&self) -> impl Iterator<Item = &Arc<SshCheck>> {
        self.ssh_checks.values()
    }

    /// The SSH login with this auth id.
    pub fn ssh_check(&self, auth_id: &str) -> Option<&Arc<SshCheck>> {
        self.ssh_checks.get(auth_id)
    }

    /// When such SSH logins were approved under the policy in force.
    pub fn ssh_approved_at(&self, login: &SshLogin) -> Option<Timestamp> {
        let approval = self.ssh_approvals.get(login)?;
        let counts = approval.policy_version == self.version_in_force();
        counts.then_some(approval.approved_at)
    }

    /// The newest map streams of the nodes that count as online, in order of node ids.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values()
    }

    /// The newest map stream of a node that counts as online.
    pub fn session(&self, id: NodeId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    /// Nodes whose newest map stream is, or was, on this replica, in id order.
    pub fn nodes_on(&self, replica: ReplicaId) -> impl Iterator<Item = NodeId> + '_ {
        self.index.sessions_by_replica.of(replica).copied()
    }

    /// Whether the node's newest map stream runs, or ended less than its grace ago.
    pub fn is_online(&self, id: NodeId) -> bool {
        self.sessions.contains_key(&id)
    }

    /// The policy in force; none until one is set.
    pub fn policy(&self) -> Option<&Arc<PolicyVersion>> {
        self.policies.get_max().map(|(_, policy)| policy)
    }

    /// Version of the policy in force, 0 when there is none.
    pub fn version_in_force(&self) -> u64 {
        self.policy().map_or(0, |policy| policy.version)
    }

    /// The versions of the policy that are kept, oldest first.
    pub fn policy_versions(&self) -> impl DoubleEndedIterator<Item = &Arc<PolicyVersion>> {
        self.policies.values()
    }

    /// This version of the policy, if it is kept.
    pub fn policy_version(&self, version: u64) -> Option<&Arc<PolicyVersion>> {
        self.policies.get(&version)
    }

    /// The cluster's replicas in id order, without removed ones.
    pub fn replicas(&self) -> impl Iterator<Item = &Arc<Replica>> {
        self.replicas
            .values()
            .filter(|replica| replica.removed_at.is_none())
    }

    /// The replica with this id, unless it was removed.
    pub fn replica(&self, id: ReplicaId) -> Option<&Arc<Replica>> {
        self.replicas
            .get(&id)
            .filter(|replica| replica.removed_at.is_none())
    }

    /// Nodes whose home relay is in this region, in id order.
    pub fn nodes_by_home(&self, region: RegionId) -> impl Iterator<Item = &Arc<Node>> {
        self.index
            .nodes_by_home
            .of(region)
            .filter_map(|id| self.nodes.get(id))
    }

    /// The earliest time at which something happens by time alone: the leader proposes a `Tick`
    /// then. `None` when nothing is due.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.index.dues.next()
    }
}

impl Node {
    /// Whether tags own the node.
    pub fn is_tagged(&self) -> bool {
        !self.tags.is_empty()
    }

    /// Whether its node key is no longer valid at this time.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

impl PreAuthKey {
    /// Whether it lets nodes in that its tags own.
    pub fn is_tagged(&self) -> bool {
        !self.tags.is_empty()
    }

    /// Whether its time is over; a key without an expiry never was valid.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|at| at <= now)
    }
}

impl PendingLogin {
    /// The tags that the device asks for (`tailcfg.Hostinfo.RequestTags`).
    pub fn requested_tags(&self) -> Vec<String> {
        hostinfo::decode_or_default(&self.hostinfo_json).request_tags
    }
}

impl ApiKey {
    /// Whether its time is over.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}
