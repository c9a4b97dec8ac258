//! Logins over SSH that need a check: begun by the node that somebody logs in at, decided by a
//! person on any replica, visible on all.
//!
//! Whether the policy wants a check, and for how long an approval holds, is not decided here.

use hydrascale_proto::state::v1::{DecideSshCheck, Refusal, RefusalCode, StartSshCheck};

use super::super::query::MAX_SSH_CHECKS;
use super::super::secret::AuthId;
use super::super::{SshApproval, SshCheck, SshLogin};
use super::{Txn, Verdict, done, invalid, refuse};
use crate::types::NodeId;

/// Approvals that are remembered; the oldest goes when one more comes, and is asked for again.
const APPROVALS_MAX: usize = 4096;
/// Longest name of a local user: Linux takes 32 bytes, Windows some more.
const LOCAL_USER_BYTES_MAX: usize = 256;

impl Txn<'_> {
    pub(super) fn start_ssh_check(&mut self, op: &StartSshCheck) -> Verdict {
        let auth_id: AuthId = op
            .auth_id
            .parse()
            .map_err(|error| invalid(format!("{error}")))?;
        let user = &op.local_user;
        if user.is_empty() || user.len() > LOCAL_USER_BYTES_MAX || user.contains(char::is_control) {
            return Err(invalid(format!(
                "the local user must be a name of at most {LOCAL_USER_BYTES_MAX} bytes"
            )));
        }
        let (src, dst) = (NodeId(op.src_node_id), NodeId(op.dst_node_id));
        self.existing_node(src)?;
        self.existing_node(dst)?;
        self.check_auth_id_is_free(auth_id.as_str())?;
        if let Some(crowd) = self.state.ssh_crowd(src, dst) {
            return Err(refuse(RefusalCode::Precondition, crowd.to_string()));
        }
        self.make_room_for_ssh_check();
        self.put_ssh_check(SshCheck {
            auth_id: auth_id.to_string(),
            src,
            dst,
            local_user: user.clone(),
            created_at: self.now(),
            approved: None,
        });
        Ok(done(0))
    }

    /// Forgets the oldest decided login if there are so many, which whoever waited for it has seen.
    fn make_room_for_ssh_check(&mut self) {
        if self.state.ssh_checks().count() < MAX_SSH_CHECKS {
            return;
        }
        let checks = self.state.ssh_checks();
        let decided = checks.filter(|check| check.approved.is_some());
        let oldest = decided.min_by_key(|check| (check.created_at, &check.auth_id));
        if let Some(auth_id) = oldest.map(|check| check.auth_id.clone()) {
            self.delete_ssh_check(&auth_id);
        }
    }

    /// Decides once; the same decision again changes nothing.
    pub(super) fn decide_ssh_check(&mut self, op: &DecideSshCheck) -> Verdict {
        let check = self.existing_ssh_check(&op.auth_id)?;
        match (check.approved, op.approved) {
            (Some(true), true) | (Some(false), false) => return Ok(done(0)),
            (Some(true), false) => {
                return Err(refuse(
                    RefusalCode::Precondition,
                    format!("login {} was approved already", op.auth_id),
                ));
            }
            (Some(false), true) => {
                return Err(refuse(
                    RefusalCode::LoginRejected,
                    format!("login {} was rejected: begin a new one", op.auth_id),
                ));
            }
            (None, _) => {}
        }
        let login = check.login();
        self.put_ssh_check(SshCheck {
            approved: Some(op.approved),
            ..check
        });
        if op.approved {
            self.approve_ssh(login);
        }
        Ok(done(0))
    }

    /// Remembers the approval, which may let in others who wait.
    fn approve_ssh(&mut self, login: SshLogin) {
        let approvals = &self.state.ssh_approvals;
        if approvals.len() >= APPROVALS_MAX && !approvals.contains_key(&login) {
            let oldest = approvals.values().min_by_key(|row| row.approved_at);
            if let Some(oldest) = oldest.map(|row| row.login.clone()) {
                self.delete_ssh_approval(&oldest);
            }
        }
        self.announce_ssh_login(&login);
        self.put_ssh_approval(SshApproval {
            login,
            approved_at: self.now(),
            policy_version: self.state.version_in_force(),
        });
    }

    fn existing_ssh_check(&self, auth_id: &str) -> Result<SshCheck, Refusal> {
        let missing = || {
            let auth_id: String = auth_id.chars().take(64).collect();
            refuse(
                RefusalCode::LoginNotFound,
                format!("login {auth_id:?} not found: it ran out or never began; log in again"),
            )
        };
        self.state
            .ssh_check(auth_id)
            .map(|check| (**check).clone())
            .ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests;
