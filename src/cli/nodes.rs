//! `nodes`.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::types::{MachineKey, NodeKey, Timestamp};

use super::client::escape;
use super::context::Context;
use super::table::{Cell, Table};
use super::time;
use super::value::Value;

#[derive(Debug, Subcommand)]
pub(super) enum NodesCommand {
    /// List nodes
    #[command(visible_aliases = ["ls", "show"])]
    List(List),
    /// List the routes that nodes announce and may serve
    #[command(visible_aliases = ["lsr", "routes"])]
    ListRoutes {
        /// Only those of this node
        #[arg(short, long)]
        identifier: Option<u64>,
    },
    /// Let in a node that waits (deprecated: auth register)
    Register(Register),
    /// End a node's key now or at a time; it must then log in again
    #[command(visible_aliases = ["logout", "exp", "e"])]
    Expire(Expire),
    /// Rename a node
    Rename {
        #[command(flatten)]
        node: Which,
        /// New name: a DNS label
        new_name: String,
    },
    /// Delete a node
    #[command(visible_alias = "del")]
    Delete(Which),
    /// Set the tags of a node
    #[command(visible_aliases = ["tags", "t"])]
    Tag {
        #[command(flatten)]
        node: Which,
        /// All its tags
        #[arg(short, long, value_delimiter = ',', required = true)]
        tags: Vec<String>,
    },
    /// Set the routes that a node may serve
    ApproveRoutes {
        #[command(flatten)]
        node: Which,
        /// All its routes; "" for none
        #[arg(short, long, value_delimiter = ',', required = true)]
        routes: Vec<String>,
    },
    /// Give nodes the addresses that the configured prefixes call for
    Backfillips,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only those of this user
    #[arg(short, long, short_alias = 'n', alias = "namespace")]
    user: Option<String>,
    /// Accepted for older scripts: tags are always shown
    #[arg(short, long, hide = true)]
    tags: bool,
}

#[derive(Debug, Args)]
pub(super) struct Register {
    /// Owner of the node
    #[arg(short, long, short_alias = 'n', alias = "namespace")]
    user: String,
    /// The key that the login page shows
    #[arg(short, long)]
    key: String,
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// Id of the node
    #[arg(short, long)]
    identifier: u64,
}

#[derive(Debug, Args)]
pub(super) struct Expire {
    #[command(flatten)]
    node: Which,
    /// When (RFC 3339), instead of now
    #[arg(short, long, conflicts_with = "disable")]
    expiry: Option<Timestamp>,
    /// Never
    #[arg(short, long)]
    disable: bool,
}

pub(super) async fn run(
    command: NodesCommand,
    context: &mut Context<'_, '_>,
) -> anyhow::Result<()> {
    match command {
        NodesCommand::List(args) => list(args, context).await,
        NodesCommand::ListRoutes { identifier } => list_routes(identifier, context).await,
        NodesCommand::Register(args) => register(args, context).await,
        NodesCommand::Expire(args) => expire(args, context).await,
        NodesCommand::Rename { node, new_name } => {
            let path = format!("/node/{}/rename/{}", node.identifier, escape(&new_name));
            update(context, &path, json!({}), "Node renamed").await
        }
        NodesCommand::Delete(node) => delete(node.identifier, context).await,
        NodesCommand::Tag { node, tags } => {
            let path = format!("/node/{}/tags", node.identifier);
            update(context, &path, json!({ "tags": tags }), "Node updated").await
        }
        NodesCommand::ApproveRoutes { node, routes } => {
            let path = format!("/node/{}/approve_routes", node.identifier);
            update(context, &path, json!({ "routes": routes }), "Node updated").await
        }
        NodesCommand::Backfillips => backfill(context).await,
    }
}

async fn update(
    context: &mut Context<'_, '_>,
    path: &str,
    body: serde_json::Value,
    sentence: &str,
) -> anyhow::Result<()> {
    let answer = context.api()?.post(path, body).await?;
    context.out.result(sentence, answer.get("node"))
}

async fn list(args: List, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let query = args
        .user
        .map(|user| format!("?user={}", escape(&user)))
        .unwrap_or_default();
    let answer = context.api()?.get(&format!("/node{query}")).await?;
    let nodes = answer.get("nodes");
    let mut table = Table::new(&[
        "ID",
        "Hostname",
        "Name",
        "MachineKey",
        "NodeKey",
        "User",
        "Tags",
        "IP addresses",
        "Ephemeral",
        "Last seen",
        "Expiration",
        "Connected",
        "Expired",
    ]);
    for node in nodes.items() {
        table.row(row(node));
    }
    context.out.list(&table, nodes)
}

fn row(node: &Value) -> [Cell; 13] {
    let machine_key = node
        .text("machineKey")
        .parse()
        .map(|key: MachineKey| key.short());
    let node_key = node.text("nodeKey").parse().map(|key: NodeKey| key.short());
    let online = node.flag("online");
    let expired = time::of(node, "expiry").is_some_and(|at| at <= time::now());
    [
        node.text("id").into(),
        node.text("name").into(),
        node.text("givenName").into(),
        machine_key.unwrap_or_default().into(),
        node_key.unwrap_or_default().into(),
        node.get("user").text("name").into(),
        node.texts("tags").join("\n").into(),
        node.texts("ipAddresses").join("\n").into(),
        node.get("preAuthKey").flag("ephemeral").into(),
        time::shown(node, "lastSeen").into(),
        time::expiry(node, "expiry", "N/A"),
        Cell::judged(if online { "online" } else { "offline" }, online),
        Cell::judged(if expired { "yes" } else { "no" }, !expired),
    ]
}

async fn list_routes(id: Option<u64>, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let answer = context.api()?.get("/node").await?;
    let wanted = |node: &&Value| {
        let lists = ["approvedRoutes", "availableRoutes", "subnetRoutes"];
        let any = lists.iter().any(|list| !node.get(list).items().is_empty());
        any && id.is_none_or(|id| node.text("id") == id.to_string())
    };
    let nodes = answer
        .get("nodes")
        .items()
        .iter()
        .filter(wanted)
        .cloned()
        .collect();
    let nodes = Value::List(nodes);
    let mut table = Table::new(&[
        "ID",
        "Hostname",
        "Approved",
        "Available",
        "Serving (Primary)",
    ]);
    for node in nodes.items() {
        table.row([
            node.text("id").into(),
            node.text("givenName").into(),
            node.texts("approvedRoutes").join("\n").into(),
            node.texts("availableRoutes").join("\n").into(),
            node.texts("subnetRoutes").join("\n").into(),
        ]);
    }
    context.out.list(&table, &nodes)
}

async fn register(args: Register, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    context
        .out
        .note("notice: nodes register is deprecated: use auth register");
    let path = format!(
        "/node/register?user={}&key={}",
        escape(&args.user),
        escape(&args.key)
    );
    let answer = context.api()?.post(&path, json!({})).await?;
    let node = answer.get("node");
    context
        .out
        .result(&format!("Node {} registered", node.text("givenName")), node)
}

async fn expire(args: Expire, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let (body, sentence) = match (args.expiry, args.disable) {
        (_, true) => (json!({"disableExpiry": true}), "Node expiry disabled"),
        (Some(at), false) => (json!({ "expiry": at }), "Node expiration updated"),
        (None, false) => (json!({}), "Node expired"),
    };
    let path = format!("/node/{}/expire", args.node.identifier);
    update(context, &path, body, sentence).await
}

async fn delete(id: u64, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let answer = context.api()?.get(&format!("/node/{id}")).await?;
    let name = answer.get("node").text("givenName");
    if !context.confirm(
        &format!("Do you want to remove the node {name}?"),
        "Node not deleted",
    )? {
        return Ok(());
    }
    context.api()?.delete(&format!("/node/{id}")).await?;
    context.out.result(
        "Node deleted",
        &Value::object(&[("Result", "Node deleted")]),
    )
}

async fn backfill(context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let question = "Nodes get the addresses that the configured prefixes call for, and lose those \
                    of a family without one. Go on?";
    if !context.confirm(question, "Addresses not changed")? {
        return Ok(());
    }
    let answer = context
        .api()?
        .post("/node/backfillips?confirmed=true", json!({}))
        .await?;
    let changes = answer.texts("changes");
    if changes.is_empty() {
        return context.out.result("No addresses changed", &answer);
    }
    context.out.result(&changes.join("\n"), &answer)
}
