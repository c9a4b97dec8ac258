//! One replica of the demo: its folder, its configuration, its process.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::server::STOP_MAX;

/// A replica as a process of its own.
pub(super) struct DemoReplica {
    /// `r1`, `r2`, ...
    pub(super) name: String,
    /// Its configuration, data, socket and log.
    pub(super) folder: PathBuf,
    /// Its client port.
    pub(super) client_addr: SocketAddr,
    process: Option<Child>,
}

impl DemoReplica {
    /// Writes the configuration of replica `number` below `root`.
    pub(super) fn prepare(root: &Path, number: usize, server_url: &str) -> io::Result<Self> {
        let name = format!("r{number}");
        let folder = root.join(&name);
        fs::create_dir_all(&folder)?;
        let client_addr = free_tcp_addr()?;
        let config = config_text(&name, &folder, client_addr, server_url)?;
        fs::write(folder.join("config.yaml"), config)?;
        Ok(Self {
            name,
            folder,
            client_addr,
            process: None,
        })
    }

    pub(super) fn config_path(&self) -> PathBuf {
        self.folder.join("config.yaml")
    }

    pub(super) fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Whether the replica has never run.
    pub(super) fn is_new(&self) -> bool {
        !self.folder.join("data").exists()
    }

    /// Runs one command of the program against this replica and returns what it prints.
    pub(super) async fn command(&self, program: &Path, words: &[&str]) -> anyhow::Result<Value> {
        let mut command = Command::new(program);
        command
            .arg("--config")
            .arg(self.config_path())
            .args(["--output", "json"])
            .args(words);
        let output = command
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        let told = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!(
                "`{}` failed on {}: {}",
                words.join(" "),
                self.name,
                told.trim()
            );
        }
        if output.stdout.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("`{}` printed no JSON", words.join(" ")))
    }

    /// Tells when the process has ended by itself.
    pub(super) fn check_alive(&mut self) -> anyhow::Result<()> {
        if self.process.is_some() && self.pid().is_none() {
            bail!(
                "replica {} has stopped; its log is {}",
                self.name,
                self.log_path().display()
            );
        }
        Ok(())
    }

    /// Hands the replica the token that it joins with when it starts.
    pub(super) fn store_join_token(&self, token: &str) -> io::Result<()> {
        fs::write(self.folder.join("join-token"), token)
    }

    /// Starts `hydrascale serve`; its log goes to a file.
    pub(super) fn start(&mut self, program: &Path) -> io::Result<()> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let child = Command::new(program)
            .arg("serve")
            .arg("--config")
            .arg(self.config_path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C at the terminal reaches the demo alone, which then drains the replicas.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        self.process = Some(child);
        Ok(())
    }

    /// The process id while it runs.
    pub(super) fn pid(&mut self) -> Option<u32> {
        let child = self.process.as_mut()?;
        match child.try_wait() {
            Ok(None) => child.id(),
            Ok(Some(_)) | Err(_) => None,
        }
    }

    /// Asks the process to drain and waits; kills it when it takes too long.
    pub(super) async fn stop(&mut self) {
        let Some(pid) = self.pid() else { return };
        let asked = Command::new("kill")
            .arg("-TERM")
            .arg(pid.to_string())
            // A second Ctrl-C must not end the messenger.
            .process_group(0)
            .status()
            .await;
        let Some(child) = self.process.as_mut() else {
            return;
        };
        if asked.is_err() || timeout(STOP_MAX, child.wait()).await.is_err() {
            // It may have ended by itself in between.
            let _ = child.kill().await;
        }
    }
}

/// What somebody would write by hand for a replica on loopback.
fn config_text(
    name: &str,
    folder: &Path,
    client_addr: SocketAddr,
    server_url: &str,
) -> io::Result<String> {
    let (metrics, peer, relay) = (free_tcp_addr()?, free_tcp_addr()?, free_tcp_addr()?);
    let stun = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let folder = folder.display();
    let token = if name == "r1" {
        ""
    } else {
        "\n  join_token_file: join-token"
    };
    Ok(format!(
        "# Replica {name} of `hydrascale demo`.
server_url: {server_url}
listen_addr: {client_addr}
metrics_listen_addr: {metrics}
unix_socket: {folder}/replica.sock
unix_socket_permission: \"0700\"
noise:
  private_key_path: noise_private.key
prefixes:
  v4: 100.64.0.0/10
  v6: fd7a:115c:a1e0::/48
dns:
  magic_dns: true
  base_domain: demo.internal
  override_local_dns: false
derp:
  server:
    stun_listen_addr: {stun}
log:
  level: info
cluster:
  data_dir: data
  replica_name: {name}
  peer_listen_addr: {peer}
  peer_advertise_addr: {peer}{token}
  derp:
    listen_addr: {relay}
    public_host: 127.0.0.1
    public_ipv4: 127.0.0.1
    insecure_for_tests: true
"
    ))
}

/// A port that nobody uses at this moment.
fn free_tcp_addr() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
