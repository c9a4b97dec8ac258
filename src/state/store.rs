//! The rows in memory, and the few functions that alter rows and indexes together.

use std::sync::Arc;

use imbl::OrdMap;

use super::index::Index;
use super::{
    ApiKey, Node, PendingLogin, PolicyVersion, PreAuthKey, Replica, Session, SshApproval, SshCheck,
    SshLogin, Tailnet, User,
};
use crate::types::{NodeId, ReplicaId, UserId};

/// The tailnet's state at one point of the log. Cloning it is cheap: maps are persistent and share
/// their parts, rows are shared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    pub(super) tailnet: Option<Arc<Tailnet>>,
    pub(super) users: OrdMap<UserId, Arc<User>>,
    pub(super) replicas: OrdMap<ReplicaId, Arc<Replica>>,
    pub(super) nodes: OrdMap<NodeId, Arc<Node>>,
    pub(super) pre_auth_keys: OrdMap<u64, Arc<PreAuthKey>>,
    pub(super) api_keys: OrdMap<u64, Arc<ApiKey>>,
    pub(super) pending_logins: OrdMap<String, Arc<PendingLogin>>,
    pub(super) sessions: OrdMap<NodeId, Session>,
    pub(super) policies: OrdMap<u64, Arc<PolicyVersion>>,
    pub(super) ssh_checks: OrdMap<String, Arc<SshCheck>>,
    /// By source and destination.
    pub(super) ssh_approvals: OrdMap<SshLogin, SshApproval>,
    pub(super) index: Index,
}

impl State {
    pub(super) fn set_user(&mut self, id: UserId, user: Option<Arc<User>>) {
        if let Some(old) = self.users.remove(&id) {
            self.index.remove_user(&old);
        }
        if let Some(user) = user {
            self.index.add_user(&user);
            self.users.insert(id, user);
        }
    }

    pub(super) fn set_node(&mut self, id: NodeId, node: Option<Arc<Node>>) {
        let old = match node.clone() {
            Some(node) => self.nodes.insert(id, node),
            None => self.nodes.remove(&id),
        };
        self.index.move_node(id, old.as_deref(), node.as_deref());
        self.refresh_node_dues(id);
    }

    pub(super) fn set_pre_auth_key(&mut self, id: u64, key: Option<Arc<PreAuthKey>>) {
        if let Some(old) = self.pre_auth_keys.remove(&id) {
            self.index.remove_pre_auth_key(&old);
        }
        if let Some(key) = key {
            self.index.add_pre_auth_key(&key);
            self.pre_auth_keys.insert(id, key);
        }
    }

    pub(super) fn set_api_key(&mut self, id: u64, key: Option<Arc<ApiKey>>) {
        if let Some(old) = self.api_keys.remove(&id) {
            self.index.remove_api_key(&old);
        }
        if let Some(key) = key {
            self.index.add_api_key(&key);
            self.api_keys.insert(id, key);
        }
    }

    pub(super) fn set_login(&mut self, auth_id: &str, login: Option<Arc<PendingLogin>>) {
        if let Some(old) = self.pending_logins.remove(auth_id) {
            self.index.remove_login(&old);
        }
        if let Some(login) = login {
            self.index.add_login(&login);
            self.pending_logins.insert(auth_id.to_owned(), login);
        }
        self.refresh_login_due(auth_id);
    }

    pub(super) fn set_ssh_check(&mut self, auth_id: &str, check: Option<Arc<SshCheck>>) {
        match check {
            Some(check) => self.ssh_checks.insert(auth_id.to_owned(), check),
            None => self.ssh_checks.remove(auth_id),
        };
        self.refresh_ssh_check_due(auth_id);
    }

    pub(super) fn put_ssh_approval(&mut self, approval: SshApproval) {
        let login = approval.login.clone();
        self.ssh_approvals.insert(login.clone(), approval);
        self.refresh_ssh_approval_due(&login);
    }

    pub(super) fn remove_ssh_approval(&mut self, login: &SshLogin) {
        self.ssh_approvals.remove(login);
        self.refresh_ssh_approval_due(login);
    }

    pub(super) fn set_session(&mut self, id: NodeId, session: Option<Session>) {
        if let Some(old) = self.sessions.remove(&id) {
            self.index.remove_session(&old);
        }
        if let Some(session) = session {
            self.index.add_session(&session);
            self.sessions.insert(id, session);
        }
        self.refresh_session_due(id);
        self.refresh_node_dues(id);
    }

    pub(super) fn set_replica(&mut self, replica: Arc<Replica>) {
        let id = replica.id;
        self.index.add_replica(&replica);
        self.replicas.insert(id, replica);
        let sessions: Vec<NodeId> = self.index.sessions_by_replica.of(id).copied().collect();
        for node in sessions {
            self.refresh_session_due(node);
        }
    }

    pub(super) fn set_tailnet(&mut self, tailnet: Arc<Tailnet>) {
        let old = self.tailnet.replace(tailnet);
        let settings = |tailnet: &Arc<Tailnet>| tailnet.settings.clone();
        if old.as_ref().map(settings) != self.tailnet.as_ref().map(settings) {
            self.refresh_all_dues();
        }
    }
}
