//! Pages for people.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use uuid::Uuid;

use super::text;
use crate::control::Control;
use crate::state::secret::AuthId;

pub(super) async fn blank() -> Html<&'static str> {
    Html("<!DOCTYPE html><html lang=\"en\"><head><title></title></head><body></body></html>")
}

pub(super) async fn robots() -> &'static str {
    "User-agent: *\nDisallow: /\n"
}

/// Where a client sends the person who logs in: what an administrator has to type.
pub(super) async fn register(Path(auth_id): Path<String>) -> Response {
    let Ok(auth_id) = auth_id.parse::<AuthId>() else {
        return text(StatusCode::BAD_REQUEST, "this link holds no valid auth id");
    };
    page(
        "Register this device",
        &format!(
            "<p>Ask an administrator of this network to run:</p>\
             <pre>headscale auth register --auth-id {} --user USERNAME</pre>\
             <p>The device connects as soon as it is approved.</p>",
            escape(auth_id.as_str()),
        ),
    )
}

/// Where a client sends the person whose SSH login needs a check: what an administrator has to type.
pub(super) async fn ssh_check(
    State(control): State<Control>,
    Path(auth_id): Path<String>,
) -> Response {
    let Ok(auth_id) = auth_id.parse::<AuthId>() else {
        return text(StatusCode::BAD_REQUEST, "this link holds no valid auth id");
    };
    let state = control.cluster().state();
    let login = state.ssh_check(auth_id.as_str()).and_then(|check| {
        let (src, dst) = (state.node(check.src)?, state.node(check.dst)?);
        Some(format!(
            "<p>Somebody at <b>{}</b> logs in at <b>{}</b> as <b>{}</b>.</p>",
            escape(&src.given_name),
            escape(&dst.given_name),
            escape(&check.local_user),
        ))
    });
    page(
        "Check of an SSH login",
        &format!(
            "{}<p>If this is you, ask an administrator of this network to run:</p>\
             <pre>headscale auth approve --auth-id {auth_id}</pre>\
             <p>The login goes on as soon as it is approved, and later ones from there as the same \
             user for as long as the policy says. If it is not you, ask for:</p>\
             <pre>headscale auth reject --auth-id {auth_id}</pre>",
            login.unwrap_or_default(),
        ),
    )
}

pub(super) async fn windows(State(control): State<Control>) -> Response {
    page(
        "Connect a Windows device",
        &format!(
            "<p>Install Tailscale, then run in a terminal:</p><pre>tailscale login --login-server {}\
             </pre>",
            escape(&control.options().server_url),
        ),
    )
}

pub(super) async fn apple(State(control): State<Control>) -> Response {
    let url = escape(&control.options().server_url);
    page(
        "Connect an Apple device",
        &format!(
            "<p>macOS: install Tailscale, hold the Option key, open the Tailscale menu and choose \
             <em>Debug, Custom Login Server, Add Account</em>; or run in a terminal:</p>\
             <pre>tailscale login --login-server {url}</pre>\
             <p>iOS: install Tailscale, open its settings, choose <em>Accounts</em>, then <em>Use a \
             custom coordination server</em>, and enter:</p><pre>{url}</pre>\
             <p>Or install a profile that sets the server: \
             <a href=\"/apple/macos-standalone\">macOS</a>, \
             <a href=\"/apple/macos-app-store\">macOS from the App Store</a>, \
             <a href=\"/apple/ios\">iOS</a>.</p>",
        ),
    )
}

/// A configuration profile that points the Tailscale app at this server.
pub(super) async fn apple_profile(
    State(control): State<Control>,
    Path(platform): Path<String>,
) -> Response {
    let payload = match platform.as_str() {
        "ios" => "io.tailscale.ipn.ios",
        "macos-app-store" => "io.tailscale.ipn.macos",
        "macos-standalone" => "io.tailscale.ipn.macsys",
        _ => {
            return text(
                StatusCode::BAD_REQUEST,
                "platform must be ios, macos-app-store or macos-standalone",
            );
        }
    };
    let profile = build_profile(
        payload,
        &control.options().server_url,
        Uuid::new_v4(),
        Uuid::new_v4(),
    );
    (
        [(header::CONTENT_TYPE, "application/x-apple-aspen-config")],
        profile,
    )
        .into_response()
}

fn build_profile(payload: &str, server_url: &str, inner: Uuid, outer: Uuid) -> String {
    let url = escape(server_url);
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict>
<key>PayloadContent</key><array><dict>
<key>PayloadType</key><string>{payload}</string>
<key>PayloadUUID</key><string>{inner}</string>
<key>PayloadIdentifier</key><string>hydrascale.{payload}</string>
<key>PayloadVersion</key><integer>1</integer>
<key>PayloadEnabled</key><true/>
<key>ControlURL</key><string>{url}</string>
</dict></array>
<key>PayloadUUID</key><string>{outer}</string>
<key>PayloadIdentifier</key><string>hydrascale</string>
<key>PayloadDisplayName</key><string>Hydrascale</string>
<key>PayloadDescription</key><string>Points Tailscale at {url}</string>
<key>PayloadType</key><string>Configuration</string>
<key>PayloadRemovalDisallowed</key><false/>
<key>PayloadVersion</key><integer>1</integer>
</dict></plist>
"#
    )
}

fn page(title: &str, body: &str) -> Response {
    Html(format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title></head><body><h1>{title}</h1>{body}</body></html>"
    ))
    .into_response()
}

/// Makes text harmless inside HTML and XML, in elements and attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_the_server_url_stays_text() {
        let profile = build_profile(
            "io.tailscale.ipn.ios",
            "https://h/<b>&\"'",
            Uuid::nil(),
            Uuid::nil(),
        );
        assert!(profile.contains("<string>https://h/&lt;b&gt;&amp;&quot;&#39;</string>"));
    }
}
