//! Installs faults on a running cluster, and takes them away.

mod churn;
mod clock;
mod disk;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::Fault;
use crate::{cluster::Cluster, links::Links, process::Signal, wait};

/// Between two changes of leadership in a storm.
const TRANSFER_EVERY: Duration = Duration::from_millis(500);
/// Until a change of the membership is made, elections and restarts included.
const CHANGE_LIMIT: Duration = Duration::from_secs(90);

/// The one who may touch the cluster during a run.
pub struct Executor<'a> {
    cluster: &'a mut Cluster,
    links: &'a Links,
    voters: usize,
    /// Replicas that were given damaged files and may end because of them, with their ids.
    damaged: BTreeMap<usize, String>,
    /// What keeps the disk of a replica full.
    ballast: Option<PathBuf>,
}

impl<'a> Executor<'a> {
    /// On this cluster with these links.
    pub const fn new(cluster: &'a mut Cluster, links: &'a Links) -> Self {
        let voters = cluster.size();
        Self {
            cluster,
            links,
            voters,
            damaged: BTreeMap::new(),
            ballast: None,
        }
    }

    /// Installs a fault.
    ///
    /// # Errors
    /// When it cannot be installed: the run is worth nothing then.
    pub async fn install(&mut self, fault: &Fault) -> Result<()> {
        for part in fault.parts() {
            match part {
                Fault::Kill(victims) => {
                    for victim in victims {
                        self.cluster.kill(*victim).await?;
                    }
                }
                Fault::Pause(victim) => self.signal(*victim, Signal::Stop).await?,
                Fault::Part(cuts) => self.links.cut(cuts),
                Fault::Link(replica, modes) => self.links.set(*replica, *modes),
                Fault::Door(replica, modes) => self.links.set_door(*replica, *modes),
                Fault::Clock(victim, skew) => self.set_clock(*victim, *skew)?,
                Fault::Fill(victim) => self.fill(*victim)?,
                // These take their time and are made while they last.
                Fault::Churn(_, _)
                | Fault::Transfer(_)
                | Fault::Restart(_)
                | Fault::Damage(_, _)
                | Fault::All(_) => {}
            }
        }
        Ok(())
    }

    /// Lets a fault last so long, or as long as it takes; says what came of it.
    ///
    /// # Errors
    /// When the cluster does not do what it must be able to do meanwhile.
    pub async fn last(&mut self, fault: &Fault, lasts: Duration) -> Result<Option<String>> {
        let end = Instant::now() + lasts;
        let mut note = None;
        match fault {
            Fault::Churn(victim, step) => self.churn(*victim, *step).await?,
            Fault::Transfer(order) => self.transfer(order, end).await?,
            Fault::Restart(order) => self.restart(order).await?,
            Fault::Damage(victim, damage) => {
                note = Some(self.damage(*victim, *damage, end).await?);
            }
            Fault::Kill(_)
            | Fault::Pause(_)
            | Fault::Part(_)
            | Fault::Link(_, _)
            | Fault::Door(_, _)
            | Fault::Clock(_, _)
            | Fault::Fill(_)
            | Fault::All(_) => sleep_until(end).await,
        }
        Ok(note)
    }

    /// Takes it away; waits until killed replicas are ready again. Says what came of it.
    ///
    /// # Errors
    /// When a replica does not come back, or has ended by itself.
    pub async fn heal(&mut self, fault: &Fault) -> Result<Option<String>> {
        let mut note = None;
        for part in fault.parts() {
            match part {
                Fault::Kill(victims) => {
                    for victim in victims {
                        self.cluster.start_replica(*victim)?;
                    }
                    for victim in victims {
                        let ready = self.cluster.wait_ready(*victim).await;
                        ready.with_context(|| format!("after {fault}"))?;
                    }
                }
                Fault::Pause(victim) => self.signal(*victim, Signal::Continue).await?,
                Fault::Part(_) | Fault::Link(_, _) | Fault::Door(_, _) => self.links.heal(),
                Fault::Clock(victim, _) => self.right_clock(*victim)?,
                Fault::Fill(victim) => note = Some(self.free(*victim).await?),
                Fault::Churn(_, _)
                | Fault::Transfer(_)
                | Fault::Restart(_)
                | Fault::Damage(_, _)
                | Fault::All(_) => {}
            }
        }
        self.settle().await?;
        Ok(note)
    }

    /// Fails when a replica ended by itself; one with damaged files may, if it says why, and is
    /// replaced.
    ///
    /// # Errors
    /// With the replica's name.
    pub async fn settle(&mut self) -> Result<()> {
        let damaged: Vec<usize> = self.damaged.keys().copied().collect();
        for index in damaged {
            if self.cluster.has_ended(index)? {
                self.replace(index).await?;
            }
        }
        self.cluster.check_alive()
    }

    /// Asks every replica in turn to lead. That a transfer is refused or comes to nothing is no
    /// fault; a storm in which the leader never changes makes a run void.
    async fn transfer(&self, order: &[usize], end: Instant) -> Result<()> {
        let mut ids = Vec::new();
        for index in order {
            ids.push(self.cluster.id_of(*index).await?);
        }
        for (index, id) in order.iter().zip(&ids).cycle() {
            if Instant::now() >= end {
                break;
            }
            let asked = self.cluster.replica(*index)?;
            let words = ["cluster", "transfer-leader", id];
            let pause = sleep(TRANSFER_EVERY);
            // The answer is not waited for beyond the end.
            let _ = timeout_at(end, asked.command(&words)).await;
            pause.await;
        }
        Ok(())
    }

    async fn restart(&mut self, order: &[usize]) -> Result<()> {
        for index in order {
            self.cluster.terminate(*index).await?;
            self.cluster.up(*index).await?;
        }
        Ok(())
    }

    async fn signal(&self, victim: usize, signal: Signal) -> Result<()> {
        self.cluster.replica(victim)?.signal(signal).await
    }

    /// Runs a command that changes members on any replica but `except` until it is accepted, as an
    /// operator would: every one may be repeated.
    async fn insist(&self, words: &[&str], except: Option<usize>) -> Result<serde_json::Value> {
        let begin = Instant::now();
        loop {
            let mut last = None;
            for (_, replica) in self
                .cluster
                .running()
                .filter(|(one, _)| Some(*one) != except)
            {
                match replica.command(words).await {
                    Ok(done) => return Ok(done),
                    Err(error) => last = Some(error),
                }
            }
            let last = last.context("no replica runs")?;
            if begin.elapsed() >= CHANGE_LIMIT {
                bail!("not within {CHANGE_LIMIT:?}: {last:#}");
            }
            sleep(TRANSFER_EVERY).await;
        }
    }

    /// Waits until some other replica sees so many voters and nothing under way.
    async fn wait_voters(&self, count: usize, except: usize) -> Result<()> {
        let settled = async || {
            for (index, _) in self.cluster.running().filter(|(one, _)| *one != except) {
                if self
                    .cluster
                    .members(index)
                    .await
                    .is_some_and(|(voters, _)| voters == count)
                {
                    return Some(());
                }
            }
            None
        };
        wait::until(&format!("{count} voters"), CHANGE_LIMIT, settled)
            .await
            .map(drop)
    }
}
