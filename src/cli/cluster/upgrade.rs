//! `cluster upgrade`: how far it is, whether to go on, and the step after which there is no way back.

use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::json;

use super::super::context::Context;
use super::super::value::Value;
use super::members::{follow, parse_wait};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum UpgradeCommand {
    /// Show how far an upgrade is and what to do next
    Status,
    /// Succeed when the next replica can be restarted without anybody noticing
    Check(Check),
    /// Raise the feature level to what all replicas support: none goes back to the version before
    Finalize,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Check {
    /// Wait so long for it
    #[arg(long, default_value = "0s", value_parser = parse_wait)]
    wait: Duration,
}

pub(super) async fn run(
    command: UpgradeCommand,
    context: &mut Context<'_, '_>,
) -> anyhow::Result<()> {
    match command {
        UpgradeCommand::Status => {
            let status = context.api()?.get("/cluster/status").await?;
            let upgrade = status.get("upgrade");
            context.out.result(&describe(upgrade), upgrade)
        }
        UpgradeCommand::Check(args) => check(args, context).await,
        UpgradeCommand::Finalize => finalize(context).await,
    }
}

async fn check(args: Check, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let obstacles = |status: &Value| status.get("upgrade").texts("waitsFor").join("; ");
    follow(context, args.wait, |status| {
        Some(obstacles(status)).filter(|text| !text.is_empty())
    })
    .await?;
    let status = context.api()?.get("/cluster/status").await?;
    let upgrade = status.get("upgrade");
    if !upgrade.flag("safe") {
        bail!("do not restart a replica now: {}", obstacles(&status));
    }
    let safe = "One replica may be restarted now";
    context.out.result(safe, upgrade)
}

async fn finalize(context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let question =
        "Raise the feature level, after which no replica goes back to the version before?";
    if !context.confirm(question, "Feature level not raised")? {
        return Ok(());
    }
    let answer = context
        .api()?
        .post("/cluster/upgrade/finalize", json!({}))
        .await?;
    let level = answer.text("featureLevel");
    let done = format!("The cluster has feature level {level}; the upgrade to it is finished");
    context.out.result(&done, &answer)
}

/// The feature levels that a member supports.
pub(super) fn levels(member: &Value) -> String {
    let levels = member.get("featureLevels");
    match (levels.text("min"), levels.text("max")) {
        (min, max) if min == max => min,
        (min, max) => format!("{min} to {max}"),
    }
}

/// What an upgrade section says to people.
pub(super) fn describe(upgrade: &Value) -> String {
    let mut text = format!(
        "Upgrade: {}, feature level {}. Next: {}",
        upgrade.text("phase"),
        upgrade.text("featureLevel"),
        upgrade.text("next")
    );
    for reason in upgrade.texts("waitsFor") {
        text.push_str("\nNot safe to restart a replica: ");
        text.push_str(&reason);
    }
    text
}
