//! From values to typed parts: what every part of the decoding shares, and the top level.

use std::collections::{BTreeMap, BTreeSet};

use super::super::error::{PolicyErrors, Position};
use super::super::facts::{Directory, Facts};
use super::super::hujson::{Kind, Member, Value};
use super::{Document, Names, Text};

/// Collects what is wrong while it reads.
pub(super) struct Decoder<'a> {
    /// The tailnet's users.
    pub(super) directory: Directory<'a>,
    pub(super) names: Names,
    /// `defaultSrcPosture`
    pub(super) default_posture: Vec<String>,
    /// Bare names of groups' members.
    pub(super) bare_users: BTreeSet<String>,
    /// The file is in YAML, and so of headscale 0.22 at the latest.
    pub(super) is_old: bool,
    /// Ranges of all ipsets so far.
    pub(super) ipset_ranges: usize,
    /// Ranges of all that ipsets name so far.
    pub(super) ipset_ranges_named: usize,
    pub(super) errors: PolicyErrors,
}

/// Pairs of sources, destinations and ports in all rules together: each takes some tens of bytes when
/// it is compiled. A thousand rules of ten by ten are a tenth of this.
pub(super) const PAIRS_MAX: usize = 1_000_000;

/// The known fields of an object; those that are null are left out.
pub(super) type Fields<'v> = BTreeMap<&'static str, &'v Value>;

const TOP_LEVEL: &[&str] = &[
    "groups",
    "hosts",
    "tagOwners",
    "ipsets",
    "postures",
    "defaultSrcPosture",
    "acls",
    "grants",
    "ssh",
    "autoApprovers",
    "nodeAttrs",
    "tests",
    "sshTests",
    "derpMap",
    "randomizeClientPort",
    "disableIPv4",
    "OneCGNATRoute",
];

/// Keys of Tailscale's service that are refused: to ignore one could widen access.
const UNSUPPORTED: [&str; 1] = ["services"];

impl<'a> Decoder<'a> {
    pub(super) fn new(facts: &'a Facts) -> Self {
        Self {
            directory: Directory::of(facts),
            names: Names::default(),
            default_posture: Vec::new(),
            bare_users: BTreeSet::new(),
            is_old: false,
            ipset_ranges: 0,
            ipset_ranges_named: 0,
            errors: PolicyErrors::default(),
        }
    }

    /// For a file in YAML.
    pub(super) fn of_old(facts: &'a Facts) -> Self {
        Self {
            is_old: true,
            ..Self::new(facts)
        }
    }

    pub(super) fn document(mut self, value: &Value) -> Result<Document, PolicyErrors> {
        let fields = self.fields(value, TOP_LEVEL);
        let mut document = Document::default();
        // Names first: all else refers to them.
        self.read_names(&fields);
        if let Some(value) = fields.get("acls") {
            document.acls = Some(self.each(value, Self::acl));
        }
        if let Some(value) = fields.get("grants") {
            document.grants = Some(self.each(value, Self::grant));
        }
        if let Some(value) = fields.get("ssh") {
            document.ssh = Some(self.each(value, Self::ssh_rule));
        }
        if let Some(value) = fields.get("autoApprovers") {
            document.auto_approvers = self.auto_approvers(value);
        }
        if let Some(value) = fields.get("nodeAttrs") {
            document.node_attrs = self.each(value, Self::node_attr);
        }
        if let Some(value) = fields.get("tests") {
            document.tests = self.each(value, Self::test);
        }
        if let Some(value) = fields.get("sshTests") {
            document.ssh_tests = self.each(value, Self::ssh_test);
        }
        document.derp_map = fields.get("derpMap").map(|value| self.derp_map(value));
        document.randomize_client_port = self.flag(&fields, "randomizeClientPort");
        document.disable_ipv4 = self.flag(&fields, "disableIPv4");
        document.one_cgnat_route = self.one_cgnat_route(&fields);
        document.uses_postures = document.looks_at_devices(&self.default_posture);
        document.is_old = self.is_old;
        document.default_src_posture = self.default_posture;
        document.names = self.names;
        let pairs = document.pairs();
        if pairs > PAIRS_MAX {
            let message = format!(
                "the rules pair {pairs} sources, destinations and ports, at most {PAIRS_MAX} are \
                 allowed; gather some in groups, tags or ipsets"
            );
            self.errors.push(value.at, message);
        }
        self.errors.or(document)
    }

    fn one_cgnat_route(&mut self, fields: &Fields<'_>) -> Option<bool> {
        let text = self.string(fields, "OneCGNATRoute")?;
        match text.text.as_str() {
            "" => None,
            "mac-always" => Some(true),
            "mac-never" => Some(false),
            other => {
                let message = format!(
                    "OneCGNATRoute must be \"mac-always\", \"mac-never\" or empty, got: {other:?}"
                );
                self.errors.push(text.at, message);
                None
            }
        }
    }

    pub(super) fn error(&mut self, at: Position, message: impl Into<String>) {
        self.errors.push(at, message);
    }

    /// A value of another type than it must have.
    pub(super) fn mismatch(&mut self, value: &Value, wanted: &str) {
        let message = format!(
            "parsing policy from bytes: expected {wanted}, got {}",
            value.noun()
        );
        self.error(value.at, message);
    }

    /// The members of an object; of anything else none, and an error.
    pub(super) fn members<'v>(&mut self, value: &'v Value) -> &'v [Member] {
        match &value.kind {
            Kind::Object(members) => members,
            Kind::Null => &[],
            Kind::Bool(_) | Kind::Number(_) | Kind::String(_) | Kind::Array(_) => {
                self.mismatch(value, "object");
                &[]
            }
        }
    }

    /// The fields of an object, found in any case; unknown ones are errors.
    pub(super) fn fields<'v>(&mut self, value: &'v Value, known: &[&'static str]) -> Fields<'v> {
        let mut fields = Fields::new();
        for member in self.members(value) {
            let name = known
                .iter()
                .find(|name| name.eq_ignore_ascii_case(&member.key));
            let Some(name) = name else {
                self.unknown(member);
                continue;
            };
            if member.value.kind == Kind::Null {
                continue;
            }
            if fields.insert(*name, &member.value).is_some() {
                let key = &member.key;
                self.error(member.at, format!("duplicate object key {key:?}"));
            }
        }
        fields
    }

    fn unknown(&mut self, member: &Member) {
        let key = &member.key;
        let message = if UNSUPPORTED
            .iter()
            .any(|name| name.eq_ignore_ascii_case(key))
        {
            format!("unknown field: {key:?}: this part of Tailscale's language is not supported")
        } else {
            format!("unknown field: {key:?}")
        };
        self.error(member.at, message);
    }

    /// The elements of a list, decoded; those that do not decode are left out.
    pub(super) fn each<T>(
        &mut self,
        value: &Value,
        mut decode: impl FnMut(&mut Self, &Value) -> Option<T>,
    ) -> Vec<T> {
        let items = self.items(value);
        items.iter().filter_map(|item| decode(self, item)).collect()
    }

    pub(super) fn items<'v>(&mut self, value: &'v Value) -> &'v [Value] {
        match &value.kind {
            Kind::Array(items) => items,
            Kind::Null => &[],
            Kind::Bool(_) | Kind::Number(_) | Kind::String(_) | Kind::Object(_) => {
                self.mismatch(value, "array");
                &[]
            }
        }
    }

    pub(super) fn text(&mut self, value: &Value) -> Option<Text> {
        let text = self.scalar(value);
        if text.is_none() {
            self.mismatch(value, "string");
        }
        text.map(|text| Text { at: value.at, text })
    }

    /// A string; in YAML, where quotes may be missing, any scalar.
    pub(super) fn scalar(&self, value: &Value) -> Option<String> {
        match &value.kind {
            Kind::String(text) => Some(text.clone()),
            Kind::Number(text) if self.is_old => Some(text.clone()),
            Kind::Bool(flag) if self.is_old => Some(flag.to_string()),
            Kind::Null | Kind::Bool(_) | Kind::Number(_) | Kind::Array(_) | Kind::Object(_) => None,
        }
    }

    /// A string field; `None` if it is absent or no string.
    pub(super) fn string(&mut self, fields: &Fields<'_>, name: &str) -> Option<Text> {
        let value = fields.get(name)?;
        self.text(value)
    }

    /// A list of strings as written; empty if it is absent.
    pub(super) fn texts(&mut self, fields: &Fields<'_>, name: &str) -> Vec<Text> {
        match fields.get(name) {
            Some(value) => self.each(value, Self::text),
            None => Vec::new(),
        }
    }

    /// A list of strings without white space around them; empty if it is absent.
    pub(super) fn trimmed(&mut self, fields: &Fields<'_>, name: &str) -> Vec<Text> {
        let mut texts = self.texts(fields, name);
        for text in &mut texts {
            text.text = text.text.trim().to_owned();
        }
        texts
    }

    /// A list of strings where only the strings count.
    pub(super) fn strings(&mut self, fields: &Fields<'_>, name: &str) -> Vec<String> {
        let texts = self.texts(fields, name);
        texts.into_iter().map(|text| text.text).collect()
    }

    pub(super) fn flag(&mut self, fields: &Fields<'_>, name: &str) -> bool {
        match fields.get(name).map(|value| (&value.kind, value)) {
            Some((Kind::Bool(flag), _)) => *flag,
            Some((_, value)) => {
                self.mismatch(value, "bool");
                false
            }
            None => false,
        }
    }
}
