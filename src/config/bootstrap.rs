//! How replicas without data form a cluster by themselves (`cluster.bootstrap_*`, `cluster.peers`).

use std::path::PathBuf;

use super::address::HostPort;
use super::reader::Reader;

/// A Raft group of more votes slower and fails no later.
const REPLICAS_MAX: usize = 9;

/// What all replicas of a new cluster are told alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootstrapConfig {
    /// How many replicas the new cluster has (`cluster.bootstrap_expect`), 1 to 9.
    pub expect: usize,
    /// Where they are (`cluster.peers`); a name with several addresses stands for all of these.
    pub peers: Vec<HostPort>,
    /// File with the key that all of them hold (`cluster.bootstrap_secret_file`).
    pub secret_file: PathBuf,
}

impl BootstrapConfig {
    /// `None` where replicas are told one by one what to do.
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        const EXPECT: &str = "cluster.bootstrap_expect";
        const PEERS: &str = "cluster.peers";
        const SECRET: &str = "cluster.bootstrap_secret_file";
        let expect = reader.integer(EXPECT, 1, REPLICAS_MAX);
        let peers = reader.parse_list(PEERS, HostPort::parse);
        let secret_file = reader.path(SECRET);
        let Some(expect) = expect else {
            for key in [PEERS, SECRET] {
                if reader.lookup(key).is_some() {
                    reader.fail_key(
                        key,
                        format!("needs {EXPECT}: how many replicas the new cluster has"),
                    );
                }
            }
            return None;
        };
        if peers.is_empty() && expect > 1 {
            reader.fail_key(
                EXPECT,
                format!("needs {PEERS}: host:port of all replicas, or one name with all addresses"),
            );
        }
        if peers.len() > expect {
            reader.fail_key(
                PEERS,
                format!("names {} replicas, {EXPECT} {expect}", peers.len()),
            );
        }
        if reader.lookup("cluster.join_token_file").is_some() {
            reader.fail_key(
                "cluster.join_token_file",
                format!("excludes {EXPECT}: a replica joins a cluster or forms one"),
            );
        }
        let Some(secret_file) = secret_file else {
            reader.fail_key(
                EXPECT,
                format!(
                    "needs {SECRET}: one key that all replicas hold, made with `hydrascale generate \
                     sealing-key`"
                ),
            );
            return None;
        };
        Some(Self {
            expect,
            peers,
            secret_file,
        })
    }
}
