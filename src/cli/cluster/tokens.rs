//! `cluster join-token`: what admits new replicas. A token is shown once, when it is made.

use std::time::Duration;

use clap::Subcommand;
use serde_json::json;

use super::super::args::parse_life;
use super::super::client::escape;
use super::super::context::Context;
use super::super::table::Table;
use super::super::time;
use super::super::value::Value;
use super::members::Found;
use crate::types::Timestamp;

const TOKENS: &str = "/cluster/join-token";

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum JoinTokenCommand {
    /// Make a token that admits one new replica; this is the only time that it is shown
    #[command(visible_aliases = ["c", "new"])]
    Create {
        /// Life of the token, 7d at most
        #[arg(short, long, default_value = "1h", value_parser = parse_life)]
        expiration: Duration,
    },
    /// List the tokens that were made
    #[command(visible_alias = "ls")]
    List,
    /// Withdraw a token that was not used yet
    Revoke {
        /// Id of the token, as the list shows it
        id: String,
    },
}

pub(super) async fn run(
    command: JoinTokenCommand,
    context: &mut Context<'_, '_>,
) -> anyhow::Result<()> {
    match command {
        JoinTokenCommand::Create { expiration } => {
            let body = json!({ "expiration": time::after(expiration) });
            let made = context.api()?.post(TOKENS, body).await?;
            context.out.result(&made.text("joinToken"), &made)
        }
        JoinTokenCommand::List => list(context).await,
        JoinTokenCommand::Revoke { id } => {
            let answer = revoke(&id, context).await?;
            context.out.result("Join token revoked", &answer)
        }
    }
}

/// Makes the token for the place of a replica. Those made for it before are revoked, because nobody
/// can be shown them again: so whoever lost one, or its answer, asks again.
pub(super) async fn create_for(
    found: &Found,
    life: Duration,
    context: &mut Context<'_, '_>,
) -> anyhow::Result<Value> {
    let before = context.api()?.get(TOKENS).await?;
    let body = json!({ "expiration": time::after(life), "replaces": found.id });
    let made = context.api()?.post(TOKENS, body).await?;
    let place = found.id.to_string();
    // Whether one has expired is for the cluster's clock to say.
    let open = |token: &&Value| {
        token.text("replaces") == place && token.text("usedBy").is_empty() && !token.flag("revoked")
    };
    let tokens = before.get("joinTokens").items().iter();
    for older in tokens.filter(open) {
        let id = older.text("id");
        let until = time::shown(older, "expiration");
        let note = match revoke(&id, context).await {
            Ok(_) => format!(
                "join token {id} for the place of {}, made until {until}, is revoked: use this one \
                 instead",
                found.label
            ),
            // This token is shown once: nothing may come between.
            Err(error) => format!("join token {id} is not revoked: {error:#}"),
        };
        context.out.note(&note);
    }
    Ok(made)
}

async fn revoke(id: &str, context: &mut Context<'_, '_>) -> anyhow::Result<Value> {
    let path = format!("{TOKENS}/{}", escape(id));
    Ok(context.api()?.delete(&path).await?)
}

async fn list(context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let answer = context.api()?.get(TOKENS).await?;
    let (tokens, now) = (answer.get("joinTokens"), time::now());
    let mut table = Table::new(&["ID", "Expiration", "State", "Replaces"]);
    for token in tokens.items() {
        table.row([
            token.text("id").into(),
            time::expiry(token, "expiration", "-"),
            state(token, now).into(),
            token.text("replaces").into(),
        ]);
    }
    context.out.list(&table, tokens)
}

/// What has become of a token.
fn state(token: &Value, now: Timestamp) -> String {
    let used_by = token.text("usedBy");
    let expired = time::of(token, "expiration").is_some_and(|at| at <= now);
    if !used_by.is_empty() {
        format!("used by replica {used_by}")
    } else if token.flag("revoked") {
        "revoked".to_owned()
    } else if expired {
        "expired".to_owned()
    } else {
        "open".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expired_token_is_not_listed_as_open() {
        let now: Timestamp = "2025-06-15T12:00:00Z".parse().unwrap();
        let state = |members: &str| {
            let token = format!("{{{members}}}");
            state(&serde_json::from_str(&token).unwrap(), now)
        };
        let (later, now) = (
            r#""expiration":"2025-06-15T12:00:01Z""#,
            r#""expiration":"2025-06-15T12:00:00Z""#,
        );
        assert_eq!(state(later), "open");
        assert_eq!(state(now), "expired");
        assert_eq!(state(&format!(r#"{now},"revoked":true"#)), "revoked");
        let used = state(&format!(r#"{now},"usedBy":4"#));
        assert_eq!(used, "used by replica 4");
    }
}
