//! `cluster promote`, `demote`, `remove`, `leave`, `replace`, `drain`, `undrain`,
//! `transfer-leader`: against any replica, as often as one likes. What takes its time is followed
//! until it is done.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;

use super::super::args::parse_life;
use super::super::client::ClientError;
use super::super::context::Context;
use super::super::time;
use super::super::value::Value;

/// Between looks at what is followed.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What is recorded is not always made at once.
const WAITS: &str = "it is made once enough of the other voters answer";
/// Attempts at a change whose answer is lost: asking again is safe.
const ATTEMPTS: usize = 3;

/// Names a replica, and how long to follow the change.
#[derive(Debug, Args)]
pub(in crate::cli) struct Which {
    /// Id or name of the replica
    replica: String,
    #[command(flatten)]
    follow: Follow,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Follow {
    /// Follow the change for so long; it goes on by itself afterwards. 0s: do not follow
    #[arg(long, default_value = "2m", value_parser = parse_wait)]
    pub(super) wait: Duration,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Replace {
    /// Id or name of the replica that leaves for good
    replica: String,
    /// A member without a vote that takes its place [default: a new replica, by the token printed]
    #[arg(long, value_name = "REPLICA")]
    with: Option<String>,
    /// Life of the token for a new replica, 7d at most
    #[arg(short, long, default_value = "1h", value_parser = parse_life)]
    expiration: Duration,
    #[command(flatten)]
    follow: Follow,
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
    membership: Value,
}

impl Found {
    fn of(status: &Value, member: &Value) -> Self {
        let id = member.text("id");
        Self {
            label: format!("replica {id} ({})", member.text("name")),
            id: id.parse().unwrap_or_default(),
            membership: status.get("membershipIndex").clone(),
        }
    }

    fn path(&self, change: &str) -> String {
        format!("/cluster/replica/{}/{change}", self.id)
    }

    /// The newest status's member, if it still is one.
    fn member<'a>(&self, status: &'a Value) -> Option<&'a Value> {
        member(status, self.id)
    }
}

fn member(status: &Value, id: u64) -> Option<&Value> {
    let mut members = status.get("members").items().iter();
    members.find(|member| member.text("id") == id.to_string())
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

fn capital(label: &str) -> String {
    label.replacen("replica", "Replica", 1)
}

pub(super) async fn promote(which: Which, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let found = find(context, &which.replica).await?;
    let body = json!({ "expectedMembership": found.membership });
    let answer = change(context, &found.path("promote"), body).await?;
    let finished = follow(context, which.follow.wait, |status| {
        let member = found.member(status)?;
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
fn catching_up(status: &Value, member: &Value, label: &str) -> String {
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
    let finished = follow(context, which.follow.wait, |status| {
        let member = found.member(status)?;
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

pub(super) async fn remove(which: Which, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let found = find(context, &which.replica).await?;
    let question = format!("Remove {} from the cluster for good?", found.label);
    if !context.confirm(&question, "Replica not removed")? {
        return Ok(());
    }
    remove_found(&found, which.follow.wait, context).await
}

async fn remove_found(
    found: &Found,
    wait: Duration,
    context: &mut Context<'_, '_>,
) -> anyhow::Result<()> {
    let body = json!({ "expectedMembership": found.membership });
    let answer = change(context, &found.path("remove"), body).await?;
    let finished = follow(context, wait, |status| {
        let gone = found.member(status).is_none();
        (!gone).then(|| format!("the removal of {} is recorded; {WAITS}", found.label))
    });
    let finished = finished.await?;
    let label = capital(&found.label);
    let done = format!(
        "{label} is removed: it ends by itself if it still runs; delete its data folder. Its id is \
         not given again"
    );
    tell(
        context,
        finished,
        &done,
        &format!("The removal of {} is recorded; {WAITS}", found.label),
        &answer,
    )
}

/// The replica that answers drains, then leaves for good.
pub(super) async fn leave(wait: Follow, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let status = status(context).await?;
    let own = status.text("replicaId");
    let me = status.get("members").items().iter();
    let me = me.into_iter().find(|member| member.text("id") == own);
    let found = me.map(|member| Found::of(&status, member));
    let found = found.with_context(|| format!("replica {own} is no member of the cluster"))?;
    let question = format!(
        "Drain {} and remove it from the cluster for good?",
        found.label
    );
    if !context.confirm(&question, "Replica stays")? {
        return Ok(());
    }
    // What will be refused moves nobody's clients.
    let drained = found
        .member(&status)
        .is_some_and(|member| member.get("announced").flag("drained"));
    let drains = !drained && goes_on_without(&status, found.id);
    if drains {
        drain_found(&found, wait.wait, context).await?;
    }
    let body = json!({ "expectedMembership": found.membership });
    let answer = match change(context, &found.path("remove"), body).await {
        Ok(answer) => answer,
        Err(error) if drains && is_refusal(&error) => {
            change(context, &found.path("undrain"), json!({})).await?;
            return Err(error.context(format!("{} stays and is undrained", found.label)));
        }
        Err(error) => return Err(error),
    };
    let done = format!(
        "{} leaves and then ends by itself; delete its data folder. Its id is not given again",
        capital(&found.label)
    );
    context.out.result(&done, &answer)
}

fn is_refusal(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ClientError::Refused(_)))
}

/// Whether enough of the other voters answer, as far as this status tells.
fn goes_on_without(status: &Value, id: u64) -> bool {
    let others = status.get("members").items().iter();
    let others =
        others.filter(|member| member.flag("voter") && member.text("id") != id.to_string());
    let answering = others.clone().filter(|member| member.flag("reachable"));
    answering.count() > others.count() / 2
}

pub(super) async fn replace(args: Replace, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let found = find(context, &args.replica).await?;
    let question = format!("Replace {}, which then is removed for good?", found.label);
    if !context.confirm(&question, "Replica not replaced")? {
        return Ok(());
    }
    let Some(with) = args.with else {
        let body = json!({ "expiration": time::after(args.expiration), "replaces": found.id });
        let made = context.api()?.post("/cluster/join-token", body).await?;
        context.out.note(&format!(
            "on the new machine run `cluster join` with this token and start it with `serve`; it \
             takes the place of {} once it has caught up",
            found.label
        ));
        return context.out.result(&made.text("joinToken"), &made);
    };
    let with = find(context, &with).await?;
    let body = json!({ "with": with.id, "expectedMembership": found.membership });
    let answer = change(context, &found.path("replace"), body).await?;
    let finished = follow(context, args.follow.wait, |status| {
        found.member(status)?;
        let with_member = with.member(status);
        Some(with_member.map_or_else(
            || format!("{} is no member", with.label),
            |member| catching_up(status, member, &with.label),
        ))
    });
    let finished = finished.await?;
    let (old, new) = (&found.label, capital(&with.label));
    let done = format!("{new} has taken the place of {old}");
    let going_on = format!("{new} takes the place of {old} once it has caught up");
    tell(context, finished, &done, &going_on, &answer)
}

pub(super) async fn drain(which: Which, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let found = find(context, &which.replica).await?;
    let (finished, answer) = drain_found(&found, which.follow.wait, context).await?;
    let label = capital(&found.label);
    let done = format!("{label} is drained: no client streams from it, until `cluster undrain`");
    let going_on = format!("{label} is drained; some clients are still on their way");
    tell(context, finished, &done, &going_on, &answer)
}

async fn drain_found(
    found: &Found,
    wait: Duration,
    context: &mut Context<'_, '_>,
) -> anyhow::Result<(bool, Value)> {
    let answer = change(context, &found.path("drain"), json!({})).await?;
    let finished = follow(context, wait, |status| {
        let announced = found.member(status)?.get("announced");
        let (streams, homes) = (announced.text("streams"), announced.text("homes"));
        let leads = status.text("leader") == found.id.to_string();
        let left = leads || streams != "0" || homes != "0";
        left.then(|| {
            format!(
                "{}: {streams} streams and {homes} relay homes left{}",
                found.label,
                if leads { ", still leads" } else { "" }
            )
        })
    });
    Ok((finished.await?, answer))
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
