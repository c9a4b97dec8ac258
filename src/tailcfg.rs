//! Control-protocol JSON (`tailcfg` of tailscale/tailscale, capability version 145), one file per
//! message family. Serde only: no behaviour beyond reading and writing the wire form.
//!
//! Writing: names and presence are Go's. A field that Go omits when empty is omitted here, a field
//! that Go always writes is always written, and `Option<Vec<_>>` tells "unchanged" (`None`, absent)
//! from "now empty" (`Some([])`, written as `[]`), which Go's own types cannot.
//!
//! Reading goes through [`decode`]: names match in any case, unknown ones are ignored, the last
//! duplicate wins and `null` is the empty value, as in Go's encoding/json. tailscale-rs needs this:
//! it writes `HostInfo`, `IpnVersion` or `PreferredDerp`.

mod absent;
mod base64;
mod decode;
mod derp;
mod dns;
mod filter;
mod hostinfo;
mod map;
mod map_request;
mod node;
mod notice;
mod register;
mod ssh;
mod user;

pub use base64::Base64;
pub use decode::{DecodeError, MAX_REQUEST_BYTES, decode};
pub use derp::{DerpHomeParams, DerpMap, DerpNode, DerpRegion};
pub use dns::{DnsConfig, DnsRecord, Resolver};
pub use filter::{CapGrant, FilterRule, NetPortRange, PortRange};
pub use hostinfo::{Hostinfo, Location, NetInfo, Service, TpmInfo};
pub use map::{MapResponse, TkaInfo};
pub use map_request::MapRequest;
pub use node::{CapMap, Node, PeerChange};
pub use notice::{
    ClientVersion, ControlDialPlan, ControlIpCandidate, Debug, DisplayMessage,
    DisplayMessageAction, PingRequest, Severity,
};
pub use register::{AuthSecret, RegisterAuth, RegisterRequest, RegisterResponse};
pub use ssh::{SshAction, SshPolicy, SshPrincipal, SshRecorderFailureAction, SshRule};
pub use user::{Login, User, UserProfile};

/// The newest capability version whose messages these types describe.
pub const CURRENT_CAPVER: u16 = 145;

/// Whether a value is the one that Go's `omitempty` and `omitzero` leave out.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
