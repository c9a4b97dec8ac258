//! HAProxy in front of the replicas, with the configuration of `deploy/`.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    process::Command,
};

use crate::{
    Context, certificate,
    clients::Program,
    cluster::{CLIENT_PORT, Tls},
    netns,
    process::Process,
    wait,
};

const CONFIGURATION: &str = include_str!("../../deploy/haproxy.cfg");
/// Its variables with the replicas' addresses.
const REPLICAS: [&str; 3] = ["REPLICA_A", "REPLICA_B", "REPLICA_C"];
/// Until every replica was checked: some intervals of half a second.
const CHECK_LIMIT: Duration = Duration::from_secs(10);

/// A running balancer for three replicas.
pub struct Balancer {
    process: Process,
    socket: PathBuf,
}

impl Balancer {
    /// Starts it as shipped and waits until it listens.
    ///
    /// # Errors
    /// When it refuses its configuration.
    pub async fn start(context: &Context) -> Result<Self> {
        Self::start_with(context, Tls::Nowhere).await
    }

    /// As [`Self::start`], with TLS in the way that the configuration's comments tell.
    ///
    /// # Errors
    /// When it refuses its configuration.
    pub async fn start_with(context: &Context, tls: Tls) -> Result<Self> {
        let socket = context.scratch().join("haproxy.sock");
        let configuration = context.scratch().join("haproxy.cfg");
        fs::write(&configuration, CONFIGURATION)?;
        let mut command = Command::new(Program::Haproxy.path());
        command
            .arg("-f")
            .arg(configuration)
            .env("HYDRASCALE_FRONT", Self::address().to_string())
            .env("HYDRASCALE_HAPROXY_SOCKET", &socket);
        for (index, name) in REPLICAS.into_iter().enumerate() {
            command.env(
                name,
                format!("{}:{CLIENT_PORT}", netns::replica_address(index)),
            );
        }
        match tls {
            Tls::Nowhere => {}
            Tls::Replicas => {
                command.env("HYDRASCALE_REPLICA_TLS", "check-ssl verify none");
            }
            Tls::Balancer => {
                let file = certificate::both(context.scratch());
                command.env(
                    "HYDRASCALE_FRONT_TLS",
                    format!("ssl crt {}", file.display()),
                );
            }
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
        Tls::Nowhere.url()
    }

    /// Waits until a check has found every replica ready.
    ///
    /// # Errors
    /// With the last state, when that takes too long.
    pub async fn wait_checked(&self) -> Result<()> {
        let mut last = String::new();
        let checked = wait::until("all replicas checked", CHECK_LIMIT, async || {
            last = self.admin("show servers state ready").await.ok()?;
            let passed = last.lines().filter(|line| has_passed(line)).count();
            (passed == REPLICAS.len()).then_some(())
        });
        checked
            .await
            .with_context(|| format!("last state:\n{last}"))
            .map(drop)
    }

    /// Lets new connections go only to replicas of which `takes` holds; open ones stay.
    ///
    /// # Errors
    /// When the balancer does not obey.
    pub async fn steer(&self, takes: impl Fn(usize) -> bool) -> Result<()> {
        for (index, server) in ["a", "b", "c"].into_iter().enumerate() {
            let state = if takes(index) { "ready" } else { "drain" };
            let order = format!("set server ready/{server} state {state}");
            let complaint = self.admin(&order).await?;
            ensure!(complaint.trim().is_empty(), "haproxy: {}", complaint.trim());
        }
        Ok(())
    }

    /// Gives an order on the administration socket; returns what is said to it.
    async fn admin(&self, order: &str) -> Result<String> {
        let mut admin = UnixStream::connect(&self.socket).await?;
        admin.write_all(format!("{order}\n").as_bytes()).await?;
        let mut answer = String::new();
        admin.read_to_string(&mut answer).await?;
        Ok(answer)
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

/// Whether a line of `show servers state` is of a server that runs (2) and whose last check passed
/// (3): before its first check each counts as running.
fn has_passed(line: &str) -> bool {
    let fields: Vec<&str> = line.split(' ').collect();
    fields.get(5) == Some(&"2") && fields.get(11) == Some(&"3")
}
