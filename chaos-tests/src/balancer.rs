//! HAProxy in front of the replicas, with the configuration of `deploy/`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    process::Command,
};

use crate::{Context, clients::Program, cluster::CLIENT_PORT, netns, process::Process, wait};

/// A running balancer for three replicas.
pub struct Balancer {
    process: Process,
    socket: PathBuf,
}

impl Balancer {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// When it refuses its configuration.
    pub async fn start(context: &Context) -> Result<Self> {
        let socket = context.scratch().join("haproxy.sock");
        let mut command = Command::new(Program::Haproxy.path());
        command
            .arg("-f")
            .arg(configuration())
            .env("HYDRASCALE_FRONT", Self::address().to_string())
            .env(
                "HYDRASCALE_HAPROXY_SOCKET",
                context.scratch().join("haproxy.sock"),
            );
        for (index, name) in ["REPLICA_A", "REPLICA_B", "REPLICA_C"]
            .into_iter()
            .enumerate()
        {
            command.env(
                name,
                format!("{}:{CLIENT_PORT}", netns::replica_address(index)),
            );
        }
        let log = context.scratch().join("haproxy.log");
        let process = Process::start("haproxy", command, &log)?;
        let listens = async || TcpStream::connect(Self::address()).await.ok();
        wait::until("haproxy listens", Duration::from_secs(5), listens)
            .await
            .with_context(|| format!("see {}", log.display()))?;
        Ok(Self { process, socket })
    }

    /// Where clients connect.
    pub fn address() -> SocketAddr {
        SocketAddr::from((netns::FRONT, CLIENT_PORT))
    }

    /// What clients are told to log in to.
    pub fn url() -> String {
        format!("http://{}", Self::address())
    }

    /// Lets new connections go only to replicas of which `takes` holds; open ones stay.
    ///
    /// # Errors
    /// When the balancer does not obey.
    pub async fn steer(&self, takes: impl Fn(usize) -> bool) -> Result<()> {
        for (index, server) in ["a", "b", "c"].into_iter().enumerate() {
            let state = if takes(index) { "ready" } else { "drain" };
            let mut admin = UnixStream::connect(&self.socket).await?;
            admin
                .write_all(format!("set server ready/{server} state {state}\n").as_bytes())
                .await?;
            let mut complaint = String::new();
            admin.read_to_string(&mut complaint).await?;
            ensure!(complaint.trim().is_empty(), "haproxy: {}", complaint.trim());
        }
        Ok(())
    }

    /// Fails when it has ended.
    ///
    /// # Errors
    /// When it is gone.
    pub fn check(&mut self) -> Result<()> {
        let ended = self.process.try_status();
        ensure!(
            ended.is_none(),
            "haproxy ended: see {}",
            self.process.log().path().display()
        );
        Ok(())
    }
}

fn configuration() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/haproxy.cfg")
}
