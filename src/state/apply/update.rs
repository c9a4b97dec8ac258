//! What a client reports about itself in map requests. Equal values are skipped: no row is
//! written, and nobody is told.

use hydrascale_proto::state::v1::{Refusal, UpdateNode};

use super::super::convert::endpoints_from_proto;
use super::super::{Node, hostinfo, names};
use super::{Txn, Verdict, done, invalid};
use crate::types::{DiscoKey, NodeId, RegionId};

impl Txn<'_> {
    pub(super) fn update_node(&mut self, op: &UpdateNode) -> Verdict {
        let mut node = self.existing_node(NodeId(op.node_id))?;
        if !op.disco_key.is_empty() {
            let key = DiscoKey::from_slice(&op.disco_key);
            let key = key.ok_or_else(|| invalid("disco key is not 32 bytes"))?;
            node.disco_key = Some(key).filter(|key| !key.is_zero());
        }
        if let Some(endpoints) = &op.endpoints {
            node.endpoints = endpoints_from_proto(endpoints)?;
        }
        if !op.hostinfo_json.is_empty() {
            self.take_hostinfo(&mut node, &op.hostinfo_json)?;
        }
        if let Some(home) = op.home_derp {
            let home = u16::try_from(home)
                .map_err(|_| invalid(format!("home_derp {home} is above 65535")))?;
            node.home_derp = (home != 0).then_some(RegionId(home));
        }
        if let Some(capver) = op.capver {
            node.capver = u16::try_from(capver)
                .map_err(|_| invalid(format!("capver {capver} is above 65535")))?;
        }
        self.put_node(node);
        Ok(done(op.node_id))
    }

    /// Replaces a node's Hostinfo and what follows from it: host name, DNS label (unless an
    /// administrator chose one) and home relay.
    pub(super) fn take_hostinfo(&self, node: &mut Node, json: &[u8]) -> Result<(), Refusal> {
        let known = hostinfo::read_successor(json, node)?;
        if known.json == node.hostinfo_json {
            return Ok(());
        }
        let hostname = &known.decoded.hostname;
        if !hostname.is_empty() && *hostname != node.hostname {
            if names::is_derived(&node.given_name, &node.hostname) {
                let id = node.id;
                let label = names::label_of(hostname);
                node.given_name = names::free_label(&label, |label| {
                    self.state
                        .node_by_given_name(label)
                        .is_some_and(|holder| holder.id != id)
                });
            }
            node.hostname = names::stored_hostname(hostname);
        }
        let home = known
            .decoded
            .net_info
            .as_ref()
            .and_then(|net_info| net_info.home_derp());
        node.home_derp = home.or(node.home_derp);
        node.hostinfo_json = known.json;
        node.hostinfo = known.decoded;
        Ok(())
    }
}
