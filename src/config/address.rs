//! URLs and socket addresses as headscale's configuration writes them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Serialize;

use super::reader::Reader;

/// Where clients reach the cluster: scheme, host and port of `server_url`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerUrl {
    text: String,
    https: bool,
    host: String,
    port: u16,
}

/// A host (name or literal address) and a port that others dial.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct HostPort {
    /// A DNS name or a literal address, an IPv6 one without brackets.
    pub host: String,
    /// TCP or UDP port, never 0.
    pub port: u16,
}

const URL_REMEDY: &str = "must be a URL such as https://tailnet.example.com:443";

impl ServerUrl {
    /// Parses a URL with scheme http or https; a trailing slash is dropped.
    ///
    /// # Errors
    /// A sentence that says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (https, rest) = if let Some(rest) = text.strip_prefix("https://") {
            (true, rest)
        } else if let Some(rest) = text.strip_prefix("http://") {
            (false, rest)
        } else {
            return Err(format!(
                "must start with http:// or https://; it {URL_REMEDY}"
            ));
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
        if authority.contains('@') {
            return Err("must not carry a user name or password".to_owned());
        }
        let (host, port) =
            split_host_port(authority).map_err(|problem| format!("{problem}; it {URL_REMEDY}"))?;
        let default_port = if https { 443 } else { 80 };
        let text = text.trim_end_matches('/').to_owned();
        Ok(Self {
            text,
            https,
            host: host.to_lowercase(),
            port: port.unwrap_or(default_port),
        })
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        match reader.parse("server_url", Self::parse) {
            Some(url) => url,
            None => {
                if reader
                    .setting("server_url")
                    .is_none_or(|s| s.text().is_none_or(str::is_empty))
                {
                    reader.fail_key("server_url", format!("is missing; it {URL_REMEDY}"));
                }
                Self {
                    text: String::new(),
                    https: false,
                    host: String::new(),
                    port: 0,
                }
            }
        }
    }

    /// The URL without a trailing slash.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether clients use TLS.
    pub const fn is_https(&self) -> bool {
        self.https
    }

    /// Host in lower case, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, 443 or 80 where the URL names none.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl HostPort {
    /// Parses `host:port` or `[v6]:port`.
    ///
    /// # Errors
    /// A sentence that says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        const REMEDY: &str = "must be host:port, such as replica-1.example.com:7443";
        let (host, port) =
            split_host_port(text).map_err(|problem| format!("{problem}; it {REMEDY}"))?;
        let port = port.ok_or(REMEDY)?;
        Ok(Self { host, port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Parses an address to listen on: `ip:port`, `:port` (all interfaces, IPv6 and IPv4) or
/// `localhost:port`.
pub(super) fn parse_listen_addr(text: &str) -> Result<SocketAddr, String> {
    const REMEDY: &str = "must be ip:port or :port, such as 0.0.0.0:8080";
    if let Ok(addr) = text.parse() {
        return Ok(addr);
    }
    let (host, port) = text.rsplit_once(':').ok_or(REMEDY)?;
    let port: u16 = match port {
        "http" => 80,
        "https" => 443,
        digits => digits.parse().map_err(|_| REMEDY)?,
    };
    match host {
        "" | "*" => Ok(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)),
        "localhost" => Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        _ => Err(format!(
            "{REMEDY}; host names other than localhost are not resolved"
        )),
    }
}

/// Splits `host[:port]`; the host is a name or an address, IPv6 in brackets.
fn split_host_port(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("has no closing bracket")?;
        host.parse::<Ipv6Addr>()
            .map_err(|_| "has no IPv6 address in its brackets")?;
        let port = match after.strip_prefix(':') {
            Some(port) => Some(port),
            None if after.is_empty() => None,
            None => return Err("has text behind its bracket".to_owned()),
        };
        (host, port)
    } else {
        match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("needs brackets around an IPv6 address".to_owned());
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let valid = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    if host.is_empty() || !host.chars().all(valid) {
        return Err("has no valid host".to_owned());
    }
    let port = port
        .map(|port| {
            port.parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or("has no valid port")
        })
        .transpose()?;
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_url_gives_scheme_host_and_port() {
        let url = ServerUrl::parse("https://Net.Example.com/").unwrap();
        assert_eq!(
            (url.as_str(), url.is_https()),
            ("https://Net.Example.com", true)
        );
        assert_eq!((url.host(), url.port()), ("net.example.com", 443));
        let url = ServerUrl::parse("http://[::1]:8080").unwrap();
        assert_eq!((url.host(), url.port()), ("::1", 8080));
    }

    #[test]
    fn a_bad_server_url_says_what_to_write() {
        for text in [
            "example.com",
            "ftp://x",
            "https://",
            "https://a:b",
            "https://u:p@h",
            "http://a b",
        ] {
            let problem = ServerUrl::parse(text).unwrap_err();
            assert!(problem.contains("must"), "{text}: {problem}");
        }
    }

    #[test]
    fn listen_addresses_without_host_mean_all_interfaces() {
        assert_eq!(parse_listen_addr(":7443").unwrap().to_string(), "[::]:7443");
        assert_eq!(
            parse_listen_addr("localhost:1").unwrap().to_string(),
            "127.0.0.1:1"
        );
        assert_eq!(parse_listen_addr(":http").unwrap().port(), 80);
        assert!(parse_listen_addr("example.com:1").is_err());
        assert!(parse_listen_addr("8080").is_err());
    }

    #[test]
    fn host_and_port_round_trip() {
        for text in ["a.example:1", "[fd7a::1]:7443", "10.0.0.1:65535"] {
            assert_eq!(HostPort::parse(text).unwrap().to_string(), text);
        }
        assert!(HostPort::parse("a.example").is_err());
        assert!(HostPort::parse("fd7a::1:7443").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_the_parsers(text in "\\PC{0,40}") {
            let _ = ServerUrl::parse(&text);
            let _ = HostPort::parse(&text);
            let _ = parse_listen_addr(&text);
        }
    }
}
