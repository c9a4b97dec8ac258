//! `auth`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::context::Context;

#[derive(Debug, Subcommand)]
pub(super) enum AuthCommand {
    /// Let in a node that waits, as a node of a user
    Register {
        /// Owner of the node
        #[arg(short, long)]
        user: String,
        #[command(flatten)]
        login: Login,
    },
    /// Approve a login over SSH that waits for a check
    Approve(Login),
    /// Reject a login, over SSH or of a node that waits
    Reject(Login),
}

#[derive(Debug, Args)]
pub(super) struct Login {
    /// The id that the login page shows
    #[arg(long)]
    auth_id: String,
}

pub(super) async fn run(command: AuthCommand, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    match command {
        AuthCommand::Register { user, login } => {
            let body = json!({ "user": user, "authId": login.auth_id });
            let answer = context.api()?.post("/auth/register", body).await?;
            let node = answer.get("node");
            context
                .out
                .result(&format!("Node {} registered", node.text("givenName")), node)
        }
        AuthCommand::Approve(login) => {
            decide(context, "/auth/approve", login, "Auth request approved").await
        }
        AuthCommand::Reject(login) => {
            decide(context, "/auth/reject", login, "Auth request rejected").await
        }
    }
}

async fn decide(
    context: &mut Context<'_, '_>,
    path: &str,
    login: Login,
    sentence: &str,
) -> anyhow::Result<()> {
    let answer = context
        .api()?
        .post(path, json!({ "authId": login.auth_id }))
        .await?;
    context.out.result(sentence, &answer)
}
