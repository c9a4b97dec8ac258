//! Rules and reasons in words.

use std::time::Duration;

use super::super::document::SshRule;
use super::super::facts::Facts;
use super::super::ports::protocol_name;
use super::super::selector::{Autogroup, Selector, Spot};
use super::judge::{Outcome, Verdict};
use super::question::Wanted;
use super::report::{RuleKind, RuleReport};
use super::rules::{Destination, Login, Named, Opening, Rule};
use crate::tailcfg::PortRange;

/// Entries of a list that a text shows: rules name hundreds, a person reads the first.
const ITEMS_MAX: usize = 10;
/// Names without a meaning that a reason tells of.
const NOBODIES_MAX: usize = 3;

/// A rule with what it comes to.
pub(super) fn report(
    rule: &Rule<'_>,
    outcome: Outcome,
    wanted: Wanted,
    facts: &Facts,
) -> RuleReport {
    RuleReport {
        kind: rule.kind,
        index: rule.index,
        line: rule.at.line,
        column: rule.at.column,
        text: rule_text(rule),
        reason: reason(rule, outcome, wanted, facts),
    }
}

/// A rule of `ssh` that lets somebody log in.
pub(super) fn login_report(login: &Login<'_>) -> RuleReport {
    let users = items(login.rule.users.iter().map(String::as_str));
    let reason = if login.is_refusal {
        format!("it refuses logins as {users}: they must be recorded, and no node records them")
    } else {
        let check = login.rule.check_period.map(check).unwrap_or_default();
        format!("the source logs in as {users}{check}, where port 22 is open to it")
    };
    RuleReport {
        kind: RuleKind::Ssh,
        index: login.index,
        line: login.rule.at.line,
        column: login.rule.at.column,
        text: login_text(login.rule),
        reason,
    }
}

/// How often somebody is checked.
fn check(period: Duration) -> String {
    if period.is_zero() {
        return " after a check of every login".to_owned();
    }
    let seconds = period.as_secs();
    let parts = [
        (seconds / 3600, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let parts = parts.iter().filter(|(number, _)| *number > 0);
    let text: String = parts
        .map(|(number, unit)| format!("{number}{unit}"))
        .collect();
    match text.as_str() {
        "" => format!(" after a check every {period:?}"),
        text => format!(" after a check every {text}"),
    }
}

fn reason(rule: &Rule<'_>, outcome: Outcome, wanted: Wanted, facts: &Facts) -> String {
    let Some(dst) = rule.dst.get(outcome.dst) else {
        return String::new();
    };
    let sources = || listed(rule.src.iter(), facts);
    match outcome.verdict {
        Verdict::Allows => allowed(rule, outcome.src, dst, wanted),
        Verdict::NotRouted => {
            "it opens this on a router that the source is not told to use".to_owned()
        }
        Verdict::OtherPort => other_port(dst, wanted),
        Verdict::OtherProtocol => format!(
            "source and destination match, {} is not among {}",
            asked_protocol(wanted),
            openings(&dst.opens)
        ),
        Verdict::OnlyCapabilities => {
            let caps = rule.app.into_iter().flat_map(|app| app.keys());
            let caps = items(caps.map(String::as_str));
            format!("source and destination match, and it grants {caps}, but opens no port")
        }
        Verdict::OtherFamily => {
            "it has the source by an address of one family, and the destination by one of the other"
                .to_owned()
        }
        Verdict::OtherPosture => format!(
            "source and destination match, the source's device meets none of {}",
            items(rule.postures.iter().map(String::as_str))
        ),
        Verdict::OtherSource => format!(
            "{}, the source is not in {}",
            matching("destination", wanted),
            sources()
        ),
        Verdict::OtherRouter => format!(
            "source and destination match, but it leads through routers with {}, and none of them \
             carries this",
            items(rule.via.iter().map(String::as_str))
        ),
        Verdict::OtherDestination => format!(
            "{}, the destination is not in {}",
            matching("source", wanted),
            listed(rule.dst.iter().map(|dst| &dst.named), facts)
        ),
        Verdict::Unrelated => "it has nothing to do with this".to_owned(),
    }
}

fn allowed(rule: &Rule<'_>, src: usize, dst: &Destination<'_>, wanted: Wanted) -> String {
    if rule.kind == RuleKind::Default {
        return "the policy has neither acls nor grants, so that everything is allowed".to_owned();
    }
    let src = rule.src.get(src).map_or("", |named| named.text);
    let opens = openings(&dst.opens);
    let opens = match wanted.port {
        _ if wanted.is_icmp() => format!("some port ({opens}) is open, which lets ICMP in"),
        Some(port) => format!("port {port} is among {opens}"),
        None => format!("it opens {opens}"),
    };
    let via = if rule.via.is_empty() {
        String::new()
    } else {
        let via = items(rule.via.iter().map(String::as_str));
        format!(", through a router with {via}")
    };
    let dst = dst.named.text;
    let why = if rule.ssh.is_some() {
        "sessions are recorded there: "
    } else {
        ""
    };
    format!("{why}the source is in {src}, the destination in {dst}{via}, {opens}")
}

fn other_port(dst: &Destination<'_>, wanted: Wanted) -> String {
    let speaking = dst.opens.iter().filter(|opening| opening.speaks(wanted));
    let opens = items(speaking.map(opening));
    let Some(port) = wanted.port else {
        return format!("source and destination match, but it opens {opens} only, not all ports");
    };
    format!("source and destination match, port {port} is not among {opens}")
}

fn matching(end: &str, wanted: Wanted) -> String {
    if wanted.port.is_some() {
        format!("{end} and port match")
    } else {
        format!("the {end} matches")
    }
}

fn asked_protocol(wanted: Wanted) -> String {
    wanted
        .protocol
        .map_or_else(|| "TCP or UDP".to_owned(), protocol_name)
}

/// The selectors, and which of them stand for nothing.
fn listed<'a>(names: impl Iterator<Item = &'a Named<'a>> + Clone, facts: &Facts) -> String {
    let mut text = items(names.clone().map(|named| named.text));
    let nobodies = names.filter_map(|named| nobody(named, facts));
    let nobodies: Vec<String> = nobodies.take(NOBODIES_MAX).collect();
    if !nobodies.is_empty() {
        text.push_str(" (");
        text.push_str(&nobodies.join("; "));
        text.push(')');
    }
    text
}

/// Why a selector stands for nothing, if it does.
fn nobody(named: &Named<'_>, facts: &Facts) -> Option<String> {
    if !named.extent.is_empty() {
        return None;
    }
    let text = named.text;
    match named.selector {
        Selector::User(token) => Some(match facts.named(token).len() {
            0 => format!("{text} means no user"),
            1 => format!("{text} has no node without tags"),
            count => format!("{text} means {count} users, and so nobody"),
        }),
        Selector::Tag(_) => Some(format!("no node has {text}")),
        Selector::Group(_) | Selector::Domain(_) => {
            Some(format!("nobody in {text} has a node without tags"))
        }
        Selector::Auto(Autogroup::SelfNodes) => None,
        Selector::Any
        | Selector::Auto(_)
        | Selector::IpSet(_)
        | Selector::Host(_)
        | Selector::Prefix(_) => Some(format!("{text} stands for nothing")),
    }
}

fn openings(opens: &[Opening<'_>]) -> String {
    items(opens.iter().map(opening))
}

/// `tcp:80,443`, without the protocol where it is the usual ones.
fn opening(opening: &Opening<'_>) -> String {
    let ports = ports(opening.ports);
    match opening.protocol {
        Some(protocol) => format!("{}:{ports}", protocol_name(protocol)),
        None => ports,
    }
}

fn ports(ranges: &[PortRange]) -> String {
    let text = |range: &PortRange| match *range {
        PortRange::ANY => "*".to_owned(),
        PortRange { first, last } if first == last => first.to_string(),
        PortRange { first, last } => format!("{first}-{last}"),
    };
    let shown: Vec<String> = ranges.iter().take(ITEMS_MAX).map(text).collect();
    let more = ranges.len().saturating_sub(ITEMS_MAX);
    if more > 0 {
        return format!("{} and {more} more", shown.join(","));
    }
    shown.join(",")
}

/// The first of a list, and how many more there are.
fn items<T: AsRef<str>>(all: impl Iterator<Item = T>) -> String {
    let mut text = String::new();
    let mut more: usize = 0;
    for (number, item) in all.enumerate() {
        if number >= ITEMS_MAX {
            more = more.saturating_add(1);
            continue;
        }
        if number > 0 {
            text.push_str(", ");
        }
        text.push_str(item.as_ref());
    }
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// The rule as the file could have it in one line.
fn rule_text(rule: &Rule<'_>) -> String {
    match (rule.kind, rule.ssh) {
        (_, Some(ssh)) => login_text(ssh),
        (RuleKind::Default, None) => "no acls and no grants".to_owned(),
        (RuleKind::Acl, None) => acl_text(rule),
        (RuleKind::Grant | RuleKind::Ssh, None) => grant_text(rule),
    }
}

/// Who a rule is for.
fn src_fields(rule: &Rule<'_>) -> Vec<String> {
    let src = quoted(rule.src.iter().map(|named| named.text.to_owned()));
    let mut fields = vec![field("src", &src)];
    if !rule.postures.is_empty() {
        fields.push(field("srcPosture", &quoted(rule.postures.iter().cloned())));
    }
    fields
}

fn acl_text(rule: &Rule<'_>) -> String {
    let opens = |dst: &Destination<'_>| {
        let opens = dst.opens.iter().map(|opening| ports(opening.ports));
        opens.collect::<Vec<_>>().join(",")
    };
    let first = rule.dst.first().and_then(|dst| dst.opens.first());
    let protocol = first.and_then(|opening| opening.protocol);
    let dst = rule
        .dst
        .iter()
        .map(|dst| format!("{}:{}", dst.named.text, opens(dst)));
    let mut fields = vec![field("action", "\"accept\"")];
    fields.extend(protocol.map(|number| field("proto", &format!("{:?}", protocol_name(number)))));
    fields.extend(src_fields(rule));
    fields.push(field("dst", &quoted(dst)));
    object(&fields)
}

fn grant_text(rule: &Rule<'_>) -> String {
    let dst = rule.dst.iter().map(|dst| dst.named.text.to_owned());
    let mut fields = src_fields(rule);
    fields.push(field("dst", &quoted(dst)));
    let opens = rule.dst.first().map_or(&[][..], |dst| &dst.opens);
    if !opens.is_empty() {
        fields.push(field("ip", &quoted(opens.iter().map(opening))));
    }
    if let Some(app) = rule.app {
        let caps = items(app.keys().map(|cap| format!("{cap:?}: [..]")));
        fields.push(field("app", &format!("{{{caps}}}")));
    }
    if !rule.via.is_empty() {
        fields.push(field("via", &quoted(rule.via.iter().cloned())));
    }
    object(&fields)
}

fn login_text(rule: &SshRule) -> String {
    let texts = |spots: &[Spot]| quoted(spots.iter().map(|spot| spot.text.clone()));
    let (action, period) = match rule.check_period {
        Some(period) => ("\"check\"", Some(format!("\"{}s\"", period.as_secs()))),
        None => ("\"accept\"", None),
    };
    let mut fields = vec![field("action", action)];
    fields.extend(period.map(|period| field("checkPeriod", &period)));
    fields.push(field("src", &texts(&rule.src)));
    if !rule.src_posture.is_empty() {
        fields.push(field(
            "srcPosture",
            &quoted(rule.src_posture.iter().cloned()),
        ));
    }
    fields.push(field("dst", &texts(&rule.dst)));
    fields.push(field("users", &quoted(rule.users.iter().cloned())));
    if !rule.recorder.is_empty() {
        fields.push(field("recorder", &texts(&rule.recorder)));
    }
    object(&fields)
}

fn field(name: &str, value: &str) -> String {
    format!("{name:?}: {value}")
}

fn object(fields: &[String]) -> String {
    format!("{{{}}}", fields.join(", "))
}

fn quoted(all: impl Iterator<Item = String>) -> String {
    format!("[{}]", items(all.map(|text| format!("{text:?}"))))
}
