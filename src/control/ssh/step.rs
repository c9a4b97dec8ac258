//! What to do about a login. Pure: what is known, who asks and the time come in, the next step comes
//! out.

use super::ask::Ask;
use crate::netmap::Basis;
use crate::policy::LoginVerdict;
use crate::tailcfg::SshAction;
use crate::types::{MachineKey, Timestamp};

/// Told to a person whose login an administrator rejected.
const REJECTED: &str = "An administrator rejected this login.\n";
/// Told to a person whose login nobody decided.
const RAN_OUT: &str = "Nobody approved this login in time. Log in again.\n";

/// What to do about a login.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// It is decided.
    Answer(SshAction),
    /// Somebody was asked and has not decided.
    Wait,
    /// Ask somebody.
    Begin,
    /// The request is about a node that is not there.
    Unknown(&'static str),
    /// The request is not one that the node may make.
    Refuse(&'static str),
}

/// Chooses the step. `has_waited` says that the check was open a moment ago, in this request.
pub(super) fn decide(
    basis: &Basis,
    machine_key: MachineKey,
    ask: &Ask,
    has_waited: bool,
    now: Timestamp,
) -> Step {
    let state = &basis.state;
    match state.node(ask.dst) {
        None => return Step::Unknown("destination node not found"),
        Some(node) if node.machine_key != machine_key => {
            return Step::Refuse("only the destination node asks about its logins");
        }
        Some(_) => {}
    }
    if state.node(ask.src).is_none() {
        return Step::Unknown("source node not found");
    }
    let verdict = basis.engine.login(ask.src, ask.dst, &ask.local_user);
    let (action, period) = match verdict {
        LoginVerdict::Refused(message) => return reject(&message),
        LoginVerdict::Allowed {
            action,
            check_period,
        } => match check_period {
            None => return Step::Answer(action),
            Some(period) => (action, period),
        },
    };
    let auth_id = ask.auth_id.as_ref();
    if let Some(check) = auth_id.and_then(|id| state.ssh_check(id.as_str())) {
        let is_this_login =
            (check.src, check.dst) == (ask.src, ask.dst) && check.local_user == ask.local_user;
        return match check.approved {
            _ if !is_this_login => Step::Refuse("the check is one of another login"),
            None => Step::Wait,
            Some(true) => Step::Answer(action),
            Some(false) => reject(REJECTED),
        };
    }
    if has_waited {
        return reject(RAN_OUT);
    }
    // The clock may be behind the one that stamped the approval: a period of zero is never within.
    let approved_at = state.ssh_approved_at(ask.src, ask.dst);
    let counts = |at: Timestamp| at.saturating_add(period) > state.present(now);
    match approved_at {
        Some(at) if !period.is_zero() && counts(at) => Step::Answer(action),
        Some(_) | None => Step::Begin,
    }
}

fn reject(message: &str) -> Step {
    Step::Answer(SshAction {
        message: message.to_owned(),
        reject: true,
        ..SshAction::default()
    })
}

#[cfg(test)]
mod tests;
