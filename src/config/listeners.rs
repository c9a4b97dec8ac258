//! Where a replica listens, and with which certificate.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use super::address::parse_listen_addr;
use super::reader::Reader;

const UNIX_SOCKET: &str = "/var/run/headscale/headscale.sock";
const UNIX_SOCKET_MODE: u32 = 0o770;

/// Addresses of the client port, the metrics port and the local socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listeners {
    /// Client port (`listen_addr`), default 127.0.0.1:8080. `[::]` means all interfaces, IPv4 too.
    pub client: SocketAddr,
    /// Metrics and debug port (`metrics_listen_addr`), default 127.0.0.1:9090; absent = off.
    pub metrics: Option<SocketAddr>,
    /// Socket of the local CLI, without authentication (`unix_socket`).
    pub unix_socket: PathBuf,
    /// File mode of that socket (`unix_socket_permission`).
    pub unix_socket_mode: u32,
    /// Networks of balancers, whose `X-Forwarded-For` is believed (`trusted_proxies`).
    pub trusted_proxies: Vec<IpNet>,
}

/// PEM files of the client port's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain (`tls_cert_path`).
    pub cert_path: PathBuf,
    /// Private key (`tls_key_path`).
    pub key_path: PathBuf,
}

impl Listeners {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let client = reader
            .parse("listen_addr", parse_listen_addr)
            .unwrap_or_else(|| local(8080));
        Self {
            client,
            metrics: read_metrics(reader, local(9090)),
            unix_socket: reader
                .path("unix_socket")
                .unwrap_or_else(|| PathBuf::from(UNIX_SOCKET)),
            unix_socket_mode: reader
                .parse("unix_socket_permission", parse_mode)
                .unwrap_or(UNIX_SOCKET_MODE),
            trusted_proxies: reader.parse_list("trusted_proxies", parse_proxy),
        }
    }
}

/// An empty address switches the port off; an absent key leaves the default.
fn read_metrics(reader: &mut Reader<'_>, default: SocketAddr) -> Option<SocketAddr> {
    const KEY: &str = "metrics_listen_addr";
    let setting = reader.setting(KEY);
    let off = setting
        .as_ref()
        .is_some_and(|setting| setting.text() == Some(""));
    if off {
        None
    } else {
        Some(reader.parse(KEY, parse_listen_addr).unwrap_or(default))
    }
}

fn parse_mode(text: &str) -> Result<u32, &'static str> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    u32::from_str_radix(digits, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or("must be a file mode in octal, such as \"0770\"")
}

fn parse_proxy(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text
        .parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "must be a network such as 10.0.0.0/8")?;
    if net.prefix_len() == 0 {
        return Err("trusts every address; name the networks of your proxies".to_owned());
    }
    Ok(net)
}

impl TlsFiles {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let cert = reader.path("tls_cert_path");
        let key = reader.path("tls_key_path");
        let acme = reader.string("tls_letsencrypt_hostname");
        if acme.is_some() && (cert.is_some() || key.is_some()) {
            reader.fail_key(
                "tls_letsencrypt_hostname",
                "excludes tls_cert_path and tls_key_path; keep one of the two ways",
            );
        }
        match (cert, key) {
            (Some(cert_path), Some(key_path)) => {
                check_readable(reader, "tls_cert_path", &cert_path);
                check_readable(reader, "tls_key_path", &key_path);
                Some(Self {
                    cert_path,
                    key_path,
                })
            }
            (None, None) => None,
            (Some(_), None) => {
                reader.fail_key("tls_key_path", "is missing beside tls_cert_path; set both");
                None
            }
            (None, Some(_)) => {
                reader.fail_key("tls_cert_path", "is missing beside tls_key_path; set both");
                None
            }
        }
    }
}

/// A missing certificate is an error of the configuration, not of the first handshake.
pub(super) fn check_readable(reader: &mut Reader<'_>, key: &str, path: &std::path::Path) {
    if let Err(error) = std::fs::File::open(path)
        && let Some(setting) = reader.setting(key)
    {
        let problem = format!(
            "cannot be read: {error}; create {} or correct the path",
            path.display()
        );
        reader.fail(setting.error(problem));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_modes_are_octal_with_or_without_prefix() {
        assert_eq!(parse_mode("0770"), Ok(0o770));
        assert_eq!(parse_mode("0o700"), Ok(0o700));
        assert!(parse_mode("0888").is_err());
        assert!(parse_mode("77777").is_err());
    }

    #[test]
    fn a_proxy_network_must_not_be_everything() {
        assert_eq!(parse_proxy("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
        assert!(parse_proxy("0.0.0.0/0").is_err());
        assert!(parse_proxy("::/0").is_err());
        assert!(parse_proxy("proxy").is_err());
    }
}
