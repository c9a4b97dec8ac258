//! `apikeys`.

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;

use super::args::parse_life;
use super::client::{ApiClient, escape};
use super::context::Context;
use super::table::Table;
use super::time;

#[derive(Debug, Subcommand)]
pub(super) enum ApikeysCommand {
    /// Create a key; this is the only time that it is shown
    #[command(visible_aliases = ["c", "new"])]
    Create {
        /// Life of the key
        #[arg(short, long, default_value = "90d", value_parser = parse_life)]
        expiration: Duration,
    },
    /// List keys
    #[command(visible_aliases = ["ls", "show"])]
    List,
    /// End a key now
    #[command(visible_aliases = ["revoke", "exp", "e"])]
    Expire(Which),
    /// Delete a key
    #[command(visible_aliases = ["remove", "del"])]
    Delete(Which),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Which {
    /// Public part of the key, as lists show it
    #[arg(short, long)]
    prefix: Option<String>,
    /// Id of the key
    #[arg(short, long)]
    id: Option<u64>,
}

pub(super) async fn run(
    command: ApikeysCommand,
    context: &mut Context<'_, '_>,
) -> anyhow::Result<()> {
    match command {
        ApikeysCommand::Create { expiration } => {
            let body = json!({ "expiration": time::after(expiration) });
            let made = context.api()?.post("/apikey", body).await?;
            context.out.result(&made.text("apiKey"), made.get("apiKey"))
        }
        ApikeysCommand::List => list(context).await,
        ApikeysCommand::Expire(which) => {
            let id = which.id.map(|id| id.to_string());
            let body = json!({ "prefix": which.prefix, "id": id });
            let answer = context.api()?.post("/apikey/expire", body).await?;
            context.out.result("Key expired", &answer)
        }
        ApikeysCommand::Delete(which) => {
            let prefix = find_prefix(context.api()?, &which).await?;
            let answer = context
                .api()?
                .delete(&format!("/apikey/{}", escape(&prefix)))
                .await?;
            context.out.result("Key deleted", &answer)
        }
    }
}

async fn list(context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let answer = context.api()?.get("/apikey").await?;
    let keys = answer.get("apiKeys");
    let mut table = Table::new(&["ID", "Prefix", "Expiration", "Created"]);
    for key in keys.items() {
        table.row([
            key.text("id").into(),
            key.text("prefix").into(),
            time::expiry(key, "expiration", "-"),
            time::shown(key, "createdAt").into(),
        ]);
    }
    context.out.list(&table, keys)
}

/// The API deletes by public part alone.
async fn find_prefix(api: &ApiClient, which: &Which) -> anyhow::Result<String> {
    if let Some(prefix) = &which.prefix {
        return Ok(prefix.clone());
    }
    let id = which.id.unwrap_or_default().to_string();
    let answer = api.get("/apikey").await?;
    let found = answer
        .get("apiKeys")
        .items()
        .iter()
        .find(|key| key.text("id") == id);
    let unknown = || format!("there is no API key with id {id}: see `apikeys list`");
    Ok(found.with_context(unknown)?.text("prefix"))
}
