//! `users`.

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use super::client::{ApiClient, escape};
use super::context::Context;
use super::table::Table;
use super::time;
use super::value::Value;

#[derive(Debug, Subcommand)]
pub(super) enum UsersCommand {
    /// Create a user
    #[command(visible_aliases = ["c", "new"])]
    Create(Create),
    /// List users
    #[command(visible_aliases = ["ls", "show"])]
    List(Filter),
    /// Rename a user
    #[command(visible_alias = "mv")]
    Rename(Rename),
    /// Delete a user who owns no nodes
    #[command(visible_alias = "delete")]
    Destroy(Destroy),
    /// Roles: whom policies mean by autogroup:admin, autogroup:auditor and so on
    #[command(subcommand, visible_alias = "roles")]
    Role(RoleCommand),
}

#[derive(Debug, Subcommand)]
pub(super) enum RoleCommand {
    /// Give a user a role; a user has one
    Set {
        /// Name or id of the user
        #[arg(value_name = "USER")]
        user: String,
        /// member, owner, admin, network-admin, it-admin, billing-admin or auditor
        #[arg(value_name = "ROLE")]
        role: String,
    },
    /// List the users who are more than members
    #[command(visible_alias = "ls")]
    List,
}

#[derive(Debug, Args)]
pub(super) struct Create {
    name: String,
    /// Shown to people
    #[arg(short, long, default_value = "")]
    display_name: String,
    #[arg(short, long, default_value = "")]
    email: String,
    /// URL of a picture
    #[arg(short, long, default_value = "")]
    picture_url: String,
}

#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Id of the user
    #[arg(short, long)]
    identifier: Option<u64>,
    #[arg(short, long)]
    name: Option<String>,
    #[arg(short, long)]
    email: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Rename {
    /// Id of the user
    #[arg(short, long, conflicts_with = "name")]
    identifier: Option<u64>,
    /// Present name of the user
    #[arg(short, long)]
    name: Option<String>,
    #[arg(short = 'r', long, conflicts_with = "old_and_new")]
    new_name: Option<String>,
    /// Present and new name, instead of the flags
    #[arg(num_args = 2, value_names = ["OLD", "NEW"], conflicts_with_all = ["identifier", "name"])]
    old_and_new: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Destroy {
    /// Id of the user
    #[arg(short, long, conflicts_with = "name")]
    identifier: Option<u64>,
    /// Name of the user
    #[arg(short, long)]
    name: Option<String>,
    /// Name of the user, instead of the flags
    #[arg(value_name = "NAME", conflicts_with_all = ["identifier", "name"])]
    named: Option<String>,
}

pub(super) async fn run(
    command: UsersCommand,
    context: &mut Context<'_, '_>,
) -> anyhow::Result<()> {
    match command {
        UsersCommand::Create(args) => create(args, context).await,
        UsersCommand::List(filter) => list(filter, context).await,
        UsersCommand::Rename(args) => rename(args, context).await,
        UsersCommand::Destroy(args) => destroy(args, context).await,
        UsersCommand::Role(RoleCommand::Set { user, role }) => {
            set_role(&user, &role, context).await
        }
        UsersCommand::Role(RoleCommand::List) => list_roles(context).await,
    }
}

async fn set_role(user: &str, role: &str, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let id = find_id(context.api()?, user).await?;
    let path = format!("/user/{}/role/{}", escape(&id), escape(role));
    let answer = context.api()?.post(&path, json!({})).await?;
    context.out.result("Role set", answer.get("user"))
}

async fn list_roles(context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let answer = context.api()?.get("/user").await?;
    let users = answer.get("users").items().iter();
    let users: Vec<Value> = users
        .filter(|user| !user.text("role").is_empty())
        .cloned()
        .collect();
    let mut table = Table::new(&["ID", "Username", "Role"]);
    for user in &users {
        table.row(["id", "name", "role"].map(|name| user.text(name).into()));
    }
    context.out.list(&table, &Value::List(users))
}

async fn create(args: Create, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let body = json!({
        "name": args.name, "displayName": args.display_name, "email": args.email,
        "pictureUrl": args.picture_url,
    });
    let made = context.api()?.post("/user", body).await?;
    context.out.result("User created", made.get("user"))
}

async fn list(filter: Filter, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let query = match (&filter.name, &filter.email, filter.identifier) {
        (Some(name), _, _) => format!("?name={}", escape(name)),
        (None, Some(email), _) => format!("?email={}", escape(email)),
        (None, None, Some(id)) => format!("?id={id}"),
        (None, None, None) => String::new(),
    };
    let answer = context.api()?.get(&format!("/user{query}")).await?;
    let users = answer.get("users");
    let mut table = Table::new(&["ID", "Name", "Username", "Email", "Created"]);
    for user in users.items() {
        let texts = ["id", "displayName", "name", "email"].map(|name| user.text(name).into());
        table.row(
            texts
                .into_iter()
                .chain([time::shown(user, "createdAt").into()]),
        );
    }
    context.out.list(&table, users)
}

async fn rename(args: Rename, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let (old, new) = match args.old_and_new.as_slice() {
        [old, new] => (Some(old.as_str()), new.clone()),
        _ => {
            let new = args
                .new_name
                .context("name the new name: --new-name NAME")?;
            (args.name.as_deref(), new)
        }
    };
    let user = find(context.api()?, args.identifier, old).await?;
    let path = format!("/user/{}/rename/{}", user.text("id"), escape(&new));
    let renamed = context.api()?.post(&path, json!({})).await?;
    context.warn(&renamed);
    context.out.result("User renamed", renamed.get("user"))
}

async fn destroy(args: Destroy, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let name = args.named.as_deref().or(args.name.as_deref());
    let user = find(context.api()?, args.identifier, name).await?;
    let question = format!(
        "Do you want to remove the user {:?} ({}) and any associated preauthkeys?",
        user.text("name"),
        user.text("id")
    );
    if !context.confirm(&question, "User not destroyed")? {
        return Ok(());
    }
    let answer = context
        .api()?
        .delete(&format!("/user/{}", user.text("id")))
        .await?;
    context.warn(&answer);
    context.out.result("User destroyed", &answer)
}

/// The one user that an id or a name means.
pub(super) async fn find(
    api: &ApiClient,
    id: Option<u64>,
    name: Option<&str>,
) -> anyhow::Result<Value> {
    let (query, what) = match (id, name) {
        (Some(id), _) => (format!("id={id}"), format!("id {id}")),
        (None, Some(name)) => (format!("name={}", escape(name)), format!("name {name:?}")),
        (None, None) => bail!("name the user: --name NAME or --identifier ID"),
    };
    let answer = api.get(&format!("/user?{query}")).await?;
    match answer.get("users").items() {
        [user] => Ok(user.clone()),
        [] => bail!("there is no user with {what}"),
        several => bail!("{} users have {what}: use --identifier", several.len()),
    }
}

/// The id of the user that a number or a name means, as older and newer scripts give either.
pub(super) async fn find_id(api: &ApiClient, text: &str) -> anyhow::Result<String> {
    if text.parse::<u64>().is_ok() {
        return Ok(text.to_owned());
    }
    Ok(find(api, None, Some(text)).await?.text("id"))
}
