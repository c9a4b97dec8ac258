//! Growing and shrinking: replicas that join later, leave, or take the place of a dead one.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Cluster, Replica};
use crate::wait;

/// A removed replica ends within this.
const END_LIMIT: Duration = Duration::from_secs(40);

impl Cluster {
    /// Adds a replica, the next in turn, and waits until it votes.
    ///
    /// # Errors
    /// When it does not join.
    pub async fn grow(&mut self) -> Result<usize> {
        let index = self.replicas.len();
        let root = self.context.scratch().to_owned();
        let replica = Replica::prepare(&root, index, &self.program, &self.options)?;
        self.replicas.push(replica);
        self.join(index).await?;
        Ok(index)
    }

    /// Empties the folder of a replica that is down and starts it with a token, under its name and
    /// address of before, as a new replica.
    ///
    /// # Errors
    /// When it runs or does not become ready.
    pub async fn start_anew(&mut self, index: usize, token: &str) -> Result<()> {
        let replica = self.replica(index)?;
        ensure!(!replica.is_up(), "{} runs", replica.name());
        let folder = replica.folder().to_owned();
        fs::remove_dir_all(folder.join("data")).context("empty the data folder")?;
        fs::write(folder.join("join-token"), token)?;
        self.up(index).await.map(drop)
    }

    /// Waits until a replica that was removed has ended by itself.
    ///
    /// # Errors
    /// When it goes on.
    pub async fn wait_removed(&mut self, index: usize) -> Result<()> {
        let name = self.replica(index)?.name().to_owned();
        let replica = self.replica_mut(index)?;
        let ended = async || replica.has_ended().then_some(());
        wait::until(&format!("{name} has ended"), END_LIMIT, ended).await?;
        self.replica_mut(index)?.forget();
        Ok(())
    }

    /// The id that the cluster knows a running replica by.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn id_of(&self, index: usize) -> Result<String> {
        let status = self.status(index).await?;
        Ok(status["replicaId"].to_string())
    }

    /// Waits until a replica sees so many voters, no change under way, and nobody else.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn wait_voters(&self, index: usize, count: usize, limit: Duration) -> Result<()> {
        let settled = async || {
            let status = self.status(index).await.ok()?;
            let members = status["members"].as_array()?;
            let votes = |member: &&Value| member["voter"] == true;
            let voters = members.iter().filter(votes).count();
            let settled = voters == count && members.len() == count && status["joint"] == false;
            settled.then_some(())
        };
        wait::until(&format!("{count} voters"), limit, settled)
            .await
            .map(drop)
    }
}
