//! Ports and protocols as rules name them.

use std::fmt;
use std::net::Ipv6Addr;

use crate::tailcfg::PortRange;

/// Number of an IP protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

/// Names and their numbers (IANA); of two names for one number the first is shown.
const PROTOCOLS: [(&str, u8); 14] = [
    ("icmp", 1),
    ("igmp", 2),
    ("ipv4", 4),
    ("ip-in-ip", 4),
    ("tcp", 6),
    ("egp", 8),
    ("igp", 9),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("ipv6-icmp", 58),
    ("sctp", 132),
    ("fc", 133),
];

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6.
    pub const ICMP_V6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);

    /// Reads a name in lower case, or a number.
    ///
    /// # Errors
    /// Says what is wrong in the service's words.
    pub fn parse(text: &str) -> Result<Self, ProtocolError> {
        if let Some((_, number)) = PROTOCOLS.iter().find(|(name, _)| *name == text) {
            return Ok(Self(*number));
        }
        if text == "*" {
            return Err(ProtocolError::Wildcard);
        }
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ProtocolError::Unknown(text.to_owned()));
        }
        if text.starts_with('0') {
            return Err(ProtocolError::LeadingZero(text.to_owned()));
        }
        match text.parse() {
            Ok(number) => Ok(Self(number)),
            Err(_) => Err(ProtocolError::OutOfRange(text.to_owned())),
        }
    }

    /// Whether connections have ports.
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PROTOCOLS.iter().find(|(_, known)| *known == self.0) {
            Some((name, _)) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

/// Text that is no protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// `*`
    #[error(
        "proto name \"*\" not known; use protocol number 0-255 or protocol name (icmp, tcp, udp, \
         etc.)"
    )]
    Wildcard,
    /// `06`
    #[error("leading 0 not permitted in protocol number: {0:?}")]
    LeadingZero(String),
    /// `256`
    #[error("protocol number out of range (0-255): {0}")]
    OutOfRange(String),
    /// Neither a number nor a name that is known.
    #[error(
        "invalid protocol number: {0:?} must be a known protocol name or valid protocol number \
         0-255"
    )]
    Unknown(String),
}

/// Text that names no ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortsError {
    /// Not a number.
    #[error("port range {0:?}: invalid first integer")]
    First(String),
    /// Not a number.
    #[error("port range {0:?}: invalid last integer")]
    Last(String),
    /// Port 0 alone.
    #[error("port range {0:?}: first port must be >0, or use '*' for wildcard")]
    Zero(String),
    /// `9-1`
    #[error("invalid port range: first port is greater than last port")]
    Reversed,
    /// `65536`
    #[error("port number out of range: {0}")]
    OutOfRange(String),
    /// `1-2-3`
    #[error("invalid port range format")]
    Format,
    /// No colon at all.
    #[error("hostport must contain a colon: {0:?}")]
    NoColon(String),
    /// `host:`
    #[error("input cannot end with a colon character")]
    EndsWithColon,
    /// `:22`
    #[error("input cannot start with a colon character")]
    StartsWithColon,
    /// `[10.0.0.1]:22`
    #[error("square brackets are only valid around IPv6 addresses")]
    Brackets,
}

/// Reads `*`, or ports and ranges of ports with commas between them.
///
/// # Errors
/// Says what is wrong in the service's words.
pub fn parse_ports(text: &str) -> Result<Vec<PortRange>, PortsError> {
    if text == "*" {
        return Ok(vec![PortRange::ANY]);
    }
    text.split(',')
        .map(|part| parse_range(part, text))
        .collect()
}

fn parse_range(part: &str, all: &str) -> Result<PortRange, PortsError> {
    // As headscale does, empty pieces between dashes count as nothing: `1--2` is `1-2`.
    let mut ends = part.split('-').filter(|end| !end.is_empty());
    let first = ends
        .next()
        .ok_or_else(|| PortsError::First(all.to_owned()))?;
    let last = ends.next();
    if ends.next().is_some() {
        return Err(PortsError::Format);
    }
    let first = parse_port(first)?.ok_or_else(|| PortsError::First(all.to_owned()))?;
    let Some(last) = last else {
        if first == 0 {
            return Err(PortsError::Zero(all.to_owned()));
        }
        return Ok(PortRange { first, last: first });
    };
    let last = parse_port(last)?.ok_or_else(|| PortsError::Last(all.to_owned()))?;
    if first > last {
        return Err(PortsError::Reversed);
    }
    Ok(PortRange { first, last })
}

/// A port; `None` if the text is not a number.
fn parse_port(text: &str) -> Result<Option<u16>, PortsError> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(port) => Ok(Some(port)),
        Err(_) => Err(PortsError::OutOfRange(text.to_owned())),
    }
}

/// Splits `selector:ports` at the last colon. Brackets are allowed around an IPv6 address, also in
/// front of a prefix length; the selector comes without them.
///
/// # Errors
/// Says what is wrong in the service's words.
pub fn split_ports(text: &str) -> Result<(String, &str), PortsError> {
    let Some((selector, ports)) = text.rsplit_once(':') else {
        return Err(PortsError::NoColon(text.to_owned()));
    };
    if ports.is_empty() {
        return Err(PortsError::EndsWithColon);
    }
    if selector.is_empty() {
        return Err(PortsError::StartsWithColon);
    }
    let Some(inner) = selector.strip_prefix('[') else {
        return Ok((selector.to_owned(), ports));
    };
    let (address, length) = inner.split_once(']').ok_or(PortsError::Brackets)?;
    if address.parse::<Ipv6Addr>().is_err() {
        return Err(PortsError::Brackets);
    }
    Ok((format!("{address}{length}"), ports))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_lists_of_ports_and_ranges() {
        let ports = parse_ports("22,80-90").unwrap();
        assert_eq!((ports[0].first, ports[0].last), (22, 22));
        assert_eq!((ports[1].first, ports[1].last), (80, 90));
        assert_eq!(parse_ports("*").unwrap(), [PortRange::ANY]);
        let said = |text: &str| parse_ports(text).unwrap_err().to_string();
        assert_eq!(said("ssh"), "port range \"ssh\": invalid first integer");
        assert_eq!(said("1-x"), "port range \"1-x\": invalid last integer");
        assert_eq!(
            said("0"),
            "port range \"0\": first port must be >0, or use '*' for wildcard"
        );
        assert!(said("9-1").contains("greater than last"));
        assert!(said("65536").contains("out of range"));
        assert!(said("1-2-3").contains("format"));
        assert!(said("").contains("invalid first integer"));
    }

    #[test]
    fn destinations_are_split_at_the_last_colon() {
        let split = |text| split_ports(text).map(|(selector, ports)| format!("{selector} {ports}"));
        assert_eq!(split("tag:a:22").unwrap(), "tag:a 22");
        assert_eq!(split("[fd7a::1]:22").unwrap(), "fd7a::1 22");
        assert_eq!(split("[fd7a::]/64:*").unwrap(), "fd7a::/64 *");
        assert_eq!(split("fd7a::1:22").unwrap(), "fd7a::1 22");
        let said = |text| split(text).unwrap_err().to_string();
        assert!(said("[10.0.0.1]:22").contains("square"));
        assert!(said("[fd7a::1:22").contains("square"));
        assert!(said("host").contains("contain a colon"));
        assert!(said("host:").contains("cannot end"));
        assert!(said(":22").contains("cannot start"));
    }

    #[test]
    fn protocols_are_known_by_name_and_number() {
        assert_eq!(Protocol::parse("tcp"), Protocol::parse("6"));
        assert_eq!(Protocol(4).to_string(), "ipv4");
        assert_eq!(Protocol(200).to_string(), "200");
        let said = |text| Protocol::parse(text).unwrap_err().to_string();
        assert!(said("06").contains("leading 0"));
        assert!(said("0").contains("leading 0"));
        assert!(said("256").contains("out of range"));
        assert!(said("*").contains("proto name \"*\" not known"));
        assert!(said("").contains("must be a known protocol name"));
    }
}
