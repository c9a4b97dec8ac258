//! `cluster recover --unsafe`: what one stopped replica has, as a new cluster with it alone.

use std::sync::Arc;

use anyhow::bail;
use clap::Args;
use hydrascale_raft::{
    Cause, Heard, Loss, LostMember, RecoverError, Recovered, ReplicaConfig, StateMachine,
};

use crate::backup::sealed_under;
use crate::cluster::Machine;
use crate::server::raft_config;
use crate::types::Timestamp;

use super::super::context::Context;
use super::super::progress::Count;
use super::super::sealing::refuse_without;
use super::super::value::Value;

#[derive(Debug, Args)]
pub(in super::super) struct Recover {
    /// Says that changes which only the lost replicas had may be lost
    #[arg(long = "unsafe", required = true)]
    acknowledged: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub(super) async fn recover(args: Recover, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let config = context.config()?.cluster;
    let raft = raft_config(&config)?;
    if hydrascale_raft::is_broken_off(&raft)? {
        context
            .out
            .note("a recovery was broken off here and is finished now");
    } else {
        let progress = context.out.progress();
        let asking = Box::pin(hydrascale_raft::examine(&raft));
        let loss = progress
            .of("asking the others", &Count::default(), asking)
            .await?;
        context.out.note(&report(&loss));
        refuse_company(&loss.others)?;
        let question = "Give up the replicas that do not answer, and all that only they have?";
        let confirmed = args.yes || context.confirm(question, "Replica not recovered")?;
        if !confirmed {
            return Ok(());
        }
    }
    finish(raft, context).await
}

async fn finish(raft: ReplicaConfig, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let folder = raft.data_dir.display().to_string();
    let progress = context.out.progress();
    let recovering = progress.of_blocking("recovering", move |_| recover_readable(&raft));
    let Recovered {
        cluster_id,
        replica,
        kept,
    } = recovering.await??;
    let (replica, kept) = (replica.to_string(), kept.display().to_string());
    let sentence = format!(
        "Made cluster {cluster_id} as replica {replica}, in {folder}, with all that was in the log; \
         the old store is in {kept}: delete it when nothing is missed. Start with `serve`, and let \
         other machines join with empty data folders; a replica of the old cluster must not run again"
    );
    let members = [
        ("clusterId", cluster_id.as_str()),
        ("replicaId", replica.as_str()),
        ("dataDir", folder.as_str()),
        ("kept", kept.as_str()),
    ];
    context.out.result(&sentence, &Value::object(&members))
}

/// Recovers, unless the replica could not read the secrets with the configured keys.
fn recover_readable(raft: &ReplicaConfig) -> Result<Recovered, RecoverError> {
    let filled = Arc::new(Machine::new());
    let machine: Arc<dyn StateMachine> = filled.clone();
    hydrascale_raft::recover(raft, &machine, || {
        let key = sealed_under(&filled.state());
        refuse_without(key, &raft.keyring.keys(), "recover").map_err(Cause::from)
    })
}

/// Nobody may be left who goes on with the old cluster, or knows more.
fn refuse_company(others: &[LostMember]) -> anyhow::Result<()> {
    let (mut answering, mut unclear) = (Vec::new(), Vec::new());
    for other in others {
        match &other.heard {
            Heard::Nothing { .. } => {}
            Heard::Itself => answering.push(named(other)),
            Heard::Somebody { reason } => unclear.push(format!("{} ({reason})", named(other))),
        }
    }
    if !answering.is_empty() {
        bail!(
            "{} still answers: while a majority of the voters lives, replace the dead ones with \
             `cluster replace`; otherwise stop all replicas, recover the one whose log ends last, and \
             let the others join it with empty data folders",
            answering.join(" and ")
        );
    }
    if !unclear.is_empty() {
        bail!(
            "somebody takes connections at the address of {}: if it is that replica, stop it for good; \
             if it was recovered or restored before, let this one join it with an empty data folder \
             instead; if it is something else, make the address unreachable from here; then try again",
            unclear.join(" and of ")
        );
    }
    Ok(())
}

fn named(member: &LostMember) -> String {
    format!("replica {} ({}, {})", member.id, member.name, member.addr)
}

fn report(loss: &Loss) -> String {
    let mut lines = vec![format!(
        "Replica {} of cluster {}",
        loss.replica, loss.cluster_id
    )];
    for other in &loss.others {
        let vote = if other.voter { "votes" } else { "has no vote" };
        let answer = match &other.heard {
            Heard::Nothing { reason } => format!("no answer ({reason})"),
            Heard::Itself => "ANSWERS".to_owned(),
            Heard::Somebody { .. } => "SOMEBODY IS THERE".to_owned(),
        };
        lines.push(format!("  {}, {vote}: {answer}", named(other)));
    }
    let leader = loss.leader.map_or_else(
        || "it followed no leader last".to_owned(),
        |(leader, term)| format!("it followed replica {leader} last, in term {term}"),
    );
    lines.push(format!(
        "  applied up to log index {}, known to be committed up to {}, log ends at {} (term {}); {leader}",
        loss.applied_index, loss.committed_index, loss.last_index, loss.last_term,
    ));
    let open = loss.last_index.saturating_sub(loss.committed_index);
    if open > 0 {
        lines.push(format!(
            "  the last {open} entries may never have been confirmed to anybody; they are applied \
             all the same"
        ));
    }
    lines.push(format!(
        "What may be missing: whatever the others confirmed behind log index {}, taken after {}",
        loss.last_index,
        Timestamp::from_unix_ms(loss.last_change_ms),
    ));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use hydrascale_raft::ReplicaId;

    use super::*;

    fn loss(heard: Heard) -> Loss {
        Loss {
            cluster_id: "c".to_owned(),
            replica: ReplicaId(1),
            others: vec![LostMember {
                id: ReplicaId(5),
                name: "b".to_owned(),
                addr: "b:7443".to_owned(),
                voter: true,
                heard,
            }],
            applied_index: 10,
            committed_index: 10,
            last_index: 12,
            last_term: 3,
            last_change_ms: 0,
            leader: Some((ReplicaId(5), 3)),
        }
    }

    fn silent() -> Heard {
        Heard::Nothing {
            reason: "Connection refused".to_owned(),
        }
    }

    #[test]
    fn the_report_names_what_may_be_missing() {
        let text = report(&loss(silent()));
        for part in [
            "replica 5 (b, b:7443), votes: no answer (Connection refused)",
            "log ends at 12 (term 3); it followed replica 5 last, in term 3",
            "the last 2 entries may never have been confirmed",
            "behind log index 12, taken after 1970-01-01T00:00:00Z",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn nothing_is_given_up_while_somebody_answers() {
        refuse_company(&loss(silent()).others).unwrap();
        let refusal = |heard| {
            let refused = refuse_company(&loss(heard).others);
            refused.unwrap_err().to_string()
        };
        let answers = refusal(Heard::Itself);
        assert!(
            answers.starts_with("replica 5 (b, b:7443) still answers"),
            "{answers}"
        );
        let stranger = refusal(Heard::Somebody {
            reason: "another certificate".to_owned(),
        });
        for part in [
            "at the address of replica 5 (b, b:7443) (another certificate)",
            "stop it for good",
        ] {
            assert!(stranger.contains(part), "{stranger}");
        }
    }
}
