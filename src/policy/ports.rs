//! Ports and protocols as rules name them.

use crate::tailcfg::PortRange;

/// Protocol names and their numbers (IANA); of two names for one number the first is shown.
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

/// TCP.
pub(super) const TCP: u8 = 6;
/// UDP.
pub(super) const UDP: u8 = 17;
/// SCTP.
pub(super) const SCTP: u8 = 132;
/// What a rule without a protocol is about: TCP, UDP, ICMP and ICMPv6.
pub(super) const DEFAULT_PROTOCOLS: [i32; 4] = [6, 17, 1, 58];

/// The number of a protocol given by name or number.
pub(super) fn parse_protocol(text: &str) -> Result<u8, String> {
    if let Some((_, number)) = PROTOCOLS.iter().find(|(name, _)| *name == text) {
        return Ok(*number);
    }
    if text == "*" {
        return Err(
            "proto name \"*\" not known; use protocol number 0-255 or protocol name \
                    (icmp, tcp, udp, etc.)"
                .to_owned(),
        );
    }
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        return Err(format!(
            "invalid protocol number: {text:?} must be a known protocol name or valid protocol \
             number 0-255"
        ));
    }
    if text.starts_with('0') {
        return Err(format!(
            "leading 0 not permitted in protocol number: {text:?}"
        ));
    }
    text.parse()
        .map_err(|_| format!("protocol number out of range (0-255): {text}"))
}

/// The name of a protocol, or its number.
pub(super) fn protocol_name(number: u8) -> String {
    let known = PROTOCOLS.iter().find(|(_, known)| *known == number);
    known.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

/// `*`, or ports and ranges of ports with commas between them.
pub(super) fn parse_ports(text: &str) -> Result<Vec<PortRange>, String> {
    if text == "*" {
        return Ok(vec![PortRange::ANY]);
    }
    text.split(',')
        .map(|part| parse_range(part, text))
        .collect()
}

fn parse_range(part: &str, all: &str) -> Result<PortRange, String> {
    let ends: Vec<&str> = part.split('-').filter(|end| !end.is_empty()).collect();
    let fail = |what: &str| Err(format!("port range {all:?}: {what}"));
    match ends.as_slice() {
        [port] => {
            let Some(port) = parse_port(port)? else {
                return fail("invalid first integer");
            };
            if port == 0 {
                return fail("first port must be >0, or use '*' for wildcard");
            }
            Ok(PortRange {
                first: port,
                last: port,
            })
        }
        [first, last] => {
            let Some(first) = parse_port(first)? else {
                return fail("invalid first integer");
            };
            let Some(last) = parse_port(last)? else {
                return fail("invalid last integer");
            };
            if first > last {
                return Err("invalid port range: first port is greater than last port".to_owned());
            }
            Ok(PortRange { first, last })
        }
        [] => fail("invalid first integer"),
        _ => Err("invalid port range format".to_owned()),
    }
}

/// A port; `None` if the text is not a number.
fn parse_port(text: &str) -> Result<Option<u16>, String> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(port) => Ok(Some(port)),
        Err(_) => Err(format!("port number out of range: {text}")),
    }
}

/// Splits `selector:ports` at the last colon. Brackets are allowed around an IPv6 address, also in
/// front of a prefix length.
pub(super) fn split_ports(text: &str) -> Result<(String, &str), String> {
    let Some((selector, ports)) = text.rsplit_once(':') else {
        return Err(format!("hostport must contain a colon: {text:?}"));
    };
    if ports.is_empty() {
        return Err("input cannot end with a colon character".to_owned());
    }
    if selector.is_empty() {
        return Err("input cannot start with a colon character".to_owned());
    }
    let Some(inner) = selector.strip_prefix('[') else {
        return Ok((selector.to_owned(), ports));
    };
    let bad = || "square brackets are only valid around IPv6 addresses".to_owned();
    let (address, length) = inner.split_once(']').ok_or_else(bad)?;
    if address.parse::<std::net::Ipv6Addr>().is_err() {
        return Err(bad());
    }
    Ok((format!("{address}{length}"), ports))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_lists_of_ports_and_ranges() {
        let ports = parse_ports("22,80-90").unwrap();
        assert_eq!(ports.len(), 2);
        assert_eq!((ports[1].first, ports[1].last), (80, 90));
        assert_eq!(parse_ports("*").unwrap(), [PortRange::ANY]);
        assert_eq!(
            parse_ports("ssh").unwrap_err(),
            "port range \"ssh\": invalid first integer"
        );
        assert_eq!(
            parse_ports("0").unwrap_err(),
            "port range \"0\": first port must be >0, or use '*' for wildcard"
        );
        assert!(
            parse_ports("9-1")
                .unwrap_err()
                .contains("greater than last")
        );
        assert!(parse_ports("65536").unwrap_err().contains("out of range"));
    }

    #[test]
    fn destinations_are_split_at_the_last_colon() {
        let split = |text| split_ports(text).map(|(selector, ports)| format!("{selector} {ports}"));
        assert_eq!(split("tag:a:22").unwrap(), "tag:a 22");
        assert_eq!(split("[fd7a::1]:22").unwrap(), "fd7a::1 22");
        assert_eq!(split("[fd7a::]/64:*").unwrap(), "fd7a::/64 *");
        assert_eq!(split("fd7a::1:22").unwrap(), "fd7a::1 22");
        assert!(split("[10.0.0.1]:22").unwrap_err().contains("square"));
        assert!(split("host").unwrap_err().contains("contain a colon"));
        assert!(split("host:").unwrap_err().contains("cannot end"));
        assert!(split(":22").unwrap_err().contains("cannot start"));
    }

    #[test]
    fn protocols_are_known_by_name_and_number() {
        assert_eq!(parse_protocol("tcp"), parse_protocol("6"));
        assert_eq!(protocol_name(4), "ipv4");
        assert_eq!(protocol_name(200), "200");
        assert!(parse_protocol("06").unwrap_err().contains("leading 0"));
        assert!(parse_protocol("256").unwrap_err().contains("out of range"));
    }
}
