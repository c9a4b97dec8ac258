//! Small requests inside a session: reports that only concern the log, and `whoami`.

use axum::http::StatusCode;
use h2::RecvStream;
use serde::Deserialize;

use super::{Reply, Session};
use crate::types::NodeKey;

/// Longest piece of a client's free text that is logged, in characters.
const LOGGED_CHARS_MAX: usize = 200;

/// `tailcfg.HealthChangeRequest`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HealthChangeRequest {
    subsys: String,
    error: String,
    node_key: NodeKey,
}

/// `tailcfg.AuditLogRequest` (capver 113).
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct AuditLogRequest {
    node_key: NodeKey,
    action: String,
    details: String,
    timestamp: String,
}

/// A client's own health problem goes to the log.
pub(super) async fn update_health(session: &Session, body: RecvStream) -> Reply {
    let request: HealthChangeRequest = match session.read_message(body).await {
        Ok(request) => request,
        Err(reply) => return reply,
    };
    match session.authenticate(&request.node_key).await {
        Ok(node) => {
            tracing::debug!(
                node.id = node.id.0,
                subsystem = %shorten(&request.subsys),
                error = %shorten(&request.error),
                "client health changed"
            );
            Reply::empty(StatusCode::NO_CONTENT)
        }
        Err(reply) => reply,
    }
}

/// What a user did on a managed client, for example disconnect it, goes to the log.
pub(super) async fn audit_log(session: &Session, body: RecvStream) -> Reply {
    let request: AuditLogRequest = match session.read_message(body).await {
        Ok(request) => request,
        Err(reply) => return reply,
    };
    match session.authenticate(&request.node_key).await {
        Ok(node) => {
            tracing::info!(
                node.id = node.id.0,
                action = %shorten(&request.action),
                details = %shorten(&request.details),
                at = %shorten(&request.timestamp),
                "client audit entry"
            );
            Reply::empty(StatusCode::OK)
        }
        Err(reply) => reply,
    }
}

/// The machine key of the session and the nodes that it owns.
pub(super) fn whoami(session: &Session) -> Reply {
    let machine_key = session.peer.machine_key;
    let mut text = format!(
        "machine {machine_key}, capability version {}\n",
        session.peer.capver
    );
    for node in session
        .control
        .cluster()
        .state()
        .nodes_by_machine(machine_key)
    {
        text.push_str(&format!("node {} {}\n", node.id, node.given_name));
    }
    Reply::text(StatusCode::OK, text)
}

fn shorten(text: &str) -> String {
    text.chars().take(LOGGED_CHARS_MAX).collect()
}
