//! The Noise transport under which clients talk to the control plane.
//!
//! ```text
//! upgrade    what a /ts2021 request must look like          pure
//! handshake  Noise_IK with the client's version             pure
//! record     frames of at most 4096 bytes                   pure
//! early      what may come before HTTP/2                    pure
//! stream     AsyncRead + AsyncWrite over an upgraded connection
//! ```
//!
//! Not here: HTTP/2 and everything inside it (`control`).

mod dh;
pub mod early;
pub mod handshake;
pub mod record;
mod slices;
pub mod stream;
pub mod upgrade;

pub use self::handshake::{Accepted, HandshakeError, Initiation, accept};
pub use self::record::{Opener, RecordError, Sealer, SessionKeys};
pub use self::stream::NoiseStream;
pub use self::upgrade::{UpgradeError, UpgradeRequest};
