//! A replica that learns of changes only when it asks: how one behind the others looks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use hydrascale_raft::StateMachine;
use parking_lot::Mutex;

use super::super::{
    Administration, Cluster, ClusterStatus, Consensus, Machine, ProposeError, ReadError,
};
use super::{LocalControl, LocalLog};
use crate::types::ReplicaId;

struct Lagging {
    log: Arc<LocalLog>,
    machine: Arc<Machine>,
    applied: Mutex<usize>,
}

impl LocalControl {
    /// Another replica on the same log. It applies what is committed when it proposes something or
    /// reads linearizably, and not before.
    ///
    /// # Errors
    /// When there is no leader.
    pub async fn join_lagging(&self, id: ReplicaId) -> Result<Cluster, ProposeError> {
        let machine = Arc::new(Machine::new());
        let lagging = Arc::new(Lagging {
            log: Arc::clone(&self.log),
            machine: Arc::clone(&machine),
            applied: Mutex::default(),
        });
        let cluster = Cluster::new(lagging as Arc<dyn Consensus>, machine, id, 1);
        cluster.propose(Self::up(id)).await?;
        self.log.members.lock().members.insert(id);
        Ok(cluster)
    }
}

impl Lagging {
    fn catch_up(&self) -> Result<u64, ReadError> {
        let mut applied = self.applied.lock();
        let entries = self.log.entries.lock();
        for (ctx, command) in entries.iter().skip(*applied) {
            let done = self.machine.apply(ctx, command);
            done.map_err(|error| ReadError {
                reason: error.to_string(),
            })?;
            self.machine.publish(ctx.index);
        }
        *applied = entries.len();
        Ok(self.machine.applied_index())
    }
}

impl Consensus for Lagging {
    fn propose(&self, command: Bytes, level: u32) -> BoxFuture<'_, Result<Bytes, ProposeError>> {
        async move {
            let outcome = self.log.propose(command, level).await?;
            let caught_up = self.catch_up();
            caught_up.map_err(|error| ProposeError::Unknown {
                reason: error.reason,
            })?;
            Ok(outcome)
        }
        .boxed()
    }

    fn read_index(&self) -> BoxFuture<'_, Result<u64, ReadError>> {
        async move {
            self.log.read_index().await?;
            self.catch_up()
        }
        .boxed()
    }

    fn status(&self) -> ClusterStatus {
        ClusterStatus {
            applied_index: self.machine.applied_index(),
            ..self.log.status()
        }
    }

    fn lacks_leader(&self) -> Option<Duration> {
        self.log.lacks_leader()
    }
}

impl Administration for Lagging {}
