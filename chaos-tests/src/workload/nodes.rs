//! Nodes race for single-use keys and register again after silence; others list and delete them.

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use hydrascale_benches::client::{CAPVER, Connection, Identity, Registration, fetch_server_key};
use rand::Rng as _;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};

use super::{
    Client,
    api::{Call, Reply},
    spawn_each,
};
use crate::{
    history::{Answer, Listed, Op},
    outcome::{Request, Seen, classify},
};

const CLIENTS: usize = 4;
/// Nodes that are let race for one single-use key.
const RACERS: usize = 3;
/// Above this, nodes are deleted rather than made: lists go into the history.
const NODES_MAX: usize = 40;
/// After this a registration has met silence.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// A key of which every attempt meets silence is given up: its node may have come in or not.
const ATTEMPTS_MAX: usize = 8;

/// A pre-auth key.
#[derive(Clone)]
pub(super) struct AuthKey {
    id: String,
    secret: String,
    single_use: bool,
}

/// What the clients of this workload share.
#[derive(Clone)]
struct Shared {
    user: String,
    server_key: [u8; 32],
    /// Single-use keys, once for each node that shall try.
    keys: Arc<Mutex<VecDeque<AuthKey>>>,
    /// The ids of all single-use keys: only nodes that they let in are deleted.
    made: Arc<Mutex<BTreeSet<String>>>,
}

impl Shared {
    fn made(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ours(&self, node: &Listed) -> bool {
        let key = node.auth_key.as_ref();
        key.is_some_and(|key| self.made().contains(key))
    }
}

pub(super) async fn spawn(
    client: &mut impl FnMut() -> Client,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let mut first = client();
    let shared = Shared {
        user: user(&mut first, "racers").await?,
        server_key: fetch_server_key(first.address()?).await?,
        keys: Arc::default(),
        made: Arc::default(),
    };
    spawn_each(CLIENTS, client, tasks, |client| {
        work(client, shared.clone())
    });
    Ok(())
}

/// Makes a user; gives the id.
pub(super) async fn user(client: &mut Client, name: &str) -> Result<String> {
    let call = Call::of("POST", "/user", Some(json!({ "name": name })));
    let made = client.insist(call).await?;
    Ok(made.body["user"]["id"]
        .as_str()
        .context("the user's id")?
        .to_owned())
}

/// Makes a key for nodes of a user.
pub(super) async fn auth_key(client: &mut Client, user: &str, single_use: bool) -> Result<AuthKey> {
    let body =
        json!({ "user": user, "reusable": !single_use, "expiration": "2100-01-01T00:00:00Z" });
    let made = client
        .insist(Call::of("POST", "/preauthkey", Some(body)))
        .await?;
    let field = |name: &str| {
        let text = made.body["preAuthKey"][name].as_str();
        Ok::<_, anyhow::Error>(
            text.with_context(|| format!("the key's {name}"))?
                .to_owned(),
        )
    };
    Ok(AuthKey {
        id: field("id")?,
        secret: field("key")?,
        single_use,
    })
}

async fn work(mut client: Client, shared: Shared) -> Result<()> {
    let mut known: Vec<Listed> = Vec::new();
    while !client.is_stopped() {
        match client.random.random_range(0..20) {
            0..2 => {
                if let Some(nodes) = list(&mut client).await? {
                    known = nodes;
                    known.retain(|node| shared.is_ours(node));
                }
            }
            2..8 if !known.is_empty() => delete(&mut client, &mut known).await?,
            _ if known.len() > NODES_MAX => delete(&mut client, &mut known).await?,
            _ => race(&mut client, &shared).await?,
        }
        client.pause().await;
    }
    list(&mut client).await.map(drop)
}

async fn race(client: &mut Client, shared: &Shared) -> Result<()> {
    let waiting = || shared.keys.lock().unwrap_or_else(PoisonError::into_inner);
    let taken = waiting().pop_front();
    let key = match taken {
        Some(key) => key,
        None => {
            let key = match auth_key(client, &shared.user, true).await {
                // The run may end before the cluster makes one.
                Err(_) if client.is_stopped() => return Ok(()),
                made => made?,
            };
            shared.made().insert(key.id.clone());
            waiting().extend(vec![key.clone(); RACERS - 1]);
            key
        }
    };
    let identity = Identity::generate(&mut client.random);
    register(client, &shared.server_key, &key, &identity, "racer", &[])
        .await
        .map(drop)
}

/// Registers a node as a client would: the same again, elsewhere, until there is an answer. Says
/// whether it was let in.
pub(super) async fn register(
    client: &mut Client,
    server_key: &[u8; 32],
    key: &AuthKey,
    identity: &Identity,
    hostname: &str,
    routes: &[String],
) -> Result<bool> {
    for _ in 0..ATTEMPTS_MAX {
        let op = Op::Register {
            auth_key: key.id.clone(),
            single_use: key.single_use,
            node_key: identity.node_key(),
        };
        let registration = Registration {
            auth_key: key.secret.clone(),
            hostname: hostname.to_owned(),
            routes: routes.to_vec(),
            ..Registration::default()
        };
        let address = client.address()?;
        let id = client.recorder.invoke(client.process, op);
        let (seen, text) = attempt(address, server_key, identity, &registration).await;
        let outcome = classify(Request::Registration, seen);
        let answer = text.map_or(Answer::Nothing, |text| Answer::Text { text });
        client.recorder.complete(id, outcome, answer);
        match seen {
            Seen::Admitted => return Ok(true),
            Seen::Refused => return Ok(false),
            Seen::NotSent | Seen::NoAnswer | Seen::Status(_) => client.pause().await,
        }
    }
    Ok(false)
}

/// Registers once; gives what was seen, and the text of a refusal.
async fn attempt(
    address: SocketAddr,
    server_key: &[u8; 32],
    identity: &Identity,
    registration: &Registration,
) -> (Seen, Option<String>) {
    let opening = Connection::open(address, server_key, identity, CAPVER);
    // The request comes after the handshake.
    let Ok(Ok(mut connection)) = timeout(ANSWER_LIMIT, opening).await else {
        return (Seen::NotSent, None);
    };
    match timeout(ANSWER_LIMIT, connection.register(registration)).await {
        Ok(Ok(answer)) if answer.authorized && answer.error.is_empty() => (Seen::Admitted, None),
        Ok(Ok(answer)) => (Seen::Refused, Some(answer.error)),
        Ok(Err(_)) | Err(_) => (Seen::NoAnswer, None),
    }
}

/// All nodes, if the replica answers.
pub(super) async fn list(client: &mut Client) -> Result<Option<Vec<Listed>>> {
    let nodes = |reply: &Reply| nodes_of(&reply.body);
    let read = |reply: &Reply| {
        Ok(Answer::Nodes {
            nodes: nodes(reply)?,
        })
    };
    let reply = client.ask(Op::List, Call::get("/node"), read).await?;
    reply.as_ref().map(nodes).transpose()
}

async fn delete(client: &mut Client, known: &mut Vec<Listed>) -> Result<()> {
    let place = client.random.random_range(0..known.len());
    let node = known.swap_remove(place).id;
    let call = Call::of("DELETE", format!("/node/{node}"), None);
    let op = Op::Delete { node };
    client.ask(op, call, |_| Ok(Answer::Nothing)).await?;
    Ok(())
}

fn nodes_of(body: &Value) -> Result<Vec<Listed>> {
    body["nodes"]
        .as_array()
        .context("no nodes")?
        .iter()
        .map(node_of)
        .collect()
}

fn node_of(node: &Value) -> Result<Listed> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let texts = |name: &str| -> Vec<String> {
        let list = node[name].as_array().into_iter().flatten();
        list.filter_map(text).collect()
    };
    let mut granted = texts("approvedRoutes");
    granted.retain(|route| texts("availableRoutes").contains(route));
    let addresses: Result<Vec<_>, _> = texts("ipAddresses").iter().map(|one| one.parse()).collect();
    Ok(Listed {
        id: text(&node["id"]).context("a node without id")?,
        node_key: text(&node["nodeKey"]).context("a node without key")?,
        addresses: addresses?,
        auth_key: text(&node["preAuthKey"]["id"]),
        routes: texts("subnetRoutes"),
        granted,
        online: node["online"].as_bool().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_node_is_read() {
        let body = json!({ "nodes": [{
            "id": "7", "nodeKey": "nodekey:1", "ipAddresses": ["100.64.0.1", "fd7a::1"],
            "preAuthKey": { "id": "3" }, "subnetRoutes": ["10.0.0.0/8"],
            "availableRoutes": ["10.0.0.0/8"], "approvedRoutes": ["10.0.0.0/8", "10.9.0.0/16"],
            "online": true,
        }] });
        let nodes = nodes_of(&body).unwrap();
        assert_eq!(nodes.len(), 1);
        assert_eq!(
            (&*nodes[0].id, nodes[0].auth_key.as_deref()),
            ("7", Some("3"))
        );
        assert_eq!(nodes[0].addresses.len(), 2);
        assert_eq!(nodes[0].granted, ["10.0.0.0/8"]);
        assert!(nodes[0].online);
        assert!(nodes_of(&json!({ "nodes": [{}] })).is_err());
    }
}
