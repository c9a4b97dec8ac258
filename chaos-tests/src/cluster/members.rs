//! Growing and shrinking: replicas that join later, leave, or take the place of a dead one.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::config::BOOTSTRAP_KEY;
use super::{Cluster, Options, Replica};
use crate::{Context, log::Mark, wait};

/// A removed replica ends within this.
const END_LIMIT: Duration = Duration::from_secs(40);
/// Until a replica may be restarted, as a command takes it.
const SAFE_LIMIT: &str = "25s";
/// What makes a replica join without a vote, among [`Options::cluster_lines`].
const NON_VOTING: &str = "\n  non_voting: true";

impl Cluster {
    /// Starts `size` replicas at once that form a cluster by themselves.
    ///
    /// # Errors
    /// When they do not.
    pub async fn form(context: &Context, size: usize) -> Result<Self> {
        let options = Options {
            expect: Some(size),
            ..Options::default()
        };
        let mut cluster = Self::prepare(context, size, options)?;
        let key = context.scratch().join(BOOTSTRAP_KEY);
        let key = key.to_str().context("a path that is text")?;
        let words = ["generate", "sealing-key", "--file", key];
        cluster.replica(0)?.command(&words).await?;
        for index in 0..size {
            cluster.start_replica(index)?;
        }
        for index in 0..size {
            cluster.wait_ready(index).await?;
        }
        cluster.note_term(true).await?;
        Ok(cluster)
    }

    /// Adds a replica, the next in turn, and waits until it votes.
    ///
    /// # Errors
    /// When it does not join.
    pub async fn grow(&mut self) -> Result<usize> {
        self.grow_with(self.options).await
    }

    /// Adds a replica, the next in turn, that serves without a vote, with no other
    /// [`Options::cluster_lines`].
    ///
    /// # Errors
    /// When it does not join.
    pub async fn grow_non_voting(&mut self) -> Result<usize> {
        let options = Options {
            cluster_lines: NON_VOTING,
            ..self.options
        };
        self.grow_with(options).await
    }

    async fn grow_with(&mut self, options: Options) -> Result<usize> {
        let index = self.replicas.len();
        let root = self.context.scratch().to_owned();
        let replica = Replica::prepare(&root, index, &self.program, &options)?;
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
        replica.wipe().context("empty the data folder")?;
        replica.write_token(token)?;
        self.up(index).await.map(drop)
    }

    /// Empties the folder of a replica that is down and starts it without waiting.
    ///
    /// # Errors
    /// When it runs.
    pub fn start_empty(&mut self, index: usize) -> Result<()> {
        let replica = self.replica(index)?;
        ensure!(!replica.is_up(), "{} runs", replica.name());
        replica.wipe().context("empty the data folder")?;
        self.start_replica(index)
    }

    /// Starts a replica beyond the usual ones with a token, as a new replica.
    ///
    /// # Errors
    /// When it runs or does not become ready.
    pub async fn start_fresh(&mut self, index: usize, token: &str) -> Result<()> {
        if index < self.replicas.len() {
            return self.start_anew(index, token).await;
        }
        let root = self.context.scratch().to_owned();
        let replica = Replica::prepare(&root, index, &self.program, &self.options)?;
        replica.write_token(token)?;
        self.replicas.push(replica);
        self.up(index).await.map(drop)
    }

    /// Whether a replica's process has ended by itself.
    ///
    /// # Errors
    /// When there is no such replica.
    pub fn has_ended(&mut self, index: usize) -> Result<bool> {
        Ok(self.replica_mut(index)?.has_ended())
    }

    /// Takes note that a replica has ended, as it may.
    ///
    /// # Errors
    /// When there is no such replica.
    pub fn forget(&mut self, index: usize) -> Result<()> {
        self.replica_mut(index)?.forget();
        Ok(())
    }

    /// Empties the folder of a replica that is down, fills it with a backup, and starts it as the first
    /// replica of a new cluster.
    ///
    /// # Errors
    /// When it runs, the backup is refused, or it does not become ready.
    pub async fn restore(&mut self, index: usize, backup: &Path) -> Result<()> {
        let replica = self.replica(index)?;
        ensure!(!replica.is_up(), "{} runs", replica.name());
        replica.wipe().context("empty the data folder")?;
        let backup = backup.to_str().context("a path that is text")?;
        replica.command(&["backup", "restore", backup]).await?;
        self.up(index).await.map(drop)
    }

    /// Makes a replica that is down a new one of the cluster that runs, with an empty folder.
    ///
    /// # Errors
    /// When it runs or does not join.
    pub async fn rejoin(&mut self, index: usize) -> Result<()> {
        let (_, asked) = self.running().next().context("no replica runs")?;
        let made = asked.command(&["cluster", "join-token", "create"]).await?;
        let token = made["joinToken"].as_str().context("no token")?.to_owned();
        self.start_anew(index, &token).await
    }

    /// Writes the configuration of a replica that is down anew, with more lines of the `cluster:` block
    /// ([`Options::cluster_lines`]).
    ///
    /// # Errors
    /// When it runs or the file cannot be written.
    pub fn configure(&mut self, index: usize, cluster_lines: &'static str) -> Result<()> {
        let options = Options {
            cluster_lines,
            ..self.options
        };
        let replica = self.replica(index)?;
        ensure!(!replica.is_up(), "{} runs", replica.name());
        replica.configure(&options)
    }

    /// Waits until a replica may be restarted, as another one judges.
    ///
    /// # Errors
    /// When it may not, which says why.
    pub async fn wait_restartable(&self, index: usize) -> Result<()> {
        let mut others = self.running().filter(|(other, _)| *other != index);
        let (_, asked) = others.next().context("no other replica runs")?;
        let words = ["cluster", "upgrade", "check", "--wait", SAFE_LIMIT];
        asked.command(&words).await.map(drop)
    }

    /// Raises the feature level to the highest that all replicas support, asked of one of them; tells
    /// which it is.
    ///
    /// # Errors
    /// When it is refused, which says why.
    pub async fn finalize_upgrade(&self, asked: usize) -> Result<u64> {
        let words = ["cluster", "upgrade", "finalize"];
        let raised = self.insist(asked, &words).await?;
        let level = raised["featureLevel"].as_u64();
        level.with_context(|| format!("no level in {raised}"))
    }

    /// Starts a replica that is to end by itself and to say why, in a line of its log that `holds`.
    ///
    /// # Errors
    /// When it goes on, or does not say it.
    pub async fn start_in_vain(
        &mut self,
        index: usize,
        holds: impl Fn(&str) -> bool,
    ) -> Result<()> {
        self.start_replica(index)?;
        let name = self.replica(index)?.name().to_owned();
        let replica = self.replica_mut(index)?;
        let ended = async || replica.has_ended().then_some(());
        wait::until(&format!("{name} has ended"), END_LIMIT, ended).await?;
        let log = self.replica(index)?.log()?;
        log.wait_for("the reason", Mark::START, END_LIMIT, holds)
            .await?;
        self.replica_mut(index)?.forget();
        Ok(())
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
            let (voters, members) = self.members(index).await?;
            (voters == count && members == count).then_some(())
        };
        wait::until(&format!("{count} voters"), limit, settled)
            .await
            .map(drop)
    }

    /// How many voters and members a replica sees; nothing while a change is under way.
    pub async fn members(&self, index: usize) -> Option<(usize, usize)> {
        let status = self.status(index).await.ok()?;
        let members = status["members"].as_array()?;
        let votes = |member: &&Value| member["voter"] == true;
        let voters = members.iter().filter(votes).count();
        (status["joint"] == false).then_some((voters, members.len()))
    }
}
