//! Registration with a pre-auth key, and the refresh of a device that is in already.

use std::sync::Arc;

use hydrascale_proto::state::v1::{
    PreAuthKeyProof, Refusal, RefusalCode, RegisterMethod, RegisterNode,
};

use super::super::convert::timestamp;
use super::super::secret::same_hash;
use super::super::{Node, PreAuthKey};
use super::admit::{Admission, Arrival, Owner, machine_mismatch, read_keys};
use super::{Txn, Verdict, done, invalid, refuse};
use crate::types::{NodeId, Timestamp};

impl Txn<'_> {
    pub(super) fn register_node(&mut self, op: &RegisterNode) -> Verdict {
        let (machine_key, node_key, capver) = read_keys(&op.machine_key, &op.node_key, op.capver)?;
        let arrival = Arrival {
            machine_key,
            node_key,
            hostinfo_json: &op.hostinfo_json,
            capver,
            ephemeral: op.ephemeral,
            requested_expiry: timestamp(op.requested_expiry_ms),
            entropy: op.entropy,
            tag_grant: op.tag_grant.as_ref(),
        };
        if arrival.requested_expiry.is_some_and(|at| at <= self.now()) {
            return Err(invalid(
                "requested expiry is in the past: log the node out instead",
            ));
        }
        match op.auth_key.as_ref().map(|proof| self.proven_key(proof)) {
            Some(Ok(key)) => self.register_with_key(&arrival, &key),
            Some(Err(refusal)) if !self.is_known(&arrival) => Err(refusal),
            Some(Err(_)) | None => self.refresh(&arrival),
        }
    }

    /// The pre-auth key whose secret was presented.
    fn proven_key(&self, proof: &PreAuthKeyProof) -> Result<Arc<PreAuthKey>, Refusal> {
        let key = self.state.pre_auth_key_by_prefix(&proof.prefix);
        key.filter(|key| same_hash(&key.secret_hash, &proof.secret_hash))
            .cloned()
            .ok_or_else(|| refuse(RefusalCode::AuthKeyInvalid, "invalid pre auth key"))
    }

    /// Whether the device already is in, with this node key. Such a device needs no pre-auth key,
    /// so that a container restarts with one that was deleted.
    fn is_known(&self, arrival: &Arrival<'_>) -> bool {
        self.state
            .node_by_node_key(&arrival.node_key)
            .is_some_and(|node| {
                node.machine_key == arrival.machine_key && !node.is_expired(self.now())
            })
    }

    fn register_with_key(&mut self, arrival: &Arrival<'_>, key: &PreAuthKey) -> Verdict {
        let existing = self.node_for_key(arrival, key)?;
        self.check_node_key(arrival, existing.as_ref())?;
        let now = self.now();
        let id = match existing {
            Some(node)
                if node.node_key == arrival.node_key
                    && !node.is_expired(now)
                    && (node.is_tagged() || !key.is_tagged()) =>
            {
                self.update_known(node, arrival)?
            }
            Some(node) => {
                check_key_valid(key, now)?;
                let allowed = [key.tags.as_slice(), &node.tags].concat();
                let requested = self.requested_tags(arrival, &allowed)?;
                let retags = requested.iter().any(|tag| !node.tags.contains(tag));
                let admission = terms_of(key, arrival, &requested);
                self.readmit(node, arrival, &admission, retags)?
            }
            None => {
                check_key_valid(key, now)?;
                let requested = self.requested_tags(arrival, &key.tags)?;
                self.add_node(arrival, &terms_of(key, arrival, &requested))?
            }
        };
        if !key.reusable && !key.used {
            self.put_pre_auth_key(PreAuthKey {
                used: true,
                ..key.clone()
            });
        }
        Ok(done(id.0))
    }

    /// The node of this device that the key's owner owns. A node that an administrator tagged since
    /// still counts as its former owner's, and a tagged key takes over the device's only node.
    fn node_for_key(
        &self,
        arrival: &Arrival<'_>,
        key: &PreAuthKey,
    ) -> Result<Option<Node>, Refusal> {
        let machine = arrival.machine_key;
        let owned = |user| {
            self.state
                .node_by_machine_and_user(machine, Some(user))
                .cloned()
        };
        if let (false, Some(user)) = (key.is_tagged(), key.user_id) {
            let node = owned(user).or_else(|| self.tagged_node(arrival));
            return Ok(node.map(|node| (*node).clone()));
        }
        if let Some(node) = self.tagged_node(arrival) {
            return Ok(Some((*node).clone()));
        }
        let mut nodes = self.state.nodes_by_machine(machine);
        let only = nodes.next();
        if nodes.next().is_some() {
            return Err(refuse(
                RefusalCode::Precondition,
                "machine key maps to ambiguous node ownership: delete the nodes of this device that \
                 are not in use",
            ));
        }
        Ok(only.map(|node| (**node).clone()))
    }

    /// The node of this device that tags own: the one with the same node key when there are more.
    pub(super) fn tagged_node(&self, arrival: &Arrival<'_>) -> Option<Arc<Node>> {
        let tagged = || {
            self.state
                .nodes_by_machine(arrival.machine_key)
                .filter(|n| n.is_tagged())
        };
        tagged()
            .find(|node| node.node_key == arrival.node_key)
            .or_else(|| tagged().next())
            .cloned()
    }

    /// A known device with the same, valid node key: nothing is to be proven, so nothing is gained
    /// but a fresh Hostinfo and an earlier expiry if it wishes so.
    fn refresh(&mut self, arrival: &Arrival<'_>) -> Verdict {
        let missing = || {
            refuse(
                RefusalCode::NotFound,
                "node not found: register with an auth key",
            )
        };
        let node = self
            .state
            .node_by_node_key(&arrival.node_key)
            .ok_or_else(missing)?
            .clone();
        if node.machine_key != arrival.machine_key {
            return Err(machine_mismatch());
        }
        if node.is_expired(self.now()) {
            return Err(refuse(
                RefusalCode::NodeExpired,
                "node key expired: log in again",
            ));
        }
        let wanted = arrival.requested_expiry;
        if wanted.is_some_and(|wanted| node.expires_at.is_some_and(|at| wanted > at)) {
            return Err(invalid("extending key is not allowed"));
        }
        Ok(done(self.update_known((*node).clone(), arrival)?.0))
    }

    fn update_known(&mut self, node: Node, arrival: &Arrival<'_>) -> Result<NodeId, Refusal> {
        let sooner = arrival.requested_expiry.filter(|_| !node.is_tagged());
        let expires_at = match (node.expires_at, sooner) {
            (Some(at), Some(sooner)) => Some(at.min(sooner)),
            (at, sooner) => at.or(sooner),
        };
        let mut node = Node {
            expires_at,
            capver: arrival.capver,
            ..node
        };
        if !arrival.hostinfo_json.is_empty() {
            self.take_hostinfo(&mut node, arrival.hostinfo_json)?;
        }
        Ok(self.store_arrival(node))
    }
}

/// A device belongs to the key's user until tags are asked for; to the key's tags in any case.
fn terms_of(key: &PreAuthKey, arrival: &Arrival<'_>, requested: &[String]) -> Admission {
    let owner = match (key.is_tagged(), key.user_id) {
        (false, Some(user)) if requested.is_empty() => Owner::User(user),
        (_, _) => {
            let mut tags = [key.tags.as_slice(), requested].concat();
            tags.sort();
            tags.dedup();
            Owner::Tags(tags)
        }
    };
    Admission {
        owner,
        method: RegisterMethod::AuthKey,
        pre_auth_key_id: Some(key.id),
        ephemeral: key.ephemeral || arrival.ephemeral,
        expires_at: None,
    }
}

fn check_key_valid(key: &PreAuthKey, now: Timestamp) -> Result<(), Refusal> {
    if key.revoked {
        return Err(refuse(RefusalCode::AuthKeyRevoked, "authkey revoked"));
    }
    if key.is_expired(now) {
        return Err(refuse(RefusalCode::AuthKeyExpired, "authkey expired"));
    }
    if key.used && !key.reusable {
        return Err(refuse(RefusalCode::AuthKeyUsed, "authkey already used"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
