//! The configuration of a replica under test: what somebody would write by hand.

use std::path::Path;

use super::{CLIENT_PORT, METRICS_PORT, PEER_PORT, RELAY_PORT};
use crate::{balancer::Balancer, homes::STUN_PORT, netns::replica_address};

/// Virtual machines with two cores stall for longer than Raft's timers allow.
const TIMING_MULTIPLIER: u32 = 3;
/// MagicDNS suffix of the tailnet under test.
pub(super) const BASE_DOMAIN: &str = "tail.test";

/// The text of `config.yaml` for replica `index`, whose files are in `folder`. With
/// `snapshot_every` set, snapshots come after so many entries and the log before them is dropped.
pub(super) fn text(
    index: usize,
    name: &str,
    folder: &Path,
    snapshot_every: Option<u64>,
) -> String {
    let address = replica_address(index);
    let url = Balancer::url();
    let folder = folder.display();
    let snapshots = snapshot_every
        .map(|entries| format!("\n    snapshot_every: {entries}\n    log_kept: {entries}"))
        .unwrap_or_default();
    let token = if index == 0 {
        ""
    } else {
        "\n  join_token_file: join-token"
    };
    format!(
        "server_url: {url}
listen_addr: {address}:{CLIENT_PORT}
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
log:
  level: debug
cluster:
  data_dir: data
  replica_name: {name}
  peer_listen_addr: {address}:{PEER_PORT}
  peer_advertise_addr: {address}:{PEER_PORT}{token}
  raft:
    timing_multiplier: {TIMING_MULTIPLIER}{snapshots}
  derp:
    listen_addr: {address}:{RELAY_PORT}
    public_host: {address}
    public_ipv4: {address}
    insecure_for_tests: true
"
    )
}
