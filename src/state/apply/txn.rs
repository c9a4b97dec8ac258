//! A command under way: the state that it alters, and the rows and the change that come of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use hydrascale_proto::state::v1::Refusal;
use hydrascale_raft::{Row, RowWrite};

use super::super::rows::{self, Table};
use super::super::{
    ApiKey, Node, PendingLogin, PolicyVersion, PreAuthKey, Replica, Session, Settings, SshApproval,
    SshCheck, SshLogin, State, Tailnet, User,
};
use super::super::{Change, NodeChange};
use super::{ApplyContext, RefusalCode, refuse};
use crate::types::{NodeId, RegionId, Timestamp, UserId};

/// One command at work on a copy of the state.
pub(super) struct Txn<'a> {
    pub(super) state: State,
    pub(super) ctx: &'a ApplyContext,
    writes: Vec<RowWrite>,
    change: Change,
}

/// Where to go back to when an operation is refused.
pub(super) struct Savepoint {
    state: State,
    writes: usize,
    change: Change,
}

impl<'a> Txn<'a> {
    pub(super) fn new(state: State, ctx: &'a ApplyContext) -> Self {
        Self {
            state,
            ctx,
            writes: Vec::new(),
            change: Change::default(),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.ctx.now
    }

    /// The state, the last write of each row, and the change.
    pub(super) fn finish(mut self) -> (State, Vec<RowWrite>, Change) {
        let mut seen = BTreeSet::new();
        self.writes.reverse();
        self.writes
            .retain(|write| seen.insert(key_of(write).clone()));
        self.writes.reverse();
        (self.state, self.writes, self.change)
    }

    /// Remembers the state; the change so far is put aside until the operation is through.
    pub(super) fn savepoint(&mut self) -> Savepoint {
        Savepoint {
            state: self.state.clone(),
            writes: self.writes.len(),
            change: std::mem::take(&mut self.change),
        }
    }

    /// Keeps what was done since.
    pub(super) fn keep(&mut self, since: Savepoint) {
        let change = std::mem::replace(&mut self.change, since.change);
        self.change.merge(change);
    }

    /// Undoes what was done since.
    pub(super) fn roll_back(&mut self, to: Savepoint) {
        self.state = to.state;
        self.writes.truncate(to.writes);
        self.change = to.change;
    }

    pub(super) fn settings(&self) -> Result<Settings, Refusal> {
        let missing = || refuse(RefusalCode::Precondition, "the tailnet does not exist yet");
        self.state.settings().cloned().ok_or_else(missing)
    }

    pub(super) fn put_tailnet(&mut self, tailnet: Tailnet) {
        self.put(rows::tailnet(&tailnet));
        self.state.set_tailnet(Arc::new(tailnet));
    }

    /// Alters the tailnet's row, for example to take the next id.
    pub(super) fn with_tailnet<T>(
        &mut self,
        alter: impl FnOnce(&mut Tailnet) -> T,
    ) -> Result<T, Refusal> {
        let missing = || refuse(RefusalCode::Precondition, "the tailnet does not exist yet");
        let mut tailnet = (**self.state.tailnet.as_ref().ok_or_else(missing)?).clone();
        let result = alter(&mut tailnet);
        self.put_tailnet(tailnet);
        Ok(result)
    }

    /// Notes that key expiries up to this time were announced.
    pub(super) fn announced_until(&mut self, now: Timestamp) {
        let tailnet = self
            .state
            .tailnet
            .as_ref()
            .filter(|row| row.announced_until < now);
        if let Some(tailnet) = tailnet {
            self.put_tailnet(Tailnet {
                announced_until: now,
                ..(**tailnet).clone()
            });
        }
    }

    pub(super) fn settings_changed(&mut self) {
        self.change.settings = true;
    }

    pub(super) fn put_user(&mut self, user: User) {
        self.put(rows::user(&user));
        self.change.users.insert(user.id);
        self.state.set_user(user.id, Some(Arc::new(user)));
    }

    pub(super) fn delete_user(&mut self, id: UserId) {
        self.delete(Table::Users.numbered(id.0));
        self.change.users.insert(id);
        self.state.set_user(id, None);
    }

    /// Stores a node, new or altered; an equal one is skipped. What an administrator decided about
    /// its routes was about this owner and these routes.
    pub(super) fn put_node(&mut self, mut node: Node) {
        let old = self.state.nodes.get(&node.id).cloned();
        if let Some(old) = &old {
            let is_owned_otherwise = (old.user_id, &old.tags) != (node.user_id, &node.tags);
            if is_owned_otherwise || old.hostinfo.routable_ips != node.hostinfo.routable_ips {
                node.routes_set_under = 0;
            }
            // Whoever was checked may not be who uses the node now.
            if is_owned_otherwise || old.node_key != node.node_key {
                self.forget_ssh_from(node.id);
            }
            // What was approved was a login at another's node.
            if is_owned_otherwise {
                self.forget_ssh_at(node.id);
            }
        }
        if old.as_deref() == Some(&node) {
            return;
        }
        let id = node.id;
        let (old_home, home) = (old.as_ref().and_then(|node| node.home_derp), node.home_derp);
        let change = match &old {
            Some(old) => NodeChange::between(old, &node),
            None => NodeChange::ADDED,
        };
        if let Some(old) = old.filter(|old| old.node_key != node.node_key) {
            self.change.retired_node_keys.insert(old.node_key);
        }
        self.put(rows::node(&node));
        self.change.node(id, change);
        self.moving_home(old_home, home, |txn| {
            txn.state.set_node(id, Some(Arc::new(node)))
        });
    }

    /// Deletes a node, its session, and the checks and approvals of its logins.
    pub(super) fn delete_node_row(&mut self, node: &Node) {
        let id = node.id;
        self.forget_ssh_from(id);
        self.delete_ssh_checks(|check| check.dst == id);
        if self.state.sessions.contains_key(&id) {
            self.delete(Table::Sessions.numbered(id.0));
            self.state.set_session(id, None);
        }
        self.delete(Table::Nodes.numbered(id.0));
        self.change.node(id, NodeChange::REMOVED);
        self.change.retired_node_keys.insert(node.node_key);
        self.moving_home(node.home_derp, None, |txn| txn.state.set_node(id, None));
    }

    pub(super) fn put_pre_auth_key(&mut self, key: PreAuthKey) {
        self.put(rows::pre_auth_key(&key));
        self.change.keys = true;
        self.state.set_pre_auth_key(key.id, Some(Arc::new(key)));
    }

    pub(super) fn delete_pre_auth_key_row(&mut self, id: u64) {
        self.delete(Table::PreAuthKeys.numbered(id));
        self.change.keys = true;
        self.state.set_pre_auth_key(id, None);
    }

    pub(super) fn put_api_key(&mut self, key: ApiKey) {
        self.put(rows::api_key(&key));
        self.change.keys = true;
        self.state.set_api_key(key.id, Some(Arc::new(key)));
    }

    pub(super) fn delete_api_key_row(&mut self, id: u64) {
        self.delete(Table::ApiKeys.numbered(id));
        self.change.keys = true;
        self.state.set_api_key(id, None);
    }

    pub(super) fn put_login(&mut self, login: PendingLogin) {
        self.put(rows::pending_login(&login));
        self.change.pending_logins.insert(login.auth_id.clone());
        let auth_id = login.auth_id.clone();
        self.state.set_login(&auth_id, Some(Arc::new(login)));
    }

    pub(super) fn delete_login(&mut self, auth_id: &str) {
        self.delete(Table::PendingLogins.named(auth_id));
        self.change.pending_logins.insert(auth_id.to_owned());
        self.state.set_login(auth_id, None);
    }

    pub(super) fn put_ssh_check(&mut self, check: SshCheck) {
        self.put(rows::ssh_check(&check));
        self.change.ssh_checks.insert(check.auth_id.clone());
        let auth_id = check.auth_id.clone();
        self.state.set_ssh_check(&auth_id, Some(Arc::new(check)));
    }

    pub(super) fn delete_ssh_check(&mut self, auth_id: &str) {
        self.delete(Table::SshChecks.named(auth_id));
        self.change.ssh_checks.insert(auth_id.to_owned());
        self.state.set_ssh_check(auth_id, None);
    }

    fn delete_ssh_checks(&mut self, is_due: impl Fn(&SshCheck) -> bool) {
        let checks = self.state.ssh_checks().filter(|check| is_due(check));
        let ids: Vec<String> = checks.map(|check| check.auth_id.clone()).collect();
        for auth_id in ids {
            self.delete_ssh_check(&auth_id);
        }
    }

    /// Wakes whoever waits for such a login.
    pub(super) fn announce_ssh_login(&mut self, login: &SshLogin) {
        let checks = self.state.ssh_checks();
        let same = checks.filter(|check| check.approved.is_none() && check.login() == *login);
        let ids = same.map(|check| check.auth_id.clone());
        self.change.ssh_checks.extend(ids);
    }

    pub(super) fn put_ssh_approval(&mut self, approval: SshApproval) {
        self.put(rows::ssh_approval(&approval));
        self.change.ssh_approvals = true;
        self.state.put_ssh_approval(approval);
    }

    pub(super) fn delete_ssh_approval(&mut self, login: &SshLogin) {
        self.delete(Table::SshApprovals.about(login));
        self.change.ssh_approvals = true;
        self.state.remove_ssh_approval(login);
    }

    /// Forgets checks of logins from this node, and that some were approved.
    fn forget_ssh_from(&mut self, src: NodeId) {
        self.delete_ssh_checks(|check| check.src == src);
        let first = SshLogin {
            src,
            dst: NodeId(0),
            local_user: String::new(),
        };
        let approved = self.state.ssh_approvals.range(first..);
        let own = approved.take_while(|(login, _)| login.src == src);
        let logins: Vec<SshLogin> = own.map(|(login, _)| login.clone()).collect();
        self.delete_ssh_approvals(&logins);
    }

    /// Forgets checks of logins at this node, and that some were approved.
    fn forget_ssh_at(&mut self, dst: NodeId) {
        self.delete_ssh_checks(|check| check.dst == dst);
        let approved = self.state.ssh_approvals.keys();
        let own = approved.filter(|login| login.dst == dst);
        let logins: Vec<SshLogin> = own.cloned().collect();
        self.delete_ssh_approvals(&logins);
    }

    fn delete_ssh_approvals(&mut self, logins: &[SshLogin]) {
        for login in logins {
            self.delete_ssh_approval(login);
        }
    }

    pub(super) fn put_session(&mut self, session: Session) {
        let id = session.node_id;
        if !self.state.is_online(id) {
            self.change.node(id, NodeChange::ONLINE);
        }
        self.put(rows::session(&session));
        self.state.set_session(id, Some(session));
    }

    pub(super) fn delete_session(&mut self, id: NodeId) {
        self.delete(Table::Sessions.numbered(id.0));
        self.change.node(id, NodeChange::ONLINE);
        self.state.set_session(id, None);
    }

    pub(super) fn put_policy(&mut self, policy: PolicyVersion) {
        self.put(rows::policy(&policy));
        self.change.policy = true;
        self.state.policies.insert(policy.version, Arc::new(policy));
    }

    pub(super) fn delete_policy_row(&mut self, version: u64) {
        self.delete(Table::Policies.numbered(version));
        self.state.policies.remove(&version);
    }

    /// Stores a replica's record; an equal one is skipped.
    pub(super) fn put_replica(&mut self, replica: Replica) {
        if self
            .state
            .replicas
            .get(&replica.id)
            .is_some_and(|old| **old == replica)
        {
            return;
        }
        let old_map = self.state.derp_map();
        self.put(rows::replica(&replica));
        self.change.replicas.insert(replica.id);
        self.state.set_replica(Arc::new(replica));
        self.change.derp_map |= self.state.derp_map() != old_map;
    }

    pub(super) fn expiry_came(&mut self, id: NodeId) {
        self.change.node(id, NodeChange::EXPIRY);
    }

    /// Alters a node's home, which can make the region of a relay that is gone appear in the map
    /// of relays or vanish from it.
    fn moving_home(
        &mut self,
        from: Option<RegionId>,
        to: Option<RegionId>,
        alter: impl FnOnce(&mut Self),
    ) {
        let retired = |txn: &Self, region: Option<RegionId>| {
            from != to && region.is_some_and(|region| txn.state.is_retired_region(region))
        };
        if !retired(self, from) && !retired(self, to) {
            return alter(self);
        }
        let old_map = self.state.derp_map();
        alter(self);
        self.change.derp_map |= self.state.derp_map() != old_map;
    }

    fn put(&mut self, row: Row) {
        self.writes.push(RowWrite::Put(row));
    }

    fn delete(&mut self, key: Bytes) {
        self.writes.push(RowWrite::Delete(key));
    }
}

fn key_of(write: &RowWrite) -> &Bytes {
    match write {
        RowWrite::Put(row) => &row.key,
        RowWrite::Delete(key) => key,
    }
}
