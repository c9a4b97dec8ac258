//! The leader's clerk: approves the routes that nodes advertise and that the policy in force lets
//! through without an administrator.
//!
//! It goes by what is: whoever advertises a route that the policy approves and that is not approved
//! yet is proposed for, whatever happened before. What the state refuses, because somebody was
//! faster, shows as a change later and is looked at again.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use hydrascale_proto::state::v1::{self as pb, command::Op};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::{Cluster, ProposeError, Role, What};
use crate::policy::Rights;
use crate::state::{Node, NodeChange, State};
use crate::types::NodeId;

/// How often it is looked at who leads, and what failed is tried again.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Proposals under way at once: a small part of what may wait, so that a new policy for thousands
/// of routers leaves room for everybody else. The others follow as these are made.
const PROPOSALS_MAX: usize = 256;

/// Starts the clerk; it acts only while this replica leads.
pub fn spawn_route_approval(cluster: Cluster, tasks: &mut JoinSet<()>) {
    tasks.spawn(Clerk::new(cluster).run());
}

struct Clerk {
    cluster: Cluster,
    leads: bool,
    /// What the policy says; absent when it or the users have changed since it was read.
    rights: Option<Rights>,
    /// Nodes to look at.
    due: BTreeSet<NodeId>,
}

impl Clerk {
    const fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            leads: false,
            rights: None,
            due: BTreeSet::new(),
        }
    }

    async fn run(mut self) {
        let mut changes = self.cluster.subscribe();
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                received = changes.recv() => match received {
                    Ok(applied) => self.take(&applied.what),
                    Err(RecvError::Lagged(_)) => self.rights = None,
                    Err(RecvError::Closed) => return,
                },
                _ = ticks.tick() => self.look_who_leads(),
            }
            // Who registers in a storm is proposed for together.
            if self.leads && changes.is_empty() {
                self.approve().await;
            }
        }
    }

    fn look_who_leads(&mut self) {
        let leads = self.cluster.status().role == Role::Leader;
        if leads != self.leads {
            tracing::debug!(leads, "who approves routes has changed");
            self.leads = leads;
            self.rights = None;
        }
    }

    /// Notes what must be looked at. Without rights that is everything.
    fn take(&mut self, what: &What) {
        match what {
            What::Reset => self.rights = None,
            What::Change(change) if change.policy || !change.users.is_empty() => self.rights = None,
            What::Change(change) if self.rights.is_some() => {
                let concerns = |change: &NodeChange| change.added || change.routes || change.full;
                let nodes = change.nodes.iter();
                let concerned = nodes.filter(|(_, change)| concerns(change));
                self.due.extend(concerned.map(|(id, _)| *id));
            }
            What::Change(_) => {}
        }
    }

    /// Approves what is due; what could not be proposed stays so.
    async fn approve(&mut self) {
        if self.rights.is_none() {
            let state = self.cluster.state();
            self.due = routers(&state);
            self.rights = Some(read(&self.cluster, &state).await);
        }
        loop {
            let proposals = self.next_proposals();
            if proposals.is_empty() {
                return;
            }
            let proposed = proposals.into_iter().map(|op| propose(&self.cluster, op));
            let failed: Vec<Option<NodeId>> = join_all(proposed).await;
            if failed.iter().any(Option::is_some) {
                self.due.extend(failed.into_iter().flatten());
                return;
            }
        }
    }

    fn next_proposals(&mut self) -> Vec<pb::ApproveRoutes> {
        let state = self.cluster.state();
        let mut proposals = Vec::new();
        while proposals.len() < PROPOSALS_MAX
            && let Some(id) = self.due.pop_first()
        {
            let rights = self.rights.as_ref();
            let proposal = state
                .node(id)
                .zip(rights)
                .and_then(|(node, rights)| open(rights, node));
            proposals.extend(proposal);
        }
        proposals
    }
}

/// Nodes that advertise routes.
fn routers(state: &State) -> BTreeSet<NodeId> {
    let nodes = state.nodes();
    let routers = nodes.filter(|node| !node.hostinfo.routable_ips.is_empty());
    routers.map(|node| node.id).collect()
}

/// What the policy in force says. One that this program does not understand approves nothing.
async fn read(cluster: &Cluster, state: &State) -> Rights {
    let rights = cluster.policy(state).await.rights();
    rights.unwrap_or_else(|errors| {
        tracing::error!(error = %errors, "the policy in force is not understood");
        Rights::default()
    })
}

/// What is left to approve for a node.
fn open(rights: &Rights, node: &Node) -> Option<pb::ApproveRoutes> {
    let routes = rights.open_routes(node);
    (!routes.is_empty()).then(|| pb::ApproveRoutes {
        node_id: node.id.0,
        routes: routes.iter().map(ToString::to_string).collect(),
        policy_version: rights.version(),
        user_id: node.user_id.map(|id| id.0),
        tags: node.tags.clone(),
    })
}

/// The node, if it must be looked at again without a change that says so.
async fn propose(cluster: &Cluster, op: pb::ApproveRoutes) -> Option<NodeId> {
    let id = NodeId(op.node_id);
    match cluster.propose(Op::ApproveRoutes(op)).await {
        Ok(_) => {
            tracing::info!(node.id = id.0, "the policy approved routes");
            None
        }
        Err(ProposeError::Refused(refusal)) => {
            tracing::info!(node.id = id.0, error = %refusal.message, "routes are not approved");
            None
        }
        Err(error) => {
            tracing::debug!(node.id = id.0, %error, "routes are not approved yet");
            Some(id)
        }
    }
}

#[cfg(test)]
mod tests;
