//! `tailcfg.SSHPolicy`: who may log in over Tailscale SSH, with lower camel names on the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::is_default;
use crate::types::Timestamp;

/// `tailcfg.SSHPolicy`: rules in order, the first match decides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SshPolicy {
    /// Always written; empty refuses every login.
    pub rules: Vec<SshRule>,
}

/// `tailcfg.SSHRule`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SshRule {
    /// When the rule ceases to apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_expires: Option<Timestamp>,
    /// Who; any one suffices.
    pub principals: Vec<SshPrincipal>,
    /// Requested user or `*` to local user: `""` = no match, `"="` = the same but never root.
    pub ssh_users: BTreeMap<String, String>,
    /// What happens; a rule without an action is skipped.
    pub action: Option<SshAction>,
    /// Environment variables that the client may set, `*` and `?` match.
    #[serde(skip_serializing_if = "is_default")]
    pub accept_env: Vec<String>,
}

/// `tailcfg.SSHPrincipal`: matches when any one field does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SshPrincipal {
    /// Stable id of a node.
    #[serde(skip_serializing_if = "is_default")]
    pub node: String,
    /// Address of a node.
    #[serde(rename = "nodeIP", skip_serializing_if = "is_default")]
    pub node_ip: String,
    /// Login name of a node's owner.
    #[serde(skip_serializing_if = "is_default")]
    pub user_login: String,
    /// Everybody.
    #[serde(skip_serializing_if = "is_default")]
    pub any: bool,
}

/// `tailcfg.SSHAction`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SshAction {
    /// Shown to the user.
    #[serde(skip_serializing_if = "is_default")]
    pub message: String,
    /// The login is refused.
    #[serde(skip_serializing_if = "is_default")]
    pub reject: bool,
    /// The login is allowed.
    #[serde(skip_serializing_if = "is_default")]
    pub accept: bool,
    /// Longest session in nanoseconds; 0 = unlimited.
    #[serde(skip_serializing_if = "is_default")]
    pub session_duration: i64,
    /// Agent forwarding is allowed.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_agent_forwarding: bool,
    /// URL at which the decision is made.
    #[serde(skip_serializing_if = "is_default")]
    pub hold_and_delegate: String,
    /// Local port forwarding is allowed.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_local_port_forwarding: bool,
    /// Remote port forwarding is allowed.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_remote_port_forwarding: bool,
    /// Where the session is recorded, `ip:port`.
    #[serde(skip_serializing_if = "is_default")]
    pub recorders: Vec<String>,
    /// What happens when recording fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_recording_failure: Option<SshRecorderFailureAction>,
}

/// `tailcfg.SSHRecorderFailureAction`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SshRecorderFailureAction {
    /// Refuse a session that cannot be recorded, with this message.
    #[serde(skip_serializing_if = "is_default")]
    pub reject_session_with_message: String,
    /// End a session whose recording broke, with this message.
    #[serde(skip_serializing_if = "is_default")]
    pub terminate_session_with_message: String,
    /// URL that is told about it.
    #[serde(rename = "NotifyURL", skip_serializing_if = "is_default")]
    pub notify_url: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_written_with_lower_camel_names() {
        let rule = SshRule {
            principals: vec![SshPrincipal {
                node_ip: "100.64.0.1".into(),
                ..Default::default()
            }],
            ssh_users: [("*".to_owned(), "=".to_owned())].into(),
            action: Some(SshAction {
                accept: true,
                session_duration: 5,
                ..Default::default()
            }),
            ..SshRule::default()
        };
        assert_eq!(
            serde_json::to_string(&SshPolicy { rules: vec![rule] }).unwrap(),
            r#"{"rules":[{"principals":[{"nodeIP":"100.64.0.1"}],"sshUsers":{"*":"="},"action":{"accept":true,"sessionDuration":5}}]}"#
        );
        assert_eq!(
            serde_json::to_string(&SshPolicy::default()).unwrap(),
            r#"{"rules":[]}"#
        );
    }
}
