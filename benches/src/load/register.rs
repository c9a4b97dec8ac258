use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use super::quantile;
use crate::client::{CAPVER, Connection, Identity, Registration, fetch_server_key};

/// Clients that register new nodes, each one after another.
#[derive(Clone, Debug)]
pub struct Registrations {
    /// The replicas; client `n` uses the one at `n` modulo their number.
    pub servers: Vec<SocketAddr>,
    /// A reusable pre-auth key.
    pub auth_key: String,
    /// How many clients register at the same time.
    pub clients: usize,
    /// How long.
    pub seconds: Duration,
    /// Where the keys come from; another one for each run on the same cluster.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct RegisterRate {
    /// Acknowledged registrations.
    pub registered: usize,
    /// Acknowledged registrations per second.
    pub per_second: f64,
    /// Half of them took less, from the request to the answer.
    pub median: Duration,
    /// Ninety-nine of a hundred took less.
    pub p99: Duration,
}

impl Registrations {
    /// Registers until the time is up. Connections are opened before a registration is timed.
    ///
    /// # Errors
    /// When a registration fails or is refused: a rate with failures in it says nothing.
    pub async fn run(self) -> Result<RegisterRate> {
        let first = *self.servers.first().context("no server")?;
        let key = fetch_server_key(first).await?;
        let begin = Instant::now();
        let mut clients = JoinSet::new();
        for number in 0..self.clients {
            clients.spawn(register_until(
                self.clone(),
                number,
                key,
                begin + self.seconds,
            ));
        }
        let mut took = Vec::new();
        while let Some(client) = clients.join_next().await {
            took.extend(client??);
        }
        let elapsed = begin.elapsed();
        took.sort();
        #[expect(clippy::cast_precision_loss, reason = "a count below 2^52")]
        let per_second = took.len() as f64 / elapsed.as_secs_f64();
        Ok(RegisterRate {
            registered: took.len(),
            per_second,
            median: quantile(&took, 0.5),
            p99: quantile(&took, 0.99),
        })
    }
}

async fn register_until(
    load: Registrations,
    number: usize,
    key: [u8; 32],
    end: Instant,
) -> Result<Vec<Duration>> {
    let place = number
        .checked_rem(load.servers.len())
        .context("no server")?;
    let server = *load.servers.get(place).context("no server")?;
    let mut random = StdRng::seed_from_u64(load.seed.wrapping_add(u64::try_from(number)?));
    let mut took = Vec::new();
    while Instant::now() < end {
        let identity = Identity::generate(&mut random);
        let mut connection = Connection::open(server, &key, &identity, CAPVER).await?;
        let registration = Registration {
            auth_key: load.auth_key.clone(),
            hostname: format!("load-{:x}-{number}-{}", load.seed, took.len()),
            ..Registration::default()
        };
        let begin = Instant::now();
        let answer = connection.register(&registration).await?;
        took.push(begin.elapsed());
        ensure!(answer.authorized, "refused: {}", answer.error);
    }
    Ok(took)
}
