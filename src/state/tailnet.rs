//! What there is once per tailnet: settings, cluster-wide keys and the counters of ids.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use super::Settings;
use crate::types::Timestamp;

/// The tailnet itself, made by the first command of a cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct Tailnet {
    /// What apply needs to know of the configuration.
    pub settings: Settings,
    /// The control plane's Noise private key: 32 raw bytes, or sealed ones.
    pub(super) noise_private_key: Bytes,
    /// Key of the hash under which secrets are stored.
    pub(super) secret_pepper: [u8; 32],
    /// The counters: ids are never reused, so the last one given is stored.
    pub(super) last_user_id: u64,
    pub(super) last_node_id: u64,
    pub(super) last_pre_auth_key_id: u64,
    pub(super) last_api_key_id: u64,
    /// Where sequential allocation goes on.
    pub(super) last_ipv4: Option<Ipv4Addr>,
    pub(super) last_ipv6: Option<Ipv6Addr>,
    /// Time up to which key expiries were announced, so that each is announced once.
    pub(super) announced_until: Timestamp,
}

impl fmt::Debug for Tailnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tailnet")
            .field("settings", &self.settings)
            .field("last_user_id", &self.last_user_id)
            .field("last_node_id", &self.last_node_id)
            .field("last_pre_auth_key_id", &self.last_pre_auth_key_id)
            .field("last_api_key_id", &self.last_api_key_id)
            .field("last_ipv4", &self.last_ipv4)
            .field("last_ipv6", &self.last_ipv6)
            .field("announced_until", &self.announced_until)
            .finish_non_exhaustive()
    }
}
