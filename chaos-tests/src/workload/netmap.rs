//! One client renames a node again and again, others follow it by their map streams, each on any
//! replica and on another one when its stream ends. The name holds a number that is never used
//! twice. In the end the streams stay for so long that each must show the last name; they also note
//! which other nodes they show.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use hydrascale_benches::client::{CAPVER, Connection, Identity, MapStream, fetch_server_key};
use rand::Rng as _;
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    Client,
    api::{Call, Reply},
    nodes::{auth_key, register, user},
    users::value_of,
};
use crate::{
    checker::SHOWN,
    history::{Answer, Op, OpId},
    outcome::Outcome,
};

const WATCHERS: usize = 4;
/// What the watched node's name begins with; also the register.
const KEY: &str = "watched";
/// Until the first message of a stream.
const OPEN_LIMIT: Duration = Duration::from_secs(5);
/// A stream is left for another one after about this long, so that many are begun.
const STREAM_MAX: Duration = Duration::from_secs(12);
/// Between two looks at whether the run is over.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Renames: each is seen by every stream.
const RENAME_PAUSE: Duration = Duration::from_millis(150);
/// After the last fault one more rename is acknowledged, unless the cluster hangs for this long.
const LAST_LIMIT: Duration = Duration::from_secs(20);
/// From the last rename on streams stay open for so long that they are judged.
const STAY: Duration = SHOWN.saturating_add(Duration::from_secs(1));

pub(super) async fn spawn(
    client: &mut impl FnMut() -> Client,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let mut first = client();
    let server_key = fetch_server_key(first.address()?).await?;
    let user = user(&mut first, "watchers").await?;
    let key = auth_key(&mut first, &user, false).await?;
    let watched = Identity::generate(&mut first.random);
    let joined = register(&mut first, &server_key, &key, &watched, "watched", &[]).await?;
    ensure!(joined, "the watched node was not let in");
    let id = id_of(&mut first, &watched.node_key()).await?;
    // The first value, before anybody looks.
    while !rename(&mut first, &id).await? {
        first.pause().await;
    }
    let shown = Arc::new(AtomicBool::new(false));
    for _ in 0..WATCHERS {
        let identity = Identity::generate(&mut first.random);
        let joined = register(&mut first, &server_key, &key, &identity, "watcher", &[]).await?;
        ensure!(joined, "a watcher was not let in");
        let watcher = Watcher {
            identity,
            server_key,
            watched: watched.node_key(),
            shown: Arc::clone(&shown),
        };
        tasks.spawn(watch(client(), watcher));
    }
    tasks.spawn(rename_on(client(), id, shown));
    Ok(())
}

/// A node that follows another one.
struct Watcher {
    identity: Identity,
    server_key: [u8; 32],
    /// The key of the other one.
    watched: String,
    /// Set when every stream must have shown the last name.
    shown: Arc<AtomicBool>,
}

async fn id_of(client: &mut Client, node_key: &str) -> Result<String> {
    let list = client.insist(Call::get("/node")).await?;
    let mut nodes = list.body["nodes"].as_array().into_iter().flatten();
    let node = nodes.find(|node| node["nodeKey"] == node_key);
    let id = node.and_then(|node| node["id"].as_str());
    Ok(id.context("the watched node is not listed")?.to_owned())
}

async fn rename_on(mut client: Client, id: String, shown: Arc<AtomicBool>) -> Result<()> {
    while !client.is_stopped() {
        rename(&mut client, &id).await?;
        if client.random.random_range(0..4) == 0 {
            read(&mut client, &id).await?;
        }
        tokio::time::sleep(RENAME_PAUSE).await;
    }
    let limit = Instant::now() + LAST_LIMIT;
    while !rename(&mut client, &id).await? && Instant::now() < limit {
        client.pause().await;
    }
    read(&mut client, &id).await?;
    tokio::time::sleep(STAY).await;
    shown.store(true, Ordering::Relaxed);
    Ok(())
}

async fn rename(client: &mut Client, id: &str) -> Result<bool> {
    let (key, value) = (KEY.to_owned(), client.fresh());
    let call = Call::of("POST", format!("/node/{id}/rename/{KEY}-v{value}"), None);
    let done = client
        .ask(Op::Write { key, value }, call, |_| Ok(Answer::Nothing))
        .await?;
    Ok(done.is_some())
}

async fn read(client: &mut Client, id: &str) -> Result<()> {
    let op = Op::Read {
        key: KEY.to_owned(),
    };
    let value = |reply: &Reply| value_of(&reply.body["node"]["givenName"], KEY);
    client
        .ask(op, Call::get(format!("/node/{id}")), value)
        .await?;
    Ok(())
}

async fn watch(mut client: Client, watcher: Watcher) -> Result<()> {
    let Watcher {
        identity,
        server_key,
        ..
    } = &watcher;
    while !watcher.shown.load(Ordering::Relaxed) {
        let address = client.address()?;
        let id = client.recorder.invoke(
            client.process,
            Op::Watch {
                key: KEY.to_owned(),
            },
        );
        let opened = timeout(OPEN_LIMIT, async {
            let mut connection = Connection::open(address, server_key, identity, CAPVER).await?;
            connection.stream("watcher").await
        });
        let (outcome, answer) = match opened.await {
            Ok(Ok(stream)) => (Outcome::Ok, follow(&mut client, id, stream, &watcher).await),
            Ok(Err(_)) | Err(_) => (Outcome::Failed, Answer::Nothing),
        };
        client.recorder.complete(id, outcome, answer);
        client.pause().await;
    }
    Ok(())
}

/// Notes what a stream shows until it ends, or is left; says whether it began with a warning that
/// this may be old.
async fn follow(client: &mut Client, id: OpId, mut stream: MapStream, watcher: &Watcher) -> Answer {
    let leave = Instant::now() + client.random.random_range(STREAM_MAX / 4..STREAM_MAX);
    // In the end none is left for another one, which would begin with what is true.
    let stays = |client: &Client| {
        if client.is_stopped() {
            !watcher.shown.load(Ordering::Relaxed)
        } else {
            Instant::now() < leave
        }
    };
    let mut peer = None;
    let mut peers = BTreeSet::new();
    let mut answer = Answer::Nothing;
    while stays(client) {
        match timeout(LOOK_EVERY, stream.next()).await {
            Ok(Ok(Some(message))) => {
                // Before the first value, or with it.
                if peer.is_none() && warns(&message) {
                    answer = Answer::Stale;
                }
                for value in values(&message, &watcher.watched, &mut peer) {
                    client.recorder.sight(id, value);
                }
                let (came, left) = apply(&message, &mut peers);
                if !came.is_empty() || !left.is_empty() {
                    client.recorder.peers(id, came, left);
                }
            }
            Ok(Ok(None) | Err(_)) => break,
            Err(_) => {}
        }
    }
    answer
}

/// Whether a message has a warning for people.
fn warns(message: &Value) -> bool {
    let warnings = message["DisplayMessages"].as_object();
    warnings.is_some_and(|warnings| warnings.values().any(|warning| !warning.is_null()))
}

/// The values of the watched node's name in a message.
fn values(message: &Value, watched: &str, peer: &mut Option<Value>) -> Vec<u64> {
    let lists = ["Peers", "PeersChanged"];
    let nodes = lists
        .iter()
        .filter_map(|list| message[*list].as_array())
        .flatten();
    let mut values = Vec::new();
    for node in nodes {
        let is_watched = node["Key"] == watched || peer.as_ref() == Some(&node["ID"]);
        let label = node["Name"]
            .as_str()
            .and_then(|name| name.split('.').next());
        if let (true, Some(label)) = (is_watched, label) {
            *peer = Some(node["ID"].clone());
            if let Ok(Answer::Value { value }) = value_of(&Value::from(label), KEY) {
                values.push(value);
            }
        }
    }
    values
}

/// Brings the ids of the peers that a stream shows up to date, as clients do; gives those that came
/// and those that left.
fn apply(message: &Value, peers: &mut BTreeSet<String>) -> (Vec<String>, Vec<String>) {
    let listed = |list: &str| message[list].as_array().into_iter().flatten();
    let ids = |list: &str| -> BTreeSet<String> {
        let ids = listed(list).filter_map(|node| node["ID"].as_i64());
        ids.map(|id| id.to_string()).collect()
    };
    let before = peers.clone();
    let whole = ids("Peers");
    // A list that is not empty is complete, and then nothing else of the message counts.
    if whole.is_empty() {
        for id in listed("PeersRemoved").filter_map(Value::as_i64) {
            peers.remove(&id.to_string());
        }
        peers.extend(ids("PeersChanged"));
    } else {
        *peers = whole;
    }
    let came = peers.difference(&before).cloned().collect();
    let left = before.difference(peers).cloned().collect();
    (came, left)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_found_in_full_maps_and_in_deltas() {
        let mut peer = None;
        let node = |name: &str| json!({ "ID": 7, "Key": "nodekey:1", "Name": name });
        let full =
            json!({ "Peers": [{ "ID": 3, "Key": "nodekey:2" }, node("watched-v4.tail.test.")] });
        assert_eq!(values(&full, "nodekey:1", &mut peer), [4]);
        let delta = json!({ "PeersChanged": [node("watched-v5.tail.test.")] });
        assert_eq!(values(&delta, "nodekey:1", &mut peer), [5]);
        assert!(warns(
            &json!({ "DisplayMessages": { "a": { "Title": "old" } } })
        ));
        assert!(!warns(&json!({ "DisplayMessages": { "a": null } })) && !warns(&full));
        let other = json!({ "PeersRemoved": [9] });
        assert!(values(&other, "nodekey:1", &mut peer).is_empty());
    }

    #[test]
    fn peers_come_and_leave_as_in_a_client() {
        let mut peers = BTreeSet::new();
        let mut told = |message: Value| {
            let (came, left) = apply(&message, &mut peers);
            (came.join(" "), left.join(" "))
        };
        let of = |came: &str, left: &str| (came.to_owned(), left.to_owned());
        let nodes = |ids: &[i64]| {
            let nodes = ids.iter().map(|id| json!({ "ID": id }));
            nodes.collect::<Vec<Value>>()
        };
        assert_eq!(told(json!({ "Peers": nodes(&[1, 2]) })), of("1 2", ""));
        let delta = json!({ "PeersRemoved": [1, 9], "PeersChanged": nodes(&[2, 3]) });
        assert_eq!(told(delta), of("3", "1"));
        // What is not known is not patched.
        let patch = json!({ "PeersChangedPatch": [{ "NodeID": 1, "Online": true }] });
        assert_eq!(told(patch), of("", ""));
        assert_eq!(told(json!({ "PeersChanged": nodes(&[1]) })), of("1", ""));
        assert_eq!(told(json!({ "Peers": nodes(&[3, 4]) })), of("4", "1 2"));
        assert_eq!(told(json!({ "Peers": [] })), of("", ""));
    }
}
