//! `debug`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::context::Context;

#[derive(Debug, Subcommand)]
pub(super) enum DebugCommand {
    /// Begin a login of a device that does not exist, for trying out the approval
    CreateNode(CreateNode),
}

#[derive(Debug, Args)]
pub(super) struct CreateNode {
    /// Host name of the device
    #[arg(long)]
    name: String,
    /// The user who will own it
    #[arg(short, long)]
    user: String,
    /// Under which id the login waits
    #[arg(short, long)]
    key: String,
    /// Routes that it announces
    #[arg(short, long, value_delimiter = ',')]
    route: Vec<String>,
}

pub(super) async fn run(
    command: DebugCommand,
    context: &mut Context<'_, '_>,
) -> anyhow::Result<()> {
    match command {
        DebugCommand::CreateNode(args) => {
            let body = json!({
                "user": args.user, "key": args.key, "name": args.name, "routes": args.route,
            });
            let answer = context.api()?.post("/debug/node", body).await?;
            context.out.result("Node created", answer.get("node"))
        }
    }
}
