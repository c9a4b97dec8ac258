//! Interactive logins: begun by a client, decided by a person on any replica, visible on all. And
//! the node's own logout.

use hydrascale_proto::state::v1::{
    ApproveLogin, LogoutNode, Refusal, RefusalCode, RejectLogin, StartLogin,
};

use super::super::convert::timestamp;
use super::super::secret::AuthId;
use super::super::{Node, PendingLogin, hostinfo};
use super::admit::{Admission, Arrival, Owner, machine_mismatch, read_keys};
use super::{Txn, Verdict, done, invalid, refuse};
use crate::types::{NodeId, UserId};

/// Logins that wait at one time for one device: a client waits for one, or for two while it
/// switches.
const MAX_LOGINS_PER_MACHINE: usize = 4;

impl Txn<'_> {
    pub(super) fn start_login(&mut self, op: &StartLogin) -> Verdict {
        let auth_id: AuthId = op
            .auth_id
            .parse()
            .map_err(|error| invalid(format!("{error}")))?;
        let (machine_key, node_key, capver) = read_keys(&op.machine_key, &op.node_key, op.capver)?;
        let holder = self.state.node_by_node_key(&node_key);
        if holder.is_some_and(|node| node.machine_key != machine_key) {
            return Err(machine_mismatch());
        }
        let login = PendingLogin {
            auth_id: auth_id.to_string(),
            machine_key,
            node_key,
            hostinfo_json: hostinfo::read(&op.hostinfo_json)?.json,
            capver,
            ephemeral: op.ephemeral,
            requested_expiry: timestamp(op.requested_expiry_ms),
            created_at: self.now(),
            approved_node: None,
            rejected: false,
        };
        self.check_auth_id_is_free(&login.auth_id)?;
        self.make_room_for(&login);
        self.put_login(login);
        Ok(done(0))
    }

    /// Interactive logins and those over SSH share the ids that people pass around.
    pub(super) fn check_auth_id_is_free(&self, auth_id: &str) -> Result<(), Refusal> {
        let state = &self.state;
        if state.pending_login(auth_id).is_some() || state.ssh_check(auth_id).is_some() {
            return Err(refuse(
                RefusalCode::AlreadyExists,
                format!("login {auth_id} exists: begin one with another random id"),
            ));
        }
        Ok(())
    }

    fn make_room_for(&mut self, login: &PendingLogin) {
        let machine = || self.state.index.logins_by_machine.of(login.machine_key);
        let crowded = machine().count() >= MAX_LOGINS_PER_MACHINE;
        let oldest = if crowded {
            machine().next().cloned()
        } else if self.state.is_full_of_logins() {
            self.state.index.logins_by_age.get_min().cloned()
        } else {
            None
        };
        if let Some((_, auth_id)) = oldest {
            self.delete_login(&auth_id);
        }
    }

    pub(super) fn approve_login(&mut self, op: &ApproveLogin) -> Verdict {
        let login = self.existing_login(&op.auth_id)?;
        let user = self.existing_user(UserId(op.user_id))?;
        if login.rejected {
            return Err(refuse(
                RefusalCode::LoginRejected,
                format!("login {} was rejected: begin a new one", op.auth_id),
            ));
        }
        if let Some(node) = login.approved_node {
            return Err(refuse(
                RefusalCode::Precondition,
                format!("login {} was approved already, as node {node}", op.auth_id),
            ));
        }
        if timestamp(op.expires_at_ms).is_some_and(|at| at <= self.now()) {
            return Err(invalid("expiry is in the past: name a later time or none"));
        }
        let node = self.admit_login(&login, user.id, op)?;
        self.put_login(PendingLogin {
            approved_node: Some(node),
            ..login
        });
        Ok(done(node.0))
    }

    fn admit_login(
        &mut self,
        login: &PendingLogin,
        user: UserId,
        op: &ApproveLogin,
    ) -> Result<NodeId, Refusal> {
        let arrival = Arrival {
            machine_key: login.machine_key,
            node_key: login.node_key,
            hostinfo_json: &login.hostinfo_json,
            capver: login.capver,
            ephemeral: login.ephemeral,
            requested_expiry: login.requested_expiry,
            entropy: op.entropy,
            tag_grant: op.tag_grant.as_ref(),
        };
        let existing = self.node_for_login(&arrival, user);
        self.check_node_key(&arrival, existing.as_ref())?;
        let tags = existing
            .as_ref()
            .map(|node| node.tags.as_slice())
            .unwrap_or_default();
        let requested = self.requested_tags(&arrival, tags)?;
        let is_tagged = !requested.is_empty();
        let admission = Admission {
            owner: if is_tagged {
                Owner::Tags(requested)
            } else {
                Owner::User(user)
            },
            method: op.method(),
            pre_auth_key_id: None,
            ephemeral: login.ephemeral || existing.as_ref().is_some_and(|node| node.ephemeral),
            expires_at: timestamp(op.expires_at_ms).filter(|_| !is_tagged),
        };
        match existing {
            Some(node) => self.readmit(node, &arrival, &admission, true),
            None => self.add_node(&arrival, &admission),
        }
    }

    /// The node of this device that a login by this user renews: the user's own, else the one that
    /// tags own if nobody else uses the device. Another user's node is left alone.
    fn node_for_login(&self, arrival: &Arrival<'_>, user: UserId) -> Option<Node> {
        let machine = arrival.machine_key;
        if let Some(node) = self.state.node_by_machine_and_user(machine, Some(user)) {
            return Some((**node).clone());
        }
        if self
            .state
            .nodes_by_machine(machine)
            .any(|node| !node.is_tagged())
        {
            return None;
        }
        self.tagged_node(arrival).map(|node| (*node).clone())
    }

    pub(super) fn reject_login(&mut self, op: &RejectLogin) -> Verdict {
        let login = self.existing_login(&op.auth_id)?;
        if let Some(node) = login.approved_node {
            return Err(refuse(
                RefusalCode::Precondition,
                format!("login {} was approved already, as node {node}", op.auth_id),
            ));
        }
        if !login.rejected {
            self.put_login(PendingLogin {
                rejected: true,
                ..login
            });
        }
        Ok(done(0))
    }

    /// Deletes an ephemeral node; any other expires now. One that expired earlier keeps its time.
    pub(super) fn logout_node(&mut self, op: &LogoutNode) -> Verdict {
        let (machine_key, node_key, _) = read_keys(&op.machine_key, &op.node_key, 0)?;
        let missing = || {
            refuse(
                RefusalCode::NotFound,
                "node not found: it is logged out already",
            )
        };
        let node = self
            .state
            .node_by_node_key(&node_key)
            .ok_or_else(missing)?
            .clone();
        if node.machine_key != machine_key {
            return Err(machine_mismatch());
        }
        let now = self.now();
        if node.ephemeral {
            self.delete_node_row(&node);
        } else if !node.is_expired(now) {
            self.put_node(Node {
                expires_at: Some(now),
                ..(*node).clone()
            });
        }
        Ok(done(node.id.0))
    }

    fn existing_login(&self, auth_id: &str) -> Result<PendingLogin, Refusal> {
        let missing = || {
            let auth_id: String = auth_id.chars().take(64).collect();
            refuse(
                RefusalCode::LoginNotFound,
                format!("login {auth_id:?} not found: it ran out or never began; log in again"),
            )
        };
        self.state
            .pending_login(auth_id)
            .map(|login| (**login).clone())
            .ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests;
