//! `policy explain`.

use std::fmt::Write as _;

use clap::Args;

use super::super::client::escape;
use super::super::context::Context;
use super::super::value::Value;

#[derive(Debug, Args)]
pub(in crate::cli) struct Explain {
    /// From: a user (alice@), group, tag, autogroup, node (name or id) or address
    src: String,
    /// To: the same, or a host of the policy; an IPv6 address with a port stands in brackets
    #[arg(value_name = "DST[:PORT]")]
    dst: String,
    /// tcp, udp, icmp or another protocol by name or number [default: TCP or UDP]
    #[arg(long)]
    proto: Option<String>,
}

pub(super) async fn run(args: Explain, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let mut path = format!(
        "/policy/explain?src={}&dst={}",
        escape(&args.src),
        escape(&args.dst)
    );
    if let Some(proto) = &args.proto {
        path.push_str("&proto=");
        path.push_str(&escape(proto));
    }
    let explained = context.api()?.get(&path).await?;
    context.out.result(text(&explained).trim_end(), &explained)
}

/// The explanation for people.
fn text(explained: &Value) -> String {
    let mut lines = Lines(headline(explained));
    let fault = explained.text("fault");
    if !fault.is_empty() {
        lines.add(
            0,
            &format!("Warning: the policy in force is not valid for this version: {fault}"),
        );
    }
    for answer in explained.get("answers").items() {
        lines.0.push('\n');
        lines.answer(answer);
    }
    let more = explained.text("moreAnswers");
    if more != "0" {
        lines.0.push('\n');
        lines.add(
            0,
            &format!("and {more} more answers: name fewer nodes to see them"),
        );
    }
    lines.0
}

fn headline(explained: &Value) -> String {
    let port = match explained.text("port") {
        port if port.is_empty() => String::new(),
        port => format!(" port {port}"),
    };
    let protocol = match explained.text("protocol") {
        protocol if protocol.is_empty() => String::new(),
        protocol => format!(" over {protocol}"),
    };
    let pairs = explained.text("pairs");
    let verdict = match explained.text("verdict").as_str() {
        "allowed" => "ALLOWED".to_owned(),
        "denied" => "DENIED".to_owned(),
        _ => format!(
            "ALLOWED for {} of {pairs} pairs",
            explained.text("allowedPairs")
        ),
    };
    let unjudged = match explained.text("unjudgedPairs").as_str() {
        "0" => String::new(),
        more => format!(" ({more} more pairs were not looked at: name fewer nodes)"),
    };
    let version = match explained.text("policyVersion") {
        version if version.is_empty() => "without a policy".to_owned(),
        version => format!("by version {version} of the policy"),
    };
    format!(
        "{} to {}{port}{protocol}: {verdict} {version}{unjudged}\n",
        explained.text("src"),
        explained.text("dst"),
    )
}

struct Lines(String);

impl Lines {
    fn add(&mut self, depth: usize, text: &str) {
        let indent = "  ".repeat(depth);
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{indent}{text}");
    }

    fn answer(&mut self, answer: &Value) {
        let verdict = if answer.flag("allowed") {
            "allowed"
        } else {
            "denied"
        };
        for pair in answer.get("pairs").items() {
            let (src, dst) = (end(pair.get("src")), end(pair.get("dst")));
            self.add(0, &format!("{src} -> {dst}: {verdict}"));
        }
        self.more(0, &answer.text("morePairs"));
        self.rules("Allowed by", answer, "rules", "moreRules");
        self.rules("Came close", answer, "close", "moreClose");
        self.rules("Logins by SSH", answer, "logins", "moreLogins");
        self.visibility(answer);
        let routers = answer.get("routers").items();
        if !routers.is_empty() {
            self.add(1, "Carried by");
        }
        for router in routers {
            let used = if router.flag("used") {
                ""
            } else {
                ", not used by the source"
            };
            let (name, route) = (router.text("name"), router.text("route"));
            self.add(2, &format!("{name} ({route}{used})"));
        }
        self.more(2, &answer.text("moreRouters"));
        for note in answer.texts("notes") {
            self.add(1, &format!("Note: {note}"));
        }
    }

    fn rules(&mut self, title: &str, answer: &Value, list: &str, more: &str) {
        let rules = answer.get(list).items();
        if !rules.is_empty() {
            self.add(1, title);
        }
        for rule in rules {
            self.add(2, &format!("{}: {}", place(rule), rule.text("reason")));
            self.add(3, &rule.text("text"));
        }
        self.more(2, &answer.text(more));
    }

    fn visibility(&mut self, answer: &Value) {
        let reverse = answer.get("reverse");
        if *answer.get("visible") == Value::Bool(false) {
            self.add(1, "Neither knows of the other: no rule joins them");
        } else if *reverse != Value::Null {
            let rule = place(reverse);
            self.add(
                1,
                &format!("They know of each other: {rule} opens the other direction"),
            );
        } else if answer.flag("visible") {
            self.add(1, "They know of each other");
        }
    }

    fn more(&mut self, depth: usize, more: &str) {
        if more != "0" {
            self.add(depth, &format!("and {more} more"));
        }
    }
}

/// `laptop (alice)`, `web (tag:web)`, or an address.
fn end(end: &Value) -> String {
    let name = end.text("name");
    let tags = end.texts("tags").join(", ");
    let whose = if tags.is_empty() {
        end.text("user")
    } else {
        tags
    };
    if whose.is_empty() {
        name
    } else {
        format!("{name} ({whose})")
    }
}

/// `acls[0] (line 3, column 5)`.
fn place(rule: &Value) -> String {
    let list = match rule.text("kind").as_str() {
        "acl" => "acls",
        "grant" => "grants",
        "ssh" => "ssh",
        _ => return "default".to_owned(),
    };
    let (index, line, column) = (rule.text("index"), rule.text("line"), rule.text("column"));
    format!("{list}[{index}] (line {line}, column {column})")
}
