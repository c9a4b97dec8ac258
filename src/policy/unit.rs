//! Grants, and what rules of `acls` come to as grants, in the service's order.

use std::sync::Arc;

use super::document::{Acl, Document, Grant, SshRule};
use super::login::RECORDER_PORT;
use super::plan::Caps;
use super::ports::TCP;
use super::selector::{Autogroup, Selector, Spot};
use crate::tailcfg::PortRange;

/// A grant, or a rule of `acls` with one of its destinations.
pub(super) struct Unit<'a> {
    pub(super) src: Vec<&'a Selector>,
    /// Postures of which a source must meet one; empty: any device will do.
    pub(super) src_posture: &'a [String],
    pub(super) dst: Vec<&'a Selector>,
    pub(super) ip: Vec<Connections>,
    pub(super) app: Option<&'a Caps>,
    pub(super) via: &'a [String],
}

/// Protocol and ports of a rule.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Connections {
    pub(super) protocol: Option<u8>,
    pub(super) ports: Arc<[PortRange]>,
}

/// The units of a document in the service's order.
pub(super) fn units(document: &Document) -> Vec<Unit<'_>> {
    let everything = document.allows_all().then(|| Unit {
        src: vec![&Selector::Any],
        src_posture: &document.default_src_posture,
        dst: vec![&Selector::Any],
        ip: vec![Connections {
            protocol: None,
            ports: Arc::new([PortRange::ANY]),
        }],
        app: None,
        via: &[],
    });
    let grants = document.grants.iter().flatten().map(grant_unit);
    let acls = document.acls.iter().flatten().flat_map(acl_units);
    let recorded = document.ssh.iter().flatten().filter_map(recorder_unit);
    let units = everything.into_iter().chain(grants).chain(acls);
    units.chain(recorded).collect()
}

/// The servers of recorded sessions reach their recorders without a rule of their own.
fn recorder_unit(rule: &SshRule) -> Option<Unit<'_>> {
    if rule.recorder.is_empty() {
        return None;
    }
    let own = Selector::Auto(Autogroup::SelfNodes);
    let is_own = rule.dst.iter().any(|spot| spot.selector == own);
    let servers = rule.dst.iter().chain(rule.src.iter().filter(|_| is_own));
    let servers = servers.map(|spot| &spot.selector);
    let port = PortRange {
        first: RECORDER_PORT,
        last: RECORDER_PORT,
    };
    Some(Unit {
        src: servers.filter(|server| **server != own).collect(),
        src_posture: &[],
        dst: selectors(&rule.recorder),
        ip: vec![Connections {
            protocol: Some(TCP),
            ports: Arc::new([port]),
        }],
        app: None,
        via: &[],
    })
}

fn selectors(spots: &[Spot]) -> Vec<&Selector> {
    spots.iter().map(|spot| &spot.selector).collect()
}

fn grant_unit(grant: &Grant) -> Unit<'_> {
    let connections = grant.ip.iter().map(|entry| Connections {
        protocol: entry.protocol,
        ports: entry.ports.as_slice().into(),
    });
    Unit {
        src: selectors(&grant.src),
        src_posture: &grant.src_posture,
        dst: selectors(&grant.dst),
        ip: connections.collect(),
        app: Some(&grant.app),
        via: &grant.via,
    }
}

/// One unit per destination. `autogroup:self` comes last, unless all are autogroups.
fn acl_units(acl: &Acl) -> Vec<Unit<'_>> {
    let mut dst: Vec<_> = acl.dst.iter().collect();
    let is_autogroup = |selector: &Selector| matches!(selector, Selector::Auto(_));
    if !dst.iter().all(|(spot, _)| is_autogroup(&spot.selector)) {
        dst.sort_by_key(|(spot, _)| spot.selector == Selector::Auto(Autogroup::SelfNodes));
    }
    dst.into_iter()
        .map(|(spot, ports)| Unit {
            src: selectors(&acl.src),
            src_posture: &acl.src_posture,
            dst: vec![&spot.selector],
            ip: vec![Connections {
                protocol: acl.protocol,
                ports: ports.as_slice().into(),
            }],
            app: None,
            via: &[],
        })
        .collect()
}
