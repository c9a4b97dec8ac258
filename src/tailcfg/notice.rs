//! Small parts of a map response: messages to people, pings, dialling and debugging.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Base64, is_default};

/// `tailcfg.DisplayMessage` (capver 117): a health message shown to people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DisplayMessage {
    /// Short.
    pub title: String,
    /// Long.
    pub text: String,
    /// How loudly it is shown.
    pub severity: Severity,
    /// The tailnet does not work while this lasts.
    #[serde(skip_serializing_if = "is_default")]
    pub impacts_connectivity: bool,
    /// What the user can do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary_action: Option<DisplayMessageAction>,
}

/// `tailcfg.DisplayMessageSeverity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Pops up.
    High,
    /// Shown.
    #[default]
    Medium,
    /// Shown on request.
    Low,
}

/// `tailcfg.DisplayMessageAction`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DisplayMessageAction {
    /// Opened by the button.
    #[serde(rename = "URL")]
    pub url: String,
    /// Text on the button.
    pub label: String,
}

/// `tailcfg.ClientVersion` (capver 73).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ClientVersion {
    /// The client is up to date.
    #[serde(skip_serializing_if = "is_default")]
    pub running_latest: bool,
    /// The newest version.
    #[serde(skip_serializing_if = "is_default")]
    pub latest_version: String,
    /// The update closes a hole.
    #[serde(skip_serializing_if = "is_default")]
    pub urgent_security_update: bool,
    /// Tell the user.
    #[serde(skip_serializing_if = "is_default")]
    pub notify: bool,
    /// Opened from the notification.
    #[serde(rename = "NotifyURL", skip_serializing_if = "is_default")]
    pub notify_url: String,
    /// Text of the notification.
    #[serde(skip_serializing_if = "is_default")]
    pub notify_text: String,
}

/// `tailcfg.Debug`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Debug {
    /// The client sleeps this many seconds before it reads on.
    #[serde(skip_serializing_if = "is_default")]
    pub sleep_seconds: f64,
    /// The client uploads no logs, until its process ends.
    #[serde(skip_serializing_if = "is_default")]
    pub disable_log_tail: bool,
    /// The client's process exits with this code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
}

/// `tailcfg.ControlDialPlan`: how to reach the control plane next time; none = plain DNS.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ControlDialPlan {
    /// Dialled in parallel.
    pub candidates: Vec<ControlIpCandidate>,
}

/// `tailcfg.ControlIPCandidate`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ControlIpCandidate {
    /// Where to dial; name, port and SNI stay those of the server URL.
    #[serde(rename = "IP", skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// Seconds to wait before dialling.
    #[serde(skip_serializing_if = "is_default")]
    pub dial_start_delay_sec: f64,
    /// Seconds until the dial fails; 0 fails at once.
    pub dial_timeout_sec: f64,
    /// Highest first for tailscale-rs; ignored by the Go client.
    #[serde(skip_serializing_if = "is_default")]
    pub priority: i64,
}

/// `tailcfg.PingRequest`. `URLIsNoise` and `Types` are always written: tailscale-rs needs them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PingRequest {
    /// Where the answer goes; unique, because clients ignore a repeated URL.
    #[serde(rename = "URL")]
    pub url: String,
    /// The URL is asked through the Noise session.
    #[serde(rename = "URLIsNoise")]
    pub url_is_noise: bool,
    /// The client logs the ping.
    #[serde(skip_serializing_if = "is_default")]
    pub log: bool,
    /// Comma-separated: `disco`, `TSMP`, `ICMP`, `peerapi` or `c2n`; empty = HEAD of the URL.
    pub types: String,
    /// Whom to ping.
    #[serde(rename = "IP", skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// For `c2n`: an HTTP/1.x request.
    #[serde(skip_serializing_if = "Base64::is_empty")]
    pub payload: Base64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_always_writes_what_tailscale_rs_requires() {
        let ping = PingRequest {
            url: "https://x/1".into(),
            ..PingRequest::default()
        };
        assert_eq!(
            serde_json::to_string(&ping).unwrap(),
            r#"{"URL":"https://x/1","URLIsNoise":false,"Types":""}"#
        );
    }
}
