//! What the configuration says about the client's side.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use crate::state::State;
use crate::types::{MachinePrivateKey, Timestamp};

/// Reads the wall clock.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;
/// Finds the cluster's Noise key in the state, unsealing it where it is sealed.
pub type NoiseKeySource = Arc<dyn Fn(&State) -> Option<MachinePrivateKey> + Send + Sync>;
/// Addresses by lower-case name, for `/bootstrap-dns`; asked for every request.
pub type BootstrapNames = Arc<dyn Fn() -> BTreeMap<String, Vec<IpAddr>> + Send + Sync>;

/// Settings of the client's side.
#[derive(Clone)]
pub struct ControlOptions {
    /// What clients are configured with, without a slash at the end.
    pub server_url: String,
    /// What `/version` answers.
    pub version: VersionInfo,
    /// Decides whether keys and nodes are expired before the state machine does.
    pub clock: Clock,
    /// Where the Noise key comes from.
    pub noise_key: NoiseKeySource,
    /// Names of the control plane and of the relays.
    pub bootstrap_names: BootstrapNames,
    /// Balancers: their own addresses say nothing of where a client is, and what they forward does.
    pub trusted_proxies: Vec<IpNet>,
}

impl ControlOptions {
    /// Options with the system's clock, an unsealed Noise key and no bootstrap names.
    pub fn new(server_url: &str, version: VersionInfo) -> Self {
        Self {
            server_url: server_url.trim_end_matches('/').to_owned(),
            version,
            clock: Arc::new(system_clock),
            noise_key: Arc::new(raw_noise_key),
            bootstrap_names: Arc::new(BTreeMap::new),
            trusted_proxies: Vec::new(),
        }
    }
}

impl fmt::Debug for ControlOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlOptions")
            .field("server_url", &self.server_url)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// `/version`, in headscale's shape.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionInfo {
    /// Version of the program.
    pub version: String,
    /// Commit that it was built from; may be empty.
    pub commit: String,
    /// When it was built; may be empty.
    pub build_time: String,
    /// Compiler and platform, under the name that headscale gives them.
    #[serde(rename = "go")]
    pub toolchain: ToolchainInfo,
    /// Whether the sources differed from the commit.
    pub dirty: bool,
}

/// Compiler and platform.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ToolchainInfo {
    /// Version of the compiler; may be empty.
    pub version: String,
    /// Operating system.
    pub os: String,
    /// Processor architecture.
    pub arch: String,
}

fn system_clock() -> Timestamp {
    let since_epoch = std::time::SystemTime::now()
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::default().saturating_add(since_epoch)
}

/// The key as the state holds it, when it is not sealed.
fn raw_noise_key(state: &State) -> Option<MachinePrivateKey> {
    let bytes: [u8; 32] = state.noise_private_key()?.try_into().ok()?;
    Some(MachinePrivateKey::from_bytes(bytes))
}
