//! An official client as a TCP forwarder: a local port leads to one peer's HTTP server.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::{Launch, Program, caddy};
use crate::{
    log::{Log, Mark},
    process::Process,
};

const START_LIMIT: Duration = Duration::from_secs(30);

/// A running forwarder.
pub struct Forwarder {
    process: Process,
    program: Program,
    launch: Launch,
    peer: String,
    port: u16,
}

impl Forwarder {
    /// Starts it, forwarding the local `port` to `peer`. `program` says of which age.
    ///
    /// # Errors
    /// When it does not take its order.
    pub async fn start(program: Program, launch: &Launch, peer: &str, port: u16) -> Result<Self> {
        let home = launch.make_home()?;
        let command = launch.command(&program.path(), &home);
        let mut process = Process::start(&launch.hostname, command, &launch.log_file())?;
        let order = json!({
            "action": "start",
            "auth_key": launch.auth_key,
            "hostname": launch.hostname,
            "control_url": launch.control_url,
            "local_port": port,
            "remote_host": peer,
            "remote_port": 80,
        });
        let stdin = process.stdin().context("no stdin")?;
        stdin.write_all(format!("{order}\n").as_bytes()).await?;
        stdin.flush().await?;
        let taken = |line: &str| line.starts_with('{') && line.contains("\"success\":true");
        process
            .log()
            .wait_for("the order is taken", Mark::START, START_LIMIT, taken)
            .await?;
        Ok(Self {
            process,
            program,
            launch: launch.clone(),
            peer: peer.to_owned(),
            port,
        })
    }

    /// Starts the same node again, now forwarding to `peer`: it takes one order in its life.
    ///
    /// # Errors
    /// When it does not end or does not take its order.
    pub async fn turn_to(mut self, peer: &str) -> Result<Self> {
        self.process.kill().await?;
        Self::start(self.program, &self.launch, peer, self.port).await
    }

    /// The host's name.
    pub fn hostname(&self) -> &str {
        &self.launch.hostname
    }

    /// The peer that it forwards to.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// What it has written.
    pub const fn log(&self) -> &Log {
        self.process.log()
    }

    /// The local address that leads to the peer.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Asks the peer through the tailnet until it answers; gives how long that took.
    ///
    /// # Errors
    /// When it does not answer within `limit`.
    pub async fn reach(&self, limit: Duration) -> Result<Duration> {
        caddy::reach(self.hostname(), self.address(), &self.peer, limit).await
    }
}
