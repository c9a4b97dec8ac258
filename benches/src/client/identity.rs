use std::fmt;

use data_encoding::HEXLOWER;
use rand::RngCore;

/// The keys of one simulated node.
///
/// Node and disco keys are random bytes without a private half: a control server never uses them.
#[derive(Clone)]
pub struct Identity {
    machine_private: [u8; 32],
    node: [u8; 32],
    disco: [u8; 32],
}

impl Identity {
    /// Draws a fresh identity.
    pub fn generate(rng: &mut impl RngCore) -> Self {
        let mut draw = || {
            let mut key = [0u8; 32];
            rng.fill_bytes(&mut key);
            key
        };
        Self {
            machine_private: draw(),
            node: draw(),
            disco: draw(),
        }
    }

    /// The private half of the machine key, raw.
    pub fn machine_private(&self) -> &[u8; 32] {
        &self.machine_private
    }

    /// The node key as clients write it, `nodekey:<64 hex>`.
    pub fn node_key(&self) -> String {
        format!("nodekey:{}", HEXLOWER.encode(&self.node))
    }

    /// The disco key as clients write it, `discokey:<64 hex>`.
    pub fn disco_key(&self) -> String {
        format!("discokey:{}", HEXLOWER.encode(&self.disco))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.node_key()).finish()
    }
}
