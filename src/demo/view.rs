//! What the demo shows: how to join, how to break it, and how the cluster is doing.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use comfy_table::{Table, presets};
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use super::Demo;

/// How often the view is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Clears the terminal from the view's first line down.
const CLEAR_BELOW: &str = "\x1b[J";

/// Says how to use what has come up.
pub(super) fn introduce(
    out: &mut dyn Write,
    server_url: &str,
    key: &str,
    demo: &mut Demo,
) -> anyhow::Result<()> {
    writeln!(out, "{} replicas serve {server_url}\n", demo.replicas.len())?;
    writeln!(
        out,
        "Join a device (the key may be used again and again for a day):\n"
    )?;
    writeln!(
        out,
        "    tailscale up --login-server {server_url} --auth-key {key}\n"
    )?;
    if let Some(first) = demo.replicas.first_mut() {
        writeln!(out, "Administer through any replica:\n")?;
        let config = first.config_path();
        writeln!(
            out,
            "    {} --config {} nodes list\n",
            demo.program.display(),
            config.display()
        )?;
        if let Some(pid) = first.pid() {
            writeln!(out, "Kill a replica, and see that nobody notices:\n")?;
            writeln!(out, "    kill -9 {pid}\n")?;
            writeln!(
                out,
                "Direct connections go on untouched. Clients of the dead replica stream from \
                 another within\nseconds; a killed leader is replaced in about two seconds. With \
                 one of three dead all goes on,\nwith two dead what is known is still served and \
                 changes wait.\n"
            )?;
        }
    }
    writeln!(out, "Ctrl-C drains the replicas and ends the demo.\n")?;
    Ok(())
}

/// Renews the view for ever: in place on a terminal, else whenever it differs.
pub(super) async fn follow(out: &mut dyn Write, demo: &mut Demo) -> anyhow::Result<()> {
    let in_place = std::io::stdout().is_terminal();
    let mut ticks = interval(RENEW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = String::new();
    loop {
        ticks.tick().await;
        let view = render(demo).await;
        if view == shown {
            continue;
        }
        if in_place && !shown.is_empty() {
            let lines = shown.lines().count();
            writeln!(out, "\x1b[{lines}A\r{CLEAR_BELOW}{view}")?;
        } else {
            writeln!(out, "{view}")?;
        }
        shown = view;
    }
}

async fn render(demo: &mut Demo) -> String {
    let status = demo
        .ask(&["cluster", "status"])
        .await
        .unwrap_or(Value::Null);
    let nodes = demo.ask(&["nodes", "list"]).await.unwrap_or(Value::Null);
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["replica", "process", "role", "streams", "log"]);
    for replica in &mut demo.replicas {
        let process = replica
            .pid()
            .map_or_else(|| "dead".to_owned(), |pid| format!("pid {pid}"));
        let member = member(&status, &replica.name);
        table.add_row([
            replica.name.clone(),
            process,
            role(&status, member),
            streams(member),
            replica.log_path().display().to_string(),
        ]);
    }
    let all = nodes.as_array().map_or(&[][..], Vec::as_slice);
    let online = all
        .iter()
        .filter(|node| node.get("online") == Some(&Value::Bool(true)))
        .count();
    format!("{table}\nnodes: {} ({online} online)", all.len())
}

fn member<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    let members = status.get("members")?.as_array()?;
    members
        .iter()
        .find(|member| member.get("name").and_then(Value::as_str) == Some(name))
}

fn role(status: &Value, member: Option<&Value>) -> String {
    let Some(member) = member else {
        return "not a member".to_owned();
    };
    let leads = status
        .get("leader")
        .is_some_and(|id| !id.is_null() && member.get("id") == Some(id));
    let votes = member.get("voter") == Some(&Value::Bool(true));
    match (leads, votes) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "learner",
    }
    .to_owned()
}

fn streams(member: Option<&Value>) -> String {
    let count = member
        .and_then(|member| member.get("announced")?.get("streams"))
        .and_then(Value::as_u64);
    count.map_or_else(|| "-".to_owned(), |count| count.to_string())
}
