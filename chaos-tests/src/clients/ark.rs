//! An independent client that is a Python module: the driver runs it and forwards ports.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::{Launch, Program, caddy};
use crate::{
    log::{Log, Mark},
    process::Process,
};

const DRIVER: &str = include_str!("ark_driver.py");
/// The system's own: any other may lie where the client's user cannot reach it.
const PYTHON: &str = "/usr/bin/python3";
const UP_LIMIT: Duration = Duration::from_secs(60);
/// Until a peer that just joined is known.
const FORWARD_LIMIT: Duration = Duration::from_secs(20);

/// A running node.
pub struct Ark {
    process: Process,
    hostname: String,
}

impl Ark {
    /// Starts it and waits until it is on the tailnet.
    ///
    /// # Errors
    /// When it does not join in time.
    pub async fn start(launch: &Launch) -> Result<Self> {
        let home = launch.make_home()?;
        let driver = home.join("driver.py");
        fs::write(&driver, DRIVER)?;
        let order = json!({
            "state": home.join("state"),
            "hostname": launch.hostname,
            "control_url": launch.control_url,
            "auth_key": launch.auth_key,
        });
        let module = Program::Ark.path();
        let modules = module
            .parent()
            .and_then(Path::parent)
            .context("no folder of modules")?;
        let mut command = launch.command(Path::new(PYTHON), &home);
        command
            .arg(&driver)
            .arg(order.to_string())
            .env("PYTHONPATH", modules)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("RUST_LOG", "debug");
        let process = Process::start(&launch.hostname, command, &launch.log_file())?;
        let up = |line: &str| event(line).is_some_and(|event| event["event"] == "up");
        process
            .log()
            .wait_for("the node is up", Mark::START, UP_LIMIT, up)
            .await?;
        Ok(Self {
            process,
            hostname: launch.hostname.clone(),
        })
    }

    /// What it has written.
    pub const fn log(&self) -> &Log {
        self.process.log()
    }

    /// A local address that leads to `peer`'s HTTP server.
    ///
    /// # Errors
    /// When the peer does not become known.
    pub async fn forward(&mut self, peer: &str) -> Result<SocketAddr> {
        let begin = std::time::Instant::now();
        loop {
            let answer = self.order(peer).await?;
            if let Some(address) = answer["address"].as_str() {
                return Ok(address.parse()?);
            }
            if begin.elapsed() >= FORWARD_LIMIT {
                bail!("{} cannot forward to {peer}: {answer}", self.hostname);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn order(&mut self, peer: &str) -> Result<Value> {
        let mark = self.process.log().mark();
        let stdin = self.process.stdin().context("no stdin")?;
        stdin
            .write_all(format!("{}\n", json!({ "forward": peer })).as_bytes())
            .await?;
        stdin.flush().await?;
        let answered = |line: &str| event(line).is_some_and(|event| event["peer"] == peer);
        let log = self.process.log();
        let line = log
            .wait_for("the order is answered", mark, FORWARD_LIMIT, answered)
            .await?;
        event(&line.text).context("an event")
    }

    /// Asks `peer` through the tailnet until it answers; gives how long that took.
    ///
    /// # Errors
    /// When it does not answer within `limit`.
    pub async fn reach(&mut self, peer: &str, limit: Duration) -> Result<Duration> {
        let address = self.forward(peer).await?;
        caddy::reach(&self.hostname, address, peer, limit).await
    }
}

fn event(line: &str) -> Option<Value> {
    if line.starts_with('{') {
        serde_json::from_str(line).ok()
    } else {
        None
    }
}
