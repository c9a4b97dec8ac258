//! What another policy, or another place of some nodes in it, changes for those who see them.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::iter::Peekable;

use ipnet::IpNet;

use super::Basis;
use crate::tailcfg::CapMap;
use crate::types::NodeId;

/// How the peers of a class differ between two bases, beside what differs in the nodes themselves.
/// All in id order; the viewer itself may be in any of them where its whole class is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shift {
    /// Peers that it could not see before.
    pub(super) came: BTreeSet<NodeId>,
    /// Peers that it cannot see any more.
    pub(super) went: BTreeSet<NodeId>,
    /// Peers whose routes, attributes or addresses it is told otherwise.
    pub(super) altered: BTreeSet<NodeId>,
}

impl Shift {
    /// What differs for all who are in the classes of `viewer`, before and after.
    pub(super) fn of(before: &Basis, after: &Basis, viewer: NodeId) -> Self {
        let mut shift = Self::default();
        let (mut old, mut new) = (peers(before, viewer), peers(after, viewer));
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some(old), Some(new)) => old.cmp(new),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            if order.is_le() {
                let id = old.next();
                shift.went.extend(id.filter(|_| order.is_lt()));
            }
            if order.is_ge() {
                let id = new.next();
                shift.came.extend(id.filter(|_| order.is_gt()));
            }
        }
        let carriers = before.engine.carriers().chain(after.engine.carriers());
        let hidden = before
            .engine
            .without_ipv4()
            .chain(after.engine.without_ipv4());
        let sees = |basis: &Basis, id| basis.engine.sees(viewer, id);
        let known = carriers.chain(hidden);
        let known = known.filter(|id| sees(before, *id) && sees(after, *id));
        shift.altered.extend(
            known.filter(|id| Told::of(before, viewer, *id) != Told::of(after, viewer, *id)),
        );
        shift
    }
}

fn peers(basis: &Basis, viewer: NodeId) -> Peekable<impl Iterator<Item = NodeId>> {
    basis.engine.class_peers(viewer).peekable()
}

/// What the policy decides about a peer that a viewer sees.
#[derive(PartialEq)]
struct Told {
    routes: BTreeSet<IpNet>,
    attributes: CapMap,
    hides_ipv4: bool,
}

impl Told {
    fn of(basis: &Basis, viewer: NodeId, peer: NodeId) -> Self {
        Self {
            routes: basis.routes(viewer, peer),
            attributes: basis.engine.peer_attributes(peer),
            hides_ipv4: basis.engine.hides_ipv4(peer),
        }
    }
}
