//! Numeric identifiers. All are positive, and node ids stay below 2^53 so that JSON numbers carry
//! them exactly.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id! {
    /// A node of the tailnet (`tailcfg.NodeID`): positive, below 2^53, never reused.
    NodeId(u64)
}
id! {
    /// A user (`tailcfg.UserID`): positive, never reused.
    UserId(u64)
}
id! {
    /// One of our server processes, numbered by the cluster and never reused.
    ReplicaId(u64)
}
id! {
    /// A DERP region (`tailcfg.DERPRegion.RegionID`): 1 to 65535.
    RegionId(u16)
}

impl NodeId {
    /// The largest id that a JSON number carries exactly.
    pub const MAX: Self = Self((1 << 53) - 1);
}
