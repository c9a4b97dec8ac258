//! Owners of nodes as clients show them (`tailcfg.UserProfile`).

use super::text::plain;
use crate::state::{Node, State, User};
use crate::tailcfg::UserProfile;
use crate::types::UserId;

/// Owner of tagged nodes in profiles: headscale's id and name.
pub const TAGGED_DEVICES: UserId = UserId(2_147_455_555);

/// The owner as profiles name it.
pub(super) fn owner(node: &Node) -> UserId {
    node.user_id
        .filter(|_| !node.is_tagged())
        .unwrap_or(TAGGED_DEVICES)
}

/// What clients show about an owner; `None` for a user that does not exist.
pub fn user_profile(state: &State, id: UserId) -> Option<UserProfile> {
    if id == TAGGED_DEVICES {
        return Some(UserProfile {
            id,
            login_name: "tagged-devices".to_owned(),
            display_name: "Tagged Devices".to_owned(),
            ..Default::default()
        });
    }
    let user = state.user(id)?;
    let login_name = login_name(user);
    let display_name = plain(&user.display_name);
    Some(UserProfile {
        id,
        display_name: if display_name.is_empty() {
            login_name.clone()
        } else {
            display_name
        },
        login_name,
        profile_pic_url: picture_url(&user.picture_url),
        ..Default::default()
    })
}

/// The first of e-mail address, name and id that says something, as headscale has it.
fn login_name(user: &User) -> String {
    let candidates = [plain(&user.email), plain(&user.name)];
    candidates
        .into_iter()
        .find(|name| !name.is_empty())
        .unwrap_or_else(|| user.id.to_string())
}

/// A picture's URL; empty when it is none, which tailscale-rs would take for a broken message.
fn picture_url(url: &str) -> String {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"));
    let has_host = rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphanumeric()));
    if has_host && url.chars().all(|c| c.is_ascii_graphic()) {
        plain(url)
    } else {
        String::new()
    }
}
