//! The answers to a registration (`tailcfg.RegisterResponse`).

use hydrascale_proto::state::v1::{Refusal, RefusalCode};

use crate::netmap;
use crate::state::secret::AuthId;
use crate::state::{Node, State};
use crate::tailcfg::{Login, RegisterResponse, User};

/// The node is in.
pub(super) fn authorized(state: &State, node: &Node) -> RegisterResponse {
    let owner = node.user_id.filter(|_| !node.is_tagged());
    let profile = netmap::user_profile(state, owner.unwrap_or(netmap::TAGGED_DEVICES));
    let profile = profile.unwrap_or_default();
    let user = owner.and_then(|id| state.user(id));
    RegisterResponse {
        user: User {
            id: profile.id,
            display_name: profile.display_name.clone(),
            profile_pic_url: profile.profile_pic_url.clone(),
            created: user.map(|user| user.created_at),
        },
        login: Login {
            id: profile.id.0,
            provider: user.map(|user| user.provider.clone()).unwrap_or_default(),
            login_name: profile.login_name,
            display_name: profile.display_name,
            profile_pic_url: profile.profile_pic_url,
        },
        machine_authorized: true,
        ..RegisterResponse::default()
    }
}

/// The client must make a new node key and register again.
pub(super) fn key_expired() -> RegisterResponse {
    RegisterResponse {
        node_key_expired: true,
        ..RegisterResponse::default()
    }
}

/// Shown to the user; the client repeats the same request with growing pauses.
pub(super) fn refused(text: impl Into<String>) -> RegisterResponse {
    RegisterResponse {
        error: text.into(),
        ..RegisterResponse::default()
    }
}

/// Where the user has to go; the client waits by asking again with this URL.
pub(super) fn log_in_at(server_url: &str, auth_id: &AuthId) -> RegisterResponse {
    let auth_url = format!("{server_url}/register/{auth_id}");
    RegisterResponse {
        auth_url,
        ..RegisterResponse::default()
    }
}

/// What the state machine's refusal means to the client.
pub(super) fn from_refusal(refusal: &Refusal) -> RegisterResponse {
    if refusal.code() == RefusalCode::NodeExpired {
        return key_expired();
    }
    tracing::info!(code = ?refusal.code(), "registration refused");
    refused(refusal.message.clone())
}
