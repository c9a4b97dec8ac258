//! Where a replica's API is reached.

use std::fmt;
use std::path::PathBuf;

/// The local socket, or a host with or without TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Socket(PathBuf),
    Host { tls: bool, host: String, port: u16 },
}

impl Address {
    /// Parses `https://host[:port]`, `http://host[:port]`, `host[:port]` (TLS, as headscale does) or
    /// `unix:///path`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            return Ok(Self::Socket(PathBuf::from(path)));
        }
        let url = if text.contains("://") {
            text.to_owned()
        } else {
            format!("https://{text}")
        };
        let url = crate::config::ServerUrl::parse(&url)
            .map_err(|problem| format!("{text:?} {problem}"))?;
        Ok(Self::Host {
            tls: url.is_https(),
            host: url.host().to_owned(),
            port: url.port(),
        })
    }

    pub(super) fn host_header(&self) -> String {
        match self {
            Self::Socket(_) => "localhost".to_owned(),
            Self::Host { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Host { host, port, .. } => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Host { tls, .. } => {
                write!(
                    f,
                    "{}://{}",
                    if *tls { "https" } else { "http" },
                    self.host_header()
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_host_means_tls() {
        for (text, expected) in [
            ("hs.example.org", "https://hs.example.org:443"),
            ("hs.example.org:8080", "https://hs.example.org:8080"),
            ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
            ("https://[::1]:1", "https://[::1]:1"),
            ("unix:///run/x.sock", "/run/x.sock"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), expected);
        }
        assert!(
            Address::parse("ftp://x")
                .unwrap_err()
                .contains("\"ftp://x\" must start with")
        );
    }
}
