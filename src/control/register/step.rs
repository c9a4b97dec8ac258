//! What a registration asks for: headscale's order, which clients rely on.
//!
//! Pure: the state, the request and the time come in, the next step comes out.

use std::sync::Arc;
use std::time::Duration;

use crate::state::secret::{AuthId, SecretKind, SecretText, same_hash};
use crate::state::{Node, PreAuthKey, State};
use crate::tailcfg::RegisterRequest;
use crate::types::{MachineKey, Timestamp};

/// Told to whoever presents another machine's node key; headscale's text.
const MACHINE_MISMATCH: &str = "node exists with a different machine key";
/// Told to whoever presents something that is no auth key of ours; headscale's text.
const INVALID_KEY: &str = "invalid pre auth key";
/// How far this replica's clock may be ahead of the one that stamps commands.
const CLOCK_MARGIN: Duration = Duration::from_secs(60);

/// What to do about a registration.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// The node wants out.
    Logout,
    /// A known node came back, as after every restart of a client: answer it, change nothing. Its
    /// Hostinfo comes with the map request that follows.
    Known(Arc<Node>),
    /// The client must make a new node key.
    KeyExpired,
    /// Show this to the user.
    Refuse(&'static str),
    /// A known node wants its key to expire sooner.
    Refresh(Arc<Node>),
    /// Let the node in with a pre-auth key; it may be known already.
    Admit(SecretText, Option<Arc<Node>>),
    /// A person is to decide; wait for that.
    Wait(AuthId),
    /// Ask a person.
    Begin,
}

impl Step {
    /// Whether the step was chosen because something is not known, which a newer state may know.
    pub(super) const fn rests_on_ignorance(&self) -> bool {
        match self {
            Self::KeyExpired | Self::Refuse(_) | Self::Begin => true,
            Self::Logout | Self::Known(_) | Self::Refresh(_) | Self::Admit(..) | Self::Wait(_) => {
                false
            }
        }
    }
}

/// Chooses the step.
pub(super) fn decide(
    state: &State,
    machine_key: MachineKey,
    request: &RegisterRequest,
    now: Timestamp,
) -> Step {
    let node = state.node_by_node_key(&request.node_key);
    if node.is_some_and(|node| node.machine_key != machine_key) {
        return Step::Refuse(MACHINE_MISMATCH);
    }
    // Logout comes first: a client that logs out may send its auth key along.
    if request.expiry.is_some_and(|at| at <= now) {
        return node.map_or(Step::KeyExpired, |_| Step::Logout);
    }
    let key = request.auth_key();
    if let (None, Some(node)) = (key, node) {
        return returning(node, request, now);
    }
    if let Some(auth_id) = followup(&request.followup) {
        return Step::Wait(auth_id);
    }
    match key {
        Some(text) => {
            let known = node.filter(|node| !node.is_expired(now));
            admit(state, text.expose(), known, request, now)
        }
        None => Step::Begin,
    }
}

/// Decides about a presented key as far as that takes no command: a client repeats a refused
/// registration for ever, and some clients register anew on every connection.
fn admit(
    state: &State,
    text: &str,
    known: Option<&Arc<Node>>,
    request: &RegisterRequest,
    now: Timestamp,
) -> Step {
    let key = SecretText::parse(SecretKind::PreAuthKey, text);
    let proven = key.as_ref().ok().and_then(|key| proven(state, key));
    match (key, known) {
        (Ok(key), Some(node)) => {
            let let_it_in = proven.is_some_and(|row| node.pre_auth_key_id == Some(row.id));
            if let_it_in && request.expiry.is_none() {
                Step::Known(Arc::clone(node))
            } else {
                Step::Admit(key, Some(Arc::clone(node)))
            }
        }
        (Ok(key), None) => match proven.map(|row| hopeless(row, now)) {
            Some(None) => Step::Admit(key, None),
            Some(Some(text)) => Step::Refuse(text),
            None => Step::Refuse(INVALID_KEY),
        },
        // Clients present their old key for ever; a node that is in needs none.
        (Err(_), Some(node)) => Step::Known(Arc::clone(node)),
        (Err(_), None) => Step::Refuse(INVALID_KEY),
    }
}

/// The row of the key, if its secret is right.
pub(super) fn proven<'a>(state: &'a State, key: &SecretText) -> Option<&'a PreAuthKey> {
    let row = state.pre_auth_key_by_prefix(key.prefix())?;
    let hash = key.hash(state.secret_pepper()?);
    same_hash(&row.secret_hash, &hash).then_some(row)
}

/// Why the state machine would refuse the key, in its words. It has the last word on the time.
fn hopeless(key: &PreAuthKey, now: Timestamp) -> Option<&'static str> {
    if key.revoked {
        Some("authkey revoked")
    } else if key.is_expired(now.saturating_sub(CLOCK_MARGIN)) {
        Some("authkey expired")
    } else if key.used && !key.reusable {
        Some("authkey already used")
    } else {
        None
    }
}

fn returning(node: &Arc<Node>, request: &RegisterRequest, now: Timestamp) -> Step {
    if node.is_expired(now) {
        Step::KeyExpired
    } else if request.expiry.is_some() {
        Step::Refresh(Arc::clone(node))
    } else {
        Step::Known(Arc::clone(node))
    }
}

/// The login that the client waits for. Only the end of the URL counts: the server's public name
/// may have changed meanwhile.
fn followup(url: &str) -> Option<AuthId> {
    let path = url.split(['?', '#']).next()?;
    path.rsplit_once("/register/")?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_followup_is_read_whatever_the_host() {
        let id = AuthId::from_random([1; 12]);
        assert_eq!(
            followup(&format!("https://a.example/register/{id}")),
            Some(id.clone())
        );
        assert_eq!(
            followup(&format!("http://b:8080/x/register/{id}?y=/register/z")),
            Some(id)
        );
        assert_eq!(followup("https://a.example/"), None);
        assert_eq!(followup(""), None);
    }
}
