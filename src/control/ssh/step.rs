//! What to do about a login. Pure: what is known, who asks and the time come in, the next step comes
//! out.

use std::sync::Arc;

use super::ask::Ask;
use crate::netmap::Basis;
use crate::policy::LoginVerdict;
use crate::tailcfg::SshAction;
use crate::types::{MachineKey, Timestamp};

/// Told to a person whose login an administrator rejected.
const REJECTED: &str = "An administrator rejected this login.\n";
/// Told to a person whose login nobody decided.
const RAN_OUT: &str = "Nobody approved this login in time. Log in again.\n";
/// Told to a person whose device was deleted.
const NO_SOURCE: &str = "The device that you log in from is no longer in this network.\n";
/// Told to a person whose login came with the check of another.
const OTHER_LOGIN: &str = "The check is one of another login. Log in again.\n";

/// What is known here, and whether that is all that was committed when the request came.
pub(super) struct Known {
    pub(super) basis: Arc<Basis>,
    pub(super) is_fresh: bool,
}

/// What to do about a login. Whatever is final is an [`Step::Answer`]: clients repeat a request that
/// failed for half an hour, and tell the person nothing.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// It is decided.
    Answer(SshAction),
    /// Somebody was asked and has not decided.
    Wait,
    /// Ask somebody.
    Begin,
    /// A node is not known here, and may be elsewhere.
    Behind,
    /// The destination is no node of the machine that asks.
    Refuse,
}

/// Chooses the step. `has_waited` says that the check was open a moment ago, in this request.
pub(super) fn decide(
    known: &Known,
    machine_key: MachineKey,
    ask: &Ask,
    has_waited: bool,
    now: Timestamp,
) -> Step {
    let (state, engine) = (&known.basis.state, &known.basis.engine);
    match state.node(ask.dst) {
        Some(node) if node.machine_key == machine_key => {}
        None if !known.is_fresh => return Step::Behind,
        Some(_) | None => return Step::Refuse,
    }
    if state.node(ask.src).is_none() {
        return match known.is_fresh {
            true => reject(NO_SOURCE),
            false => Step::Behind,
        };
    }
    let (action, period) = match engine.login(ask.src, ask.dst, &ask.local_user) {
        LoginVerdict::Refused(message) => return reject(&message),
        LoginVerdict::Allowed {
            action,
            check_period: None,
        } => return Step::Answer(action),
        LoginVerdict::Allowed {
            action,
            check_period: Some(period),
        } => (action, period),
    };
    let login = ask.login();
    let auth_id = ask.auth_id.as_ref();
    let check = auth_id.and_then(|id| state.ssh_check(id.as_str()));
    match check.map(|check| (check.login() == login, check.approved)) {
        Some((false, _)) => return reject(OTHER_LOGIN),
        Some((true, Some(true))) => return Step::Answer(action),
        Some((true, Some(false))) => return reject(REJECTED),
        Some((true, None)) | None => {}
    }
    // The clock may be behind the one that stamped the approval: a period of zero is never within.
    let counts =
        |at: Timestamp| !period.is_zero() && at.saturating_add(period) > state.present(now);
    // Perhaps in another window, or the check has made room since.
    if state.ssh_approved_at(&login).is_some_and(counts) {
        return Step::Answer(action);
    }
    match check {
        Some(_) => Step::Wait,
        None if has_waited => reject(RAN_OUT),
        None => Step::Begin,
    }
}

fn reject(message: &str) -> Step {
    Step::Answer(rejection(message))
}

/// Ends a login, and tells the person why.
pub(super) fn rejection(message: &str) -> SshAction {
    SshAction {
        message: format!("{}\n", message.trim_end()),
        reject: true,
        ..SshAction::default()
    }
}

#[cfg(test)]
mod tests;
