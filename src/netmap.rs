//! Full maps and deltas as pure functions of the state.
//!
//! What many are told is split from what concerns one viewer, and named by all that its bytes depend
//! on ([`Outline`], [`Page`]), so that whoever serves many viewers encodes it once. What must hold and
//! why it is built so: `DESIGN.md` in the folder of the same name.

mod basis;
mod delta;
mod dial_plan;
mod draft;
mod frame;
mod full;
mod node;
mod outline;
mod profile;
mod routes;
mod shift;
mod text;
mod whole;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use self::basis::Basis;
pub use self::delta::{Delta, Group, Told};
pub use self::frame::{KeepAlive, Wire, encode};
pub use self::node::logged_out;
pub use self::outline::Outline;
pub use self::profile::{TAGGED_DEVICES, user_profile};
pub use self::routes::{RouteTable, exit_routes};
pub use self::whole::{Page, Whole};

use crate::config::{Config, DnsConfig, FeatureConfig};

/// Name of the only chunk of the packet filter (`tailcfg.MapResponse.PacketFilters`).
const BASE_FILTER: &str = "base";

/// What the configuration says about netmaps; equal on all replicas.
#[derive(Clone, Debug, Default)]
pub struct NetmapConfig {
    /// Name resolution, and the domain of the nodes' names.
    pub dns: DnsConfig,
    /// Features that clients are told about.
    pub features: FeatureConfig,
    /// Clients that dial a replica's public address on the port of `server_url` reach the control
    /// plane there, so that they may be told to (`tailcfg.MapResponse.ControlDialPlan`). Not so
    /// behind a balancer that listens on another port than the replicas.
    pub replicas_serve_server_url: bool,
}

impl From<&Config> for NetmapConfig {
    fn from(config: &Config) -> Self {
        Self {
            dns: config.dns.clone(),
            features: config.features.clone(),
            replicas_serve_server_url: config.replicas_serve_server_url(),
        }
    }
}

impl NetmapConfig {
    /// `tailcfg.MapResponse.Domain`: clients key their profiles on it.
    fn domain(&self) -> &str {
        &self.dns.base_domain
    }
}
