//! What is asked, and why a question cannot be answered.

use super::super::ports::{SCTP, TCP, UDP, parse_protocol, protocol_name};
use std::net::IpAddr;

/// ICMP for IPv4.
const ICMP: u8 = 1;
/// ICMP for IPv6.
const ICMP_V6: u8 = 58;

/// May SRC reach DST?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// A user, group, tag, autogroup, node (name or id) or address.
    pub src: String,
    /// The same, or a name of `hosts`; without the port.
    pub dst: String,
    /// Which connections.
    pub wanted: Wanted,
}

/// The connections that are asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Absent: any.
    pub port: Option<u16>,
    /// IP protocol number; absent: TCP or UDP where a port is given, else any.
    pub protocol: Option<u8>,
}

impl Wanted {
    /// Whether it is a ping: clients let it in from whoever may reach any port of the address.
    pub(super) fn is_icmp(self) -> bool {
        matches!(self.protocol, Some(ICMP | ICMP_V6))
    }

    /// Whether a login by SSH is among them.
    pub(super) fn is_ssh(self) -> bool {
        matches!(self.port, None | Some(22)) && matches!(self.protocol, None | Some(TCP))
    }
}

/// The part of a question that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The source.
    Src,
    /// The destination, or its port.
    Dst,
    /// The protocol.
    Proto,
}

impl Part {
    /// Its name in a request.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Src => "src",
            Self::Dst => "dst",
            Self::Proto => "proto",
        }
    }
}

/// A question that cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct ExplainError {
    /// Where.
    pub part: Part,
    /// Why.
    pub fault: Fault,
}

/// Why a question cannot be answered, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nothing was named.
    #[error("name a user, group, tag, node or address")]
    Empty,
    /// The text has no form that stands for anything.
    #[error("{0:?} names nothing: give a user (alice@), group:…, tag:…, node or address")]
    Form(String),
    /// A bare word that nothing is called.
    #[error(
        "no node, user or host of the policy is called {0:?}: see `nodes list` and `users list`"
    )]
    Unknown(String),
    /// Several things are called so.
    #[error("{name:?} is more than one thing: say which by {remedies}")]
    Ambiguous {
        /// The word.
        name: String,
        /// What to say instead.
        remedies: String,
    },
    /// Nobody is called so.
    #[error("{0:?} means no user: see `users list`")]
    NoUser(String),
    /// A name that several users have stands for none of them.
    #[error("{name:?} means several users (ids {ids}) and so nobody: give an e-mail address")]
    ManyUsers {
        /// The name.
        name: String,
        /// Theirs.
        ids: String,
    },
    /// What is named has no node, so that it is neither source nor destination of anything.
    #[error("{name:?} stands for no node: {reason}")]
    NoNode {
        /// The name.
        name: String,
        /// Why, and what to do.
        reason: &'static str,
    },
    /// The policy has no such group, tag or host.
    #[error("the policy in force has no {0:?}: see `policy get`")]
    NotInPolicy(String),
    /// Wider than one address.
    #[error("{0:?} is more than one address: name one address in it")]
    Wide(String),
    /// An autogroup that depends on the rule that it stands in.
    #[error("{0:?} means something only inside a rule: name a user, node or address")]
    OnlyInRules(String),
    /// No rule is asked: the source is the destination, or carries its address.
    #[error("the source is the destination or carries its address itself, and no rule is asked")]
    Same,
    /// Not a port.
    #[error("{0:?} is not a port: give one number from 1 to 65535")]
    Port(String),
    /// The protocol has no ports.
    #[error("{0} has no ports: leave out the port")]
    NoPorts(String),
    /// Not a protocol.
    #[error("{0}")]
    Protocol(String),
}

impl Question {
    /// Reads a question; `dst` may end in a port.
    ///
    /// # Errors
    /// Names the part that is wrong.
    pub fn parse(src: &str, dst: &str, proto: Option<&str>) -> Result<Self, ExplainError> {
        let at = |part| move |fault| ExplainError { part, fault };
        let (dst, port) = split_port(dst.trim()).map_err(at(Part::Dst))?;
        let protocol = proto.map(str::trim).filter(|proto| !proto.is_empty());
        let protocol = protocol.map(|proto| parse_protocol(&proto.to_lowercase()));
        let protocol = protocol.transpose().map_err(Fault::Protocol);
        let protocol = protocol.map_err(at(Part::Proto))?;
        let portless = protocol.filter(|protocol| ![TCP, UDP, SCTP].contains(protocol));
        if let Some(protocol) = portless.filter(|_| port.is_some()) {
            return Err(at(Part::Dst)(Fault::NoPorts(protocol_name(protocol))));
        }
        for (part, text) in [(Part::Src, src.trim()), (Part::Dst, dst.as_str())] {
            if text.is_empty() {
                return Err(at(part)(Fault::Empty));
            }
        }
        Ok(Self {
            src: src.trim().to_owned(),
            dst,
            wanted: Wanted { port, protocol },
        })
    }
}

/// Splits `DST[:PORT]`. An IPv6 address with a port stands in brackets; a last part that is no
/// number belongs to the name (`tag:web`).
fn split_port(text: &str) -> Result<(String, Option<u16>), Fault> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok((text.to_owned(), None));
    }
    if let Some((address, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let port = match rest.strip_prefix(':') {
            Some(port) => parse_port(port)?,
            None if rest.is_empty() => None,
            None => return Err(Fault::Form(text.to_owned())),
        };
        return Ok((address.to_owned(), port));
    }
    let Some((name, port)) = text.rsplit_once(':') else {
        return Ok((text.to_owned(), None));
    };
    let is_port = |c: char| c.is_ascii_digit() || [',', '-', '*'].contains(&c);
    if port.starts_with(|c: char| c.is_ascii_digit() || c == '*') && port.chars().all(is_port) {
        return Ok((name.to_owned(), parse_port(port)?));
    }
    let is_kind = ["tag", "group", "autogroup", "host", "ipset", "user", "svc"].contains(&name);
    if is_kind && !port.is_empty() {
        return Ok((text.to_owned(), None));
    }
    Err(Fault::Port(port.to_owned()))
}

/// One port; `*` is any.
fn parse_port(text: &str) -> Result<Option<u16>, Fault> {
    if text == "*" {
        return Ok(None);
    }
    match text.parse() {
        Ok(port) if port > 0 => Ok(Some(port)),
        Ok(_) | Err(_) => Err(Fault::Port(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(dst: &str, proto: Option<&str>) -> Result<(String, Wanted), String> {
        let question = Question::parse("alice@", dst, proto).map_err(|error| error.to_string())?;
        Ok((question.dst, question.wanted))
    }

    #[test]
    fn a_port_stands_behind_the_last_colon() {
        let cases = [
            ("web", "web", None),
            ("web:22", "web", Some(22)),
            ("web:*", "web", None),
            ("tag:web", "tag:web", None),
            ("tag:web:443", "tag:web", Some(443)),
            ("host:db:5432", "host:db", Some(5432)),
            ("100.64.0.1:22", "100.64.0.1", Some(22)),
            ("fd7a::1:22", "fd7a::1:22", None),
            ("[fd7a::1]:22", "fd7a::1", Some(22)),
            ("[fd7a::1]", "fd7a::1", None),
            ("10.0.0.0/8:80", "10.0.0.0/8", Some(80)),
        ];
        for (text, dst, port) in cases {
            let protocol = None;
            let wanted = Wanted { port, protocol };
            assert_eq!(parsed(text, None), Ok((dst.to_owned(), wanted)), "{text}");
        }
        for text in [
            "web:0",
            "web:65536",
            "web:80,443",
            "web:ssh",
            "web:",
            "[fd7a::1]x",
        ] {
            parsed(text, None).unwrap_err();
        }
    }

    #[test]
    fn a_protocol_without_ports_takes_none() {
        assert_eq!(parsed("web", Some("ICMP")).unwrap().1.protocol, Some(1));
        assert_eq!(parsed("web:53", Some("17")).unwrap().1.protocol, Some(17));
        let error = parsed("web:22", Some("icmp")).unwrap_err();
        assert_eq!(error, "icmp has no ports: leave out the port");
        assert!(parsed("web", Some("tpc")).is_err());
        let error = Question::parse(" ", "web", None).unwrap_err();
        assert_eq!((error.part, error.fault), (Part::Src, Fault::Empty));
    }
}
