//! Registrations without a pause, by whichever replica answers.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hydrascale_benches::client::{CAPVER, Connection, Identity, Registration, fetch_server_key};
use tokio::task::JoinHandle;

use crate::cluster::Node;

/// After this a registration's outcome is unknown and it is tried again, elsewhere.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(25);

/// Registers nodes one after another, with whichever replica is there.
pub struct Load {
    servers: Arc<Mutex<Vec<SocketAddr>>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<Vec<String>>>,
}

impl Load {
    /// Begins with `server`; more come by [`Self::serve`].
    pub fn start(server: SocketAddr, auth_key: String) -> Self {
        let servers = Arc::new(Mutex::new(vec![server]));
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(register_all(
            Arc::clone(&servers),
            auth_key,
            Arc::clone(&stop),
        ));
        Self {
            servers,
            stop,
            task,
        }
    }

    /// Uses a further replica.
    pub fn serve(&self, server: SocketAddr) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.push(server);
    }

    /// Stops, and gives the node keys that were acknowledged.
    ///
    /// # Errors
    /// When a valid key was refused.
    pub async fn finish(self) -> Result<Vec<String>> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

async fn register_all(
    servers: Arc<Mutex<Vec<SocketAddr>>>,
    auth_key: String,
    stop: Arc<AtomicBool>,
) -> Result<Vec<String>> {
    let nth = |turn: usize| {
        let servers = servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.get(turn % servers.len().max(1)).copied()
    };
    let key = fetch_server_key(nth(0).context("a server")?).await?;
    let mut acknowledged = Vec::new();
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        let identity = Identity::generate(&mut rand::rng());
        let registration = Registration {
            auth_key: auth_key.clone(),
            hostname: format!("n{turn}"),
            ..Registration::default()
        };
        // As a client would: the same registration again, elsewhere, until it is answered.
        while !stop.load(Ordering::Relaxed) {
            turn += 1;
            let server = nth(turn).context("a server")?;
            let attempt = tokio::time::timeout(ANSWER_LIMIT, async {
                let mut connection = Connection::open(server, &key, &identity, CAPVER).await?;
                connection.register(&registration).await
            });
            if let Ok(Ok(answer)) = attempt.await {
                ensure!(
                    answer.authorized,
                    "a valid key was refused: {}",
                    answer.error
                );
                acknowledged.push(identity.node_key());
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(acknowledged)
}

/// Checks that each acknowledged node key is among the nodes.
///
/// # Errors
/// Names one that is lost.
pub fn check_kept(acknowledged: &[String], nodes: &[Node]) -> Result<()> {
    let listed: BTreeSet<&str> = nodes.iter().map(|node| node.node_key.as_str()).collect();
    for key in acknowledged {
        ensure!(
            listed.contains(key.as_str()),
            "{key} was acknowledged and is lost"
        );
    }
    Ok(())
}
