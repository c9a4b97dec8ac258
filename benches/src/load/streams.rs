use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use crate::client::{CAPVER, Connection, Identity, MapStream, Registration, fetch_server_key};

/// Nodes that join at the same time.
const AT_ONCE: usize = 16;

/// Map streams of as many nodes, read as they come. Closed when dropped.
pub struct Streams {
    readers: JoinSet<Result<()>>,
    messages: Arc<AtomicUsize>,
}

impl Streams {
    /// Registers `count` nodes and opens a map stream for each, spread over the replicas. Every
    /// stream has had its first message.
    ///
    /// # Errors
    /// When one of them fails or is refused.
    pub async fn open(
        servers: &[SocketAddr],
        auth_key: &str,
        count: usize,
        seed: u64,
    ) -> Result<Self> {
        let key = fetch_server_key(*servers.first().context("no server")?).await?;
        let open = async |number: usize| open_one(servers, &key, auth_key, seed, number).await;
        let mut opening = stream::iter((0..count).map(open)).buffer_unordered(AT_ONCE);
        let mut streams = Self {
            readers: JoinSet::new(),
            messages: Arc::default(),
        };
        // Read from the start: each new node is news for all before it.
        while let Some((connection, stream)) = opening.try_next().await? {
            streams
                .readers
                .spawn(read(connection, stream, Arc::clone(&streams.messages)));
        }
        Ok(streams)
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.readers.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.readers.is_empty()
    }

    /// Messages read so far, the first of each stream and keep-alives not counted.
    pub fn messages(&self) -> usize {
        self.messages.load(Ordering::Relaxed)
    }

    /// Fails when a stream has ended.
    ///
    /// # Errors
    /// With what ended the first one.
    pub fn check(&mut self) -> Result<()> {
        match self.readers.try_join_next() {
            None => Ok(()),
            Some(ended) => {
                ended??;
                bail!("the server ended a stream")
            }
        }
    }
}

async fn open_one(
    servers: &[SocketAddr],
    key: &[u8; 32],
    auth_key: &str,
    seed: u64,
    number: usize,
) -> Result<(Connection, MapStream)> {
    let place = number.checked_rem(servers.len()).context("no server")?;
    let server = *servers.get(place).context("no server")?;
    let mut random = StdRng::seed_from_u64(seed.wrapping_add(u64::try_from(number)?));
    let identity = Identity::generate(&mut random);
    let mut connection = Connection::open(server, key, &identity, CAPVER).await?;
    let hostname = format!("stream-{seed:x}-{number}");
    let registration = Registration {
        auth_key: auth_key.to_owned(),
        hostname: hostname.clone(),
        ..Registration::default()
    };
    let answer = connection.register(&registration).await?;
    ensure!(answer.authorized, "refused: {}", answer.error);
    let mut stream = connection.stream(&hostname).await?;
    stream
        .until(|message| message.get("Node").is_some())
        .await?;
    Ok((connection, stream))
}

async fn read(
    connection: Connection,
    mut stream: MapStream,
    messages: Arc<AtomicUsize>,
) -> Result<()> {
    while stream.next().await?.is_some() {
        messages.fetch_add(1, Ordering::Relaxed);
    }
    drop(connection);
    Ok(())
}
