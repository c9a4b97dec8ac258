//! Indexes over the rows. They live in memory only and are a pure function of the rows: loading
//! the rows again gives equal indexes.

use std::net::IpAddr;

use imbl::{OrdMap, OrdSet};

use super::due::Dues;
use super::names::split_number;
use super::{ApiKey, Node, PendingLogin, PreAuthKey, Replica, Session, User};
use crate::types::{MachineKey, NodeId, NodeKey, RegionId, ReplicaId, Timestamp, UserId};

/// A key with any number of values, in order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Multi<K: Ord, V: Ord>(OrdSet<(K, V)>);

impl<K: Ord, V: Ord> Default for Multi<K, V> {
    fn default() -> Self {
        Self(OrdSet::new())
    }
}

impl<K: Ord + Clone, V: Ord + Clone + Default> Multi<K, V> {
    pub(super) fn insert(&mut self, key: K, value: V) {
        self.0.insert((key, value));
    }

    pub(super) fn remove(&mut self, key: K, value: V) {
        self.0.remove(&(key, value));
    }

    /// Moves a value from one key to another.
    fn swap(&mut self, old: Option<K>, new: Option<K>, value: V) {
        if old == new {
            return;
        }
        if let Some(key) = old {
            self.remove(key, value.clone());
        }
        if let Some(key) = new {
            self.insert(key, value);
        }
    }

    /// The values of a key in order. Relies on `V::default()` being the least value.
    pub(super) fn of(&self, key: K) -> impl Iterator<Item = &V> + '_ {
        let from = (key.clone(), V::default());
        self.0
            .range(from..)
            .take_while(move |(k, _)| *k == key)
            .map(|(_, value)| value)
    }

    pub(super) fn has(&self, key: K) -> bool {
        self.of(key).next().is_some()
    }
}

/// All indexes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Index {
    pub(super) users_by_name: Multi<String, UserId>,
    pub(super) user_by_provider: OrdMap<String, UserId>,
    pub(super) nodes_by_machine: Multi<MachineKey, NodeId>,
    pub(super) nodes_by_user: Multi<UserId, NodeId>,
    pub(super) nodes_by_home: Multi<RegionId, NodeId>,
    pub(super) node_by_key: OrdMap<NodeKey, NodeId>,
    pub(super) node_by_ip: OrdMap<IpAddr, NodeId>,
    pub(super) node_by_name: OrdMap<String, NodeId>,
    /// The least number from 1 on that is free behind a label, where that is not 1: thousands of
    /// nodes may call themselves `localhost`.
    free_numbers: OrdMap<String, u64>,
    pub(super) pre_auth_key_by_prefix: OrdMap<String, u64>,
    pub(super) api_key_by_prefix: OrdMap<String, u64>,
    pub(super) logins_by_age: OrdSet<(Timestamp, String)>,
    pub(super) logins_by_machine: Multi<MachineKey, (Timestamp, String)>,
    pub(super) sessions_by_replica: Multi<ReplicaId, NodeId>,
    pub(super) replica_by_region: OrdMap<RegionId, ReplicaId>,
    pub(super) dues: Dues,
}

impl Index {
    pub(super) fn add_user(&mut self, user: &User) {
        self.users_by_name.insert(user.name.clone(), user.id);
        if !user.provider_id.is_empty() {
            self.user_by_provider
                .insert(user.provider_id.clone(), user.id);
        }
    }

    pub(super) fn remove_user(&mut self, user: &User) {
        self.users_by_name.remove(user.name.clone(), user.id);
        self.user_by_provider.remove(&user.provider_id);
    }

    /// Takes a node from one version of its row to the next, touching only what differs.
    pub(super) fn move_node(&mut self, id: NodeId, old: Option<&Node>, new: Option<&Node>) {
        let machine = |node: &Node| node.machine_key;
        self.nodes_by_machine
            .swap(old.map(machine), new.map(machine), id);
        let user = |node: &Node| node.user_id;
        self.nodes_by_user
            .swap(old.and_then(user), new.and_then(user), id);
        let home = |node: &Node| node.home_derp;
        self.nodes_by_home
            .swap(old.and_then(home), new.and_then(home), id);
        let key = |node: &Node| node.node_key;
        swap(&mut self.node_by_key, old.map(key), new.map(key), id);
        let ipv4 = |node: &Node| node.ipv4.map(IpAddr::V4);
        swap(
            &mut self.node_by_ip,
            old.and_then(ipv4),
            new.and_then(ipv4),
            id,
        );
        let ipv6 = |node: &Node| node.ipv6.map(IpAddr::V6);
        swap(
            &mut self.node_by_ip,
            old.and_then(ipv6),
            new.and_then(ipv6),
            id,
        );
        let name = |node: &Node| node.given_name.clone();
        self.move_name(old.map(name), new.map(name), id);
    }

    fn move_name(&mut self, old: Option<String>, new: Option<String>, id: NodeId) {
        if old == new {
            return;
        }
        if let Some(name) = old {
            self.node_by_name.remove(&name);
            self.number_freed(&name);
        }
        if let Some(name) = new {
            self.node_by_name.insert(name.clone(), id);
            self.number_taken(&name);
        }
    }

    fn number_taken(&mut self, label: &str) {
        let Some((base, number)) = split_number(label) else {
            return;
        };
        if number != self.free_number(base) {
            return;
        }
        let is_taken = |number: &u64| self.node_by_name.contains_key(&format!("{base}-{number}"));
        let next = (number..=u64::MAX).find(|number| !is_taken(number));
        self.free_numbers
            .insert(base.to_owned(), next.unwrap_or(u64::MAX));
    }

    fn number_freed(&mut self, label: &str) {
        let freed = split_number(label).filter(|(base, number)| *number < self.free_number(base));
        match freed {
            Some((base, 1)) => {
                self.free_numbers.remove(base);
            }
            Some((base, number)) => {
                self.free_numbers.insert(base.to_owned(), number);
            }
            None => {}
        }
    }

    /// The least number from 1 on for which no node has the label `base-number`.
    pub(super) fn free_number(&self, base: &str) -> u64 {
        self.free_numbers.get(base).copied().unwrap_or(1)
    }

    /// The field in which a node to be added collides with another node, and that node.
    pub(super) fn conflict(&self, node: &Node) -> Option<(&'static str, NodeId)> {
        let key = self
            .node_by_key
            .get(&node.node_key)
            .map(|id| ("node_key", *id));
        let name = self
            .node_by_name
            .get(&node.given_name)
            .map(|id| ("given_name", *id));
        let ip = addresses(node).find_map(|ip| self.node_by_ip.get(&ip).map(|id| ("ip", *id)));
        key.or(name).or(ip)
    }

    pub(super) fn add_pre_auth_key(&mut self, key: &PreAuthKey) {
        self.pre_auth_key_by_prefix
            .insert(key.prefix.clone(), key.id);
    }

    pub(super) fn remove_pre_auth_key(&mut self, key: &PreAuthKey) {
        self.pre_auth_key_by_prefix.remove(&key.prefix);
    }

    pub(super) fn add_api_key(&mut self, key: &ApiKey) {
        self.api_key_by_prefix.insert(key.prefix.clone(), key.id);
    }

    pub(super) fn remove_api_key(&mut self, key: &ApiKey) {
        self.api_key_by_prefix.remove(&key.prefix);
    }

    pub(super) fn add_login(&mut self, login: &PendingLogin) {
        let age = (login.created_at, login.auth_id.clone());
        self.logins_by_age.insert(age.clone());
        self.logins_by_machine.insert(login.machine_key, age);
    }

    pub(super) fn remove_login(&mut self, login: &PendingLogin) {
        let age = (login.created_at, login.auth_id.clone());
        self.logins_by_age.remove(&age);
        self.logins_by_machine.remove(login.machine_key, age);
    }

    pub(super) fn add_session(&mut self, session: &Session) {
        self.sessions_by_replica
            .insert(session.replica, session.node_id);
    }

    pub(super) fn remove_session(&mut self, session: &Session) {
        self.sessions_by_replica
            .remove(session.replica, session.node_id);
    }

    pub(super) fn add_replica(&mut self, replica: &Replica) {
        if let Some(region) = replica.region_id {
            self.replica_by_region.insert(region, replica.id);
        }
    }
}

fn swap<K: Ord + Clone>(map: &mut OrdMap<K, NodeId>, old: Option<K>, new: Option<K>, id: NodeId) {
    if old == new {
        return;
    }
    if let Some(key) = old {
        map.remove(&key);
    }
    if let Some(key) = new {
        map.insert(key, id);
    }
}

/// The node's tailnet addresses, IPv4 first.
pub(super) fn addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    node.ipv4
        .map(IpAddr::V4)
        .into_iter()
        .chain(node.ipv6.map(IpAddr::V6))
}
