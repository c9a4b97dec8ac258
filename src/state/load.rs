//! Stored rows to state: at start and after a snapshot was installed. Rows were written by apply,
//! so one that is not understood means damage or a program that is too old: the replica stops.

use std::sync::Arc;

use hydrascale_raft::{MachineError, Row};
use prost::Message;

use super::State;
use super::decode;
use super::rows::Table;
use crate::types::{NodeId, ReplicaId, UserId};

/// Why stored rows were not understood.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The key starts with no known table's tag.
    #[error("row {key} belongs to no table that this program knows")]
    UnknownTable {
        /// Key in hex.
        key: String,
    },
    /// The value is not the table's message.
    #[error("{table} row {key} is not decodable")]
    Decode {
        /// Name of the table.
        table: &'static str,
        /// Key in hex.
        key: String,
        /// What the decoder said.
        #[source]
        source: prost::DecodeError,
    },
    /// A field is not in its form, or does not fit the key.
    #[error("{table} row {key} has a bad {field}")]
    Field {
        /// Name of the table.
        table: &'static str,
        /// Key in hex.
        key: String,
        /// Name of the field.
        field: &'static str,
    },
    /// A field must be unique and is not.
    #[error("{table} row {key} has the {field} of another row")]
    Conflict {
        /// Name of the table.
        table: &'static str,
        /// Key in hex.
        key: String,
        /// Name of the field.
        field: &'static str,
    },
    /// The row refers to one that is not there.
    #[error("{table} row {key} refers by {field} to a missing row")]
    Missing {
        /// Name of the table.
        table: &'static str,
        /// Key in hex.
        key: String,
        /// Name of the field.
        field: &'static str,
    },
}

impl From<LoadError> for MachineError {
    fn from(error: LoadError) -> Self {
        Self {
            message: "stored state is not understood".to_owned(),
            source: Some(error.into()),
        }
    }
}

impl State {
    /// Rebuilds the state from all its rows, in key order.
    ///
    /// # Errors
    /// Names the table and key of a row that is not understood.
    pub fn load(rows: impl IntoIterator<Item = Row>) -> Result<Self, LoadError> {
        let mut loader = Loader::default();
        for row in rows {
            loader.push(&row)?;
        }
        Ok(loader.finish())
    }
}

/// Rebuilds a [`State`] row by row.
#[derive(Debug, Default)]
pub struct Loader {
    state: State,
}

impl Loader {
    /// Takes the next row; rows come in key order.
    ///
    /// # Errors
    /// The row is not understood.
    pub fn push(&mut self, row: &Row) -> Result<(), LoadError> {
        let key = hex(row);
        let table = row.key.first().copied().and_then(Table::from_tag);
        let table = table.ok_or(LoadError::UnknownTable { key })?;
        match table {
            Table::Tailnet => self.tailnet(row),
            Table::Users => self.user(row),
            Table::Replicas => self.replica(row),
            Table::Nodes => self.node(row),
            Table::PreAuthKeys => self.pre_auth_key(row),
            Table::ApiKeys => self.api_key(row),
            Table::PendingLogins => self.pending_login(row),
            Table::Sessions => self.session(row),
            Table::Policies => self.policy(row),
            Table::SshChecks => self.ssh_check(row),
            Table::SshApprovals => self.ssh_approval(row),
        }
        .map_err(|fault| fault.at(table, row))
    }

    /// All rows came.
    pub fn finish(mut self) -> State {
        self.state.refresh_all_dues();
        self.state
    }

    fn tailnet(&mut self, row: &Row) -> Result<(), Fault> {
        let tailnet = decode::tailnet(message(row)?)?;
        check_key(row, &Table::Tailnet.named(""))?;
        self.state.tailnet = Some(Arc::new(tailnet));
        Ok(())
    }

    fn user(&mut self, row: &Row) -> Result<(), Fault> {
        let user = decode::user(message(row)?)?;
        check_key(row, &Table::Users.numbered(user.id.0))?;
        self.state.set_user(user.id, Some(Arc::new(user)));
        Ok(())
    }

    fn replica(&mut self, row: &Row) -> Result<(), Fault> {
        let replica = decode::replica(message(row)?)?;
        check_key(row, &Table::Replicas.numbered(replica.id.0))?;
        let region = replica.region_id;
        if region.is_some_and(|region| self.state.index.replica_by_region.contains_key(&region)) {
            return Err(Fault::Conflict("region_id"));
        }
        self.state.set_replica(Arc::new(replica));
        Ok(())
    }

    fn node(&mut self, row: &Row) -> Result<(), Fault> {
        let node = decode::node(message(row)?)?;
        check_key(row, &Table::Nodes.numbered(node.id.0))?;
        if let Some((field, _)) = self.state.index.conflict(&node) {
            return Err(Fault::Conflict(field));
        }
        if !node.user_id.is_none_or(|id| self.has_user(id)) {
            return Err(Fault::Missing("user_id"));
        }
        self.state.set_node(node.id, Some(Arc::new(node)));
        Ok(())
    }

    fn pre_auth_key(&mut self, row: &Row) -> Result<(), Fault> {
        let key = decode::pre_auth_key(message(row)?)?;
        check_key(row, &Table::PreAuthKeys.numbered(key.id))?;
        if self
            .state
            .index
            .pre_auth_key_by_prefix
            .contains_key(&key.prefix)
        {
            return Err(Fault::Conflict("prefix"));
        }
        if !key.user_id.is_none_or(|id| self.has_user(id)) {
            return Err(Fault::Missing("user_id"));
        }
        self.state.set_pre_auth_key(key.id, Some(Arc::new(key)));
        Ok(())
    }

    fn api_key(&mut self, row: &Row) -> Result<(), Fault> {
        let key = decode::api_key(message(row)?)?;
        check_key(row, &Table::ApiKeys.numbered(key.id))?;
        if self.state.index.api_key_by_prefix.contains_key(&key.prefix) {
            return Err(Fault::Conflict("prefix"));
        }
        self.state.set_api_key(key.id, Some(Arc::new(key)));
        Ok(())
    }

    fn pending_login(&mut self, row: &Row) -> Result<(), Fault> {
        let login = decode::pending_login(message(row)?)?;
        check_key(row, &Table::PendingLogins.named(&login.auth_id))?;
        let auth_id = login.auth_id.clone();
        self.state.set_login(&auth_id, Some(Arc::new(login)));
        Ok(())
    }

    fn session(&mut self, row: &Row) -> Result<(), Fault> {
        let session = decode::session(message(row)?)?;
        check_key(row, &Table::Sessions.numbered(session.node_id.0))?;
        if !self.has_node(session.node_id) {
            return Err(Fault::Missing("node_id"));
        }
        if !self.has_replica(session.replica) {
            return Err(Fault::Missing("replica_id"));
        }
        self.state.set_session(session.node_id, Some(session));
        Ok(())
    }

    fn policy(&mut self, row: &Row) -> Result<(), Fault> {
        let policy = decode::policy(message(row)?);
        check_key(row, &Table::Policies.numbered(policy.version))?;
        self.state.policies.insert(policy.version, Arc::new(policy));
        Ok(())
    }

    fn ssh_check(&mut self, row: &Row) -> Result<(), Fault> {
        let check = decode::ssh_check(message(row)?)?;
        check_key(row, &Table::SshChecks.named(&check.auth_id))?;
        let auth_id = check.auth_id.clone();
        self.state.set_ssh_check(&auth_id, Some(Arc::new(check)));
        Ok(())
    }

    fn ssh_approval(&mut self, row: &Row) -> Result<(), Fault> {
        let approval = decode::ssh_approval(message(row)?);
        check_key(row, &Table::SshApprovals.about(&approval.login))?;
        if !self.has_node(approval.login.src) {
            return Err(Fault::Missing("src_node_id"));
        }
        self.state.put_ssh_approval(approval);
        Ok(())
    }

    fn has_user(&self, id: UserId) -> bool {
        self.state.users.contains_key(&id)
    }

    fn has_node(&self, id: NodeId) -> bool {
        self.state.nodes.contains_key(&id)
    }

    fn has_replica(&self, id: ReplicaId) -> bool {
        self.state.replicas.contains_key(&id)
    }
}

/// What is wrong with a row, before its table and key are named.
pub(super) enum Fault {
    Decode(prost::DecodeError),
    Field(&'static str),
    Conflict(&'static str),
    Missing(&'static str),
}

impl Fault {
    fn at(self, table: Table, row: &Row) -> LoadError {
        let (table, key) = (table.name(), hex(row));
        match self {
            Self::Decode(source) => LoadError::Decode { table, key, source },
            Self::Field(field) => LoadError::Field { table, key, field },
            Self::Conflict(field) => LoadError::Conflict { table, key, field },
            Self::Missing(field) => LoadError::Missing { table, key, field },
        }
    }
}

fn message<M: Message + Default>(row: &Row) -> Result<M, Fault> {
    M::decode(row.value.clone()).map_err(Fault::Decode)
}

fn check_key(row: &Row, expected: &[u8]) -> Result<(), Fault> {
    if row.key == expected {
        Ok(())
    } else {
        Err(Fault::Field("id"))
    }
}

fn hex(row: &Row) -> String {
    data_encoding::HEXLOWER.encode(&row.key)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::state::testing::World;

    #[test]
    fn an_unknown_table_is_named() {
        let row = Row {
            key: Bytes::from_static(&[0xff, 1]),
            value: Bytes::new(),
        };
        let error = State::load([row]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "row ff01 belongs to no table that this program knows"
        );
    }

    #[test]
    fn damaged_rows_name_table_and_key() {
        let world = World::populated();
        for row in world.rows() {
            let mut damaged = row.clone();
            damaged.value = Bytes::from_static(&[0xff]);
            let name = Table::from_tag(row.key[0]).unwrap().name();
            let message = State::load([damaged]).unwrap_err().to_string();
            assert!(message.starts_with(name), "{message}");
        }
    }

    #[test]
    fn a_row_under_the_wrong_key_is_refused() {
        let world = World::populated();
        let mut rows = world.rows();
        let last = rows
            .iter_mut()
            .find(|row| row.key[0] == Table::Nodes as u8)
            .unwrap();
        last.key = Table::Nodes.numbered(77);
        assert!(matches!(
            State::load(rows),
            Err(LoadError::Field { table: "nodes", .. })
        ));
    }

    #[test]
    fn a_row_whose_referent_is_missing_is_refused() {
        let world = World::populated();
        for table in [Table::Users, Table::Nodes, Table::Replicas] {
            let rows = world
                .rows()
                .into_iter()
                .filter(|row| row.key[0] != table as u8);
            assert!(
                matches!(State::load(rows), Err(LoadError::Missing { .. })),
                "{table:?}"
            );
        }
    }
}
