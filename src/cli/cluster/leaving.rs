//! `cluster remove`, `leave`, `replace`: a replica goes for good, one that answers only once its
//! clients have left ([`super::draining`]). What was broken off goes on when asked for again.

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use serde_json::json;

use super::super::args::parse_life;
use super::super::client::ClientError;
use super::super::context::Context;
use super::super::value::Value;
use super::draining::send_away;
use super::members::{
    Found, WAITS, capital, catching_up, change, find, follow, follow_member, is_refusal,
    is_removed, member, parse_wait, status, tell,
};
use super::tokens;

/// Where a data folder says whose it is, and whether the cluster has removed that replica.
const IDENTITY: &str = "identity.json";

#[derive(Debug, Args)]
pub(in crate::cli) struct Patience {
    /// Wait so long for its clients to leave, and then for the change. It stays, drained, while
    /// some are left, unless --force is given: with `--wait 0s --force` it goes at once
    #[arg(long, default_value = "2m", value_parser = parse_wait)]
    wait: Duration,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Remove {
    /// Id or name of the replica
    replica: String,
    #[command(flatten)]
    patience: Patience,
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
    patience: Patience,
}

pub(super) async fn remove(args: Remove, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let found = find(context, &args.replica).await?;
    let question = format!("Remove {} from the cluster for good?", found.label);
    if !context.confirm(&question, "Replica not removed")? {
        return Ok(());
    }
    let (begin, wait) = (Instant::now(), args.patience.wait);
    let answer = let_go(&found, None, wait, context).await?;
    if found.asked && context.api()?.is_local() {
        return tell_leaving(&found, &answer, context);
    }
    let finished = follow(context, wait.saturating_sub(begin.elapsed()), |status| {
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

/// This machine's replica leaves for good. Any other is named with `remove`: over an address,
/// somebody else would answer once the first has left.
pub(super) async fn leave(patience: Patience, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    if !context.api()?.is_local() {
        bail!(
            "`cluster leave` is for the replica of this machine, over its local socket, and \
             cli.address names others: name the replica with `cluster remove REPLICA`, which \
             drains it first as well, or take cli.address out"
        );
    }
    match leave_here(patience.wait, context).await {
        // It ends once it has left, and does not answer any more.
        Err(error) if error.downcast_ref::<ClientError>().is_some() => match left_before(context) {
            Some(id) => tell_left(id, context),
            None => Err(error),
        },
        done => done,
    }
}

async fn leave_here(wait: Duration, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let status = status(context).await?;
    let own: u64 = status.text("replicaId").parse().unwrap_or_default();
    let Some(member) = member(&status, own) else {
        if is_removed(&status, own) {
            return tell_left(own, context);
        }
        bail!("replica {own} is no member of the cluster yet: see `cluster status`");
    };
    let found = Found::of(&status, member);
    let question = format!(
        "Drain {} and remove it from the cluster for good?",
        found.label
    );
    if !context.confirm(&question, "Replica stays")? {
        return Ok(());
    }
    let answer = let_go(&found, None, wait, context).await?;
    tell_leaving(&found, &answer, context)
}

/// The replica that the data folder of this machine was of until it left.
fn left_before(context: &Context<'_, '_>) -> Option<u64> {
    let path = context.data_dir()?.join(IDENTITY);
    let text = std::fs::read_to_string(path).ok()?;
    let identity: Value = serde_json::from_str(&text).ok()?;
    let id = identity.text("replica_id").parse().ok()?;
    identity.flag("removed").then_some(id)
}

fn tell_leaving(
    found: &Found,
    answer: &Value,
    context: &mut Context<'_, '_>,
) -> anyhow::Result<()> {
    let done = format!(
        "{} leaves and then ends by itself; delete its data folder. Its id is not given again",
        capital(&found.label)
    );
    context.out.result(&done, answer)
}

fn tell_left(id: u64, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let done = format!("Replica {id} has left the cluster for good: delete its data folder");
    let id = id.to_string();
    let value = Value::object(&[("replicaId", id.as_str())]);
    context.out.result(&done, &value)
}

pub(super) async fn replace(args: Replace, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let found = find(context, &args.replica).await?;
    let question = format!("Replace {}, which then is removed for good?", found.label);
    if !context.confirm(&question, "Replica not replaced")? {
        return Ok(());
    }
    match &args.with {
        Some(with) => {
            let with = find(context, with).await?;
            take_place(&found, &with, args.patience.wait, context).await
        }
        None => give_place(&found, args.expiration, context).await,
    }
}

/// A replica that is still to come takes the place.
async fn give_place(
    found: &Found,
    life: Duration,
    context: &mut Context<'_, '_>,
) -> anyhow::Result<()> {
    let made = tokens::create_for(found, life, context).await?;
    if found.answers {
        context.out.note(&format!(
            "{} answers: run `cluster drain {}` before the new one joins, or its clients are cut \
             off when that takes its place",
            found.label, found.id
        ));
    }
    context.out.note(&format!(
        "on the new machine run `cluster join` with this token and start it with `serve`; it takes \
         the place of {} once it has caught up",
        found.label
    ));
    context.out.result(&made.text("joinToken"), &made)
}

/// A learner takes the place.
async fn take_place(
    found: &Found,
    with: &Found,
    wait: Duration,
    context: &mut Context<'_, '_>,
) -> anyhow::Result<()> {
    let begin = Instant::now();
    let answer = let_go(found, Some(with), wait, context).await?;
    let left = wait.saturating_sub(begin.elapsed());
    let finished = follow_member(context, with, left, |status, member| {
        found.member(status)?;
        Some(catching_up(status, member, &with.label))
    });
    let finished = finished.await?;
    let (old, new) = (&found.label, capital(&with.label));
    let done = format!("{new} has taken the place of {old}");
    let going_on = format!("{new} takes the place of {old} once it has caught up");
    tell(context, finished, &done, &going_on, &answer)
}

/// Makes the change by which a replica goes for good, once its clients have left.
async fn let_go(
    found: &Found,
    with: Option<&Found>,
    wait: Duration,
    context: &mut Context<'_, '_>,
) -> anyhow::Result<Value> {
    let drained = send_away(found, with, wait, context).await?;
    let expected = &found.membership;
    let (path, body) = match with {
        None => ("remove", json!({ "expectedMembership": expected })),
        Some(with) => (
            "replace",
            json!({ "with": with.id, "expectedMembership": expected }),
        ),
    };
    match change(context, &found.path(path), body).await {
        Err(error) if drained && is_refusal(&error) => {
            let undrained = change(context, &found.path("undrain"), json!({})).await;
            let stays = match undrained {
                Ok(_) => "and is undrained".to_owned(),
                Err(_) => format!("drained: `cluster undrain {}` ends that", found.id),
            };
            Err(error.context(format!("{} stays {stays}", found.label)))
        }
        changed => changed,
    }
}
