//! `cluster rotate-sealing-key`, `rotate-certificates`, `rotate-ca`, and what the status shows of keys.

use clap::Args;
use serde_json::json;

use super::super::context::Context;
use super::super::value::Value;
use super::members::{Follow, change, find, follow, status, tell};

#[derive(Debug, Args)]
pub(in crate::cli) struct RotateCertificates {
    /// Id or name of the replica [default: all]
    #[arg(long)]
    replica: Option<String>,
    #[command(flatten)]
    follow: Follow,
}

pub(super) async fn rotate_sealing(
    unseal: bool,
    context: &mut Context<'_, '_>,
) -> anyhow::Result<()> {
    let body = json!({ "unseal": unseal });
    let sealed = context.api()?.post("/cluster/sealing-key", body).await?;
    let key = sealed.text("sealingKey");
    let sentence = if key.is_empty() {
        "The secrets are stored unsealed; the key files are not needed any more".to_owned()
    } else {
        format!("The secrets are sealed under key {key}; older keys can leave the key files")
    };
    context.out.result(&sentence, &sealed)
}

/// Which key seals the secrets and which keys each replica holds; nothing without key files.
pub(super) fn seal(status: &Value) -> String {
    let members = status.get("members").items();
    let held = |member: &Value| member.texts("sealingKeys").join(", ");
    if members.iter().all(|member| held(member).is_empty()) {
        return String::new();
    }
    let files = members.iter().map(|member| match held(member) {
        keys if keys.is_empty() => format!("{} has none", member.text("name")),
        keys => format!("{} has {keys}", member.text("name")),
    });
    let files: Vec<String> = files.collect();
    let sealed = match status.text("sealingKey") {
        key if key.is_empty() => "not sealed".to_owned(),
        key => format!("sealed under key {key}"),
    };
    format!("\nSecrets are {sealed} ({})", files.join("; "))
}

pub(super) async fn rotate_certificates(
    args: RotateCertificates,
    context: &mut Context<'_, '_>,
) -> anyhow::Result<()> {
    let (label, id) = match &args.replica {
        Some(replica) => {
            let found = find(context, replica).await?;
            (found.label, Some(found.id))
        }
        None => ("all replicas".to_owned(), None),
    };
    let answer = change(context, "/cluster/certificates", json!({ "replica": id })).await?;
    let finished = follow(context, args.follow.wait, |status| {
        let waiting = names(status, |member| {
            let asked = id.is_none_or(|id| member.text("id") == id.to_string());
            asked && member.get("certificate").flag("renewing")
        });
        (!waiting.is_empty()).then(|| format!("a new certificate is still due on {waiting}"))
    });
    let finished = finished.await?;
    tell(
        context,
        finished,
        &format!("New certificates are in use on {label}"),
        "New certificates are recorded; each replica makes its own when it hears of it",
        &answer,
    )
}

pub(super) async fn rotate_ca(wait: Follow, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let before = status(context).await?;
    let id = before.get("authority").text("id");
    let answer = change(context, "/cluster/authority", json!({ "replaces": id })).await?;
    let finished = follow(context, wait.wait, |status| {
        let begun = status.get("authority").text("id") != id;
        authority(status).or_else(|| (!begun).then(|| "the next authority is made".to_owned()))
    });
    let finished = finished.await?;
    tell(
        context,
        finished,
        "All certificates are of a new authority and the old one counts no more. Join tokens made \
         before do not work any more",
        "The authority is being replaced; `cluster status` shows how far it is",
        &answer,
    )
}

/// How far the authority's replacement is; nothing when there is none.
fn authority(status: &Value) -> Option<String> {
    let authority = status.get("authority");
    let waits_for = authority.get("waitsFor").items();
    let waiting = names(status, |member| waits_for.contains(member.get("id")));
    let waiting = match waiting.is_empty() {
        true => String::new(),
        false => format!(", waiting for {waiting}"),
    };
    if authority.flag("nextIsTrusted") {
        Some(format!(
            "the next certificate authority is made known{waiting}"
        ))
    } else if authority.flag("oldIsTrusted") {
        Some(format!(
            "certificates are made by the new authority{waiting}"
        ))
    } else {
        None
    }
}

/// When certificates end, and how far the authority's replacement is.
pub(super) fn certificates(status: &Value) -> String {
    let members = status.get("members").items().iter();
    let ends = members.filter_map(|member| {
        let expiry = member.get("certificate").text("expiry");
        let day = expiry.split('T').next().filter(|day| !day.is_empty())?;
        Some(format!("{} until {day}", member.text("name")))
    });
    let ends: Vec<String> = ends.collect();
    let mut text = match ends.is_empty() {
        true => String::new(),
        false => format!("\nCertificates: {}", ends.join(", ")),
    };
    if let Some(line) = authority(status) {
        text.push_str(&format!("\nIn progress: {line}"));
    }
    text
}

fn names(status: &Value, which: impl Fn(&Value) -> bool) -> String {
    let members = status.get("members").items().iter();
    let names: Vec<String> = members
        .filter(|member| which(member))
        .map(|member| member.text("name"))
        .collect();
    names.join(", ")
}
