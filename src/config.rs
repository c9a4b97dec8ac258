//! The configuration: one YAML file with headscale's keys and the `cluster:` block, overridden by
//! environment variables, checked once into [`Config`].
//!
//! Flow: [`tree`] (located YAML) -> [`reader`] (environment over file over default, old names
//! translated) -> one file per part -> [`Config`]. Nothing here reads the process's environment:
//! it comes in as a map. Every error is one line that names the key, the value and the remedy.

mod address;
mod backup;
mod bootstrap;
mod client;
mod cluster;
mod compat;
mod derp;
mod dns;
mod duration;
mod error;
mod file;
mod listeners;
mod policy;
mod reader;
mod tailnet;
mod telemetry;
mod tree;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use self::reader::Reader;

pub use self::address::{HostPort, ServerUrl};
pub use self::backup::BackupConfig;
pub use self::bootstrap::BootstrapConfig;
pub use self::client::{ApiSecret, ClientConfig};
pub use self::cluster::ClusterConfig;
pub use self::derp::{DerpConfig, RelayCertificate};
pub use self::dns::{DnsConfig, ExtraRecord};
pub use self::duration::{DurationError, parse_go_duration, parse_prometheus_duration};
pub use self::error::{ConfigError, ConfigErrors, Notice, Origin};
pub use self::file::{Environment, find_config_file};
pub use self::listeners::{Listeners, TlsFiles};
pub use self::policy::{PolicyConfig, PolicyMode};
pub use self::tailnet::{FeatureConfig, TailnetConfig};
pub use self::telemetry::{LogConfig, LogFormat, OtlpConfig};

/// The whole configuration of a replica, checked: what it holds can be used as it is.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients reach the cluster (`server_url`).
    pub server_url: ServerUrl,
    /// Where this replica listens for clients, metrics scrapers and the local CLI.
    pub listeners: Listeners,
    /// Certificate of the client port; absent = plain HTTP, for use behind a balancer.
    pub tls: Option<TlsFiles>,
    /// headscale's Noise key, imported once when the cluster is made, if the file exists.
    pub noise_key_import: Option<PathBuf>,
    /// What becomes the settings of the tailnet.
    pub tailnet: TailnetConfig,
    /// What clients are told about features.
    pub features: FeatureConfig,
    /// What clients are told about name resolution.
    pub dns: DnsConfig,
    /// This replica's relay and STUN responder.
    pub derp: DerpConfig,
    /// This replica's place in the cluster.
    pub cluster: ClusterConfig,
    /// Backups that this replica makes by itself; absent = none.
    pub backup: Option<BackupConfig>,
    /// Where the policy comes from.
    pub policy: PolicyConfig,
    /// Log output.
    pub log: LogConfig,
    /// Trace export; absent = none.
    pub otlp: Option<OtlpConfig>,
    /// How the command line reaches a replica.
    pub client: ClientConfig,
    /// What the operator should know: translated, unknown and ineffective keys.
    pub notices: Vec<Notice>,
}

impl Config {
    /// Reads and checks the configuration that `environment` leads to: `explicit` (a `--config`
    /// argument), else `HYDRASCALE_CONFIG` or `HEADSCALE_CONFIG`, else the search path, else
    /// defaults.
    ///
    /// # Errors
    /// Every problem found, one line each.
    pub fn load(
        environment: &Environment,
        explicit: Option<&std::path::Path>,
    ) -> Result<Self, ConfigErrors> {
        let source = file::read(environment, explicit)?;
        Self::check(Reader::new(environment, source))
    }

    /// Checks the text of a configuration file as if it were read from `path`.
    ///
    /// # Errors
    /// Every problem found, one line each.
    pub fn from_text(
        environment: &Environment,
        path: &std::path::Path,
        text: &str,
    ) -> Result<Self, ConfigErrors> {
        let source = file::Source::parse(path, text)?;
        Self::check(Reader::new(environment, source))
    }

    fn check(mut reader: Reader<'_>) -> Result<Self, ConfigErrors> {
        compat::translate(&mut reader);
        let server_url = ServerUrl::read(&mut reader);
        let listeners = Listeners::read(&mut reader);
        let tls = TlsFiles::read(&mut reader);
        let noise_key_import = reader.path("noise.private_key_path");
        let tailnet = TailnetConfig::read(&mut reader);
        let features = FeatureConfig::read(&mut reader);
        let dns = DnsConfig::read(&mut reader, &server_url);
        let cluster = ClusterConfig::read(&mut reader);
        let derp = DerpConfig::read(&mut reader, &server_url, noise_key_import.as_deref());
        let backup = BackupConfig::read(&mut reader);
        let policy = PolicyConfig::read(&mut reader);
        let log = LogConfig::read(&mut reader);
        let otlp = OtlpConfig::read(&mut reader);
        let client = ClientConfig::read(&mut reader);
        compat::check_inert(&mut reader);
        let notices = reader.finish()?;
        Ok(Self {
            server_url,
            listeners,
            tls,
            noise_key_import,
            tailnet,
            features,
            dns,
            derp,
            cluster,
            backup,
            policy,
            log,
            otlp,
            client,
            notices,
        })
    }

    /// Whether clients that dial a replica itself on the port of `server_url` are served: the
    /// replica ends TLS there, and no balancer stands on another port.
    pub fn replicas_serve_server_url(&self) -> bool {
        let listener = self.listeners.client;
        self.server_url.is_https()
            && self.tls.is_some()
            && listener.port() == self.server_url.port()
            && !listener.ip().is_loopback()
    }

    /// A digest of what must be equal on all replicas: 32 hex digits. Replicas announce it, so
    /// that a replica with another tailnet's configuration is noticed.
    pub fn shared_digest(&self) -> String {
        #[derive(serde::Serialize)]
        struct Shared<'a> {
            server_url: &'a str,
            tailnet: &'a TailnetConfig,
            features: &'a FeatureConfig,
            dns: &'a DnsConfig,
            verify_clients: bool,
            policy_mode: PolicyMode,
        }
        let shared = Shared {
            server_url: self.server_url.as_str(),
            tailnet: &self.tailnet,
            features: &self.features,
            dns: &self.dns,
            verify_clients: self.derp.verify_clients,
            policy_mode: self.policy.mode,
        };
        let bytes = serde_json::to_vec(&shared).expect("plain data without maps of odd keys");
        blake3::hash(&bytes).to_hex().chars().take(32).collect()
    }
}
