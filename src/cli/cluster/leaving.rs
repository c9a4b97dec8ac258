//! `cluster remove`, `leave`, `replace`, `drain`: clients leave a replica that answers before it
//! goes for good; one that is dead goes at once. What was broken off goes on when asked for again.

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use serde_json::json;

use super::super::args::parse_life;
use super::super::client::ClientError;
use super::super::context::Context;
use super::super::value::Value;
use super::members::{
    Found, WAITS, Which, capital, catching_up, change, find, follow, follow_member, is_removed,
    member, parse_wait, status, tell,
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

pub(super) async fn drain(which: Which, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let found = find(context, &which.replica).await?;
    let answer = change(context, &found.path("drain"), json!({})).await?;
    let finished = follow_member(context, &found, which.follow.wait, |status, member| {
        Some(format!("{}: {}", found.label, left(status, member)?))
    });
    let finished = finished.await?;
    let label = capital(&found.label);
    let done = format!("{label} is drained: no client streams from it, until `cluster undrain`");
    let going_on = format!("{label} is drained; some clients are still on their way");
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

/// Drains a replica that is to go and waits for its clients to leave; whether it was drained for
/// that.
///
/// # Errors
/// Some are left, or nobody would take them.
async fn send_away(
    found: &Found,
    with: Option<&Found>,
    wait: Duration,
    context: &mut Context<'_, '_>,
) -> anyhow::Result<bool> {
    let before = status(context).await?;
    let at_once = wait.is_zero() && context.is_forced();
    let Some(member) = serving(&before, found, with).filter(|_| !at_once) else {
        return Ok(false);
    };
    if left(&before, member).is_some() {
        context.out.note(&format!(
            "{} is drained before it goes. Interrupted now, it stays drained: the same command \
             goes on, `cluster undrain {}` keeps it",
            found.label, found.id
        ));
    }
    if !begin_drain(found, context).await? {
        return Ok(false);
    }
    let emptied = follow(context, wait, |status| {
        Some(format!("{}: {}", found.label, still_there(status, found)?))
    });
    if !emptied.await? {
        check_left(found, context).await?;
    }
    Ok(!member.get("announced").flag("drained"))
}

/// The member that is to go, where it may have clients. What will be refused moves nobody.
fn serving<'a>(status: &'a Value, found: &Found, with: Option<&Found>) -> Option<&'a Value> {
    let member = found.member(status)?;
    let serves = !is_dead(member) && *member.get("announced") != Value::Null;
    let stays = !member.flag("leaving") && goes_on_without(status, found, with);
    (serves && stays && with.is_none_or(|with| is_learner(status, with))).then_some(member)
}

/// Whether the cluster counts it as dead. That the replica which is asked does not hear it is not
/// enough: clients may.
fn is_dead(member: &Value) -> bool {
    member.get("announced").flag("dead")
}

fn is_learner(status: &Value, found: &Found) -> bool {
    let member = found.member(status);
    member.is_some_and(|member| !member.flag("voter"))
}

/// Whether enough of the other voters live, as far as this status tells; `with` votes instead.
fn goes_on_without(status: &Value, found: &Found, with: Option<&Found>) -> bool {
    let (old, new) = (found.id.to_string(), with.map(|with| with.id.to_string()));
    let votes = |member: &&Value| {
        let id = member.text("id");
        id != old && (member.flag("voter") || new.as_ref() == Some(&id))
    };
    let voters = status.get("members").items().iter().filter(votes);
    let living = voters.clone().filter(|member| !is_dead(member));
    living.count() > voters.count() / 2
}

/// Whether the replica is drained now; by force it goes without where nobody would take its
/// clients.
async fn begin_drain(found: &Found, context: &mut Context<'_, '_>) -> anyhow::Result<bool> {
    match change(context, &found.path("drain"), json!({})).await {
        Ok(_) => Ok(true),
        Err(error) if is_refusal(&error) && context.is_forced() => {
            context
                .out
                .note(&format!("{} is not drained: {error:#}", found.label));
            Ok(false)
        }
        Err(error) if is_refusal(&error) => Err(error.context(format!(
            "{} is not removed, because it cannot be drained first (--force does without)",
            found.label
        ))),
        Err(error) => Err(error),
    }
}

/// Who has clients left when `--wait` is over goes by force only.
async fn check_left(found: &Found, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let status = status(context).await?;
    let Some(left) = still_there(&status, found) else {
        return Ok(());
    };
    if context.is_forced() {
        context
            .out
            .note(&format!("{} goes with {left}", found.label));
        return Ok(());
    }
    bail!(
        "{} is not removed yet: {left} when --wait was over. It is drained and they go on leaving: \
         the same command goes on, with --force it cuts them off, and `cluster undrain {}` keeps \
         the replica",
        found.label,
        found.id
    )
}

/// Who is left on a replica that is to go; nobody once it counts as dead.
fn still_there(status: &Value, found: &Found) -> Option<String> {
    let member = found.member(status)?;
    left(status, member).filter(|_| !is_dead(member))
}

/// Who is left on a drained replica.
fn left(status: &Value, member: &Value) -> Option<String> {
    let announced = member.get("announced");
    let (streams, homes) = (announced.text("streams"), announced.text("homes"));
    let leads = status.text("leader") == member.text("id");
    let any = leads || streams != "0" || homes != "0";
    any.then(|| {
        format!(
            "{streams} streams and {homes} relay homes left{}",
            if leads { ", still leads" } else { "" }
        )
    })
}

fn is_refusal(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ClientError::Refused(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Led by 1; 1 to 3 vote, 4 does not and 3 does not answer.
    const STATUS: &str = r#"{"replicaId":1,"leader":1,"members":[
        {"id":1,"voter":true,"reachable":true,"announced":{"streams":0,"homes":0}},
        {"id":2,"voter":true,"reachable":true,"announced":{"streams":3,"homes":2}},
        {"id":3,"voter":true,"reachable":false,"announced":{"streams":1,"homes":0,"dead":true}},
        {"id":4,"voter":false,"reachable":true,"announced":{"streams":0,"homes":0}}]}"#;

    fn status(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    fn found(status: &Value, id: u64) -> Found {
        Found::of(status, member(status, id).unwrap())
    }

    #[test]
    fn a_dead_replica_is_not_drained_and_one_that_answers_is() {
        let all = status(&STATUS.replace(",\"dead\":true", ""));
        let now = status(STATUS);
        assert!(serving(&now, &found(&now, 3), None).is_none());
        assert!(serving(&all, &found(&all, 2), None).is_some());
        assert!(serving(&all, &found(&all, 4), None).is_some());
        // The replica that is asked does not hear it.
        assert!(serving(&all, &found(&all, 3), None).is_some());
    }

    #[test]
    fn what_will_be_refused_moves_nobodys_clients() {
        let now = status(STATUS);
        // Of 1 and 3 only one would answer.
        assert!(serving(&now, &found(&now, 2), None).is_none());
        let (two, four) = (found(&now, 2), found(&now, 4));
        assert!(serving(&now, &two, Some(&four)).is_some());
        let one = found(&now, 1);
        assert!(serving(&now, &two, Some(&one)).is_none());
    }

    #[test]
    fn nobody_is_waited_for_on_a_replica_that_died_meanwhile() {
        let now = status(STATUS);
        assert_eq!(still_there(&now, &found(&now, 3)), None);
        let left = still_there(&now, &found(&now, 2));
        assert_eq!(left.as_deref(), Some("3 streams and 2 relay homes left"));
        let leads = still_there(&now, &found(&now, 1)).unwrap();
        assert!(leads.ends_with(", still leads"), "{leads}");
        assert_eq!(still_there(&now, &found(&now, 4)), None);
    }
}
