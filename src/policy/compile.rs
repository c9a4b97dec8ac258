//! From a document and a roster to the list of rules of the whole tailnet.
//!
//! The list is the service's: grants before acls, each in file order, a rule of `acls` cut into one
//! grant per destination. What a node is sent is that list reduced to what concerns the node
//! (`filter`), and who sees whom follows from the list, too (`visibility`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::address_set::AddressSet;
use super::document::{Acl, Document, Grant, SshRule};
use super::login::RECORDER_PORT;
use super::meaning::{Extent, Resolver, everything, internet, without_others};
use super::node_set::NodeSet;
use super::ports::TCP;
use super::roster::Roster;
use super::selector::{Autogroup, Selector, Spot};
use crate::tailcfg::PortRange;
use crate::types::UserId;

/// Place of a list of sources in [`Rules::sources`].
pub(super) type SourceId = usize;
/// Peer capabilities with their values (`tailcfg.CapGrant.CapMap`).
pub(super) type Caps = BTreeMap<String, Vec<Value>>;

/// Whoever is granted the first capability on a node has the second one granted to that node.
const COMPANIONS: [(&str, &str); 2] = [
    ("tailscale.com/cap/drive", "tailscale.com/cap/drive-sharer"),
    ("tailscale.com/cap/relay", "tailscale.com/cap/relay-target"),
];

/// A grant, or a rule of `acls` with one of its destinations.
pub(super) struct Unit {
    pub(super) src: Vec<Selector>,
    /// Postures of which a source must meet one; empty: any device will do.
    pub(super) src_posture: Vec<String>,
    pub(super) dst: Vec<Selector>,
    pub(super) ip: Vec<Connections>,
    pub(super) app: Caps,
    pub(super) via: Vec<String>,
}

/// Protocol and ports of a rule.
#[derive(Clone)]
pub(super) struct Connections {
    pub(super) protocol: Option<u8>,
    pub(super) ports: Arc<[PortRange]>,
}

/// The sources of a unit.
#[derive(Clone)]
pub(super) struct Source {
    /// As filters name them.
    pub(super) id: SourceId,
    /// Subnet routes included where `*` stands for them, too.
    pub(super) extent: Arc<Extent>,
    pub(super) members: Arc<NodeSet>,
    pub(super) touching: Arc<NodeSet>,
}

/// A destination of a rule.
#[derive(Clone)]
pub(super) enum Target {
    /// `*`
    Any,
    These(Arc<Extent>),
}

/// A rule of the tailnet.
pub(super) struct Rule {
    /// The nodes that keep something of it.
    pub(super) nodes: NodeSet,
    pub(super) body: Body,
}

/// What a rule says.
pub(super) enum Body {
    Ports {
        source: SourceId,
        connections: Connections,
        targets: Vec<Target>,
    },
    Caps {
        source: SourceId,
        grants: Vec<(Arc<Extent>, Arc<Caps>)>,
    },
    /// `autogroup:self`: for each owner the list of that owner's nodes among the sources.
    OwnPorts {
        sources: Arc<BTreeMap<UserId, SourceId>>,
        connections: Connections,
    },
    /// The same for capabilities.
    OwnCaps {
        sources: Arc<BTreeMap<UserId, SourceId>>,
        caps: Arc<Caps>,
    },
    /// A grant that leads through routers with these tags.
    Via {
        source: SourceId,
        connections: Connections,
        targets: Vec<Arc<Extent>>,
    },
}

/// All rules of a tailnet.
#[derive(Default)]
pub(super) struct Rules {
    /// Lists of sources as filters name them, each once.
    pub(super) sources: Vec<Arc<[String]>>,
    /// The addresses behind those lists that come from selectors.
    pub(super) extents: BTreeMap<SourceId, Arc<Extent>>,
    pub(super) rules: Vec<Rule>,
    /// Where in the list a pair of sources and protocol appears first for all nodes: there its
    /// rules are merged, even on a node that keeps nothing of that first one.
    pub(super) first: BTreeMap<(SourceId, Option<u8>), usize>,
    pub(super) edges: Vec<Edge>,
    pub(super) own_edges: Vec<OwnEdge>,
    pub(super) steering: Vec<Steer>,
    pub(super) has_via: bool,
}

/// Who may reach what by one rule; whoever may reach a node sees it, and is seen.
pub(super) struct Edge {
    pub(super) src: Arc<Extent>,
    pub(super) dst: Arc<Extent>,
    pub(super) from: Arc<NodeSet>,
    /// Without exit nodes that only the internet leads to.
    pub(super) to: NodeSet,
    /// With them.
    pub(super) to_or_exit: NodeSet,
    /// Only pairs with one of these: the rule exists on these nodes alone.
    pub(super) only: Option<NodeSet>,
}

/// The nodes of an owner and those among them that `autogroup:self` lets reach all of them.
pub(super) struct OwnEdge {
    pub(super) from: NodeSet,
    pub(super) to: NodeSet,
}

/// What a unit says of the routers that lead to its destinations.
pub(super) struct Steer {
    pub(super) from: Arc<NodeSet>,
    pub(super) dst: Arc<Extent>,
    pub(super) is_internet: bool,
    pub(super) via: Vec<String>,
}

pub(super) fn compile(document: &Document, roster: &Roster) -> Rules {
    let units = units(document);
    let mut compiler = Compiler {
        resolver: Resolver::new(roster, &document.names),
        roster,
        known: BTreeMap::new(),
        ids: BTreeMap::new(),
        rules: Rules::default(),
    };
    for unit in &units {
        compiler.unit(unit);
    }
    compiler.rules.has_via = units.iter().any(|unit| !unit.via.is_empty());
    compiler.rules
}

/// The units of a document in the service's order.
fn units(document: &Document) -> Vec<Unit> {
    let everything = document.allows_all().then(|| Unit {
        src: vec![Selector::Any],
        src_posture: document.default_src_posture.clone(),
        dst: vec![Selector::Any],
        ip: vec![Connections {
            protocol: None,
            ports: Arc::new([PortRange::ANY]),
        }],
        app: Caps::new(),
        via: Vec::new(),
    });
    let grants = document.grants.iter().flatten().map(grant_unit);
    let acls = document.acls.iter().flatten().flat_map(acl_units);
    let recorded = document.ssh.iter().flatten().filter_map(recorder_unit);
    let units = everything.into_iter().chain(grants).chain(acls);
    units.chain(recorded).collect()
}

/// The servers of recorded sessions reach their recorders without a rule of their own.
fn recorder_unit(rule: &SshRule) -> Option<Unit> {
    if rule.recorder.is_empty() {
        return None;
    }
    let own = Selector::Auto(Autogroup::SelfNodes);
    let is_own = rule.dst.iter().any(|spot| spot.selector == own);
    let servers = rule.dst.iter().chain(rule.src.iter().filter(|_| is_own));
    let servers = servers.map(|spot| spot.selector.clone());
    let port = PortRange {
        first: RECORDER_PORT,
        last: RECORDER_PORT,
    };
    Some(Unit {
        src: servers.filter(|server| *server != own).collect(),
        src_posture: Vec::new(),
        dst: selectors(&rule.recorder),
        ip: vec![Connections {
            protocol: Some(TCP),
            ports: Arc::new([port]),
        }],
        app: Caps::new(),
        via: Vec::new(),
    })
}

fn selectors(spots: &[Spot]) -> Vec<Selector> {
    spots.iter().map(|spot| spot.selector.clone()).collect()
}

fn grant_unit(grant: &Grant) -> Unit {
    let connections = grant.ip.iter().map(|entry| Connections {
        protocol: entry.protocol,
        ports: entry.ports.as_slice().into(),
    });
    Unit {
        src: selectors(&grant.src),
        src_posture: grant.src_posture.clone(),
        dst: selectors(&grant.dst),
        ip: connections.collect(),
        app: grant.app.clone(),
        via: grant.via.clone(),
    }
}

/// One unit per destination. `autogroup:self` comes last, unless all are autogroups.
fn acl_units(acl: &Acl) -> Vec<Unit> {
    let mut dst: Vec<_> = acl.dst.iter().collect();
    let is_autogroup = |selector: &Selector| matches!(selector, Selector::Auto(_));
    if !dst.iter().all(|(spot, _)| is_autogroup(&spot.selector)) {
        dst.sort_by_key(|(spot, _)| spot.selector == Selector::Auto(Autogroup::SelfNodes));
    }
    dst.into_iter()
        .map(|(spot, ports)| Unit {
            src: selectors(&acl.src),
            src_posture: acl.src_posture.clone(),
            dst: vec![spot.selector.clone()],
            ip: vec![Connections {
                protocol: acl.protocol,
                ports: ports.as_slice().into(),
            }],
            app: Caps::new(),
            via: Vec::new(),
        })
        .collect()
}

/// Selectors, and the postures of which their nodes must meet one.
type SourceKey = (Vec<Selector>, Vec<String>);

struct Compiler<'a> {
    resolver: Resolver<'a>,
    roster: &'a Roster,
    known: BTreeMap<SourceKey, Source>,
    ids: BTreeMap<Arc<[String]>, SourceId>,
    rules: Rules,
}

impl Compiler<'_> {
    fn unit(&mut self, unit: &Unit) {
        if unit.src.is_empty() || unit.dst.is_empty() {
            return;
        }
        let source = self.source(&unit.src, &unit.src_posture);
        self.steer(unit, &source);
        if !unit.via.is_empty() {
            self.via(unit, &source);
            return;
        }
        let own = Selector::Auto(Autogroup::SelfNodes);
        let dst: Vec<Selector> = unit
            .dst
            .iter()
            .filter(|dst| **dst != own)
            .cloned()
            .collect();
        if !dst.is_empty() {
            self.ports(unit, &dst, &source);
            self.caps(unit, &dst, &source);
        }
        if dst.len() < unit.dst.len() {
            self.own(unit, &source);
        }
    }

    fn intern(&mut self, texts: BTreeSet<String>) -> SourceId {
        let texts: Arc<[String]> = texts.into_iter().collect();
        if let Some(id) = self.ids.get(&texts) {
            return *id;
        }
        let id = self.rules.sources.len();
        self.rules.sources.push(Arc::clone(&texts));
        self.ids.insert(texts, id);
        id
    }

    fn source(&mut self, selectors: &[Selector], postures: &[String]) -> Source {
        let key = (selectors.to_vec(), postures.to_vec());
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let mut extent = self.union(selectors, postures);
        let mut texts: BTreeSet<String> = BTreeSet::new();
        let danger_all = Selector::Auto(Autogroup::DangerAll);
        if selectors.contains(&danger_all) && postures.is_empty() {
            texts.insert("*".to_owned());
        } else if selectors.contains(&Selector::Any) {
            // Each selector and each route shows beside the wildcard.
            let routes = self.subnets(postures);
            texts.extend(routes.iter().flat_map(AddressSet::texts));
            let routes = AddressSet::of(routes.iter().flat_map(AddressSet::prefixes));
            extent.addresses = extent.addresses.union(&routes);
            for selector in selectors {
                let extent = self.resolver.source(selector, postures);
                texts.extend(extent.texts(self.roster));
            }
        } else {
            texts.extend(extent.texts(self.roster));
        }
        let source = Source {
            id: self.intern(texts),
            members: Arc::new(extent.members(self.roster)),
            touching: Arc::new(extent.touching(self.roster)),
            extent: Arc::new(extent),
        };
        let extent = Arc::clone(&source.extent);
        self.rules.extents.insert(source.id, extent);
        self.known.insert(key, source.clone());
        source
    }

    fn union(&mut self, selectors: &[Selector], postures: &[String]) -> Extent {
        let mut extent = Extent::nodes(self.roster.none());
        for selector in selectors {
            extent.add(&self.resolver.source(selector, postures));
        }
        extent
    }

    /// The subnet routes of all nodes as sources.
    fn subnets(&mut self, postures: &[String]) -> Vec<AddressSet> {
        let conforming = self.resolver.conforming(postures);
        let routes = self
            .roster
            .subnets
            .iter()
            .map(|route| AddressSet::of([*route]));
        let routes = routes.map(|route| match &conforming {
            Some(conforming) => without_others(&route, self.roster, conforming),
            None => route,
        });
        routes.collect()
    }

    fn push(&mut self, nodes: NodeSet, body: Body) {
        if let Body::Ports {
            source,
            connections,
            ..
        } = &body
        {
            let key = (*source, connections.protocol);
            let place = self.rules.rules.len();
            self.rules.first.entry(key).or_insert(place);
        }
        self.rules.rules.push(Rule { nodes, body });
    }

    fn ports(&mut self, unit: &Unit, dst: &[Selector], source: &Source) {
        if unit.ip.is_empty() || source.extent.is_empty() {
            return;
        }
        let targets: Vec<Target> = dst.iter().map(|dst| self.target(dst)).collect();
        let targets: Vec<Target> = targets
            .into_iter()
            .filter(|target| !matches!(target, Target::These(extent) if extent.is_empty()))
            .collect();
        if targets.is_empty() {
            return;
        }
        let mut nodes = self.roster.none();
        let mut reached = Extent::nodes(self.roster.none());
        for target in &targets {
            let extent = match target {
                Target::Any => {
                    nodes.add(&self.roster.tagged);
                    nodes.add(&self.roster.untagged);
                    Arc::new(Extent::addresses(self.roster, everything().clone()))
                }
                Target::These(extent) => {
                    nodes.add(&extent.touching(self.roster));
                    let mut ranges = extent.addresses.ranges();
                    if ranges.any(|range| internet().covers_range(range)) {
                        nodes.add(&self.roster.exit_nodes);
                    }
                    Arc::clone(extent)
                }
            };
            reached.add(&extent);
        }
        for connections in &unit.ip {
            let body = Body::Ports {
                source: source.id,
                connections: connections.clone(),
                targets: targets.clone(),
            };
            self.push(nodes.clone(), body);
        }
        self.edge(source, Arc::new(reached), None);
    }

    fn target(&mut self, selector: &Selector) -> Target {
        if *selector == Selector::Any {
            return Target::Any;
        }
        Target::These(self.resolver.resolve(selector))
    }

    fn edge(&mut self, source: &Source, dst: Arc<Extent>, only: Option<NodeSet>) {
        let to = dst.touching(self.roster);
        let mut to_or_exit = to.clone();
        if dst.covers_internet() {
            to_or_exit.add(&self.roster.exit_nodes);
        }
        self.rules.edges.push(Edge {
            src: Arc::clone(&source.extent),
            dst,
            from: Arc::clone(&source.touching),
            to,
            to_or_exit,
            only,
        });
    }

    fn caps(&mut self, unit: &Unit, dst: &[Selector], source: &Source) {
        if unit.app.is_empty() {
            return;
        }
        let caps = Arc::new(unit.app.clone());
        let extents: Vec<Arc<Extent>> = dst.iter().map(|dst| self.resolver.resolve(dst)).collect();
        let mut reached = Extent::nodes(self.roster.none());
        for extent in &extents {
            reached.add(extent);
        }
        let reached = Arc::new(reached);
        let grants = extents
            .into_iter()
            .map(|extent| (extent, Arc::clone(&caps)));
        let body = Body::Caps {
            source: source.id,
            grants: grants.collect(),
        };
        self.push(reached.touching(self.roster), body);
        self.edge(source, reached, None);
        for companion in companions(&unit.app) {
            self.companion(companion, dst, unit);
        }
    }

    /// The reverse of a grant: its destinations are granted something by its sources.
    fn companion(&mut self, caps: Caps, dst: &[Selector], unit: &Unit) {
        let source = self.source(dst, &[]);
        let extent = Arc::new(self.union(&unit.src, &unit.src_posture));
        let body = Body::Caps {
            source: source.id,
            grants: vec![(Arc::clone(&extent), Arc::new(caps))],
        };
        self.push(extent.touching(self.roster), body);
        self.edge(&source, extent, None);
    }

    /// `autogroup:self` among the destinations.
    fn own(&mut self, unit: &Unit, source: &Source) {
        let mut sources = BTreeMap::new();
        let mut devices = BTreeMap::new();
        let mut nodes = self.roster.none();
        for (owner, owned) in &self.roster.by_owner {
            let from = owned.intersection(&source.members);
            if from.is_empty() {
                continue;
            }
            let extent = Extent::nodes(from.clone());
            let texts = extent.texts(self.roster).into_iter().collect();
            sources.insert(*owner, self.intern(texts));
            let texts = Extent::nodes(owned.clone()).texts(self.roster);
            devices.insert(*owner, self.intern(texts.into_iter().collect()));
            nodes.add(owned);
            self.rules.own_edges.push(OwnEdge {
                from,
                to: owned.clone(),
            });
        }
        let sources = Arc::new(sources);
        for connections in &unit.ip {
            let body = Body::OwnPorts {
                sources: Arc::clone(&sources),
                connections: connections.clone(),
            };
            self.push(nodes.clone(), body);
        }
        if unit.app.is_empty() {
            return;
        }
        let body = Body::OwnCaps {
            sources,
            caps: Arc::new(unit.app.clone()),
        };
        self.push(nodes.clone(), body);
        let devices = Arc::new(devices);
        let back = nodes.intersection(&source.members);
        for companion in companions(&unit.app) {
            let body = Body::OwnCaps {
                sources: Arc::clone(&devices),
                caps: Arc::new(companion),
            };
            self.push(back.clone(), body);
        }
    }

    /// A grant that leads through certain routers exists on these alone.
    fn via(&mut self, unit: &Unit, source: &Source) {
        let targets: Vec<Arc<Extent>> = unit
            .dst
            .iter()
            .map(|dst| self.resolver.resolve(dst))
            .collect();
        let mut routers = self.roster.none();
        for (place, member) in self.roster.members.iter().enumerate() {
            let leads = |extent: &Arc<Extent>| leads_to(self.roster, member, extent);
            if member.has_tag(&unit.via) && targets.iter().any(leads) {
                routers.insert(place);
            }
        }
        if routers.is_empty() {
            return;
        }
        let id = self.via_source(unit, source);
        for connections in &unit.ip {
            let body = Body::Via {
                source: id,
                connections: connections.clone(),
                targets: targets.clone(),
            };
            self.push(routers.clone(), body);
        }
        let mut reached = Extent::nodes(self.roster.none());
        for target in &targets {
            reached.add(target);
        }
        self.edge(source, Arc::new(reached), Some(routers));
    }

    /// Unlike elsewhere nothing but routes shows beside the wildcard.
    fn via_source(&mut self, unit: &Unit, source: &Source) -> SourceId {
        if unit.src.contains(&Selector::Any) {
            return self.source(&[Selector::Any], &unit.src_posture).id;
        }
        source.id
    }

    fn steer(&mut self, unit: &Unit, source: &Source) {
        let mut dst = self.union(&unit.dst, &[]);
        let net = Selector::Auto(Autogroup::Internet);
        let is_internet = unit.dst.contains(&net);
        if is_internet {
            let others: Vec<Selector> = unit.dst.iter().filter(|d| **d != net).cloned().collect();
            dst = self.union(&others, &[]);
        }
        self.rules.steering.push(Steer {
            from: Arc::clone(&source.members),
            dst: Arc::new(dst),
            is_internet,
            via: unit.via.clone(),
        });
    }
}

fn companions(app: &Caps) -> impl Iterator<Item = Caps> {
    let granted = COMPANIONS.iter().filter(|(cap, _)| app.contains_key(*cap));
    granted.map(|(_, companion)| Caps::from([((*companion).to_owned(), Vec::new())]))
}

/// Whether a router's routes lead to a destination.
pub(super) fn leads_to(
    roster: &Roster,
    member: &super::roster::Member,
    extent: &Arc<Extent>,
) -> bool {
    let mut subnets = member.subnets.iter();
    subnets.any(|route| extent.overlaps(roster, route))
        || (!member.exits.is_empty() && extent.covers_internet())
}
