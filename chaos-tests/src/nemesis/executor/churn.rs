//! A replica beyond the usual ones joins, loses its vote, gets it again and is removed.

use anyhow::{Context as _, Result};

use super::Executor;
use crate::nemesis::ChurnStep;

impl Executor<'_> {
    /// All steps, with `victim` killed before `killed_at` and started again after it.
    pub(super) async fn churn(&mut self, victim: usize, killed_at: ChurnStep) -> Result<()> {
        let spare = self.voters;
        let mut id = String::new();
        for step in ChurnStep::ALL {
            if step == killed_at {
                self.cluster.kill(victim).await?;
            }
            let done = self.churn_step(step, spare, &mut id).await;
            if step == killed_at {
                self.cluster.start_replica(victim)?;
                self.cluster.wait_ready(victim).await?;
            }
            done.with_context(|| format!("{step:?} of a fresh replica"))?;
        }
        Ok(())
    }

    async fn churn_step(&mut self, step: ChurnStep, spare: usize, id: &mut String) -> Result<()> {
        let voters = self.voters;
        match step {
            ChurnStep::Join => {
                let made = self
                    .insist(&["cluster", "join-token", "create"], None)
                    .await?;
                let token = made["joinToken"].as_str().context("no token")?.to_owned();
                self.cluster.start_fresh(spare, &token).await?;
                *id = self.cluster.id_of(spare).await?;
                self.wait_voters(voters + 1, spare).await
            }
            ChurnStep::Demote => {
                self.insist(&["cluster", "demote", id, "--wait", "20s"], Some(spare))
                    .await?;
                self.wait_voters(voters, spare).await
            }
            ChurnStep::Promote => {
                self.insist(&["cluster", "promote", id, "--wait", "20s"], Some(spare))
                    .await?;
                self.wait_voters(voters + 1, spare).await
            }
            ChurnStep::Remove => {
                self.insist(&["cluster", "remove", id, "--wait", "20s"], Some(spare))
                    .await?;
                self.cluster.wait_removed(spare).await?;
                self.wait_voters(voters, spare).await
            }
        }
    }
}
