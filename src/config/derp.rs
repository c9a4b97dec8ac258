//! This replica's relay and STUN responder: headscale's `derp.server` and our `cluster.derp`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::address::{ServerUrl, parse_listen_addr};
use super::listeners::check_readable;
use super::reader::Reader;

const RELAY_PORT: u16 = 8443;
const STUN_PORT: u16 = 3478;

/// How this replica relays, and how clients reach its relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DerpConfig {
    /// TLS port of the relay (`cluster.derp.listen_addr`), default `:8443`.
    pub listen: SocketAddr,
    /// UDP port of the STUN responder (`derp.server.stun_listen_addr`), default 0.0.0.0:3478.
    pub stun_listen: SocketAddr,
    /// Name or address that clients dial (`cluster.derp.public_host`); absent = a public address,
    /// else the host of `cluster.peer_advertise_addr`.
    pub public_host: Option<String>,
    /// Literal address told to clients beside the host.
    pub public_ipv4: Option<Ipv4Addr>,
    /// Literal address told to clients beside the host.
    pub public_ipv6: Option<Ipv6Addr>,
    /// TCP port that clients dial; default: that of `listen`.
    pub public_port: u16,
    /// UDP port that clients ask; default: that of `stun_listen`.
    pub stun_port: u16,
    /// Certificate of the relay.
    pub certificate: RelayCertificate,
    /// Only nodes of the tailnet may use the relay (`derp.server.verify_clients`).
    pub verify_clients: bool,
    /// The DERP region that this replica asks for (`derp.server.region_id`); absent = the lowest
    /// free one.
    pub region_id: Option<u16>,
    /// `derp.server.region_code`; empty = derived from the replica's name.
    pub region_code: String,
    /// `derp.server.region_name`; empty = derived from the replica's name.
    pub region_name: String,
    /// File of the relay's Curve25519 key (`derp.server.private_key_path`); absent = in the data
    /// folder.
    pub private_key_path: Option<PathBuf>,
    /// Clients skip certificate checks: `demo` and tests only.
    pub insecure_for_tests: bool,
}

/// Where the certificate of the relay comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayCertificate {
    /// PEM files.
    Files {
        /// Certificate chain (`cluster.derp.cert_file`).
        cert_path: PathBuf,
        /// Private key (`cluster.derp.key_file`).
        key_path: PathBuf,
    },
    /// Made at first start and pinned by the DERP map.
    SelfSigned,
}

impl DerpConfig {
    pub(super) fn read(
        reader: &mut Reader<'_>,
        server_url: &ServerUrl,
        noise_key: Option<&Path>,
    ) -> Self {
        let any = |port| SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
        let any_v4 = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        let listen = reader
            .parse("cluster.derp.listen_addr", parse_listen_addr)
            .unwrap_or_else(|| any(RELAY_PORT));
        let stun_listen = reader
            .parse("derp.server.stun_listen_addr", parse_listen_addr)
            .unwrap_or_else(|| any_v4(STUN_PORT));
        check_switches(reader);
        Self {
            listen,
            stun_listen,
            public_host: reader.parse("cluster.derp.public_host", parse_host),
            public_ipv4: read_ip(reader, "cluster.derp.public_ipv4", "derp.server.ipv4"),
            public_ipv6: read_ip(reader, "cluster.derp.public_ipv6", "derp.server.ipv6"),
            public_port: reader
                .integer("cluster.derp.public_port", 1, u16::MAX)
                .unwrap_or_else(|| listen.port()),
            stun_port: reader
                .integer("cluster.derp.stun_port", 1, u16::MAX)
                .unwrap_or_else(|| stun_listen.port()),
            certificate: read_certificate(reader),
            verify_clients: reader.bool("derp.server.verify_clients").unwrap_or(true),
            region_id: reader
                .integer("derp.server.region_id", 0, u16::MAX)
                .filter(|region| *region != 0),
            region_code: reader.string("derp.server.region_code").unwrap_or_default(),
            region_name: reader.string("derp.server.region_name").unwrap_or_default(),
            private_key_path: read_key_path(reader, noise_key),
            insecure_for_tests: read_insecure(reader, server_url),
        }
    }
}

fn parse_host(text: &str) -> Result<String, &'static str> {
    let valid = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if !text.is_empty() && text.chars().all(valid) && text.parse::<SocketAddr>().is_err() {
        Ok(text.to_owned())
    } else {
        Err("must be a host name or an address, without a port")
    }
}

fn read_ip<T: std::str::FromStr>(reader: &mut Reader<'_>, key: &str, older: &str) -> Option<T> {
    let parse = |text: &str| {
        text.parse::<T>()
            .map_err(|_| "must be an address of that family")
    };
    let fallback = reader.parse(older, parse);
    reader.parse(key, parse).or(fallback)
}

fn read_certificate(reader: &mut Reader<'_>) -> RelayCertificate {
    let cert = reader.path("cluster.derp.cert_file");
    let key = reader.path("cluster.derp.key_file");
    match (cert, key) {
        (Some(cert_path), Some(key_path)) => {
            check_readable(reader, "cluster.derp.cert_file", &cert_path);
            check_readable(reader, "cluster.derp.key_file", &key_path);
            RelayCertificate::Files {
                cert_path,
                key_path,
            }
        }
        (None, None) => RelayCertificate::SelfSigned,
        (Some(_), None) => {
            reader.fail_key(
                "cluster.derp.key_file",
                "is missing beside cert_file; set both",
            );
            RelayCertificate::SelfSigned
        }
        (None, Some(_)) => {
            reader.fail_key(
                "cluster.derp.cert_file",
                "is missing beside key_file; set both",
            );
            RelayCertificate::SelfSigned
        }
    }
}

fn read_key_path(reader: &mut Reader<'_>, noise_key: Option<&Path>) -> Option<PathBuf> {
    const KEY: &str = "derp.server.private_key_path";
    let path = reader.path(KEY)?;
    if noise_key == Some(path.as_path())
        && let Some(setting) = reader.setting(KEY)
    {
        reader.fail(setting.error("must differ from noise.private_key_path; name another file"));
    }
    Some(path)
}

/// Switches of headscale whose answer is fixed here: every replica runs a relay.
fn check_switches(reader: &mut Reader<'_>) {
    let enabled = reader.bool("derp.server.enabled");
    if enabled == Some(false) {
        reader.notice("derp.server.enabled: every replica runs a relay; false has no effect");
    }
    let add = reader.bool("derp.server.automatically_add_embedded_derp_region");
    if add == Some(false) {
        if reader.list("derp.paths").is_empty() {
            let problem = "false needs derp.paths, or there is no relay at all; remove it";
            reader.fail_key(
                "derp.server.automatically_add_embedded_derp_region",
                problem,
            );
        } else {
            reader.notice(
                "derp.server.automatically_add_embedded_derp_region: the map always holds the \
                 replicas; false has no effect",
            );
        }
    }
}

fn read_insecure(reader: &mut Reader<'_>, server_url: &ServerUrl) -> bool {
    let insecure = reader
        .bool("cluster.derp.insecure_for_tests")
        .unwrap_or(false);
    if insecure {
        reader.notice(format!(
            "cluster.derp.insecure_for_tests: clients of {server_url} do not check the relay's \
             certificate; never use this outside tests"
        ));
    }
    insecure
}
