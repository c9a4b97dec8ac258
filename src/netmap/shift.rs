//! What another policy, or another place of some nodes in it, changes for those who see them.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::Basis;
use crate::policy::{Difference, Sight};
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
    pub(super) fn of(
        before: &Basis,
        after: &Basis,
        difference: &Difference,
        viewer: NodeId,
    ) -> Self {
        let (old, new) = (&before.engine, &after.engine);
        let Sight { came, went } = Sight::of(old, new, viewer);
        let routes = difference.may_change_routes(old, new, viewer);
        let carriers = old.carriers().chain(new.carriers()).filter(|_| routes);
        let others = difference.told().iter().copied();
        let known = carriers.chain(others);
        let known = known.filter(|id| old.sees(viewer, *id) && new.sees(viewer, *id));
        let altered =
            known.filter(|id| Told::of(before, viewer, *id) != Told::of(after, viewer, *id));
        Self {
            altered: altered.collect(),
            came,
            went,
        }
    }
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
