//! `cluster`: make one, grow it, shrink it, look at it.

mod draining;
mod keys;
mod leaving;
mod members;
mod recover;
mod tokens;
mod upgrade;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use hydrascale_raft::{JoinToken, Replica};

use crate::config::ClusterConfig;
use crate::server::raft_config;

use self::leaving::{Patience, Remove, Replace};
use self::members::{Follow, Transfer, Which};
use self::recover::Recover;
use self::tokens::JoinTokenCommand;
use self::upgrade::UpgradeCommand;
use super::context::Context;
use super::table::{Cell, Table};
use super::value::Value;

#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// Make a new cluster with this machine as its first replica
    Init,
    /// Make this machine a replica of a cluster
    Join(Join),
    /// Tokens that admit new replicas
    #[command(subcommand)]
    JoinToken(JoinTokenCommand),
    /// Give a replica a vote, which it has once it has caught up
    Promote(Which),
    /// Take a replica's vote away: it goes on serving clients and relays
    Demote(Which),
    /// Let another replica take the place of one that is dead or shall go
    Replace(Replace),
    /// Remove a replica for good; one that answers is drained first
    Remove(Remove),
    /// Drain the replica of this machine and remove it for good
    Leave(Patience),
    /// Send a replica's clients elsewhere and keep them away
    Drain(Which),
    /// Let a drained replica have clients again
    Undrain(Which),
    /// Let another replica lead
    TransferLeader(Transfer),
    /// Seal the cluster's secrets under the first key of the key files, which all replicas must hold
    RotateSealingKey {
        /// Store the secrets unsealed instead
        #[arg(long)]
        unseal: bool,
    },
    /// Give replicas new certificates for each other; they renew them by themselves before they end
    RotateCertificates(keys::RotateCertificates),
    /// Replace the certificate authority that admits replicas
    RotateCa(Follow),
    /// Go on alone, as a new cluster, with what this stopped replica has after the quorum was lost
    Recover(Recover),
    /// Follow an upgrade of all replicas to a new version, and finish it
    #[command(subcommand)]
    Upgrade(UpgradeCommand),
    /// Show the replicas and how they are doing
    Status,
    /// Show a hash over the whole state, equal on replicas that have applied the same changes
    Digest,
}

#[derive(Debug, Args)]
pub(super) struct Join {
    /// The token, made on a replica by `cluster join-token create`
    #[arg(required_unless_present = "token_file")]
    token: Option<String>,
    /// Read the token from a file
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// Stay without a vote: serve clients and relays, and no change ever waits for this replica
    #[arg(long)]
    non_voting: bool,
}

pub(super) async fn run(
    command: ClusterCommand,
    context: &mut Context<'_, '_>,
) -> anyhow::Result<()> {
    match command {
        ClusterCommand::Init => init(context),
        ClusterCommand::Join(args) => join(args, context).await,
        ClusterCommand::JoinToken(command) => tokens::run(command, context).await,
        ClusterCommand::Promote(which) => members::promote(which, context).await,
        ClusterCommand::Demote(which) => members::demote(which, context).await,
        ClusterCommand::Replace(args) => leaving::replace(args, context).await,
        ClusterCommand::Remove(args) => leaving::remove(args, context).await,
        ClusterCommand::Leave(patience) => leaving::leave(patience, context).await,
        ClusterCommand::Drain(which) => draining::drain(which, context).await,
        ClusterCommand::Undrain(which) => members::undrain(which, context).await,
        ClusterCommand::TransferLeader(args) => members::transfer(args, context).await,
        ClusterCommand::RotateSealingKey { unseal } => keys::rotate_sealing(unseal, context).await,
        ClusterCommand::RotateCertificates(args) => keys::rotate_certificates(args, context).await,
        ClusterCommand::RotateCa(wait) => keys::rotate_ca(wait, context).await,
        ClusterCommand::Recover(args) => recover::recover(args, context).await,
        ClusterCommand::Upgrade(command) => upgrade::run(command, context).await,
        ClusterCommand::Status => status(context).await,
        ClusterCommand::Digest => {
            let digest = context.api()?.get("/cluster/digest").await?;
            context.out.result(&digest.text("digest"), &digest)
        }
    }
}

fn init(context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let config = context.config()?.cluster;
    let cluster_id = Replica::init_cluster(&raft_config(&config)?)?;
    made(context, &config, &cluster_id, "1", "Made")
}

async fn join(args: Join, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let text = match (&args.token, &args.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(path)) => read_token(path)?,
        (None, None) => anyhow::bail!("name the token"),
    };
    let token: JoinToken = text.parse()?;
    let config = context.config()?.cluster;
    context.out.note(&format!(
        "joining cluster {} through {}",
        token.cluster_id(),
        token.addrs().join(", ")
    ));
    let mut raft = raft_config(&config)?;
    raft.non_voting |= args.non_voting;
    let replica = Replica::join_cluster(&raft, &token).await?;
    made(
        context,
        &config,
        token.cluster_id(),
        &replica.to_string(),
        "Joined",
    )
}

fn read_token(path: &Path) -> anyhow::Result<String> {
    let unreadable = || format!("the token file {} cannot be read", path.display());
    std::fs::read_to_string(path).with_context(unreadable)
}

fn made(
    context: &mut Context<'_, '_>,
    config: &ClusterConfig,
    cluster_id: &str,
    replica_id: &str,
    verb: &str,
) -> anyhow::Result<()> {
    let folder = config.data_dir.display().to_string();
    let sentence = format!(
        "{verb} cluster {cluster_id} as replica {replica_id}, in {folder}: start it with `serve`"
    );
    let members = [
        ("clusterId", cluster_id),
        ("replicaId", replica_id),
        ("dataDir", folder.as_str()),
    ];
    context.out.result(&sentence, &Value::object(&members))
}

async fn status(context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let status = context.api()?.get("/cluster/status").await?;
    let leader = status.text("leader");
    let mut table = Table::new(&[
        "ID",
        "Name",
        "Address",
        "Role",
        "Reachable",
        "Lag",
        "Heard",
        "Streams",
        "Drained",
        "Version",
        "Levels",
    ]);
    for member in status.get("members").items() {
        let reachable = member.flag("reachable");
        let heard = member.text("lastContactMs");
        table.row([
            member.text("id").into(),
            member.text("name").into(),
            member.text("addr").into(),
            role(member, &leader).into(),
            Cell::judged(if reachable { "yes" } else { "no" }, reachable),
            members::lag(&status, member)
                .map_or_else(String::new, |lag| lag.to_string())
                .into(),
            if heard.is_empty() {
                "".into()
            } else {
                format!("{heard} ms ago").into()
            },
            member.get("announced").text("streams").into(),
            drained(member).into(),
            member.get("announced").text("version").into(),
            upgrade::levels(member).into(),
        ]);
    }
    let table = table.render(context.out.has_color());
    let mut text = format!("{}\n{table}", headline(&status));
    text.push_str(&keys::seal(&status));
    text.push_str(&keys::certificates(&status));
    let upgrade = status.get("upgrade");
    if upgrade.text("phase") != "finished" {
        text.push('\n');
        text.push_str(&upgrade::describe(upgrade));
    }
    for warning in status.texts("warnings") {
        text.push_str("\nWarning: ");
        text.push_str(&warning);
    }
    context.out.result(&text, &status)
}

fn role(member: &Value, leader: &str) -> String {
    let replaces = member.text("replaces");
    let voter = member.flag("voter");
    if member.flag("leaving") {
        let role = if voter { "voter" } else { "learner" };
        format!("{role}, leaving")
    } else if voter && member.flag("nonVoting") {
        "voter, to be demoted".to_owned()
    } else if member.text("id") == leader {
        "leader".to_owned()
    } else if voter {
        "voter".to_owned()
    } else if !replaces.is_empty() {
        format!("learner, replaces {replaces}")
    } else if member.flag("nonVoting") {
        "non-voting".to_owned()
    } else {
        "learner".to_owned()
    }
}

fn drained(member: &Value) -> &'static str {
    if member.get("announced").flag("drained") {
        "yes"
    } else {
        ""
    }
}

fn headline(status: &Value) -> String {
    let leader = status.text("leader");
    let lead = if leader.is_empty() {
        let seconds = status.text("leaderlessMs").parse::<u64>().unwrap_or(0) / 1000;
        format!("NO LEADER for {seconds} s")
    } else {
        format!("leader {leader}")
    };
    let health = if status.flag("quorum") {
        match status.text("toleratedFailures").as_str() {
            "0" => "takes changes, and would not survive a failure".to_owned(),
            "1" => "takes changes, also after 1 failure".to_owned(),
            count => format!("takes changes, also after {count} failures"),
        }
    } else {
        "TAKES NO CHANGES: too few replicas answer".to_owned()
    };
    let changing = match status.flag("joint") {
        true => "; a change of the members is under way",
        false => "",
    };
    format!(
        "Cluster {} as replica {} sees it: {lead}, term {}, applied {} of {}, feature level {}; {health}{changing}",
        status.text("clusterId"),
        status.text("replicaId"),
        status.text("term"),
        status.text("appliedIndex"),
        status.text("committedIndex"),
        status.text("featureLevel"),
    )
}
