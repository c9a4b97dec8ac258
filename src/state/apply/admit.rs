//! Letting a device in, whoever allowed it: a new node, or the device's node again with its new
//! node key.

use std::sync::Arc;

use hydrascale_proto::state::v1::{Refusal, RefusalCode, RegisterMethod, TagGrant};

use super::super::{Node, hostinfo, names};
use super::{Txn, invalid, refuse};
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
    /// What the policy gives of the tags that it asks for.
    pub(super) tag_grant: Option<&'a TagGrant>,
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

    /// The tags for which a device asks, sorted, each once. What it has already, the key that it
    /// brings or the policy must allow each.
    pub(super) fn requested_tags(
        &self,
        arrival: &Arrival<'_>,
        allowed: &[String],
    ) -> Result<Vec<String>, Refusal> {
        let known = hostinfo::read(arrival.hostinfo_json)?;
        let wanted = &known.decoded.request_tags;
        let granted = arrival.tag_grant.map_or(&[][..], |grant| &grant.tags);
        let beyond: Vec<&str> = wanted
            .iter()
            .filter(|tag| !allowed.contains(tag))
            .map(String::as_str)
            .collect();
        if let Some(grant) = arrival.tag_grant
            && !beyond.is_empty()
            && grant.policy_version != self.state.version_in_force()
        {
            return Err(refuse(
                RefusalCode::Precondition,
                "the policy was changed in the meantime: try again",
            ));
        }
        let refused: Vec<&str> = beyond
            .into_iter()
            .filter(|tag| !granted.iter().any(|granted| granted == tag))
            .collect();
        if !refused.is_empty() {
            let message = names::tags_not_permitted(&refused);
            return Err(refuse(RefusalCode::Precondition, message));
        }
        Ok(names::checked_tags(wanted)?)
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
        let hostname = names::stored_hostname(&known.decoded.hostname);
        let node = Node {
            id: self.next_node_id()?,
            machine_key: arrival.machine_key,
            node_key: arrival.node_key,
            disco_key: None,
            user_id,
            register_method: admission.method,
            given_name: self.free_label(&hostname, None),
            hostname,
            ipv4: self.next_ipv4(arrival.entropy)?,
            ipv6: self.next_ipv6(arrival.entropy)?,
            hostinfo_json: known.json,
            hostinfo: known.decoded,
            endpoints: Arc::new([]),
            home_derp,
            capver: arrival.capver,
            tags,
            approved_routes: Vec::new(),
            routes_set_under: 0,
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
    pub(super) fn store_arrival(&mut self, mut node: Node) -> NodeId {
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

    /// The DNS label that a host name gives, with a number if another node has it. A node that has
    /// such a label already keeps it.
    pub(super) fn free_label(&self, hostname: &str, own: Option<&Node>) -> String {
        let own = own.map(|node| node.given_name.as_str());
        let is_taken =
            |label: &str| Some(label) != own && self.state.node_by_given_name(label).is_some();
        let first_free = |base: &str| {
            let free = self.state.index.free_number(base);
            let own = own.and_then(names::split_number);
            own.filter(|(own, _)| *own == base)
                .map_or(free, |(_, number)| free.min(number))
        };
        names::free_label(&names::label_of(hostname), first_free, is_taken)
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
}

pub(super) fn machine_mismatch() -> Refusal {
    refuse(
        RefusalCode::MachineMismatch,
        "node exists with a different machine key",
    )
}
