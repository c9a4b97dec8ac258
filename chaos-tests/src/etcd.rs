//! Three etcd members with their own defaults, to compare a fail-over with.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::process::Command;

use crate::{
    Context,
    clients::Program,
    http::{self, Endpoint},
    netns::replica_address,
    process::Process,
    wait,
    writes::Api,
};

const MEMBERS: usize = 3;
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
const ASK_LIMIT: Duration = Duration::from_secs(1);
const LEADER_LIMIT: Duration = Duration::from_secs(30);

/// A put of one key in etcd's JSON API.
pub const PUT: Api = Api {
    path: "/v3/kv/put",
    body: |number| {
        let key = data_encoding::BASE64.encode(format!("key-{number}").as_bytes());
        format!(r#"{{"key":"{key}","value":"dmFsdWU="}}"#)
    },
};

/// The members; killed when dropped.
pub struct Etcd {
    scratch: PathBuf,
    members: Vec<Option<Process>>,
}

impl Etcd {
    /// Starts all members and waits for a leader.
    ///
    /// # Errors
    /// When one does not start, or nobody leads in time.
    pub async fn start(context: &Context) -> Result<Self> {
        let mut etcd = Self {
            scratch: context.scratch().to_owned(),
            members: (0..MEMBERS).map(|_| None).collect(),
        };
        for index in 0..MEMBERS {
            etcd.up(index)?;
        }
        etcd.leader().await?;
        Ok(etcd)
    }

    /// How many members there are.
    pub const fn size(&self) -> usize {
        self.members.len()
    }

    /// Starts a member that does not run.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn up(&mut self, index: usize) -> Result<()> {
        let name = |index: usize| format!("etcd-{index}");
        let peer = |index: usize| format!("http://{}:{PEER_PORT}", replica_address(index));
        let all: Vec<String> = (0..MEMBERS)
            .map(|index| format!("{}={}", name(index), peer(index)))
            .collect();
        let client = format!("http://{}", Self::address(index));
        let mut command = Command::new(Program::Etcd.path());
        command
            .args(["--name", &name(index), "--data-dir"])
            .arg(self.scratch.join(name(index)))
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer(index)])
            .args(["--initial-advertise-peer-urls", &peer(index)])
            .args(["--initial-cluster", &all.join(",")])
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH);
        let log = self.scratch.join(format!("{}.log", name(index)));
        let started = Process::start(&name(index), command, &log)?;
        *self.member(index)? = Some(started);
        Ok(())
    }

    /// Kills a member as a crash would.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&mut self, index: usize) -> Result<()> {
        let running = self.member(index)?.take();
        running.context("it does not run")?.kill().await
    }

    /// The member that leads, as it says itself.
    ///
    /// # Errors
    /// When none does in time.
    pub async fn leader(&self) -> Result<usize> {
        let known = async || {
            for index in 0..MEMBERS {
                if Self::is_leader(index).await.unwrap_or(false) {
                    return Some(index);
                }
            }
            None
        };
        let (leader, _) = wait::until("a leader of etcd", LEADER_LIMIT, known).await?;
        Ok(leader)
    }

    /// Waits until a member follows a leader.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn wait_ready(&self, index: usize) -> Result<()> {
        let follows = async || {
            let status = Self::status(index).await.ok()?;
            status["leader"].as_str().filter(|id| *id != "0").map(drop)
        };
        wait::until("a member of etcd", LEADER_LIMIT, follows).await?;
        Ok(())
    }

    /// Where a member answers.
    pub fn endpoint(index: usize) -> Endpoint {
        Endpoint::Tcp(Self::address(index))
    }

    fn address(index: usize) -> SocketAddr {
        SocketAddr::new(std::net::IpAddr::V4(replica_address(index)), CLIENT_PORT)
    }

    async fn is_leader(index: usize) -> Result<bool> {
        let status = Self::status(index).await?;
        let own = status["header"]["member_id"].as_str();
        Ok(own.is_some() && status["leader"].as_str() == own)
    }

    async fn status(index: usize) -> Result<Value> {
        let to = Self::endpoint(index);
        let answer = http::post(&to, "/v3/maintenance/status", "{}", ASK_LIMIT).await?;
        Ok(serde_json::from_str(&answer.body)?)
    }

    fn member(&mut self, index: usize) -> Result<&mut Option<Process>> {
        self.members
            .get_mut(index)
            .with_context(|| format!("no member {index}"))
    }
}
