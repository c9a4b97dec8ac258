//! `acls` and `grants`.

use std::collections::BTreeMap;

use super::super::error::Position;
use super::super::hujson::{Kind, Member, Value};
use super::super::ports::{
    SCTP, TCP, UDP, parse_ports, parse_protocol, protocol_name, split_ports,
};
use super::super::selector::{Autogroup, Selector, Spot};
use super::decode::{Decoder, Fields};
use super::lookup::Place;
use super::{Acl, Grant, IpEntry, Text};
use crate::tailcfg::PortRange;

/// Capabilities in Tailscale's own domain that a policy may grant.
const TAILSCALE_CAPS: [&str; 6] = [
    "tailscale.com/cap/drive",
    "tailscale.com/cap/relay",
    "tailscale.com/cap/webui",
    "tailscale.com/cap/kubernetes",
    "tailscale.com/cap/tsidp",
    "tailscale.com/cap/secrets",
];
const ACL_FIELDS: [&str; 7] = [
    "action",
    "proto",
    "src",
    "srcPosture",
    "dst",
    "users",
    "ports",
];
const SELF_NEEDS_IDENTITY: &str =
    "autogroup:self can only be used with users, groups, or supported autogroups";

impl Decoder<'_> {
    pub(super) fn acl(&mut self, value: &Value) -> Option<Acl> {
        // headscale-admin keeps notes in keys that begin with `#`.
        let value = without_notes(value);
        let fields = self.fields(&value, &ACL_FIELDS);
        self.acl_action(value.at, &fields);
        let protocol = self.acl_protocol(&fields);
        // The first tailnets called them users and ports.
        let mut src = self.trimmed(&fields, "src");
        src.extend(self.trimmed(&fields, "users"));
        let mut dst = self.texts(&fields, "dst");
        dst.extend(self.texts(&fields, "ports"));
        let src = self.spots(src, Place::Src);
        let dst: Vec<_> = dst
            .into_iter()
            .filter_map(|text| self.acl_dst(text, protocol))
            .collect();
        let spots: Vec<&Spot> = dst.iter().map(|(spot, _)| spot).collect();
        self.check_self(&src, &spots, true);
        Some(Acl {
            at: value.at,
            protocol,
            src,
            src_posture: self.src_posture(&fields),
            dst,
        })
    }

    fn acl_action(&mut self, at: Position, fields: &Fields<'_>) {
        let action = self.string(fields, "action");
        let (at, action) = action.map_or((at, String::new()), |text| (text.at, text.text));
        if action != "accept" {
            self.error(at, format!("action={action:?} is not supported"));
        }
    }

    fn acl_protocol(&mut self, fields: &Fields<'_>) -> Option<u8> {
        let value = fields.get("proto")?;
        let text = if let Kind::Number(number) = &value.kind {
            number.clone()
        } else {
            self.text(value)?.text.to_lowercase()
        };
        if text.is_empty() {
            return None;
        }
        match parse_protocol(&text) {
            Ok(number) => Some(number),
            Err(message) => {
                self.error(value.at, message);
                None
            }
        }
    }

    fn acl_dst(&mut self, text: Text, protocol: Option<u8>) -> Option<(Spot, Vec<PortRange>)> {
        let Text { at, text } = text;
        let split = split_ports(&text).and_then(|(selector, ports)| {
            let ports = parse_ports(ports).map_err(|error| format!("dst={text:?}: {error}"))?;
            Ok((selector, ports))
        });
        let (selector, ports) = match split {
            Ok(split) => split,
            Err(message) => {
                self.error(at, message);
                return None;
            }
        };
        let has_ports = |protocol: &u8| [TCP, UDP, SCTP].contains(protocol);
        if let Some(protocol) = protocol.filter(|protocol| !has_ports(protocol))
            && ports != [PortRange::ANY]
        {
            let name = protocol_name(protocol);
            let message = format!(
                "protocol does not support specific ports: {name:?}, only \"*\" is allowed"
            );
            self.error(at, message);
        }
        let spot = self.spot(Text { at, text: selector }, Place::AclDst)?;
        Some((spot, ports))
    }

    pub(super) fn grant(&mut self, value: &Value) -> Option<Grant> {
        let fields = self.fields(value, &["src", "srcPosture", "dst", "ip", "app", "via"]);
        let src = self.trimmed(&fields, "src");
        let src = self.spots(src, Place::Src);
        let dst = self.trimmed(&fields, "dst");
        let dst = self.spots(dst, Place::GrantDst);
        let ip: Vec<IpEntry> = match fields.get("ip") {
            Some(value) => self.each(value, Self::ip_entry),
            None => Vec::new(),
        };
        let app = fields.get("app").map(|value| self.app(value));
        let app = app.unwrap_or_default();
        let via = self.via(&fields);
        let has_ip = fields.get("ip").is_some_and(|value| !is_empty(value));
        let has_app = fields.get("app").is_some_and(|value| !is_empty(value));
        if !has_ip && !has_app {
            self.error(value.at, "ip and app can not both be empty");
        }
        let internet = Selector::Auto(Autogroup::Internet);
        if has_app && dst.iter().any(|spot| spot.selector == internet) {
            self.error(value.at, "cannot use app grants with autogroup:internet");
        }
        let spots: Vec<&Spot> = dst.iter().collect();
        self.check_self(&src, &spots, false);
        Some(Grant {
            at: value.at,
            src,
            src_posture: self.src_posture(&fields),
            dst,
            ip,
            app,
            via,
        })
    }

    fn ip_entry(&mut self, value: &Value) -> Option<IpEntry> {
        let Text { at, text } = if let Kind::Number(number) = &value.kind {
            Text {
                at: value.at,
                text: number.clone(),
            }
        } else {
            self.text(value)?
        };
        match parse_ip_entry(&text) {
            Ok(entry) => Some(entry),
            Err(message) => {
                self.error(at, message);
                None
            }
        }
    }

    /// Capabilities with their values.
    pub(super) fn app(&mut self, value: &Value) -> BTreeMap<String, Vec<serde_json::Value>> {
        let mut app = BTreeMap::new();
        for Member { at, key, value } in self.members(value) {
            if key.contains("://") {
                self.error(*at, "capability name must have the form {domain}/{path}");
            } else if key.starts_with("tailscale.com/") && !TAILSCALE_CAPS.contains(&key.as_str()) {
                self.error(
                    *at,
                    "capability name must not be in the tailscale.com domain",
                );
            }
            let values = self.items(value);
            app.insert(key.clone(), values.iter().map(Value::to_json).collect());
        }
        app
    }

    fn via(&mut self, fields: &Fields<'_>) -> Vec<String> {
        let mut tags = Vec::new();
        for Text { at, text } in self.trimmed(fields, "via") {
            if !text.starts_with("tag:") {
                self.error(at, "via can only be a tag");
            } else if !self.names.tag_owners.contains_key(&text) {
                self.error(at, format!("tag {text:?} not found"));
            } else {
                tags.push(text);
            }
        }
        tags
    }

    /// `autogroup:self` is somebody's own nodes, so that the sources must be somebody.
    fn check_self(&mut self, src: &[Spot], dst: &[&Spot], any_is_legal: bool) {
        let own = Selector::Auto(Autogroup::SelfNodes);
        let Some(found) = dst.iter().find(|spot| spot.selector == own) else {
            return;
        };
        let somebody = |spot: &Spot| match &spot.selector {
            Selector::User(_) | Selector::Domain(_) | Selector::Group(_) => true,
            Selector::Auto(Autogroup::Member | Autogroup::Role(_)) => true,
            Selector::Any => any_is_legal,
            Selector::Auto(_)
            | Selector::Tag(_)
            | Selector::IpSet(_)
            | Selector::Host(_)
            | Selector::Prefix(_) => false,
        };
        if !src.iter().all(somebody) {
            self.error(found.at, SELF_NEEDS_IDENTITY);
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match &value.kind {
        Kind::Array(items) => items.is_empty(),
        Kind::Object(members) => members.is_empty(),
        Kind::Null | Kind::Bool(_) | Kind::Number(_) | Kind::String(_) => false,
    }
}

fn without_notes(value: &Value) -> Value {
    let mut value = value.clone();
    if let Kind::Object(members) = &mut value.kind {
        members.retain(|member| !member.key.starts_with('#'));
    }
    value
}

fn parse_ip_entry(text: &str) -> Result<IpEntry, String> {
    let (protocol, ports) = match text.split_once(':') {
        None => (None, text),
        Some((_, ports)) if ports.contains(':') => {
            return Err("expected only one colon in Internet protocol and port type".to_owned());
        }
        Some((protocol, ports)) => (Some(parse_protocol(protocol)?), ports),
    };
    let ports = parse_ports(ports)?;
    Ok(IpEntry { protocol, ports })
}
