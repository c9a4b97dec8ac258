//! Caddy with an embedded official client: one node that serves HTTP on its tailnet address and
//! dials peers for local requests.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{Launch, Program};
use crate::{
    http,
    log::{Log, Mark},
    process::Process,
    wait,
};

/// Joining takes a second; the rest is for a busy machine.
const UP_LIMIT: Duration = Duration::from_secs(30);
/// The first request over a relay takes seconds, the client's own timers included.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Besides the usual one a node's server has this port, where it ends each connection after its
/// answer, so that every request opens one.
pub const SINGLE_PORT: u16 = 81;

/// A running Caddy.
pub struct Caddy {
    process: Process,
    launch: Launch,
    ports: Vec<(String, u16)>,
}

impl Caddy {
    /// Starts it. Each of `dials` is a peer's name, with a port of it that is not the usual one
    /// behind a colon, and the local port through which its HTTP server is reached.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(launch: &Launch, dials: &[(&str, u16)]) -> Result<Self> {
        let home = launch.make_home()?;
        let config = home.join("Caddyfile");
        fs::write(
            &config,
            configuration(launch, &home.join("state").display(), dials),
        )?;
        let mut command = launch.command(&Program::Caddy.path(), &home);
        command.arg("run").arg("--config").arg(&config);
        let process = Process::start(&launch.hostname, command, &launch.log_file())?;
        let ports = dials
            .iter()
            .map(|(peer, port)| ((*peer).to_owned(), *port))
            .collect();
        Ok(Self {
            process,
            launch: launch.clone(),
            ports,
        })
    }

    /// Waits until its node is on the tailnet.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn wait_up(&self) -> Result<()> {
        let running = |line: &str| line.contains("-> Running");
        self.log()
            .wait_for("the node runs", Mark::START, UP_LIMIT, running)
            .await
            .map(drop)
    }

    /// What it has written.
    pub const fn log(&self) -> &Log {
        self.process.log()
    }

    /// Its process, for signals.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The host's name.
    pub fn hostname(&self) -> &str {
        &self.launch.hostname
    }

    /// The local address through which `peer`'s HTTP server is reached.
    ///
    /// # Errors
    /// When it was not started to dial that peer.
    pub fn address_of(&self, peer: &str) -> Result<SocketAddr> {
        let port = self
            .ports
            .iter()
            .find(|(name, _)| name == peer)
            .map(|(_, port)| *port);
        let port = port.with_context(|| format!("{} does not dial {peer}", self.hostname()))?;
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// Asks `peer` through the tailnet until it answers; gives how long that took.
    ///
    /// # Errors
    /// When it does not answer within `limit`.
    pub async fn reach(&self, peer: &str, limit: Duration) -> Result<Duration> {
        reach(self.hostname(), self.address_of(peer)?, peer, limit).await
    }
}

/// Asks for `peer`'s greeting at a local address until it comes.
pub(super) async fn reach(
    who: &str,
    address: SocketAddr,
    peer: &str,
    limit: Duration,
) -> Result<Duration> {
    let greeting = greeting(peer);
    let what = format!("{who} reaches {peer}");
    let mut last = String::new();
    let asked = wait::until(&what, limit, async || {
        match http::get(address, "/", REQUEST_LIMIT).await {
            Ok(answer) if answer.status == 200 && answer.body.contains(&greeting) => Some(()),
            Ok(answer) => {
                last = format!("status {}: {}", answer.status, answer.body);
                None
            }
            Err(error) => {
                last = format!("{error:#}");
                None
            }
        }
    });
    let ((), took) = asked
        .await
        .with_context(|| format!("last answer: {last}"))?;
    Ok(took)
}

/// What a node's server says, so that an answer proves who gave it.
fn greeting(hostname: &str) -> String {
    format!("this is {hostname}")
}

fn configuration(launch: &Launch, state: &impl std::fmt::Display, dials: &[(&str, u16)]) -> String {
    let Launch {
        hostname,
        control_url,
        auth_key,
        ..
    } = launch;
    let mut text = format!(
        "{{
\tadmin off
\tauto_https off
\tdebug
\ttailscale {{
\t\tcontrol_url {control_url}
\t\tauth_key {auth_key}
\t\tstate_dir {state}
\t\t{hostname} {{
\t\t\thostname {hostname}
\t\t}}
\t}}
}}
:80 {{
\tbind tailscale/{hostname}
\trespond \"{greeting}\"
}}
:{SINGLE_PORT} {{
\tbind tailscale/{hostname}
\theader Connection close
\trespond \"{greeting}\"
}}
",
        greeting = greeting(hostname)
    );
    for (peer, port) in dials {
        let server = match peer.contains(':') {
            true => (*peer).to_owned(),
            false => format!("{peer}:80"),
        };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            ":{port} {{
\tbind 127.0.0.1
\treverse_proxy http://{server} {{
\t\ttransport tailscale {hostname}
\t}}
}}
"
        );
    }
    text
}
