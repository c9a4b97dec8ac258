//! What a node asks about a login: all of it stands in the URL.

use axum::extract::Query;
use axum::http::Uri;
use serde::Deserialize;

use crate::state::SshLogin;
use crate::state::secret::{AuthId, AuthIdParseError};
use crate::types::NodeId;

/// A login that a node asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    /// Where the person sits.
    pub(super) src: NodeId,
    /// Where the person logs in.
    pub(super) dst: NodeId,
    /// As whom.
    pub(super) local_user: String,
    /// The check that the node waits for, once one has begun.
    pub(super) auth_id: Option<AuthId>,
}

/// Why a URL says nothing about a login.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AskError {
    #[error("the path must be /machine/ssh/action/SRC/to/DST with two node ids")]
    Path,
    #[error("the query is malformed")]
    Query,
    #[error("local_user is missing")]
    LocalUser,
    #[error(transparent)]
    AuthId(#[from] AuthIdParseError),
}

#[derive(Deserialize)]
struct Variables {
    #[serde(default)]
    local_user: String,
    #[serde(default)]
    auth_id: String,
}

impl Ask {
    /// The login, as approvals name it.
    pub(super) fn login(&self) -> SshLogin {
        SshLogin {
            src: self.src,
            dst: self.dst,
            local_user: self.local_user.clone(),
        }
    }

    pub(super) fn parse(uri: &Uri) -> Result<Self, AskError> {
        let (src, dst) = nodes(uri.path()).ok_or(AskError::Path)?;
        let query = Query::<Variables>::try_from_uri(uri);
        let Query(variables) = query.map_err(|_| AskError::Query)?;
        if variables.local_user.is_empty() {
            return Err(AskError::LocalUser);
        }
        let auth_id = Some(variables.auth_id).filter(|text| !text.is_empty());
        Ok(Self {
            src,
            dst,
            local_user: variables.local_user,
            auth_id: auth_id.map(|text| text.parse()).transpose()?,
        })
    }
}

fn nodes(path: &str) -> Option<(NodeId, NodeId)> {
    let rest = path.strip_prefix("/machine/ssh/action/")?;
    let (src, dst) = rest.split_once("/to/")?;
    Some((NodeId(src.parse().ok()?), NodeId(dst.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn a_url_is_read_whatever_the_host() {
        let id = AuthId::from_random([1; 12]);
        let path = "/machine/ssh/action/7/to/12?local_user=ad%61+x";
        let first = Ask {
            src: NodeId(7),
            dst: NodeId(12),
            local_user: "ada x".to_owned(),
            auth_id: None,
        };
        assert_eq!(Ask::parse(&uri(path)), Ok(first.clone()));
        assert_eq!(
            Ask::parse(&uri(&format!("https://unused{path}&auth_id="))),
            Ok(first.clone())
        );
        let waiting = Ask {
            auth_id: Some(id.clone()),
            ..first
        };
        assert_eq!(
            Ask::parse(&uri(&format!("https://h:1{path}&auth_id={id}&x=1"))),
            Ok(waiting)
        );
    }

    #[test]
    fn what_is_no_url_of_ours_is_refused() {
        let user = "?local_user=a";
        for path in [
            "",
            "1",
            "1/to/",
            "1/to/x",
            "-1/to/2",
            "1/to/2/to/3",
            "x/to/2",
        ] {
            let text = format!("/machine/ssh/action/{path}{user}");
            assert_eq!(Ask::parse(&uri(&text)), Err(AskError::Path), "{text}");
        }
        let ask = "/machine/ssh/action/1/to/2";
        assert_eq!(Ask::parse(&uri(ask)), Err(AskError::LocalUser));
        assert_eq!(
            Ask::parse(&uri(&format!("{ask}{user}&auth_id=x"))),
            Err(AskError::AuthId(AuthIdParseError))
        );
        assert_eq!(
            Ask::parse(&uri(&format!("{ask}{user}&local_user=b"))),
            Err(AskError::Query)
        );
    }
}
