//! `autoApprovers`, `nodeAttrs`, `tests` and `sshTests`.

use ipnet::{IpNet, Ipv4Net};

use super::super::hujson::{Member, Value};
use super::super::selector::parse_prefix;
use super::decode::Decoder;
use super::lookup::Place;
use super::{AutoApprovers, NodeAttr, SshTest, Test, Text};

/// Ranges inside 100.64.0.0/10 that Tailscale keeps for itself: its resolver and ChromeOS' virtual
/// machines.
const RESERVED: [&str; 2] = ["100.100.100.0/24", "100.115.92.0/23"];
const CGNAT: &str = "100.64.0.0/10";

impl Decoder<'_> {
    pub(super) fn auto_approvers(&mut self, value: &Value) -> AutoApprovers {
        let fields = self.fields(value, &["routes", "exitNode"]);
        let mut approvers = AutoApprovers::default();
        if let Some(routes) = fields.get("routes") {
            for Member { at, key, value } in self.members(routes) {
                let Some(prefix) = parse_prefix(key) else {
                    self.error(*at, format!("autoApprovers: invalid route {key:?}"));
                    continue;
                };
                let texts = self.each(value, Self::text);
                let spots = self.spots(texts, Place::Owner);
                approvers.routes.push((prefix, spots));
            }
        }
        let texts = self.texts(&fields, "exitNode");
        approvers.exit_node = self.spots(texts, Place::Owner);
        approvers
    }

    pub(super) fn node_attr(&mut self, value: &Value) -> Option<NodeAttr> {
        let fields = self.fields(value, &["target", "attr", "app", "ipPool"]);
        let target = self.trimmed(&fields, "target");
        let app = fields.get("app").map(|value| self.attr_app(value));
        Some(NodeAttr {
            target: self.spots(target, Place::Target),
            attr: self.strings(&fields, "attr"),
            app: app.unwrap_or_default(),
            ip_pool: self
                .texts(&fields, "ipPool")
                .into_iter()
                .filter_map(|text| self.ip_pool(&text))
                .collect(),
        })
    }

    /// Attributes with values; unlike those of grants they may be Tailscale's own.
    fn attr_app(
        &mut self,
        value: &Value,
    ) -> std::collections::BTreeMap<String, Vec<serde_json::Value>> {
        self.members(value)
            .iter()
            .map(|member| {
                let values = self.items(&member.value);
                let values = values.iter().map(Value::to_json).collect();
                (member.key.clone(), values)
            })
            .collect()
    }

    fn ip_pool(&mut self, text: &Text) -> Option<IpNet> {
        let pool = &text.text;
        let Ok(prefix) = pool.parse::<Ipv4Net>() else {
            self.error(text.at, format!("IPPool({pool}): no IPv4 network"));
            return None;
        };
        let overlaps = |range: &str| {
            let range = range.parse::<Ipv4Net>();
            range.is_ok_and(|range| range.contains(&prefix) || prefix.contains(&range))
        };
        if RESERVED.iter().any(|range| overlaps(range)) {
            let message = format!("IPPool({pool}): network within reserved range");
            self.error(text.at, message);
            return None;
        }
        if !CGNAT
            .parse::<Ipv4Net>()
            .is_ok_and(|cgnat| cgnat.contains(&prefix))
        {
            let message = format!("nodeAttrs ipPool must be within {CGNAT}: {pool:?}");
            self.error(text.at, message);
            return None;
        }
        Some(prefix.trunc().into())
    }

    pub(super) fn test(&mut self, value: &Value) -> Option<Test> {
        let fields = self.fields(
            value,
            &["src", "srcPostureAttrs", "proto", "accept", "deny"],
        );
        let src = self.string(&fields, "src");
        let proto = self.string(&fields, "proto");
        Some(Test {
            at: value.at,
            src: src.map_or_else(String::new, |src| src.text.trim().to_owned()),
            attributes: self.posture_attributes(&fields),
            proto: proto.map_or_else(String::new, |proto| proto.text.to_lowercase()),
            accept: self.strings(&fields, "accept"),
            deny: self.strings(&fields, "deny"),
        })
    }

    pub(super) fn ssh_test(&mut self, value: &Value) -> Option<SshTest> {
        let known = ["src", "srcPostureAttrs", "dst", "accept", "deny", "check"];
        let fields = self.fields(value, &known);
        let src = self.string(&fields, "src");
        Some(SshTest {
            at: value.at,
            src: src.map_or_else(String::new, |src| src.text.trim().to_owned()),
            attributes: self.posture_attributes(&fields),
            dst: self.trimmed(&fields, "dst"),
            accept: self.strings(&fields, "accept"),
            deny: self.strings(&fields, "deny"),
            check: self.strings(&fields, "check"),
        })
    }
}
