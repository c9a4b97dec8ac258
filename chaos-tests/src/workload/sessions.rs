//! Nodes that connect, stay a while, move to another replica and leave; some offer the same routes,
//! which somebody grants and takes away. In the end some hold their streams and the others are gone,
//! for so long that everybody must know.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use hydrascale_benches::client::{CAPVER, Connection, Identity, fetch_server_key};
use rand::Rng as _;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    Client,
    api::Call,
    nodes::{auth_key, list, register, user},
};
use crate::{
    checker::sessions::SETTLED,
    history::{Answer, Op},
    outcome::Outcome,
};

const HOLDERS: usize = 5;
const ROUTERS: usize = 3;
/// What all routers offer.
const ROUTES: [&str; 2] = ["10.77.0.0/16", "10.78.0.0/16"];
/// Until the first message of a stream.
const OPEN_LIMIT: Duration = Duration::from_secs(5);
/// How long a stream is held, and how long a node is away, at most.
const HOLD_MAX: Duration = Duration::from_secs(10);
const AWAY_MAX: Duration = Duration::from_secs(14);
/// Between two looks at whether the run is over.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two lists, and between two changes of what is granted.
const PAUSE: Duration = Duration::from_millis(400);
/// Looks at the end.
const LISTS: usize = 3;

/// A node of this workload.
struct Holder {
    identity: Identity,
    server_key: [u8; 32],
    hostname: &'static str,
    routes: Vec<String>,
    /// Whether it holds its stream in the end.
    stays: bool,
    /// Set after the last list.
    listed: Arc<AtomicBool>,
}

pub(super) async fn spawn(
    client: &mut impl FnMut() -> Client,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let listed = spawn_holders(client, tasks, ("holder", HOLDERS), &[])
        .await?
        .0;
    tasks.spawn(look(client(), Vec::new(), listed));
    Ok(())
}

pub(super) async fn spawn_routers(
    client: &mut impl FnMut() -> Client,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let routes = ROUTES.map(str::to_owned);
    let (listed, keys) = spawn_holders(client, tasks, ("router", ROUTERS), &routes).await?;
    let mut looker = client();
    let nodes = list(&mut looker).await?.context("no list of nodes")?;
    let routers = nodes
        .into_iter()
        .filter(|node| keys.contains(&node.node_key));
    let ids = routers.map(|node| node.id).collect();
    tasks.spawn(look(looker, ids, listed));
    Ok(())
}

/// Lets nodes in and starts them; gives what ends them, and their keys.
async fn spawn_holders(
    client: &mut impl FnMut() -> Client,
    tasks: &mut JoinSet<Result<()>>,
    (hostname, count): (&'static str, usize),
    routes: &[String],
) -> Result<(Arc<AtomicBool>, Vec<String>)> {
    let mut first = client();
    let server_key = fetch_server_key(first.address()?).await?;
    let user = user(&mut first, &format!("{hostname}s")).await?;
    let key = auth_key(&mut first, &user, false).await?;
    let listed = Arc::new(AtomicBool::new(false));
    let mut keys = Vec::new();
    for number in 0..count {
        let identity = Identity::generate(&mut first.random);
        let joined = register(&mut first, &server_key, &key, &identity, hostname, routes).await?;
        ensure!(joined, "a {hostname} was not let in");
        keys.push(identity.node_key());
        let holder = Holder {
            identity,
            server_key,
            hostname,
            routes: routes.to_vec(),
            stays: number % 2 == 0,
            listed: Arc::clone(&listed),
        };
        tasks.spawn(live(client(), holder));
    }
    Ok((listed, keys))
}

async fn live(mut client: Client, holder: Holder) -> Result<()> {
    while !client.is_stopped() {
        let lasts = client.random.random_range(HOLD_MAX / 10..HOLD_MAX);
        let until = Instant::now() + lasts;
        hold(&mut client, &holder, |client| {
            client.is_stopped() || Instant::now() >= until
        })
        .await?;
        // Half of the time it only moves.
        if client.random.random() {
            let away = Instant::now() + client.random.random_range(Duration::ZERO..AWAY_MAX);
            while !client.is_stopped() && Instant::now() < away {
                client.pause().await;
            }
        }
    }
    while holder.stays && !holder.listed.load(Ordering::Relaxed) {
        hold(&mut client, &holder, |_| {
            holder.listed.load(Ordering::Relaxed)
        })
        .await?;
    }
    Ok(())
}

/// Opens a map stream and keeps it until it is `over`, or breaks.
async fn hold(client: &mut Client, holder: &Holder, over: impl Fn(&Client) -> bool) -> Result<()> {
    let address = client.address()?;
    let node_key = holder.identity.node_key();
    let id = client
        .recorder
        .invoke(client.process, Op::Hold { node_key });
    let opened = timeout(OPEN_LIMIT, async {
        let Holder {
            identity,
            server_key,
            hostname,
            routes,
            ..
        } = holder;
        let mut connection = Connection::open(address, server_key, identity, CAPVER).await?;
        let mut stream = connection.stream_offering(hostname, routes).await?;
        let first = stream.next().await?;
        anyhow::Ok((stream, first))
    });
    let opened = opened.await;
    if let Ok(Ok((mut stream, Some(_)))) = opened {
        client.recorder.sight(id, 0);
        while !over(client) {
            // No news is no end.
            if let Ok(Ok(None) | Err(_)) = timeout(LOOK_EVERY, stream.next()).await {
                break;
            }
        }
    } else {
        client.pause().await;
    }
    client.recorder.complete(id, Outcome::Ok, Answer::Nothing);
    Ok(())
}

/// Lists nodes, and grants and takes away routes, until the run is over; waits until everybody must
/// know who is there, and looks at that.
async fn look(mut client: Client, routers: Vec<String>, listed: Arc<AtomicBool>) -> Result<()> {
    while !client.is_stopped() {
        list(&mut client).await?;
        if !routers.is_empty() {
            grant(&mut client, &routers).await?;
        }
        tokio::time::sleep(PAUSE).await;
    }
    tokio::time::sleep(SETTLED).await;
    for _ in 0..LISTS {
        list(&mut client).await?;
        tokio::time::sleep(PAUSE).await;
    }
    listed.store(true, Ordering::Relaxed);
    Ok(())
}

async fn grant(client: &mut Client, routers: &[String]) -> Result<()> {
    let place = client.random.random_range(0..routers.len());
    let node = routers.get(place).context("a router")?.clone();
    let mut routes: Vec<String> = ROUTES.map(str::to_owned).into();
    // Mostly both, or there would seldom be two to choose from.
    routes.retain(|_| client.random.random_range(0..4) > 0);
    let call = Call::of(
        "POST",
        format!("/node/{node}/approve_routes"),
        Some(json!({ "routes": routes })),
    );
    let op = Op::Approve { node, routes };
    client
        .ask(op, call, |_| Ok(Answer::Nothing))
        .await
        .map(drop)
}
