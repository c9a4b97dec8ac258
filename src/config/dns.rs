//! What clients are told about name resolution.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::address::ServerUrl;
use super::error::Origin;
use super::reader::{Reader, Setting, scalars};
use super::tree::{Tree, Value};

/// The `dns:` part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DnsConfig {
    /// Clients resolve names of the tailnet (`dns.magic_dns`).
    pub magic_dns: bool,
    /// Domain of the nodes' names, lower case, without dots at its ends; empty = none.
    pub base_domain: String,
    /// Clients use `global` instead of their local resolvers (`dns.override_local_dns`).
    pub override_local_dns: bool,
    /// Resolvers for everything: addresses or https URLs.
    pub global: Vec<String>,
    /// Resolvers for some domains.
    pub split: BTreeMap<String, Vec<String>>,
    /// Search domains behind the base domain.
    pub search_domains: Vec<String>,
    /// Records that clients answer themselves.
    pub extra_records: Vec<ExtraRecord>,
}

/// A DNS record of `dns.extra_records`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExtraRecord {
    /// Fully qualified name.
    pub name: String,
    /// Record type; clients honour `A` and `AAAA`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Address as text.
    pub value: String,
}

impl DnsConfig {
    pub(super) fn read(reader: &mut Reader<'_>, server_url: &ServerUrl) -> Self {
        let base_domain = reader
            .parse("dns.base_domain", parse_domain)
            .unwrap_or_default();
        check_base_domain(reader, &base_domain, server_url);
        let global = reader.parse_list("dns.nameservers.global", parse_nameserver);
        Self {
            magic_dns: read_magic_dns(reader, &base_domain),
            override_local_dns: read_override(reader, global.is_empty()),
            base_domain,
            global,
            split: read_split(reader),
            search_domains: reader.parse_list("dns.search_domains", parse_domain),
            extra_records: read_extra_records(reader),
        }
    }
}

/// The server's own name must stay resolvable outside the tailnet.
fn check_base_domain(reader: &mut Reader<'_>, base_domain: &str, server_url: &ServerUrl) {
    let host = server_url.host();
    let covers = !base_domain.is_empty()
        && (host == base_domain || host.ends_with(&format!(".{base_domain}")));
    if covers && let Some(setting) = reader.setting("dns.base_domain") {
        reader.fail(setting.error(format!(
            "covers the host {host:?} of server_url, which nodes could then not resolve; choose \
             another domain"
        )));
    }
}

fn read_magic_dns(reader: &mut Reader<'_>, base_domain: &str) -> bool {
    let magic_dns = reader.bool("dns.magic_dns").unwrap_or(true);
    let given = reader
        .setting("dns.base_domain")
        .is_some_and(|s| s.text() != Some(""));
    if !magic_dns || !base_domain.is_empty() || given {
        return magic_dns;
    }
    if reader.is_legacy() {
        reader.notice("dns.magic_dns: off, because there is no base_domain");
        return false;
    }
    let problem = "is missing; set it (such as tailnet.example.com) or set dns.magic_dns to false";
    reader.fail_key("dns.base_domain", problem);
    true
}

fn read_override(reader: &mut Reader<'_>, no_nameservers: bool) -> bool {
    let override_local_dns = reader.bool("dns.override_local_dns").unwrap_or(true);
    let given = reader
        .setting("dns.nameservers.global")
        .is_some_and(|s| match s.value {
            Value::List(items) => !items.is_empty(),
            Value::Scalar(text) => !text.trim().is_empty(),
            Value::Null | Value::Map(_) => true,
        });
    if !override_local_dns || !no_nameservers || given {
        return override_local_dns;
    }
    if reader.is_legacy() {
        reader.notice("dns.override_local_dns: off, because there are no global nameservers");
        return false;
    }
    let problem = "is empty; name at least one resolver (such as 1.1.1.1) or set \
                   dns.override_local_dns to false";
    reader.fail_key("dns.nameservers.global", problem);
    true
}

/// A domain name: labels of letters, digits, `-` and `_`; dots at the ends are dropped.
fn parse_domain(text: &str) -> Result<String, &'static str> {
    let domain = text.trim_matches('.').to_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .chars()
                .all(|c| c.is_alphanumeric() || c == '-' || c == '_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if domain.len() <= 253 && domain.split('.').all(label) {
        Ok(domain)
    } else {
        Err("must be a domain name such as tailnet.example.com")
    }
}

fn parse_nameserver(text: &str) -> Result<String, &'static str> {
    let url = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace));
    if url || text.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok() {
        Ok(text.to_owned())
    } else {
        Err("must be an IP address or an https:// URL of a resolver")
    }
}

/// A mapping in the file, a JSON object in the environment.
fn read_split(reader: &mut Reader<'_>) -> BTreeMap<String, Vec<String>> {
    let Some(setting) = reader.setting("dns.nameservers.split") else {
        return BTreeMap::new();
    };
    let value = match (&setting.origin, &setting.value) {
        (Origin::Environment(_), Value::Scalar(text)) => {
            Tree::parse(text).map_or(Value::Null, |tree| tree.value)
        }
        (_, value) => value.clone(),
    };
    let Value::Map(entries) = value else {
        reader.fail(setting.error("must map domains to lists of resolvers"));
        return BTreeMap::new();
    };
    let mut split = BTreeMap::new();
    for entry in entries {
        match split_entry(&entry.key, &entry.tree.value) {
            Ok((domain, servers)) => drop(split.insert(domain, servers)),
            Err(problem) => {
                let key = format!("{}.{}", setting.key, entry.key);
                reader.fail(
                    Setting {
                        key,
                        ..setting.clone()
                    }
                    .error(problem),
                );
            }
        }
    }
    split
}

fn split_entry(domain: &str, value: &Value) -> Result<(String, Vec<String>), String> {
    let domain = parse_domain(domain)?;
    let servers = scalars(value).ok_or("must be a list of resolvers")?;
    let servers = servers
        .iter()
        .map(|text| parse_nameserver(text).map_err(|problem| format!("{text:?} {problem}")))
        .collect::<Result<_, _>>()?;
    Ok((domain, servers))
}

fn read_extra_records(reader: &mut Reader<'_>) -> Vec<ExtraRecord> {
    let path_given = reader.string("dns.extra_records_path").is_some();
    let Some(setting) = reader.setting("dns.extra_records") else {
        return Vec::new();
    };
    let Value::List(items) = &setting.value else {
        if setting.text() != Some("") {
            reader.fail(setting.error("must be a list of records with name, type and value"));
        }
        return Vec::new();
    };
    if path_given && !items.is_empty() {
        reader.fail(setting.error("excludes dns.extra_records_path; keep one of the two"));
    }
    let mut records = Vec::with_capacity(items.len());
    for item in items {
        match read_record(item) {
            Ok(record) => records.push(record),
            Err(problem) => {
                let mut error = setting.error(problem);
                if let Origin::File { line, .. } = &mut error.origin {
                    *line = item.line;
                }
                reader.fail(error);
            }
        }
    }
    records
}

fn read_record(item: &Tree) -> Result<ExtraRecord, String> {
    let text = |key: &str| match item.find(key).map(|tree| &tree.value) {
        Some(Value::Scalar(text)) => Ok(text.clone()),
        Some(Value::Null | Value::List(_) | Value::Map(_)) | None => Err(format!(
            "has a record without {key:?}; write {{name, type, value}}"
        )),
    };
    let record = ExtraRecord {
        name: text("name")?,
        kind: text("type")?,
        value: text("value")?,
    };
    let address = record.value.parse::<IpAddr>();
    let valid = match record.kind.as_str() {
        "A" => matches!(address, Ok(IpAddr::V4(_))),
        "AAAA" => matches!(address, Ok(IpAddr::V6(_))),
        _ => true,
    };
    if !valid {
        return Err(format!(
            "has {:?} as the value of the {} record {:?}; write an address of that kind",
            record.value, record.kind, record.name
        ));
    }
    parse_domain(&record.name).map_err(|problem| format!("name {:?} {problem}", record.name))?;
    Ok(record)
}
