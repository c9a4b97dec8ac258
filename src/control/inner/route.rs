//! What lies where inside a session. The authority is never looked at: clients send several.

use std::sync::Arc;

use axum::http::{Method, StatusCode, request};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;

use super::{Reply, Session, misc};
use crate::control::{map, register, ssh};

/// The oldest capability version that is served, as headscale's: Tailscale 1.80.
const CAPVER_MIN: u16 = 113;

/// A place inside a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::control) enum Route {
    /// `tailcfg.RegisterRequest`
    Register,
    /// `tailcfg.MapRequest`
    Map,
    /// `tailcfg.HealthChangeRequest`
    UpdateHealth,
    /// `tailcfg.AuditLogRequest`
    AuditLog,
    /// `tailcfg.SSHAction`
    SshAction,
    /// Who the session belongs to, for people.
    Whoami,
    /// Part of the protocol, but not served; says why.
    Unsupported(&'static str),
    /// The path exists, but not with this method.
    WrongMethod,
    /// No path of the protocol.
    Unknown,
}

impl Route {
    /// Looks at method and path alone.
    pub(in crate::control) fn find(method: &Method, path: &str) -> Self {
        let Some(path) = path.strip_prefix("/machine/") else {
            return Self::Unknown;
        };
        let (wanted, route) = match path {
            "register" => (Method::POST, Self::Register),
            "map" => (Method::POST, Self::Map),
            "update-health" => (Method::POST, Self::UpdateHealth),
            "audit-log" => (Method::POST, Self::AuditLog),
            "whoami" => (Method::GET, Self::Whoami),
            "set-dns" => (
                Method::POST,
                Self::Unsupported("no DNS provider is configured"),
            ),
            "id-token" => (
                Method::POST,
                Self::Unsupported("this server issues no identity tokens"),
            ),
            "feature/query" => (
                Method::POST,
                Self::Unsupported("this server has no feature flags"),
            ),
            "set-device-attr" => (
                Method::PATCH,
                Self::Unsupported("this server stores no device attributes"),
            ),
            _ if path.starts_with("webclient/") => (
                Method::POST,
                Self::Unsupported("this server does not sign in to web clients"),
            ),
            _ if path.starts_with("tka/") => (
                Method::GET,
                Self::Unsupported("this server does not support tailnet lock"),
            ),
            _ if path.starts_with("ssh/action/") => (Method::GET, Self::SshAction),
            // Whatever method it wants, and whatever else a client of tomorrow sends.
            "c2n" => return Self::Unsupported("this server asks nothing of its clients"),
            _ => return Self::Unsupported("this server does not know this request"),
        };
        if *method == wanted {
            route
        } else {
            Self::WrongMethod
        }
    }

    /// Name for metrics.
    pub(in crate::control) const fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Map => "map",
            Self::UpdateHealth => "update-health",
            Self::AuditLog => "audit-log",
            Self::SshAction => "ssh-action",
            Self::Whoami => "whoami",
            Self::Unsupported(_) => "unsupported",
            Self::WrongMethod => "wrong-method",
            Self::Unknown => "unknown",
        }
    }

    /// Answers a request; gives the status, or `None` when the client gave up first.
    pub(super) async fn serve(
        self,
        session: &Arc<Session>,
        head: &request::Parts,
        body: RecvStream,
        mut respond: SendResponse<Bytes>,
    ) -> Option<StatusCode> {
        let answering = async {
            match self {
                Self::Register | Self::Map if session.peer.capver < CAPVER_MIN => {
                    Answer::Whole(unsupported_client(session.peer.capver))
                }
                Self::Register => Answer::Whole(register::handle(session, body).await),
                Self::Map => map::handle(session, body).await,
                Self::UpdateHealth => Answer::Whole(misc::update_health(session, body).await),
                Self::AuditLog => Answer::Whole(misc::audit_log(session, body).await),
                Self::SshAction => Answer::Whole(ssh::handle(session, &head.uri).await),
                Self::Whoami => Answer::Whole(misc::whoami(session)),
                Self::Unsupported(reason) => {
                    Answer::Whole(Reply::text(StatusCode::NOT_IMPLEMENTED, reason))
                }
                Self::WrongMethod => Answer::Whole(Reply::text(
                    StatusCode::METHOD_NOT_ALLOWED,
                    format!("{} is not used here", head.method),
                )),
                Self::Unknown => Answer::Whole(Reply::text(StatusCode::NOT_FOUND, "not found")),
            }
        };
        let answer = tokio::select! {
            answer = answering => answer,
            // The client reset the request: a waiting login must not wait on.
            _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => return None,
        };
        match answer {
            Answer::Whole(reply) => {
                let status = reply.status();
                if let Err(error) = reply.send(&mut respond) {
                    tracing::debug!(%error, "answer not sent");
                }
                Some(status)
            }
            Answer::Stream(stream) => {
                stream.run(respond).await;
                Some(StatusCode::OK)
            }
        }
    }
}

/// How a request is answered.
pub(in crate::control) enum Answer {
    /// At once and whole.
    Whole(Reply),
    /// By a map stream.
    Stream(Box<map::Stream>),
}

fn unsupported_client(capver: u16) -> Reply {
    tracing::debug!("unsupported client version");
    Reply::text(
        StatusCode::BAD_REQUEST,
        format!(
            "unsupported client version: capability version {capver}, needed is {CAPVER_MIN} \
             (Tailscale 1.80) or newer"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_the_protocol_has_an_answer() {
        let find = |method: &str, path: &str| Route::find(&method.parse().unwrap(), path);
        assert_eq!(find("POST", "/machine/register"), Route::Register);
        assert_eq!(find("POST", "/machine/map"), Route::Map);
        assert_eq!(find("GET", "/machine/map"), Route::WrongMethod);
        let ask = "/machine/ssh/action/1/to/2";
        assert_eq!(find("GET", ask), Route::SshAction);
        assert_eq!(find("POST", ask), Route::WrongMethod);
        for (method, path) in [
            ("POST", "/machine/set-dns"),
            ("POST", "/machine/id-token"),
            ("POST", "/machine/feature/query"),
            ("PATCH", "/machine/set-device-attr"),
            ("POST", "/machine/webclient/init/1/to/2"),
            ("GET", "/machine/tka/sync/offer"),
        ] {
            assert!(
                matches!(find(method, path), Route::Unsupported(_)),
                "{path}"
            );
        }
        for path in ["/machine/c2n", "/machine/nothing", "/machine/"] {
            assert!(
                matches!(find("POST", path), Route::Unsupported(_)),
                "{path}"
            );
        }
        assert_eq!(find("POST", "/register"), Route::Unknown);
    }
}
