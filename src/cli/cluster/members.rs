//! `cluster promote`, `demote`, `undrain`, `transfer-leader`, and what all changes of members
//! share: against any replica, as often as one likes. What takes its time is followed until it is
//! done.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;

use super::super::args::parse_life;
use super::super::client::ClientError;
use super::super::context::Context;
use super::super::value::Value;

/// Between looks at what is followed.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What is recorded is not always made at once.
pub(super) const WAITS: &str = "it is made once enough of the other voters answer";
/// Attempts at a change whose answer is lost: asking again is safe.
const ATTEMPTS: usize = 3;

/// Names a replica, and how long to follow the change.
#[derive(Debug, Args)]
pub(in crate::cli) struct Which {
    /// Id or name of the replica
    pub(super) replica: String,
    #[command(flatten)]
    pub(super) follow: Follow,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Follow {
    /// Follow the change for so long; it goes on by itself afterwards. 0s: do not follow
    #[arg(long, default_value = "2m", value_parser = parse_wait)]
    pub(super) wait: Duration,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Transfer {
    /// Id or name of the replica that is to lead [default: whichever is closest to taking over]
    to: Option<String>,
}

pub(super) fn parse_wait(text: &str) -> Result<Duration, String> {
    match text {
        "0" | "0s" => Ok(Duration::ZERO),
        text => parse_life(text),
    }
}

/// A replica as the status names it, and the membership that it was found in.
pub(super) struct Found {
    pub(super) id: u64,
    pub(super) label: String,
    pub(super) membership: Value,
    /// Whether it is the one that was asked.
    pub(super) asked: bool,
    /// Whether the one that was asked hears of it.
    pub(super) answers: bool,
}

impl Found {
    pub(super) fn of(status: &Value, member: &Value) -> Self {
        let id = member.text("id");
        Self {
            label: format!("replica {id} ({})", member.text("name")),
            asked: status.text("replicaId") == id,
            answers: member.flag("reachable"),
            id: id.parse().unwrap_or_default(),
            membership: status.get("membershipIndex").clone(),
        }
    }

    pub(super) fn path(&self, change: &str) -> String {
        format!("/cluster/replica/{}/{change}", self.id)
    }

    /// The newest status's member, if it still is one.
    pub(super) fn member<'a>(&self, status: &'a Value) -> Option<&'a Value> {
        member(status, self.id)
    }

    /// How far it is, which `progress` tells of a member.
    fn seen(&self, status: &Value, progress: &impl Fn(&Value, &Value) -> Option<String>) -> Seen {
        let waits = match self.member(status) {
            Some(member) => progress(status, member),
            None if is_removed(status, self.id) => return Seen::Removed,
            // The one that is asked now may be behind the one that was asked before.
            None => Some(format!("{} is not seen among the members", self.label)),
        };
        waits.map_or(Seen::Done, Seen::Waits)
    }
}

/// How far a member is that is followed.
#[derive(Debug, PartialEq)]
enum Seen {
    Done,
    Removed,
    Waits(String),
}

pub(super) fn member(status: &Value, id: u64) -> Option<&Value> {
    let mut members = status.get("members").items().iter();
    members.find(|member| member.text("id") == id.to_string())
}

/// Whether a replica has left for good.
pub(super) fn is_removed(status: &Value, id: u64) -> bool {
    let removed = status.get("removed").items();
    removed.contains(&Value::Number(id.into()))
}

pub(super) async fn status(context: &mut Context<'_, '_>) -> anyhow::Result<Value> {
    Ok(context.api()?.get("/cluster/status").await?)
}

/// Finds a member by its id, or else by its name.
pub(super) async fn find(context: &mut Context<'_, '_>, wanted: &str) -> anyhow::Result<Found> {
    let status = status(context).await?;
    let members = status.get("members").items();
    let by_id = members.iter().find(|member| member.text("id") == wanted);
    let by_name = || {
        let mut named = members
            .iter()
            .filter(|member| member.text("name") == wanted);
        named.next().filter(|_| named.next().is_none())
    };
    if let Some(member) = by_id.or_else(by_name) {
        return Ok(Found::of(&status, member));
    }
    // It may have been removed already: the cluster knows ids that are members no more.
    let id = wanted.parse().ok();
    let id = id.with_context(|| format!("no replica is named {wanted}: see `cluster status`"))?;
    Ok(Found {
        id,
        label: format!("replica {id}"),
        membership: Value::Null,
        asked: false,
        answers: false,
    })
}

/// Makes a change, again when its answer is lost.
pub(super) async fn change(
    context: &mut Context<'_, '_>,
    path: &str,
    body: serde_json::Value,
) -> anyhow::Result<Value> {
    for _ in 1..ATTEMPTS {
        match context.api()?.post(path, body.clone()).await {
            Err(error @ ClientError::Unknown { .. }) => {
                context.out.note(&format!("{error}; asking again"));
            }
            answered => return Ok(answered?),
        }
    }
    Ok(context.api()?.post(path, body).await?)
}

/// Whether the replica that was asked said no.
pub(super) fn is_refusal(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ClientError::Refused(_)))
}

/// Looks until `progress` has nothing more to tell or the time is up; whether it had not.
pub(super) async fn follow(
    context: &mut Context<'_, '_>,
    wait: Duration,
    progress: impl Fn(&Value) -> Option<String>,
) -> anyhow::Result<bool> {
    let begin = Instant::now();
    let mut told = String::new();
    loop {
        // A leader that goes, or the replica asked, takes its answers with it for a moment.
        let seen = status(context).await;
        let line = match &seen {
            Ok(status) => progress(status),
            Err(error) => Some(format!("waiting: {error:#}")),
        };
        let Some(line) = line else { return Ok(true) };
        if begin.elapsed() >= wait {
            return Ok(false);
        }
        if line != told {
            context.out.note(&line);
            told = line;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Follows a member as [`follow`] does.
///
/// # Errors
/// It is removed meanwhile.
pub(super) async fn follow_member(
    context: &mut Context<'_, '_>,
    found: &Found,
    wait: Duration,
    progress: impl Fn(&Value, &Value) -> Option<String>,
) -> anyhow::Result<bool> {
    let removed = Cell::new(false);
    let finished = follow(context, wait, |status| {
        match found.seen(status, &progress) {
            Seen::Waits(line) => Some(line),
            Seen::Done => None,
            Seen::Removed => {
                removed.set(true);
                None
            }
        }
    });
    let finished = finished.await?;
    if removed.get() {
        bail!(
            "{} was removed from the cluster meanwhile: see `cluster status`",
            found.label
        );
    }
    Ok(finished)
}

/// Tells the end of a change: `done`, or that it goes on.
pub(super) fn tell(
    context: &mut Context<'_, '_>,
    finished: bool,
    done: &str,
    going_on: &str,
    answer: &Value,
) -> anyhow::Result<()> {
    context
        .out
        .result(if finished { done } else { going_on }, answer)
}

pub(super) fn capital(label: &str) -> String {
    label.replacen("replica", "Replica", 1)
}

pub(super) async fn promote(which: Which, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let found = find(context, &which.replica).await?;
    let body = json!({ "expectedMembership": found.membership });
    let answer = change(context, &found.path("promote"), body).await?;
    let finished = follow_member(context, &found, which.follow.wait, |status, member| {
        (!member.flag("voter")).then(|| catching_up(status, member, &found.label))
    });
    let finished = finished.await?;
    let label = capital(&found.label);
    let going_on = format!("{label} votes once it has caught up");
    tell(
        context,
        finished,
        &format!("{label} votes"),
        &going_on,
        &answer,
    )
}

/// How far a learner is.
pub(super) fn catching_up(status: &Value, member: &Value, label: &str) -> String {
    if !member.flag("reachable") {
        return format!("{label} does not answer: is it running?");
    }
    match lag(status, member) {
        Some(0) => format!("{label} has caught up"),
        Some(lag) => format!("{label} is {lag} log entries behind"),
        None => format!("{label} catches up"),
    }
}

/// Entries that a member has yet to apply, as far as the replica that was asked knows.
pub(super) fn lag(status: &Value, member: &Value) -> Option<u64> {
    let committed: u64 = status.text("committedIndex").parse().ok()?;
    let applied: u64 = member.text("appliedIndex").parse().ok()?;
    Some(committed.saturating_sub(applied))
}

pub(super) async fn demote(which: Which, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let found = find(context, &which.replica).await?;
    let body = json!({ "expectedMembership": found.membership });
    let answer = change(context, &found.path("demote"), body).await?;
    let finished = follow_member(context, &found, which.follow.wait, |_, member| {
        let waits = || {
            format!(
                "the end of the vote of {} is recorded; {WAITS}",
                found.label
            )
        };
        member.flag("voter").then(waits)
    });
    let finished = finished.await?;
    let label = capital(&found.label);
    let done = format!("{label} serves without a vote");
    let going_on = format!(
        "The end of the vote of {} is recorded; {WAITS}",
        found.label
    );
    tell(context, finished, &done, &going_on, &answer)
}

pub(super) async fn undrain(which: Which, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let found = find(context, &which.replica).await?;
    let answer = change(context, &found.path("undrain"), json!({})).await?;
    let done = format!("{} takes clients again", capital(&found.label));
    context.out.result(&done, &answer)
}

pub(super) async fn transfer(args: Transfer, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let to = match &args.to {
        Some(wanted) => Some(find(context, wanted).await?.id),
        None => None,
    };
    let answer = change(context, "/cluster/leader", json!({ "to": to })).await?;
    let leader = answer.text("leader");
    if leader.is_empty() {
        bail!("the answer names no leader");
    }
    context
        .out
        .result(&format!("Replica {leader} leads"), &answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    fn seen(now: &str) -> Seen {
        let before = status(r#"{"replicaId":1,"members":[{"id":2,"name":"b"}]}"#);
        let found = Found::of(&before, member(&before, 2).unwrap());
        found.seen(&status(now), &|_: &Value, member: &Value| {
            (!member.flag("voter")).then(|| "behind".to_owned())
        })
    }

    #[test]
    fn a_member_that_disappears_is_not_reported_as_done() {
        assert_eq!(seen(r#"{"members":[],"removed":[7,2]}"#), Seen::Removed);
        let unseen = Seen::Waits("replica 2 (b) is not seen among the members".to_owned());
        assert_eq!(seen(r#"{"members":[],"removed":[7]}"#), unseen);
    }

    #[test]
    fn a_member_is_followed_until_it_is_as_wanted() {
        let behind = r#"{"members":[{"id":2,"voter":false}],"removed":[]}"#;
        assert_eq!(seen(behind), Seen::Waits("behind".to_owned()));
        let votes = r#"{"members":[{"id":2,"voter":true}],"removed":[]}"#;
        assert_eq!(seen(votes), Seen::Done);
    }
}
