//! Bare connections that dial again the moment they are lost, as clients do.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What the second attempts of all connections met.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Redials {
    /// Nobody listened.
    pub refused: usize,
    /// Somebody listened, to be gone at once.
    pub dropped: usize,
}

/// Connections to one address that nothing was said on yet.
pub struct Flood {
    to: SocketAddr,
    connections: Vec<TcpStream>,
}

impl Flood {
    /// Opens `count` connections.
    ///
    /// # Errors
    /// When one is refused.
    pub async fn start(to: SocketAddr, count: usize) -> Result<Self> {
        let mut connections = Vec::new();
        for _ in 0..count {
            connections.push(TcpStream::connect(to).await?);
        }
        Ok(Self { to, connections })
    }

    /// Waits until all are lost; each dials once more, at once.
    ///
    /// # Errors
    /// When one is still there after `limit`.
    pub async fn redial(self, limit: Duration) -> Result<Redials> {
        let to = self.to;
        let redial = async |mut connection: TcpStream| {
            until_lost(&mut connection).await;
            match TcpStream::connect(to).await {
                Err(error) => error.kind() == ErrorKind::ConnectionRefused,
                Ok(mut again) => {
                    until_lost(&mut again).await;
                    false
                }
            }
        };
        let all: FuturesUnordered<_> = self.connections.into_iter().map(redial).collect();
        let refused: Vec<bool> = timeout(limit, all.collect()).await?;
        let count = refused.iter().filter(|refused| **refused).count();
        ensure!(!refused.is_empty(), "there were no connections");
        Ok(Redials {
            refused: count,
            dropped: refused.len() - count,
        })
    }
}

async fn until_lost(connection: &mut TcpStream) {
    let mut byte = [0];
    let read: io::Result<usize> = connection.read(&mut byte).await;
    debug_assert!(!matches!(read, Ok(1..)), "nobody speaks first here");
}
