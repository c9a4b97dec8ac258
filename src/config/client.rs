//! How the command line reaches a replica.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{ConfigErrors, Notice};
use super::file::{self, Environment};
use super::reader::Reader;

const TIMEOUT: Duration = Duration::from_secs(5);
const UNIX_SOCKET: &str = "/var/run/headscale/headscale.sock";

/// The `cli:` part and the local socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// Addresses of replicas, tried in order (`cli.address`: a list, or text with commas); empty =
    /// the local socket.
    pub addresses: Vec<String>,
    /// Sent as bearer token to an address.
    pub api_key: Option<ApiSecret>,
    /// For connecting, and for each request (`cli.timeout`), default 5 s.
    pub timeout: Duration,
    /// Certificates are not checked (`cli.insecure`).
    pub insecure: bool,
    /// Socket of the replica on this machine.
    pub unix_socket: PathBuf,
}

/// A credential; never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiSecret(String);

impl ApiSecret {
    /// Wraps a secret.
    pub const fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiSecret(redacted)")
    }
}

impl ClientConfig {
    /// Reads only what the command line needs, so that it works on a machine without a replica's
    /// configuration. Unknown keys are left to the replica.
    ///
    /// # Errors
    /// Every problem found in these keys, one line each.
    pub fn load(
        environment: &Environment,
        explicit: Option<&Path>,
    ) -> Result<(Self, Vec<Notice>), ConfigErrors> {
        let source = file::read(environment, explicit)?;
        let mut reader = Reader::new(environment, source);
        let client = Self::read(&mut reader);
        reader.finish_part().map(|notices| (client, notices))
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let addresses = reader.list("cli.address");
        Self {
            addresses: addresses
                .iter()
                .flat_map(|item| item.split(','))
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(str::to_owned)
                .collect(),
            api_key: reader.string("cli.api_key").map(ApiSecret),
            timeout: reader
                .duration("cli.timeout")
                .filter(|timeout| !timeout.is_zero())
                .unwrap_or(TIMEOUT),
            insecure: reader.bool("cli.insecure").unwrap_or(false),
            unix_socket: reader
                .path("unix_socket")
                .unwrap_or_else(|| PathBuf::from(UNIX_SOCKET)),
        }
    }
}
