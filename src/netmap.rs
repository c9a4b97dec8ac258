//! Full maps and deltas as pure functions of the state.
//!
//! A change is encoded once per visibility class and wire form, and its bytes are shared by all
//! receivers; only a receiver that is itself touched gets bytes of its own.

mod delta;
mod frame;
mod full;
mod node;

pub use self::delta::Delta;
pub use self::frame::{KeepAlive, Wire, encode};
pub use self::full::full_map;
pub use self::node::{TAGGED_DEVICES, user_profile};

use crate::config::{DnsConfig, FeatureConfig};

/// What the configuration says about netmaps; equal on all replicas.
#[derive(Clone, Debug, Default)]
pub struct NetmapConfig {
    /// Name resolution, and the domain of the nodes' names.
    pub dns: DnsConfig,
    /// Features that clients are told about.
    pub features: FeatureConfig,
}

impl NetmapConfig {
    /// `tailcfg.MapResponse.Domain`: clients key their profiles on it.
    fn domain(&self) -> &str {
        &self.dns.base_domain
    }
}
