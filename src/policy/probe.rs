//! `tests` and `sshTests`: what a policy says of itself, tried on the tailnet's users and nodes.

mod logins;
mod named;

use std::sync::Arc;

use self::named::Named;
use super::document::{Document, Test};
use super::error::{PolicyErrors, Position};
use super::meaning::Extent;
use super::node_set::NodeSet;
use super::plan::{Plan, Rule, Target};
use super::ports::{DEFAULT_PROTOCOLS, SCTP, TCP, UDP, parse_ports, parse_protocol, split_ports};
use super::posture::Attributes;
use super::roster::Roster;
use super::selector::{Autogroup, Selector};
use super::terms::{Standing, Terms};

/// What every message begins with, as those of the service do.
const FAILED: &str = "test(s) failed";
/// Different devices that the tests of a policy suppose: each costs as much as working out what all
/// selectors stand for.
const SUPPOSED_MAX: usize = 64;

/// Connections and logins that all tests together are about: each is tried against every rule.
const CLAIMS_MAX: usize = 10_000;

/// Tries everything; what fails is noted.
pub(super) fn run(
    document: &Document,
    plan: &Plan,
    terms: &Terms,
    roster: &Roster,
    errors: &mut PolicyErrors,
) {
    if claims(document) > CLAIMS_MAX {
        let message = format!(
            "{FAILED}: tests and sshTests name more than {CLAIMS_MAX} connections and logins; \
             keep those that tell something"
        );
        return errors.push(Position::default(), message);
    }
    let named = Named::of(document, roster);
    let mut prober = Prober {
        document,
        plan,
        terms,
        roster,
        named: &named,
        errors,
    };
    if document.needs_hostinfo() {
        return supposing(&mut prober);
    }
    for test in &document.tests {
        prober.test(test);
    }
    for test in &document.ssh_tests {
        prober.ssh_test(test);
    }
}

/// Where rules look at devices, a test supposes what its device is like, and never looks at the
/// devices that there are: what a policy says of itself must not depend on them.
fn supposing(prober: &mut Prober<'_>) {
    let document = prober.document;
    let of_tests = document
        .tests
        .iter()
        .map(|test| (&test.attributes, test.at));
    let of_ssh = document.ssh_tests.iter();
    let of_ssh = of_ssh.map(|test| (&test.attributes, test.at));
    let mut devices: Vec<&Attributes> = Vec::new();
    for (attributes, at) in of_tests.chain(of_ssh) {
        if devices.contains(&attributes) {
            continue;
        }
        if devices.len() >= SUPPOSED_MAX {
            let message = format!("more than {SUPPOSED_MAX} different srcPostureAttrs");
            return prober.fail(at, &message);
        }
        devices.push(attributes);
    }
    for attributes in devices {
        let mut roster = prober.roster.clone();
        roster.supposed = Some(Arc::new(attributes.clone()));
        let terms = Terms::of(&prober.plan.terms, &document.names, &roster);
        let mut prober = Prober {
            document,
            plan: prober.plan,
            terms: &terms,
            roster: &roster,
            named: prober.named,
            errors: prober.errors,
        };
        let tests = document.tests.iter();
        for test in tests.filter(|test| test.attributes == *attributes) {
            prober.test(test);
        }
        let tests = document.ssh_tests.iter();
        for test in tests.filter(|test| test.attributes == *attributes) {
            prober.ssh_test(test);
        }
    }
}

/// How many connections and logins all tests are about.
fn claims(document: &Document) -> usize {
    let tests = document.tests.iter();
    let tests = tests.map(|test| 1 + test.accept.len() + test.deny.len());
    let logins = document.ssh_tests.iter().map(|test| {
        let users = test.accept.len() + test.deny.len() + test.check.len();
        1 + test.dst.len().saturating_mul(users)
    });
    tests.chain(logins).fold(0, usize::saturating_add)
}

struct Prober<'a> {
    document: &'a Document,
    plan: &'a Plan,
    terms: &'a Terms,
    roster: &'a Roster,
    named: &'a Named,
    errors: &'a mut PolicyErrors,
}

/// A destination of a test.
struct Destination {
    standing: Arc<Standing>,
    port: u16,
}

impl Prober<'_> {
    fn fail(&mut self, at: Position, message: &str) {
        self.errors.push(at, format!("{FAILED}: {message}"));
    }

    fn test(&mut self, test: &Test) {
        if test.accept.is_empty() && test.deny.is_empty() {
            let message = "test entry must have at least one of \"accept\" or \"deny\"";
            self.fail(test.at, message);
        }
        let setup = protocols(&test.proto).and_then(|protocols| {
            let source = self.named(&test.src)?;
            Ok((protocols, source))
        });
        let (protocols, source) = match setup {
            Ok(setup) => setup,
            Err(message) => return self.fail(test.at, &message),
        };
        let accept = test.accept.iter().map(|dst| (dst, true));
        let deny = test.deny.iter().map(|dst| (dst, false));
        for (dst, wanted) in accept.chain(deny) {
            let allowed = self
                .destination(dst)
                .map(|dst| self.allows(&source, &protocols, &dst));
            match allowed {
                Err(message) => self.fail(test.at, &format!("{dst:?}: {message}")),
                Ok(allowed) if allowed != wanted => {
                    let proto = if test.proto.is_empty() {
                        String::new()
                    } else {
                        format!(" ({})", test.proto)
                    };
                    let (expected, got) = if wanted {
                        ("ALLOWED", "DENIED")
                    } else {
                        ("DENIED", "ALLOWED")
                    };
                    let message = format!(
                        "{} -> {dst}{proto}: expected {expected}, got {got}",
                        test.src
                    );
                    self.fail(test.at, &message);
                }
                Ok(_) => {}
            }
        }
    }

    /// What a selector of a test stands for; a test about nothing tests nothing.
    fn named(&self, text: &str) -> Result<Arc<Standing>, String> {
        let names = &self.document.names;
        let selector = names
            .read(text)
            .map_err(|_| format!("{text:?} is not a selector"))?;
        let standing = self.named.standing(&selector);
        if standing.extent.is_empty() {
            return Err(format!("{text:?} stands for no node and no address"));
        }
        Ok(standing)
    }

    fn destination(&self, text: &str) -> Result<Destination, String> {
        let (selector, ports) = split_ports(text)?;
        let ports = parse_ports(ports)?;
        let [port] = ports.as_slice() else {
            return Err("test destination port must be a single port".to_owned());
        };
        if port.first != port.last {
            return Err("test destination port must be a single port".to_owned());
        }
        let single = "test destination must be a single host, not a CIDR range";
        match self.document.names.read(&selector) {
            Ok(Selector::Auto(Autogroup::Internet)) => {
                return Err("autogroup:internet not valid as a test destination".to_owned());
            }
            Ok(Selector::Prefix(_)) if selector.contains('/') => return Err(single.to_owned()),
            Ok(Selector::Host(name)) if !self.is_single(&name) => return Err(single.to_owned()),
            _ => {}
        }
        let standing = self.named(&selector)?;
        let port = port.first;
        Ok(Destination { standing, port })
    }

    /// Whether a name of `hosts` is not wider than one address.
    fn is_single(&self, host: &str) -> bool {
        let prefix = self.document.names.hosts.get(host);
        prefix.is_none_or(|prefix| prefix.prefix_len() == prefix.max_prefix_len())
    }

    /// Whether every source may reach any of the destination's addresses.
    fn allows(&self, source: &Standing, protocols: &[i32], dst: &Destination) -> bool {
        let rules = self.plan.rules.iter();
        let open: Vec<Extent> = rules
            .filter_map(|rule| self.opens(rule, protocols, dst))
            .collect();
        let open = Extent::union_of(open.iter());
        let prefixes = source.extent.prefixes(self.roster);
        let mut prefixes = prefixes.iter();
        prefixes.all(|prefix| open.overlaps(self.roster, prefix))
    }

    /// The sources of a rule that opens the destination's port.
    fn opens(&self, rule: &Rule, protocols: &[i32], dst: &Destination) -> Option<Extent> {
        let Rule::Ports {
            source,
            connections,
            targets,
        } = rule
        else {
            return None;
        };
        let mut ports = connections.ports.iter();
        let has_port = ports.any(|range| (range.first..=range.last).contains(&dst.port));
        let own = connections.protocol.map(i32::from);
        let has_protocol = match own {
            Some(own) => protocols.contains(&own),
            None => protocols
                .iter()
                .any(|wanted| DEFAULT_PROTOCOLS.contains(wanted)),
        };
        let reaches = |target: &Target| match target {
            Target::Any => true,
            Target::These(term) => {
                let standing = self.terms.standing(*term);
                standing.is_some_and(|standing| self.meets(standing, &dst.standing))
            }
        };
        let opens = has_port && has_protocol && targets.iter().any(reaches);
        let source = self.plan.sources.get(*source).filter(|_| opens)?;
        Some(self.terms.union(&source.terms))
    }

    fn meets(&self, one: &Standing, other: &Standing) -> bool {
        let prefixes = other.extent.addresses.prefixes();
        let mut members = one.members();
        members.any(|members| members.meets(&other.extent.nodes))
            || prefixes
                .iter()
                .any(|prefix| one.extent.overlaps(self.roster, prefix))
    }
}

fn members(standing: &Standing) -> NodeSet {
    let mut members = NodeSet::default();
    standing.members().for_each(|nodes| members.add(nodes));
    members
}

fn protocols(text: &str) -> Result<Vec<i32>, String> {
    if text.is_empty() {
        return Ok(DEFAULT_PROTOCOLS.to_vec());
    }
    let protocol = parse_protocol(text)?;
    if ![TCP, UDP, SCTP].contains(&protocol) {
        return Err("test protocol must be tcp, udp, sctp, or empty".to_owned());
    }
    Ok(vec![protocol.into()])
}
