//! People as clients see them.

use serde::{Deserialize, Serialize};

use super::is_default;
use crate::types::{Timestamp, UserId};

/// `tailcfg.User`: the owner in a register response.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct User {
    /// 0 while nobody is logged in.
    #[serde(rename = "ID")]
    pub id: UserId,
    /// Shown to people.
    pub display_name: String,
    /// URL, or empty.
    #[serde(rename = "ProfilePicURL", skip_serializing_if = "is_default")]
    pub profile_pic_url: String,
    /// When the user was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
}

/// `tailcfg.Login`: the identity behind a login in a register response.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Login {
    /// `tailcfg.LoginID`; equal to the user's id here.
    #[serde(rename = "ID")]
    pub id: u64,
    /// `oidc`, or empty for local users.
    pub provider: String,
    /// Looks like an e-mail address by convention.
    pub login_name: String,
    /// Shown to people.
    pub display_name: String,
    /// URL, or empty.
    #[serde(rename = "ProfilePicURL", skip_serializing_if = "is_default")]
    pub profile_pic_url: String,
}

/// `tailcfg.UserProfile`: an owner of nodes in a netmap.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UserProfile {
    /// Matches `Node.User`.
    #[serde(rename = "ID")]
    pub id: UserId,
    /// Matched by SSH principals and shown by `whois`.
    pub login_name: String,
    /// Shown to people.
    pub display_name: String,
    /// URL, or empty.
    #[serde(rename = "ProfilePicURL", skip_serializing_if = "is_default")]
    pub profile_pic_url: String,
    /// Groups revealed to the receiver, sorted.
    #[serde(skip_serializing_if = "is_default")]
    pub groups: Vec<String>,
}
