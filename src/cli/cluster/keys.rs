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
    let sealed = change(context, "/cluster/sealing-key", body).await?;
    context
        .out
        .result(&resealed(&sealed.text("sealingKey")), &sealed)
}

/// What to do with the key files now that `key` seals the secrets; an empty one: nothing does.
fn resealed(key: &str) -> String {
    let (seal, others) = match key {
        "" => ("stored unsealed".to_owned(), "the key files"),
        key => (format!("sealed under key {key}"), "older keys"),
    };
    format!(
        "The secrets are {seal}. Leave {others} where they are until `cluster status` shows every \
         replica up to date, and keep a copy of them: backups of before may need them"
    )
}

/// Which key seals the secrets and which keys each replica holds; nothing without key files.
pub(super) fn seal(status: &Value) -> String {
    let members = status.get("members").items();
    let held = |member: &Value| member.texts("sealingKeys").join(", ");
    if members.iter().all(|member| held(member).is_empty()) {
        return String::new();
    }
    let files = members.iter().map(|member| match held(member) {
        _ if *member.get("sealingKeys") == Value::Null => {
            format!("{} was not heard yet", member.text("name"))
        }
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
    let finished = follow(context, args.follow.wait, |status| renewal(status, id)).await?;
    tell(
        context,
        finished,
        &format!("New certificates are in use on {label}"),
        "New certificates are recorded; each replica makes its own when it hears of it",
        &answer,
    )
}

/// On whom, of all or of one replica, no new certificate is known to be in use; nothing when it is.
fn renewal(status: &Value, of: Option<u64>) -> Option<String> {
    let asked = |member: &Value| of.is_none_or(|id| member.text("id") == id.to_string());
    let renewing = |member: &Value| member.get("certificate").flag("renewing");
    let due = names(status, |member| asked(member) && renewing(member));
    let unheard = names(status, |member| {
        asked(member) && *member.get("certificate") == Value::Null
    });
    let mut lines = Vec::new();
    if !due.is_empty() {
        lines.push(format!("a new certificate is still due on {due}"));
    }
    if !unheard.is_empty() {
        let looks = status.text("replicaId");
        lines.push(format!(
            "whether {unheard} has a new certificate is not known: nothing was heard from there \
             since replica {looks} started"
        ));
    }
    (!lines.is_empty()).then(|| lines.join("; "))
}

pub(super) async fn rotate_ca(wait: Follow, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let before = status(context).await?;
    if authority(&before).is_some() {
        context
            .out
            .note("the authority is being replaced already: this follows it and begins no other");
    }
    let id = before.get("authority").text("id");
    let answer = change(context, "/cluster/authority", json!({ "replaces": id })).await?;
    let finished = follow(context, wait.wait, |status| replacement(&before, status)).await?;
    tell(
        context,
        finished,
        "All certificates are of a new authority and the old one counts no more. Join tokens made \
         before do not work any more",
        "The authority is being replaced; `cluster status` shows how far it is",
        &answer,
    )
}

/// How far the replacement is that was asked for when the status was `before`; nothing when it is
/// done.
fn replacement(before: &Value, status: &Value) -> Option<String> {
    let (before, now) = (before.get("authority"), status.get("authority"));
    // In its last step the new authority has its place already.
    let made = before.flag("oldIsTrusted") || now.text("id") != before.text("id");
    authority(status).or_else(|| (!made).then(|| "the next authority is made".to_owned()))
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
    let members = status.get("members").items();
    let mut text = String::new();
    if members.iter().any(|member| last_day(member).is_some()) {
        let ends = members.iter().map(|member| match last_day(member) {
            Some(day) => format!("{} until {day}", member.text("name")),
            None => format!("{} was not heard yet", member.text("name")),
        });
        let ends: Vec<String> = ends.collect();
        text = format!("\nCertificates: {}", ends.join(", "));
    }
    if let Some(line) = authority(status) {
        text.push_str(&format!("\nIn progress: {line}"));
    }
    text
}

/// When a member's certificate ends; nothing while it was not heard.
fn last_day(member: &Value) -> Option<String> {
    let expiry = member.get("certificate").text("expiry");
    let day = expiry.split('T').next().filter(|day| !day.is_empty())?;
    Some(day.to_owned())
}

fn names(status: &Value, which: impl Fn(&Value) -> bool) -> String {
    let members = status.get("members").items().iter();
    let names: Vec<String> = members
        .filter(|member| which(member))
        .map(|member| member.text("name"))
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    /// A status of replica 1 with this authority.
    fn with_authority(id: &str, next_is_trusted: bool, old_is_trusted: bool) -> Value {
        value(&format!(
            r#"{{"members": [{{"id": 1, "name": "a"}}, {{"id": 2, "name": "b"}}],
            "authority": {{"id": "{id}", "nextIsTrusted": {next_is_trusted},
            "oldIsTrusted": {old_is_trusted}, "waitsFor": [2]}}}}"#
        ))
    }

    #[test]
    fn a_replacement_asked_for_again_in_its_last_step_ends_with_it() {
        let before = with_authority("new", false, true);
        let going_on = replacement(&before, &before).unwrap();
        assert_eq!(
            going_on,
            "certificates are made by the new authority, waiting for b"
        );
        let after = with_authority("new", false, false);
        assert_eq!(replacement(&before, &after), None);
    }

    #[test]
    fn a_replacement_is_not_done_before_there_is_another_authority() {
        let before = with_authority("old", false, false);
        let open = replacement(&before, &before).unwrap();
        assert_eq!(open, "the next authority is made");
        let done = with_authority("new", false, false);
        assert_eq!(replacement(&before, &done), None);
        // Asked for again in the first step.
        let first = with_authority("old", true, false);
        assert!(replacement(&first, &before).is_some());
        assert_eq!(replacement(&first, &done), None);
    }

    /// A status in which `b` has a certificate, and `c` was never heard.
    fn with_certificates(renewing: bool) -> Value {
        value(&format!(
            r#"{{"replicaId": 1, "members": [
            {{"id": 2, "name": "b", "sealingKeys": ["k"],
            "certificate": {{"expiry": "2027-01-02T03:04:05Z", "renewing": {renewing}}}}},
            {{"id": 3, "name": "c", "sealingKeys": null, "certificate": null}}]}}"#
        ))
    }

    #[test]
    fn a_replica_that_was_never_heard_is_not_said_to_have_a_new_certificate() {
        let unheard = "whether c has a new certificate is not known: nothing was heard from there \
                       since replica 1 started";
        let all = renewal(&with_certificates(true), None).unwrap();
        assert_eq!(
            all,
            format!("a new certificate is still due on b; {unheard}")
        );
        let renewed = with_certificates(false);
        assert_eq!(renewal(&renewed, None).unwrap(), unheard);
        assert_eq!(renewal(&renewed, Some(3)).unwrap(), unheard);
        assert_eq!(renewal(&renewed, Some(2)), None);
    }

    #[test]
    fn the_status_names_who_was_not_heard() {
        let status = with_certificates(false);
        assert_eq!(
            certificates(&status),
            "\nCertificates: b until 2027-01-02, c was not heard yet"
        );
        assert_eq!(
            seal(&status),
            "\nSecrets are not sealed (b has k; c was not heard yet)"
        );
    }

    #[test]
    fn older_keys_are_not_given_up_while_replicas_or_backups_may_need_them() {
        let (sealed, unsealed) = (resealed("ab12"), resealed(""));
        assert!(sealed.starts_with("The secrets are sealed under key ab12. Leave older keys"));
        assert!(unsealed.starts_with("The secrets are stored unsealed. Leave the key files"));
        for text in [sealed, unsealed] {
            assert!(
                text.contains("every replica up to date") && text.contains("backups of before"),
                "{text}"
            );
        }
    }
}
