//! `preauthkeys`.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use super::args::parse_life;
use super::client::ApiClient;
use super::context::Context;
use super::table::Table;
use super::value::Value;
use super::{time, users};

#[derive(Debug, Subcommand)]
pub(super) enum PreauthkeysCommand {
    /// Create a key; this is the only time that it is shown
    #[command(visible_aliases = ["c", "new"])]
    Create(Create),
    /// List keys
    #[command(visible_aliases = ["ls", "show"])]
    List {
        /// Only those of this user (id or name)
        #[arg(short, long)]
        user: Option<String>,
    },
    /// End a key now
    #[command(visible_aliases = ["revoke", "exp", "e"])]
    Expire(Which),
    /// Delete a key
    #[command(visible_aliases = ["del", "rm", "d"])]
    Delete(Which),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// Owner of the nodes (id or name)
    #[arg(short, long)]
    user: Option<String>,
    /// May let in more than one node
    #[arg(long)]
    reusable: bool,
    /// Its nodes are deleted some time after they go offline
    #[arg(long)]
    ephemeral: bool,
    /// Life of the key
    #[arg(short, long, default_value = "1h", value_parser = parse_life)]
    expiration: Duration,
    /// Tags of its nodes, which then belong to nobody else
    #[arg(long, value_delimiter = ',')]
    tags: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// Id of the key
    #[arg(short, long, conflicts_with = "key")]
    id: Option<u64>,
    /// Owner of the key; accepted for older scripts
    #[arg(short, long, hide = true)]
    user: Option<String>,
    /// The key itself, or the form in which lists show it
    key: Option<String>,
}

pub(super) async fn run(
    command: PreauthkeysCommand,
    context: &mut Context<'_, '_>,
) -> anyhow::Result<()> {
    match command {
        PreauthkeysCommand::Create(args) => create(args, context).await,
        PreauthkeysCommand::List { user } => list(user, context).await,
        PreauthkeysCommand::Expire(which) => {
            let id = find(context.api()?, &which).await?;
            let answer = context
                .api()?
                .post("/preauthkey/expire", json!({ "id": id }))
                .await?;
            context.out.result("Key expired", &answer)
        }
        PreauthkeysCommand::Delete(which) => {
            let id = find(context.api()?, &which).await?;
            let answer = context
                .api()?
                .delete(&format!("/preauthkey?id={id}"))
                .await?;
            context.out.result("Key deleted", &answer)
        }
    }
}

async fn create(args: Create, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let user = match &args.user {
        Some(user) => Some(users::find_id(context.api()?, user).await?),
        None => None,
    };
    let body = json!({
        "user": user, "reusable": args.reusable, "ephemeral": args.ephemeral,
        "expiration": time::after(args.expiration), "aclTags": args.tags,
    });
    let made = context.api()?.post("/preauthkey", body).await?;
    let key = made.get("preAuthKey");
    context.out.result(&key.text("key"), key)
}

async fn list(user: Option<String>, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let query = match &user {
        Some(user) => format!("?user={}", users::find_id(context.api()?, user).await?),
        None => String::new(),
    };
    let answer = context.api()?.get(&format!("/preauthkey{query}")).await?;
    let keys = answer.get("preAuthKeys");
    let mut table = Table::new(&[
        "ID",
        "Key/Prefix",
        "Reusable",
        "Ephemeral",
        "Used",
        "Expiration",
        "Created",
        "Owner",
    ]);
    for key in keys.items() {
        table.row([
            key.text("id").into(),
            key.text("key").into(),
            key.flag("reusable").into(),
            key.flag("ephemeral").into(),
            key.flag("used").into(),
            time::expiry(key, "expiration", "-"),
            time::shown(key, "createdAt").into(),
            owner(key).into(),
        ]);
    }
    context.out.list(&table, keys)
}

/// Tags, else the user, else a dash.
fn owner(key: &Value) -> String {
    let tags = key.texts("aclTags");
    if !tags.is_empty() {
        return tags.join("\n");
    }
    let user = key.get("user").text("name");
    if user.is_empty() {
        "-".to_owned()
    } else {
        user
    }
}

/// The id, given as such or by the key's public part.
async fn find(api: &ApiClient, which: &Which) -> anyhow::Result<String> {
    if let Some(id) = which.id {
        return Ok(id.to_string());
    }
    let key = which.key.as_deref().context("name the key: --id ID")?;
    let public = key.rsplit_once('-').map_or(key, |(public, _)| public);
    let answer = api.get("/preauthkey").await?;
    let found = answer.get("preAuthKeys").items().iter().find(|listed| {
        let text = listed.text("key");
        text == key
            || text
                .rsplit_once('-')
                .is_some_and(|(listed, _)| listed == public)
    });
    match found {
        Some(key) => Ok(key.text("id")),
        None => bail!("there is no such key: see `preauthkeys list`"),
    }
}
