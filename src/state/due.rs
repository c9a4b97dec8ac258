//! What happens by time alone: when, in order. The times are a pure function of the rows.

use imbl::{OrdMap, OrdSet};

use super::query::SSH_APPROVAL_LIFE;
use super::{Node, PendingLogin, Replica, Session, SshLogin, State};
use crate::types::{NodeId, Timestamp};

/// Something that time brings about. Of what is due at one time, key expiries come last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// The interactive login with this auth id runs out.
    Login(String),
    /// The node's stream ended and its grace is over: it goes offline.
    Session(NodeId),
    /// The ephemeral node was away for too long: it is deleted.
    Ephemeral(NodeId),
    /// The SSH login with this auth id runs out.
    SshCheck(String),
    /// The approval of such SSH logins is too old for any policy.
    SshApproval(SshLogin),
    /// The node's key expires: its peers are told.
    Expiry(NodeId),
}

/// What is due, by time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Dues {
    order: OrdSet<(Timestamp, Due)>,
    times: OrdMap<Due, Timestamp>,
}

impl Dues {
    /// Sets when something is due, `None` for never.
    pub(super) fn set(&mut self, due: Due, at: Option<Timestamp>) {
        if let Some(old) = self.times.get(&due).copied() {
            if at == Some(old) {
                return;
            }
            self.order.remove(&(old, due.clone()));
        }
        match at {
            Some(at) => {
                self.times.insert(due.clone(), at);
                self.order.insert((at, due));
            }
            None => {
                self.times.remove(&due);
            }
        }
    }

    /// The nodes whose keys expire at this time.
    pub(super) fn expiries_at(&self, at: Timestamp) -> impl Iterator<Item = NodeId> + '_ {
        let from = (at, Due::Expiry(NodeId(0)));
        let same = self
            .order
            .range(from..)
            .take_while(move |(time, _)| *time == at);
        same.filter_map(|(_, due)| match due {
            Due::Expiry(id) => Some(*id),
            Due::Login(_)
            | Due::Session(_)
            | Due::Ephemeral(_)
            | Due::SshCheck(_)
            | Due::SshApproval(_) => None,
        })
    }

    /// The earliest time at which something is due.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.order.get_min().map(|(at, _)| *at)
    }

    /// Whatever is due first, if its time has come.
    pub(super) fn first(&self, now: Timestamp) -> Option<Due> {
        self.order
            .get_min()
            .filter(|(at, _)| *at <= now)
            .map(|(_, due)| due.clone())
    }
}

impl State {
    /// When the stream of a session ended, and when the node counts as offline; `None` while it
    /// runs.
    pub(super) fn session_end(&self, session: &Session) -> Option<SessionEnd> {
        let settings = self.settings()?;
        if let Some(at) = session.closed_at {
            return Some(SessionEnd {
                at,
                offline_at: at.saturating_add(settings.session_grace),
            });
        }
        let replica = self.replicas.get(&session.replica)?;
        let at = replica_end(replica, session)?;
        Some(SessionEnd {
            at,
            offline_at: at.saturating_add(settings.replica_grace),
        })
    }

    /// Whether the stream of a session runs: it was not closed, and its replica has not ended.
    pub fn session_runs(&self, session: &Session) -> bool {
        self.session_end(session).is_none()
    }

    pub(super) fn refresh_session_due(&mut self, id: NodeId) {
        let session = self.sessions.get(&id);
        let at = session
            .and_then(|session| self.session_end(session))
            .map(|end| end.offline_at);
        self.index.dues.set(Due::Session(id), at);
    }

    pub(super) fn refresh_node_dues(&mut self, id: NodeId) {
        let node = self.nodes.get(&id);
        let ephemeral = node.and_then(|node| self.ephemeral_end(node));
        let announced = self.tailnet.as_ref().map(|tailnet| tailnet.announced_until);
        let expiry = node
            .and_then(|node| node.expires_at)
            .filter(|at| Some(*at) > announced);
        self.index.dues.set(Due::Ephemeral(id), ephemeral);
        self.index.dues.set(Due::Expiry(id), expiry);
    }

    pub(super) fn refresh_login_due(&mut self, auth_id: &str) {
        let at = self
            .pending_logins
            .get(auth_id)
            .and_then(|login| self.login_end(login));
        self.index.dues.set(Due::Login(auth_id.to_owned()), at);
    }

    pub(super) fn refresh_ssh_check_due(&mut self, auth_id: &str) {
        let check = self.ssh_checks.get(auth_id);
        let at = check.and_then(|check| {
            let ttl = self.settings()?.login_ttl;
            Some(check.created_at.saturating_add(ttl))
        });
        self.index.dues.set(Due::SshCheck(auth_id.to_owned()), at);
    }

    pub(super) fn refresh_ssh_approval_due(&mut self, login: &SshLogin) {
        let approval = self.ssh_approvals.get(login);
        let at = approval.map(|row| row.approved_at.saturating_add(SSH_APPROVAL_LIFE));
        self.index.dues.set(Due::SshApproval(login.clone()), at);
    }

    /// Computes all times again: after loading, and when the settings changed.
    pub(super) fn refresh_all_dues(&mut self) {
        let sessions: Vec<NodeId> = self.sessions.keys().copied().collect();
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        let logins: Vec<String> = self.pending_logins.keys().cloned().collect();
        let checks: Vec<String> = self.ssh_checks.keys().cloned().collect();
        for id in sessions {
            self.refresh_session_due(id);
        }
        for id in nodes {
            self.refresh_node_dues(id);
        }
        for auth_id in logins {
            self.refresh_login_due(&auth_id);
        }
        for auth_id in checks {
            self.refresh_ssh_check_due(&auth_id);
        }
    }

    fn ephemeral_end(&self, node: &Node) -> Option<Timestamp> {
        if !node.ephemeral || self.sessions.contains_key(&node.id) {
            return None;
        }
        let since = node
            .last_seen
            .map_or(node.created_at, |seen| seen.max(node.created_at));
        Some(since.saturating_add(self.settings()?.ephemeral_inactivity))
    }

    fn login_end(&self, login: &PendingLogin) -> Option<Timestamp> {
        Some(login.created_at.saturating_add(self.settings()?.login_ttl))
    }
}

/// The end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SessionEnd {
    /// When the stream ended.
    pub(super) at: Timestamp,
    /// When its grace is over.
    pub(super) offline_at: Timestamp,
}

/// When the replica of a session ceased to serve it, if it did.
fn replica_end(replica: &Replica, session: &Session) -> Option<Timestamp> {
    if session.incarnation == replica.incarnation {
        return replica.down_since.map(|at| at.max(session.opened_at));
    }
    let ended = replica
        .ended
        .iter()
        .find(|(incarnation, _)| *incarnation == session.incarnation);
    Some(ended.map_or(session.opened_at, |(_, at)| (*at).max(session.opened_at)))
}
