//! Registration with a pre-auth key, the refresh of a known node, and what both share with
//! interactive logins: making a node, and letting a known device in again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hydrascale_proto::state::v1::{
    PreAuthKeyProof, Refusal, RefusalCode, RegisterMethod, RegisterNode,
};

use super::super::allocate::Pool;
use super::super::convert::timestamp;
use super::super::secret::same_hash;
use super::super::{Node, PreAuthKey, hostinfo, names};
use super::{Txn, Verdict, done, invalid, refuse};
use crate::types::{MachineKey, NodeId, NodeKey, Timestamp, UserId};

/// What a device says when it registers, however it is let in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival<'a> {
    pub(super) machine_key: MachineKey,
    pub(super) node_key: NodeKey,
    pub(super) hostinfo_json: &'a [u8],
    pub(super) capver: u16,
    pub(super) ephemeral: bool,
    pub(super) requested_expiry: Option<Timestamp>,
    pub(super) entropy: u64,
}

/// On what terms it is let in.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    pub(super) owner: Owner,
    pub(super) method: RegisterMethod,
    pub(super) pre_auth_key_id: Option<u64>,
    pub(super) ephemeral: bool,
    /// Set by whoever let it in; else the device's wish and the settings decide.
    pub(super) expires_at: Option<Timestamp>,
}

/// Who owns a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    User(UserId),
    Tags(Vec<String>),
}

/// Reads the keys and numbers that every registration carries.
pub(super) fn read_keys(
    machine: &[u8],
    node: &[u8],
    capver: u32,
) -> Result<(MachineKey, NodeKey, u16), Refusal> {
    let machine = MachineKey::from_slice(machine).filter(|key| !key.is_zero());
    let node = NodeKey::from_slice(node).filter(|key| !key.is_zero());
    let machine = machine.ok_or_else(|| invalid("machine key is not 32 bytes, or zero"))?;
    let node = node.ok_or_else(|| invalid("node key is not 32 bytes, or zero"))?;
    let capver =
        u16::try_from(capver).map_err(|_| invalid(format!("capver {capver} is no u16")))?;
    Ok((machine, node, capver))
}

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
        let admission = Admission {
            owner: match (key.is_tagged(), key.user_id) {
                (false, Some(user)) => Owner::User(user),
                (_, _) => Owner::Tags(key.tags.clone()),
            },
            method: RegisterMethod::AuthKey,
            pre_auth_key_id: Some(key.id),
            ephemeral: key.ephemeral || arrival.ephemeral,
            expires_at: None,
        };
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
                self.readmit(node, arrival, &admission, false)?
            }
            None => {
                check_key_valid(key, now)?;
                self.check_requested_tags(arrival, &key.tags)?;
                self.add_node(arrival, &admission)?
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

    /// A node key names one node. One that another device holds is refused; one that this device
    /// uses under another owner is treated as expired, so that the client makes a new one.
    pub(super) fn check_node_key(
        &self,
        arrival: &Arrival<'_>,
        existing: Option<&Node>,
    ) -> Result<(), Refusal> {
        match self.state.node_by_node_key(&arrival.node_key) {
            Some(holder) if holder.machine_key != arrival.machine_key => Err(machine_mismatch()),
            Some(holder) if Some(holder.id) != existing.map(|node| node.id) => Err(refuse(
                RefusalCode::NodeExpired,
                format!(
                    "node key belongs to node {} of another owner: register with a new node key",
                    holder.id
                ),
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// A device asks for tags; the key that it brings, or what it has already, must allow them.
    pub(super) fn check_requested_tags(
        &self,
        arrival: &Arrival<'_>,
        allowed: &[String],
    ) -> Result<(), Refusal> {
        let known = hostinfo::read(arrival.hostinfo_json)?;
        let wanted = &known.decoded.request_tags;
        if wanted.iter().all(|tag| allowed.contains(tag)) {
            return Ok(());
        }
        Err(refuse(
            RefusalCode::Precondition,
            format!("requested tags {wanted:?} are invalid or not permitted"),
        ))
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

    /// Lets a device's node in again, in place: the same id and addresses, the new node key.
    /// `untags` says whether a user who logs in takes a tagged node over.
    pub(super) fn readmit(
        &mut self,
        node: Node,
        arrival: &Arrival<'_>,
        admission: &Admission,
        untags: bool,
    ) -> Result<NodeId, Refusal> {
        let mut node = Node {
            node_key: arrival.node_key,
            capver: arrival.capver,
            register_method: admission.method,
            pre_auth_key_id: admission.pre_auth_key_id.or(node.pre_auth_key_id),
            ephemeral: admission.ephemeral,
            ..node
        };
        let was_tagged = node.is_tagged();
        match &admission.owner {
            Owner::Tags(tags) if !was_tagged || untags => {
                node.tags.clone_from(tags);
                node.user_id = None;
                node.expires_at = None;
            }
            Owner::User(user) if !was_tagged || untags => {
                node.tags.clear();
                node.user_id = Some(*user);
                node.expires_at = self.expiry(arrival, admission)?;
            }
            Owner::Tags(_) | Owner::User(_) => {}
        }
        if was_tagged && node.is_tagged() && node.is_expired(self.now()) {
            node.expires_at = None;
        }
        self.take_hostinfo(&mut node, arrival.hostinfo_json)?;
        Ok(self.store_arrival(node))
    }

    pub(super) fn add_node(
        &mut self,
        arrival: &Arrival<'_>,
        admission: &Admission,
    ) -> Result<NodeId, Refusal> {
        let twin = self
            .state
            .nodes_by_machine(arrival.machine_key)
            .next()
            .cloned();
        let known = match &twin {
            Some(twin) => hostinfo::read_successor(arrival.hostinfo_json, twin)?,
            None => hostinfo::read(arrival.hostinfo_json)?,
        };
        let home_derp = known
            .decoded
            .net_info
            .as_ref()
            .and_then(|net| net.home_derp());
        let (user_id, tags) = match &admission.owner {
            Owner::User(user) => (Some(*user), Vec::new()),
            Owner::Tags(tags) => (None, tags.clone()),
        };
        let given_name = self.free_label(&known.decoded.hostname);
        let node = Node {
            id: self.next_node_id()?,
            machine_key: arrival.machine_key,
            node_key: arrival.node_key,
            disco_key: None,
            user_id,
            register_method: admission.method,
            hostname: names::stored_hostname(&known.decoded.hostname),
            given_name,
            ipv4: self.next_ipv4(arrival.entropy)?,
            ipv6: self.next_ipv6(arrival.entropy)?,
            hostinfo_json: known.json,
            hostinfo: known.decoded,
            endpoints: Arc::new([]),
            home_derp,
            capver: arrival.capver,
            tags,
            approved_routes: Vec::new(),
            pre_auth_key_id: admission.pre_auth_key_id,
            ephemeral: admission.ephemeral,
            expires_at: self.expiry(arrival, admission)?,
            created_at: self.now(),
            last_seen: None,
        };
        let id = node.id;
        self.put_node(node);
        Ok(id)
    }

    /// Stores a node that just registered. An ephemeral one starts its time of inactivity anew, so
    /// that it is not swept between registering and its first map stream.
    fn store_arrival(&mut self, mut node: Node) -> NodeId {
        let id = node.id;
        if node.ephemeral && !self.state.is_online(id) {
            node.last_seen = node.last_seen.max(Some(self.now()));
        }
        self.put_node(node);
        id
    }

    /// When a login ends: as whoever let it in says, else as the settings say or sooner if the
    /// device wishes so. Tagged nodes do not expire.
    fn expiry(
        &self,
        arrival: &Arrival<'_>,
        admission: &Admission,
    ) -> Result<Option<Timestamp>, Refusal> {
        if matches!(admission.owner, Owner::Tags(_)) || admission.expires_at.is_some() {
            return Ok(admission.expires_at);
        }
        let now = self.now();
        let latest = self
            .settings()?
            .node_expiry
            .map(|life| now.saturating_add(life));
        let wanted = arrival.requested_expiry.filter(|at| *at > now);
        Ok(match (wanted, latest) {
            (Some(wanted), Some(latest)) => Some(wanted.min(latest)),
            (wanted, latest) => wanted.or(latest),
        })
    }

    fn free_label(&self, hostname: &str) -> String {
        let is_taken = |label: &str| self.state.node_by_given_name(label).is_some();
        names::free_label(&names::label_of(hostname), is_taken)
    }

    fn next_node_id(&mut self) -> Result<NodeId, Refusal> {
        let id = self.with_tailnet(|tailnet| {
            tailnet.last_node_id += 1;
            NodeId(tailnet.last_node_id)
        })?;
        if id > NodeId::MAX {
            return Err(refuse(RefusalCode::Precondition, "node ids are used up"));
        }
        Ok(id)
    }

    pub(super) fn next_ipv4(&mut self, entropy: u64) -> Result<Option<Ipv4Addr>, Refusal> {
        let settings = self.settings()?;
        let Some(prefix) = settings.ipv4_prefix else {
            return Ok(None);
        };
        let cursor = self
            .state
            .tailnet()
            .and_then(|tailnet| tailnet.last_ipv4)
            .map(IpAddr::V4);
        let used = &self.state.index.node_by_ip;
        let pool = Pool::v4(prefix);
        let found = if settings.random_allocation {
            pool.random(entropy, used)
        } else {
            pool.after(cursor, used)
        };
        let Some(IpAddr::V4(ip)) = found else {
            return Err(exhausted(&prefix.to_string()));
        };
        self.with_tailnet(|tailnet| tailnet.last_ipv4 = Some(ip))?;
        Ok(Some(ip))
    }

    pub(super) fn next_ipv6(&mut self, entropy: u64) -> Result<Option<Ipv6Addr>, Refusal> {
        let settings = self.settings()?;
        let Some(prefix) = settings.ipv6_prefix else {
            return Ok(None);
        };
        let cursor = self
            .state
            .tailnet()
            .and_then(|tailnet| tailnet.last_ipv6)
            .map(IpAddr::V6);
        let used = &self.state.index.node_by_ip;
        let pool = Pool::v6(prefix);
        let found = if settings.random_allocation {
            pool.random(entropy, used)
        } else {
            pool.after(cursor, used)
        };
        let Some(IpAddr::V6(ip)) = found else {
            return Err(exhausted(&prefix.to_string()));
        };
        self.with_tailnet(|tailnet| tailnet.last_ipv6 = Some(ip))?;
        Ok(Some(ip))
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

pub(super) fn machine_mismatch() -> Refusal {
    refuse(
        RefusalCode::MachineMismatch,
        "node exists with a different machine key",
    )
}

fn exhausted(prefix: &str) -> Refusal {
    refuse(
        RefusalCode::AddressesExhausted,
        format!(
            "failed to allocate IP: {prefix} is full; delete nodes or configure a wider prefix"
        ),
    )
}
