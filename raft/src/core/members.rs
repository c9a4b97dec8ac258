//! Changes of who belongs to the cluster and who leads it. All of them happen on the leader, one
//! after the other; every replica can ask for them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hydrascale_proto::raft::v1::manage_request::Op;
use hydrascale_proto::raft::v1::{
    AddLearner, IdentifyReply, IdentifyRequest, ManageRequest, manage_reply,
};
use openraft::ChangeMembers;
use openraft::async_runtime::Instant as _;
use tokio::time::{Instant, timeout};

use super::probe::levels_of;
use super::propose::Attempts;
use super::read::ReadHere;
use super::{Core, ServerMetrics};
use crate::network::Lane;
use crate::records::gone;
use crate::type_config::Member;
use crate::{AdminError, LevelError, ReplicaId};

/// What became of a request to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Managed {
    /// Done.
    Done {
        /// Who leads now.
        leader: u64,
    },
    /// Another replica leads, or none.
    NotLeader {
        /// Who leads, if known.
        leader: Option<u64>,
    },
    /// No, and asking again is of no use.
    Refused(String),
    /// Not now.
    Unavailable(String),
}

impl Core {
    /// Asks the leader, across leader changes, until it has answered or time is up.
    pub(crate) async fn manage(
        &self,
        op: Op,
        expected: Option<u64>,
    ) -> Result<ReplicaId, AdminError> {
        let deadline = Instant::now() + self.config.request_timeout;
        let mut attempts = Attempts::default();
        loop {
            let patience = deadline.saturating_duration_since(Instant::now());
            if patience.is_zero() {
                return Err(match attempts.doubt {
                    Some(reason) => AdminError::Unknown { reason },
                    None => AdminError::Unavailable {
                        reason: attempts.last,
                    },
                });
            }
            if self.stopping.is_cancelled() {
                return Err(AdminError::Stopped);
            }
            let target = attempts.hint.take().or_else(|| self.leader());
            let managed = match target {
                None => Managed::NotLeader { leader: None },
                Some(target) if target == self.id() => {
                    self.manage_here(op.clone(), expected, patience).await
                }
                Some(target) => {
                    self.ask_to_manage(target, op.clone(), expected, patience)
                        .await
                }
            };
            match managed {
                Managed::Done { leader } => return Ok(ReplicaId(leader)),
                Managed::Refused(reason) => return Err(AdminError::Refused { reason }),
                Managed::Unavailable(reason) => attempts.doubt = Some(reason),
                Managed::NotLeader { leader } => attempts.redirected(target, leader),
            }
            if attempts.hint.is_none() {
                self.await_other_leader(target, patience).await;
            }
        }
    }

    async fn ask_to_manage(
        &self,
        target: u64,
        op: Op,
        expected_membership: Option<u64>,
        patience: Duration,
    ) -> Managed {
        let deadline_ms = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
        let message = ManageRequest {
            op: Some(op),
            deadline_ms,
            expected_membership,
        };
        self.ask_to(target, message, patience).await
    }

    /// One question to one replica.
    pub(super) async fn ask_to(
        &self,
        target: u64,
        message: ManageRequest,
        patience: Duration,
    ) -> Managed {
        let reply = self
            .lanes
            .call(
                target,
                Lane::Control,
                patience,
                message,
                |mut client, request| async move { client.manage(request).await },
            )
            .await;
        match reply.map(|reply| reply.result) {
            Ok(Some(manage_reply::Result::Done(done))) => Managed::Done {
                leader: done.leader,
            },
            Ok(Some(manage_reply::Result::NotLeader(other))) => {
                self.lanes.list(other.leader, &other.leader_addr);
                Managed::NotLeader {
                    leader: Some(other.leader).filter(|id| *id != 0),
                }
            }
            Ok(Some(manage_reply::Result::Refused(reason))) => Managed::Refused(reason),
            Ok(Some(manage_reply::Result::Unavailable(reason))) => Managed::Unavailable(reason),
            Ok(None) => Managed::Unavailable("the answer cannot be understood".to_owned()),
            Err(error) => Managed::Unavailable(error.to_string()),
        }
    }

    /// Does what another replica asks for. Who is no member holds a certificate, perhaps by a token
    /// that leaked: it may ask for its own admission and for nothing else.
    pub(crate) async fn manage_for(
        &self,
        asker: u64,
        op: Op,
        expected: Option<u64>,
        patience: Duration,
    ) -> Managed {
        if self.leader() != Some(self.id()) {
            return Managed::NotLeader {
                leader: self.leader(),
            };
        }
        if let Op::AddLearner(learner) = &op {
            if learner.replica_id != asker {
                return Managed::Refused("a replica asks for itself only".to_owned());
            }
        } else if self.member(asker).is_none() {
            return Managed::Refused(format!(
                "replica {asker} is no member of the cluster and changes nothing in it"
            ));
        }
        self.manage_here(op, expected, patience).await
    }

    /// Does what is asked, if this replica leads. `expected` is the log index of the membership that
    /// the asker has seen.
    pub(crate) async fn manage_here(
        &self,
        op: Op,
        expected: Option<u64>,
        patience: Duration,
    ) -> Managed {
        if self.leader() != Some(self.id()) {
            return Managed::NotLeader {
                leader: self.leader(),
            };
        }
        let managed = async {
            if let Op::MoveLeadership(to) = op {
                let named = Some(to.to).filter(|id| *id != 0);
                return self.move_leadership(named, &to.avoid).await;
            }
            // From what is decided on to what comes of it, one after the other.
            let _turn = self.membership.lock().await;
            self.know_the_records(patience).await?;
            match op {
                Op::AddLearner(learner) => self.add_learner(learner).await,
                Op::RemoveMember(remove) => self.remove(remove.replica_id, expected).await,
                Op::ChangeVote(change) => self.change_vote(&change, expected).await,
                Op::ReplaceMember(replace) => self.replace(&replace, expected).await,
                Op::RaiseToHighest(_) => self.raise_to_highest().await,
                Op::MoveLeadership(_) => Ok(self.id()),
            }
        };
        match timeout(patience, managed).await {
            Ok(Ok(leader)) => Managed::Done { leader },
            Ok(Err(managed)) => managed,
            Err(_) => Managed::Unavailable(format!("not finished within {patience:?}")),
        }
    }

    /// Waits until this leader has applied what leaders before it acknowledged: it decides by that.
    pub(super) async fn know_the_records(&self, patience: Duration) -> Result<(), Managed> {
        let index = match self.read_index_here(patience).await {
            ReadHere::Index(index) => index,
            ReadHere::NotLeader { leader } => return Err(Managed::NotLeader { leader }),
            ReadHere::Unavailable(reason) => return Err(Managed::Unavailable(reason)),
        };
        let applied = self.wait_applied(index, patience).await;
        applied.map_err(|error| Managed::Unavailable(error.to_string()))
    }

    async fn add_learner(&self, learner: AddLearner) -> Result<u64, Managed> {
        let AddLearner {
            replica_id,
            name,
            addr,
        } = learner;
        let stored = self.effective_membership();
        if let Some(member) = stored.membership().get_node(&replica_id) {
            tracing::debug!(
                replica.id = replica_id,
                name = member.name,
                "replica is a member already"
            );
            return Ok(self.id());
        }
        let records = self.records.load_full();
        if records.is_removed(replica_id) {
            return Err(Managed::Refused(gone(replica_id)));
        }
        let mut members = stored.membership().nodes();
        // Whoever takes another's place may take its name, too.
        let replaced = |id: u64| records.replaces(replica_id).any(|old| old == id);
        let clashes = |id: u64, member: &Member| member.name == name && !replaced(id);
        if let Some((other, _)) = members.find(|(id, member)| clashes(**id, member)) {
            return Err(Managed::Refused(format!(
                "replica {other} is named {name} already: choose another name or remove it first"
            )));
        }
        self.check_learner(replica_id, &addr).await?;
        let member = Member { name, addr };
        self.change_membership(
            &stored,
            ChangeMembers::AddNodes(BTreeMap::from([(replica_id, member)])),
            true,
        )
        .await?;
        tracing::info!(
            replica.id = replica_id,
            "replica receives the log as a learner"
        );
        Ok(self.id())
    }

    /// A replica that cannot be reached would slow down every commit once it votes, and one that does
    /// not understand the log would halt on it.
    async fn check_learner(&self, replica_id: u64, addr: &str) -> Result<(), Managed> {
        self.lanes.list(replica_id, addr);
        let patience = self.timing.connect();
        let asked = IdentifyRequest::default();
        match self.lanes.identify(replica_id, patience, asked).await {
            Ok(reply) => self.check_levels(&reply).map_err(|error| {
                Managed::Refused(format!("replica {replica_id} is refused: {error}"))
            }),
            Err(error) => Err(Managed::Unavailable(format!(
                "replica {replica_id} cannot be reached at {addr} from here: {error}"
            ))),
        }
    }

    fn check_levels(&self, theirs: &IdentifyReply) -> Result<(), LevelError> {
        levels_of(theirs).check(self.records.load().level())
    }

    /// Hands leadership to `to`, or to whom it costs least; returns who leads then.
    /// `avoid` is not chosen.
    pub(crate) async fn move_leadership(
        &self,
        to: Option<u64>,
        avoid: &[u64],
    ) -> Result<u64, Managed> {
        let voters: BTreeSet<u64> = self.effective_membership().voter_ids().collect();
        if to == Some(self.id()) {
            return Ok(self.id());
        }
        let to = match to {
            Some(to) => self.check_successor(to, &voters).await?,
            None => self.best_successor(&voters, avoid).ok_or_else(|| {
                Managed::Unavailable("no other voter is up to date and reachable".to_owned())
            })?,
        };
        let triggered = self.raft.trigger().transfer_leader(to).await;
        triggered.map_err(|fatal| Managed::Unavailable(fatal.to_string()))?;
        let own = self.id();
        let moved = |now: &ServerMetrics| now.current_leader.is_some_and(|leader| leader != own);
        match self.wait_server(moved, self.timing.transfer()).await {
            Some(now) => Ok(now.current_leader.unwrap_or(to)),
            None => Err(Managed::Unavailable(format!(
                "replica {to} did not take over"
            ))),
        }
    }

    /// A leader that has begun to hand over takes no more changes until somebody else leads.
    async fn check_successor(&self, to: u64, voters: &BTreeSet<u64>) -> Result<u64, Managed> {
        if !voters.contains(&to) {
            return Err(Managed::Refused(format!(
                "replica {to} does not vote: only a voter can lead"
            )));
        }
        if self.records.load().is_ending(to) {
            return Err(Managed::Refused(format!(
                "replica {to} is about to lose its vote: it would hand leadership on at once"
            )));
        }
        if !self.answers(to).await {
            return Err(Managed::Refused(format!(
                "replica {to} does not answer the leader: leadership stays where it is; start it, or \
                 name another replica"
            )));
        }
        Ok(to)
    }

    /// Whom this leader has heard of lately.
    pub(super) fn heard(&self) -> BTreeSet<u64> {
        let heartbeat = self.metrics().heartbeat.unwrap_or_default();
        let within = self.timing.reachable_within();
        let heard = heartbeat
            .iter()
            .filter(|(_, last)| last.is_some_and(|at| at.elapsed() < within));
        heard.map(|(id, _)| *id).collect()
    }

    /// The other voter that has most of the log, among those heard of lately. Never one that is to
    /// lose its vote: it would hand leadership on at once.
    fn best_successor(&self, voters: &BTreeSet<u64>, avoid: &[u64]) -> Option<u64> {
        let replication = self.metrics().replication.unwrap_or_default();
        let heard = self.heard();
        let records = self.records.load();
        let others = voters
            .iter()
            .filter(|id| **id != self.id() && heard.contains(id));
        let wanted = others.filter(|id| !avoid.contains(id) && !records.is_ending(**id));
        wanted
            .max_by_key(|id| {
                replication
                    .get(*id)
                    .copied()
                    .flatten()
                    .map(|log| log.index())
            })
            .copied()
    }
}
