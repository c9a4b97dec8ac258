//! The `cluster:` block: this replica's data, its name and its address for other replicas.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use hydrascale_raft::FEATURE_LEVELS;

use super::address::{HostPort, parse_listen_addr};
use super::bootstrap::BootstrapConfig;
use super::reader::Reader;

const DATA_DIR: &str = "/var/lib/hydrascale";
const PEER_PORT: u16 = 7443;
/// The name of a replica whose host has none.
const REPLICA_NAME: &str = "replica";
/// Raft's timers may be stretched this far; beyond, a dead leader goes unnoticed for minutes.
const TIMING_MULTIPLIER_MAX: u32 = 10;

/// Default of `raft.snapshot_every` and `raft.log_kept`.
const LOG_ENTRIES: u64 = 20_000;
/// A longer log makes a restart take minutes.
const LOG_ENTRIES_MAX: u64 = 10_000_000;

/// The `cluster:` block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Everything durable of this replica lives here (`data_dir`).
    pub data_dir: PathBuf,
    /// Shown to operators, and the default of the region's code and name (`replica_name`);
    /// default: the host's name.
    pub replica_name: String,
    /// Port for other replicas (`peer_listen_addr`), default `:7443`.
    pub peer_listen: SocketAddr,
    /// Where other replicas dial this one (`peer_advertise_addr`); default: `peer_listen` when it
    /// names an address, else the host's name with its port.
    pub peer_advertise: HostPort,
    /// File with a join token; a replica without data joins with it when it starts.
    pub join_token_file: Option<PathBuf>,
    /// A replica without data forms a cluster with others; not together with a join token.
    pub bootstrap: Option<BootstrapConfig>,
    /// File with the keys that seal the cluster's secrets (`sealing_key_file`); without one they are
    /// stored unsealed.
    pub sealing_key_file: Option<PathBuf>,
    /// A join asks for a place without a vote (`non_voting`): the replica serves clients and relays,
    /// and no commit ever waits for it. Counts at the join only.
    pub non_voting: bool,
    /// Highest feature level that this replica supports (`feature_level_max`): below the program's own
    /// it acts as the version before, as one step back in the middle of an upgrade.
    pub feature_level_max: u32,
    /// The cluster's feature level is raised once all replicas support the next one
    /// (`auto_upgrade`), else by `cluster upgrade finalize` only. One replica that says no is enough.
    pub auto_upgrade: bool,
    /// Failure domain, shown to operators (`zone`); empty = none.
    pub zone: String,
    /// There is a `cluster:` block. Without one an empty data folder becomes a new cluster of one,
    /// as somebody who comes from headscale expects; with one it must be initialised or joined.
    pub explicit: bool,
    /// Every append waits for the disk by itself (`raft.sync_append`): slower, and one thing less
    /// to trust.
    pub sync_append: bool,
    /// Stretches Raft's timers for slow machines (`raft.timing_multiplier`), 1 to 10.
    pub timing_multiplier: u32,
    /// Log entries after which a snapshot is taken (`raft.snapshot_every`), default 20,000.
    pub snapshot_every: u64,
    /// Log entries kept behind a snapshot for replicas that were away (`raft.log_kept`), default
    /// 20,000.
    pub log_kept: u64,
}

impl ClusterConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let bootstrap = BootstrapConfig::read(reader);
        let host_name = reader
            .environment()
            .host_name()
            .unwrap_or(REPLICA_NAME)
            .to_owned();
        let peer_listen = reader
            .parse("cluster.peer_listen_addr", parse_listen_addr)
            .unwrap_or_else(|| SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), PEER_PORT));
        let replica_name = reader.parse("cluster.replica_name", parse_name);
        let zone = reader.parse("cluster.zone", parse_name).unwrap_or_default();
        Self {
            data_dir: reader
                .path("cluster.data_dir")
                .unwrap_or_else(|| PathBuf::from(DATA_DIR)),
            replica_name: replica_name.unwrap_or_else(|| host_name.clone()),
            peer_listen,
            peer_advertise: reader
                .parse("cluster.peer_advertise_addr", HostPort::parse)
                .unwrap_or_else(|| default_advertise(peer_listen, host_name)),
            join_token_file: reader.path("cluster.join_token_file"),
            bootstrap,
            sealing_key_file: reader.path("cluster.sealing_key_file"),
            non_voting: reader.bool("cluster.non_voting").unwrap_or(false),
            feature_level_max: reader
                .integer(
                    "cluster.feature_level_max",
                    FEATURE_LEVELS.min,
                    FEATURE_LEVELS.max,
                )
                .unwrap_or(FEATURE_LEVELS.max),
            auto_upgrade: reader.bool("cluster.auto_upgrade").unwrap_or(true),
            zone,
            explicit: reader.lookup("cluster").is_some(),
            sync_append: reader.bool("cluster.raft.sync_append").unwrap_or(false),
            timing_multiplier: reader
                .integer("cluster.raft.timing_multiplier", 1, TIMING_MULTIPLIER_MAX)
                .unwrap_or(1),
            snapshot_every: reader
                .integer("cluster.raft.snapshot_every", 1, LOG_ENTRIES_MAX)
                .unwrap_or(LOG_ENTRIES),
            log_kept: reader
                .integer("cluster.raft.log_kept", 0, LOG_ENTRIES_MAX)
                .unwrap_or(LOG_ENTRIES),
        }
    }
}

fn default_advertise(listen: SocketAddr, host_name: String) -> HostPort {
    let host = if listen.ip().is_unspecified() {
        host_name
    } else {
        listen.ip().to_string()
    };
    HostPort {
        host,
        port: listen.port(),
    }
}

/// Names become DERP region codes and labels of metrics.
fn parse_name(text: &str) -> Result<String, &'static str> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=63).contains(&text.len()) && text.chars().all(valid) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 63 letters, digits, '-', '_' or '.'")
    }
}
