//! Installs faults on a running cluster, and takes them away.

use anyhow::{Context as _, Result};

use super::Fault;
use crate::{cluster::Cluster, links::Links, process::Signal};

/// The one who may touch the cluster during a run.
pub struct Executor<'a> {
    cluster: &'a mut Cluster,
    links: &'a Links,
}

impl<'a> Executor<'a> {
    /// On this cluster with these links.
    pub const fn new(cluster: &'a mut Cluster, links: &'a Links) -> Self {
        Self { cluster, links }
    }

    /// Installs a fault.
    ///
    /// # Errors
    /// When it cannot be installed: the run is worth nothing then.
    pub async fn install(&mut self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Kill(victims) => {
                for victim in victims {
                    self.cluster.kill(*victim).await?;
                }
            }
            Fault::Pause(victim) => self.signal(*victim, Signal::Stop).await?,
            Fault::Part(cuts) => self.links.cut(cuts),
            Fault::Link(replica, modes) => self.links.set(*replica, *modes),
        }
        Ok(())
    }

    /// Takes it away; waits until killed replicas are ready again.
    ///
    /// # Errors
    /// When a replica does not come back, or has ended by itself.
    pub async fn heal(&mut self, fault: &Fault) -> Result<()> {
        match fault {
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
            Fault::Part(_) | Fault::Link(_, _) => self.links.heal(),
        }
        self.cluster.check_alive()
    }

    async fn signal(&self, victim: usize, signal: Signal) -> Result<()> {
        self.cluster.replica(victim)?.signal(signal).await
    }
}
