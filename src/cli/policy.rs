//! `policy`.

mod explain;

use std::path::Path;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use similar::TextDiff;

use super::context::Context;
use super::table::Table;
use super::time;
use super::value::Value;
use crate::state::POLICY_BYTES_MAX;

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Print the policy in force
    #[command(visible_aliases = ["show", "view", "fetch"])]
    Get {
        /// An older version, as `policy history` numbers them
        #[arg(long, value_name = "VERSION")]
        version: Option<u64>,
        #[command(flatten)]
        direct: Direct,
    },
    /// Replace the policy, if it is valid and its tests pass
    #[command(visible_aliases = ["put", "update"])]
    Set {
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        direct: Direct,
        /// Only while the policy with this ETag is in force, as `policy history` lists them
        #[arg(long, value_name = "ETAG")]
        if_match: Option<String>,
    },
    /// Say whether a policy is valid and its tests pass, and change nothing
    Check {
        /// The policy, - for standard input [default: the policy in force]
        #[arg(short, long, value_name = "FILE")]
        file: Option<String>,
        #[command(flatten)]
        direct: Direct,
    },
    /// List the versions that are kept
    History,
    /// Show what differs between two versions, or between the policy in force and a file
    Diff(Diff),
    /// Say which rules allow a connection, and which come close
    Explain(explain::Explain),
    /// Put an older version into force again
    Rollback {
        /// Which one [default: the one before the present one]
        version: Option<u64>,
    },
}

#[derive(Debug, Args)]
pub(super) struct File {
    /// The policy: HuJSON, or YAML as headscale 0.22 had it; - for standard input
    #[arg(short, long, value_name = "FILE")]
    file: String,
}

/// headscale's way around a server that does not run.
#[derive(Debug, Args)]
pub(super) struct Direct {
    #[arg(long, hide = true)]
    bypass_server_and_access_database_directly: bool,
}

impl Direct {
    fn refuse(&self) -> anyhow::Result<()> {
        if self.bypass_server_and_access_database_directly {
            bail!(
                "--bypass-server-and-access-database-directly: there is no database beside the \
                 replicas; start one, and ask again"
            );
        }
        Ok(())
    }
}

#[derive(Debug, Args)]
pub(super) struct Diff {
    /// From this version [default: the one before the other]
    #[arg(conflicts_with = "file")]
    from: Option<u64>,
    /// To this version [default: the one in force]
    #[arg(conflicts_with = "file")]
    to: Option<u64>,
    /// Compare the policy in force with this file, - for standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<String>,
}

pub(super) async fn run(
    command: PolicyCommand,
    context: &mut Context<'_, '_>,
) -> anyhow::Result<()> {
    match command {
        PolicyCommand::Get { version, direct } => {
            direct.refuse()?;
            let text = fetch(context, version).await?;
            context.out.text(text)
        }
        PolicyCommand::Set {
            file,
            if_match,
            direct,
        } => {
            direct.refuse()?;
            let text = read(context, &file.file)?;
            let body = json!({ "policy": text, "author": context.user_name() });
            let api = context.api()?;
            let answer = api.put("/policy", body, if_match.as_deref()).await?;
            context.warn(&answer);
            context.out.result("Policy updated.", &answer)
        }
        PolicyCommand::Check { file, direct } => {
            direct.refuse()?;
            check(file.as_deref(), context).await
        }
        PolicyCommand::History => history(context).await,
        PolicyCommand::Diff(args) => diff(args, context).await,
        PolicyCommand::Explain(args) => explain::run(args, context).await,
        PolicyCommand::Rollback { version } => rollback(version, context).await,
    }
}

fn read(context: &mut Context<'_, '_>, file: &str) -> anyhow::Result<String> {
    if file == "-" {
        return context.out.read_input(POLICY_BYTES_MAX);
    }
    std::fs::read_to_string(Path::new(file))
        .with_context(|| format!("the policy file {file} cannot be read"))
}

/// The policy in force was checked when it was set, but users and nodes have come and gone.
async fn check(file: Option<&str>, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let text = match file {
        Some(file) => read(context, file)?,
        None => context.api()?.get("/policy").await?.text("policy"),
    };
    let body = json!({ "policy": text });
    let answer = context.api()?.post("/policy/check", body).await?;
    context.warn(&answer);
    context.out.result("Policy is valid", &answer)
}

/// The text of a version, or of the one in force.
async fn fetch(context: &mut Context<'_, '_>, version: Option<u64>) -> anyhow::Result<String> {
    let path = version.map_or_else(
        || "/policy".to_owned(),
        |version| format!("/policy/history/{version}"),
    );
    let answer = context.api()?.get(&path).await?;
    context.warn(&answer);
    Ok(answer.text("policy"))
}

async fn history(context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let answer = context.api()?.get("/policy/history").await?;
    let versions = answer.get("versions");
    let mut table = Table::new(&["Version", "Set at", "Author", "Bytes", "ETag"]);
    for version in versions.items() {
        table.row([
            version.text("version").into(),
            time::shown(version, "updatedAt").into(),
            version.text("author").into(),
            version.text("bytes").into(),
            version.text("etag").into(),
        ]);
    }
    context.out.list(&table, versions)
}

/// The versions that are kept, newest first, with their ETags.
async fn versions(context: &mut Context<'_, '_>) -> anyhow::Result<Vec<(u64, String)>> {
    let answer = context.api()?.get("/policy/history").await?;
    let versions = answer.get("versions").items().iter();
    Ok(versions
        .filter_map(|version| Some((version.text("version").parse().ok()?, version.text("etag"))))
        .collect())
}

async fn diff(args: Diff, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    if let Some(file) = &args.file {
        let new = read(context, file)?;
        let old = fetch(context, None).await?;
        return show(context, ("in force", &old), (file, &new));
    }
    let kept = versions(context).await?;
    let newest = || kept.first().map(|(version, _)| *version);
    let Some(to) = args.to.or_else(newest) else {
        bail!("no policy has been set yet");
    };
    let versions = kept.iter().map(|(version, _)| *version);
    let before = || versions.filter(|version| *version < to).max();
    let Some(from) = args.from.or_else(before) else {
        bail!("version {to} is the oldest one that is kept");
    };
    let old = fetch(context, Some(from)).await?;
    let new = fetch(context, Some(to)).await?;
    let names = (format!("version {from}"), format!("version {to}"));
    show(context, (&names.0, &old), (&names.1, &new))
}

/// Prints what differs between two named texts; nothing where nothing does.
fn show(context: &mut Context<'_, '_>, old: (&str, &str), new: (&str, &str)) -> anyhow::Result<()> {
    let diff = TextDiff::from_lines(old.1, new.1);
    let text = diff.unified_diff().header(old.0, new.0).to_string();
    let value = Value::object(&[("from", old.0), ("to", new.0), ("diff", &text)]);
    context.out.text_or(&text, &value)
}

async fn rollback(version: Option<u64>, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let kept = versions(context).await?;
    let Some((present, etag)) = kept.first() else {
        bail!("no policy has been set yet");
    };
    let Some(version) = version.or_else(|| kept.get(1).map(|(version, _)| *version)) else {
        bail!("version {present} is the only one that is kept");
    };
    let body = json!({ "version": version, "author": context.user_name() });
    let api = context.api()?;
    let answer = api.post_if("/policy/rollback", body, etag).await?;
    context.warn(&answer);
    let sentence = format!("Policy is that of version {version} again.");
    context.out.result(&sentence, &answer)
}
