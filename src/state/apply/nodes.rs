//! What administrators do to nodes: delete, rename, expire, tag, approve routes.

use hydrascale_proto::state::v1::{
    DeleteNode, Refusal, RefusalCode, RenameNode, SetApprovedRoutes, SetNodeExpiry, SetNodeTags,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::super::convert::timestamp;
use super::super::{Node, names};
use super::{Txn, Verdict, done, invalid, refuse};
use crate::types::NodeId;

/// Routes that one node may have approved: each is an entry in every peer's netmap.
const MAX_ROUTES: usize = 1024;

impl Txn<'_> {
    pub(super) fn existing_node(&self, id: NodeId) -> Result<Node, Refusal> {
        let missing = || refuse(RefusalCode::NotFound, format!("node not found: no id {id}"));
        self.state
            .node(id)
            .map(|node| (**node).clone())
            .ok_or_else(missing)
    }

    pub(super) fn delete_node(&mut self, op: &DeleteNode) -> Verdict {
        let node = self.existing_node(NodeId(op.node_id))?;
        self.delete_node_row(&node);
        Ok(done(op.node_id))
    }

    pub(super) fn rename_node(&mut self, op: &RenameNode) -> Verdict {
        let node = self.existing_node(NodeId(op.node_id))?;
        let given_name = names::chosen_label(&op.given_name)?;
        let holder = self.state.node_by_given_name(&given_name);
        if let Some(holder) = holder.filter(|holder| holder.id != node.id) {
            return Err(refuse(
                RefusalCode::AlreadyExists,
                format!(
                    "node name is not unique: {given_name:?} is in use by node {}; choose another",
                    holder.id
                ),
            ));
        }
        self.put_node(Node { given_name, ..node });
        Ok(done(op.node_id))
    }

    pub(super) fn set_node_expiry(&mut self, op: &SetNodeExpiry) -> Verdict {
        let node = self.existing_node(NodeId(op.node_id))?;
        let now = self.now();
        let expires_at = match timestamp(op.expires_at_ms) {
            Some(at) if at <= now && node.is_expired(now) => node.expires_at,
            at => at.map(|at| at.max(now)),
        };
        self.put_node(Node { expires_at, ..node });
        Ok(done(op.node_id))
    }

    /// Gives the node to its tags. Tagged nodes do not expire, but one that did must log in again.
    pub(super) fn set_node_tags(&mut self, op: &SetNodeTags) -> Verdict {
        let node = self.existing_node(NodeId(op.node_id))?;
        let tags = names::checked_tags(&op.tags)?;
        if tags.is_empty() {
            return Err(invalid(
                "cannot remove all tags from node: name at least one",
            ));
        }
        let expires_at = node.expires_at.filter(|_| node.is_expired(self.now()));
        self.put_node(Node {
            tags,
            user_id: None,
            expires_at,
            ..node
        });
        Ok(done(op.node_id))
    }

    pub(super) fn set_approved_routes(&mut self, op: &SetApprovedRoutes) -> Verdict {
        let node = self.existing_node(NodeId(op.node_id))?;
        if op.routes.len() > MAX_ROUTES {
            return Err(invalid(format!(
                "{} routes are more than {MAX_ROUTES}",
                op.routes.len()
            )));
        }
        let routes = op.routes.iter().map(|route| parse_route(route));
        let mut routes = routes.collect::<Result<Vec<IpNet>, Refusal>>()?;
        let exits = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
        if routes.iter().any(|route| exits.contains(route)) {
            routes.extend(exits);
        }
        routes.sort();
        routes.dedup();
        self.put_node(Node {
            approved_routes: routes,
            ..node
        });
        Ok(done(op.node_id))
    }
}

fn parse_route(text: &str) -> Result<IpNet, Refusal> {
    let route: IpNet = text
        .parse()
        .map_err(|_| invalid(format!("route {text:?} is no prefix like 10.0.0.0/24")))?;
    Ok(route.trunc())
}
