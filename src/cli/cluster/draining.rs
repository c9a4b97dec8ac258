//! `cluster drain`, and what `remove`, `leave` and `replace` do before a replica goes: clients leave
//! one that answers; nobody is waited for on one that is dead.

use std::time::Duration;

use anyhow::bail;
use serde_json::json;

use super::super::context::Context;
use super::super::value::Value;
use super::members::{
    Found, Which, capital, change, find, follow, follow_member, is_refusal, status, tell,
};

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

/// Drains a replica that is to go and waits for its clients to leave; whether it was drained for
/// that.
///
/// # Errors
/// Some are left, or nobody would take them.
pub(super) async fn send_away(
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

#[cfg(test)]
mod tests {
    use super::super::members::member;
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
