//! One register with versions: the policy, whose text holds a number that is never used twice. It is
//! replaced with `If-Match`, by everybody at once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use data_encoding::HEXLOWER;
use rand::Rng as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;

use super::{Client, api::Call, spawn_each};
use crate::history::{Answer, Op, Version};

const CLIENTS: usize = 3;
const KEY: &str = "policy";
const MARK: &str = "// value ";

/// Values by the ETag of the text that holds them, from before they are sent.
type Tags = Arc<Mutex<BTreeMap<String, u64>>>;

pub(super) async fn spawn(
    client: &mut impl FnMut() -> Client,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let tags = Tags::default();
    let mut first = client();
    // Without a policy there is none to read or to compare with.
    while !set(&mut first, &tags, None).await? {
        first.pause().await;
    }
    spawn_each(CLIENTS, client, tasks, |client| {
        work(client, Arc::clone(&tags))
    });
    Ok(())
}

async fn work(mut client: Client, tags: Tags) -> Result<()> {
    while !client.is_stopped() {
        match client.random.random_range(0..10) {
            0 => versions(&mut client, &tags).await?,
            1 => drop(set(&mut client, &tags, None).await?),
            2..4 => drop(read(&mut client).await?),
            _ => {
                if let Some(from) = read(&mut client).await? {
                    set(&mut client, &tags, Some(from)).await?;
                }
            }
        }
        client.pause().await;
    }
    read(&mut client).await?;
    versions(&mut client, &tags).await
}

/// The value in force, if the replica answers.
async fn read(client: &mut Client) -> Result<Option<u64>> {
    let op = Op::Read {
        key: KEY.to_owned(),
    };
    let value = |body: &Value| value_of(&body["policy"]);
    let read = |body: &Value| {
        Ok(Answer::Value {
            value: value(body)?,
        })
    };
    let reply = client
        .ask(op, Call::get("/policy"), |reply| read(&reply.body))
        .await?;
    reply.map(|reply| value(&reply.body)).transpose()
}

/// Sets a fresh value, if `from` still is in force; says whether that is certain to have happened.
async fn set(client: &mut Client, tags: &Tags, from: Option<u64>) -> Result<bool> {
    let (key, to) = (KEY.to_owned(), client.fresh());
    tags.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(tag(to), to);
    let op = match from {
        Some(from) => Op::Swap { key, from, to },
        None => Op::Write { key, value: to },
    };
    let call = Call {
        if_match: from.map(tag),
        ..Call::of("PUT", "/policy", Some(json!({ "policy": text(to) })))
    };
    let done = client.ask(op, call, |_| Ok(Answer::Nothing)).await?;
    Ok(done.is_some())
}

async fn versions(client: &mut Client, tags: &Tags) -> Result<()> {
    let op = Op::Versions {
        key: KEY.to_owned(),
    };
    let call = Call::get("/policy/history");
    client
        .ask(op, call, |reply| versions_of(&reply.body, tags))
        .await?;
    Ok(())
}

fn versions_of(body: &Value, tags: &Tags) -> Result<Answer> {
    let tags = tags.lock().unwrap_or_else(PoisonError::into_inner);
    let version = |one: &Value| {
        let value = tags.get(one["etag"].as_str().context("no etag")?);
        Ok(Version {
            number: one["version"].as_u64().context("no version")?,
            value: *value.with_context(|| format!("nobody made the text of {one}"))?,
        })
    };
    let versions = body["versions"].as_array().context("no versions")?;
    let versions: Result<Vec<Version>> = versions.iter().map(version).collect();
    Ok(Answer::Versions {
        versions: versions?,
    })
}

fn text(value: u64) -> String {
    format!(
        "{MARK}{value}\n{{\"acls\": [{{\"action\": \"accept\", \"src\": [\"*\"], \"dst\": [\"*:*\"]}}]}}"
    )
}

/// The ETag is the SHA-256 of the text.
fn tag(value: u64) -> String {
    HEXLOWER.encode(&Sha256::digest(text(value)))
}

fn value_of(policy: &Value) -> Result<u64> {
    let line = policy.as_str().and_then(|text| text.lines().next());
    let digits = line.and_then(|line| line.strip_prefix(MARK));
    let value = digits.and_then(|digits| digits.parse().ok());
    value.with_context(|| format!("{policy} is no policy of this run"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_holds_its_value_and_is_found_by_its_tag() {
        assert_eq!(value_of(&Value::from(text(17))).unwrap(), 17);
        assert!(value_of(&Value::from("{}")).is_err());
        let tags = Tags::default();
        tags.lock().unwrap().insert(tag(17), 17);
        let body = json!({ "versions": [{ "version": 3, "etag": tag(17) }] });
        let version = Version {
            number: 3,
            value: 17,
        };
        assert_eq!(
            versions_of(&body, &tags).unwrap(),
            Answer::Versions {
                versions: vec![version]
            }
        );
        let foreign = json!({ "versions": [{ "version": 3, "etag": tag(18) }] });
        assert!(versions_of(&foreign, &tags).is_err());
    }
}
