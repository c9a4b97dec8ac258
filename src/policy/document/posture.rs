//! `postures`, `defaultSrcPosture`, `srcPosture` and `srcPostureAttrs`.

use super::super::hujson::{Kind, Value};
use super::super::posture::{Attributes, Condition, Literal, Posture};
use super::decode::{Decoder, Fields};

impl Decoder<'_> {
    pub(super) fn postures(&mut self, value: &Value) {
        for member in self.members(value) {
            let name = &member.key;
            if !name.starts_with("posture:") {
                let message = format!("posture must start with 'posture:', got: {name:?}");
                self.error(member.at, message);
            }
            let conditions = self.each(&member.value, Self::condition);
            if self.items(&member.value).is_empty() {
                let message = format!("postures[{name:?}]: at least one condition is needed");
                self.error(member.at, message);
            }
            let posture = Posture { conditions };
            self.names.postures.insert(name.clone(), posture);
        }
    }

    fn condition(&mut self, value: &Value) -> Option<Condition> {
        let text = self.text(value)?;
        match Condition::parse(&text.text, text.at) {
            Ok(condition) => Some(condition),
            Err(message) => {
                self.error(text.at, message);
                None
            }
        }
    }

    pub(super) fn default_posture(&mut self, fields: &Fields<'_>) {
        self.default_posture = self.posture_names(fields, "defaultSrcPosture");
    }

    /// The postures of which a rule's sources must meet one; empty: any device will do. The
    /// tailnet's default stands where the rule says nothing.
    pub(super) fn src_posture(&mut self, fields: &Fields<'_>) -> Vec<String> {
        let own = self.posture_names(fields, "srcPosture");
        if own.is_empty() {
            self.default_posture.clone()
        } else {
            own
        }
    }

    fn posture_names(&mut self, fields: &Fields<'_>, field: &str) -> Vec<String> {
        let texts = self.trimmed(fields, field);
        for text in &texts {
            if !self.names.postures.contains_key(&text.text) {
                self.error(text.at, format!("posture not found: {:?}", text.text));
            }
        }
        texts.into_iter().map(|text| text.text).collect()
    }

    /// What the device that a test is about is like.
    pub(super) fn posture_attributes(&mut self, fields: &Fields<'_>) -> Attributes {
        let mut attributes = Attributes::new();
        let Some(value) = fields.get("srcPostureAttrs") else {
            return attributes;
        };
        for member in self.members(value) {
            let literal = match &member.value.kind {
                Kind::String(text) => Literal::Text(text.clone()),
                Kind::Bool(flag) => Literal::Bool(*flag),
                Kind::Number(text) => Literal::Number(text.parse().unwrap_or_default()),
                Kind::Null | Kind::Array(_) | Kind::Object(_) => {
                    self.mismatch(&member.value, "string, number or bool");
                    continue;
                }
            };
            attributes.insert(member.key.clone(), literal);
        }
        attributes
    }
}
