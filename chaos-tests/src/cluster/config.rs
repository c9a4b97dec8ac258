//! The configuration of a replica under test: what somebody would write by hand.

use std::path::Path;

use super::{CLIENT_PORT, METRICS_PORT, PEER_PORT, RELAY_PORT};
use crate::{balancer::Balancer, certificate, homes::STUN_PORT, links, netns::replica_address};

/// MagicDNS suffix of the tailnet under test.
pub(super) const BASE_DOMAIN: &str = "tail.test";

/// How long commands wait for a machine that stalls.
const COMMAND_TIMEOUT: &str = "20s";

/// The key of replicas that form a cluster by themselves, in the scenario's folder.
pub(super) const BOOTSTRAP_KEY: &str = "bootstrap.key";
/// The name that has the addresses of all of them.
const PEERS_NAME: &str = "replicas.test";

/// The lines of a hosts file for [`PEERS_NAME`].
pub(super) fn peers_hosts(count: usize) -> String {
    let lines = (0..count).map(|index| format!("{} {PEERS_NAME}\n", replica_address(index)));
    lines.collect()
}

/// Where the TLS of clients ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// Clients speak plain HTTP, with Noise in it.
    #[default]
    Nowhere,
    /// The balancer passes it on.
    Replicas,
    /// Replicas are behind it.
    Balancer,
}

impl Tls {
    /// What clients log in to, through the balancer.
    pub fn url(self) -> String {
        let scheme = match self {
            Self::Nowhere => "http",
            Self::Replicas | Self::Balancer => "https",
        };
        format!("{scheme}://{}", Balancer::address())
    }
}

/// How far the timers of replicas under test are stretched, unless a test says otherwise.
pub const TIMING_MULTIPLIER: u32 = 3;

/// What differs between clusters under test.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Stretches Raft's timers. Virtual machines with two cores stall for longer than production
    /// timers allow.
    pub timing_multiplier: u32,
    /// Takes a snapshot after so many log entries, instead of the usual number, and keeps as many.
    pub snapshot_every: Option<u64>,
    /// `log.level`.
    pub log_level: &'static str,
    /// Where the TLS of clients ends.
    pub tls: Tls,
    /// More lines of the `cluster:` block, each after a line break and two spaces.
    pub cluster_lines: &'static str,
    /// Whether replicas reach each other by names, which each resolves to proxies of its own.
    pub proxied: bool,
    /// Whether each has a wall clock of its own; only with `proxied`.
    pub own_clock: bool,
    /// How many form the cluster by themselves, instead of being told one by one.
    pub expect: Option<usize>,
    /// The size of a disk of its own for each data folder.
    pub disk_mib: Option<u32>,
}

impl Options {
    /// What production runs with.
    pub const PRODUCTION: Self = Self {
        timing_multiplier: 1,
        snapshot_every: None,
        log_level: "info",
        tls: Tls::Nowhere,
        cluster_lines: "",
        proxied: false,
        own_clock: false,
        expect: None,
        disk_mib: None,
    };
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timing_multiplier: TIMING_MULTIPLIER,
            snapshot_every: None,
            log_level: "debug",
            tls: Tls::Nowhere,
            cluster_lines: "",
            proxied: false,
            own_clock: false,
            expect: None,
            disk_mib: None,
        }
    }
}

/// The text of `config.yaml` for replica `index`, whose files are in `folder`.
pub(super) fn text(index: usize, name: &str, folder: &Path, options: &Options) -> String {
    let address = replica_address(index);
    let advertised = if options.proxied {
        links::host_name(name)
    } else {
        address.to_string()
    };
    let url = options.tls.url();
    let (certificate, relay_certificate) = certificate_lines(folder, options.tls);
    let folder = folder.display();
    let Options {
        timing_multiplier,
        log_level,
        cluster_lines,
        ..
    } = options;
    let snapshots = options
        .snapshot_every
        .map(|entries| format!("\n    snapshot_every: {entries}\n    log_kept: {entries}"))
        .unwrap_or_default();
    let place = match options.expect {
        Some(count) => format!(
            "\n  bootstrap_expect: {count}\n  peers: [\"{PEERS_NAME}:{PEER_PORT}\"]\n  \
             bootstrap_secret_file: ../{BOOTSTRAP_KEY}"
        ),
        None if index == 0 => String::new(),
        None => "\n  join_token_file: join-token".to_owned(),
    };
    format!(
        "server_url: {url}
listen_addr: {address}:{CLIENT_PORT}{certificate}
metrics_listen_addr: {address}:{METRICS_PORT}
unix_socket: {folder}/replica.sock
unix_socket_permission: \"0700\"
noise:
  private_key_path: noise_private.key
prefixes:
  v4: 100.64.0.0/10
  v6: fd7a:115c:a1e0::/48
dns:
  magic_dns: true
  base_domain: {BASE_DOMAIN}
  override_local_dns: false
derp:
  server:
    stun_listen_addr: {address}:{STUN_PORT}
cli:
  timeout: {COMMAND_TIMEOUT}
log:
  level: {log_level}
cluster:
  data_dir: data
  replica_name: {name}
  peer_listen_addr: {address}:{PEER_PORT}
  peer_advertise_addr: {advertised}:{PEER_PORT}{place}{cluster_lines}
  raft:
    timing_multiplier: {timing_multiplier}{snapshots}
  derp:
    listen_addr: {address}:{RELAY_PORT}
    public_host: {address}
    public_ipv4: {address}
    insecure_for_tests: true{relay_certificate}
"
    )
}

/// The replica's certificate for clients and their relay connections, where it has one: the scenario's,
/// one folder up.
fn certificate_lines(folder: &Path, tls: Tls) -> (String, String) {
    let scratch = folder.parent().unwrap_or(folder);
    let cert = certificate::certificate(scratch);
    let key = certificate::key(scratch);
    let (cert, key) = (cert.display(), key.display());
    match tls {
        Tls::Nowhere | Tls::Balancer => Default::default(),
        Tls::Replicas => (
            format!("\ntls_cert_path: {cert}\ntls_key_path: {key}"),
            format!("\n    cert_file: {cert}\n    key_file: {key}"),
        ),
    }
}
