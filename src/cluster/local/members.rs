//! Who belongs to the cluster in memory: what the consensus of real replicas would answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::super::administration::refused;
use super::super::{Administration, JoinTokenStatus, MemberChange, ProposeError};
use super::LocalLog;
use crate::types::{ReplicaId, Timestamp};

/// Members, tokens and who leads.
pub(super) struct LocalMembers {
    pub(super) members: BTreeSet<ReplicaId>,
    pub(super) learners: BTreeSet<ReplicaId>,
    pub(super) removed: BTreeSet<ReplicaId>,
    pub(super) leader: ReplicaId,
    /// How often it was changed.
    pub(super) index: u64,
    /// The feature level.
    pub(super) level: u32,
    tokens: BTreeMap<String, JoinTokenStatus>,
}

impl LocalMembers {
    pub(super) fn new() -> Self {
        Self {
            members: [ReplicaId(1)].into(),
            learners: BTreeSet::new(),
            removed: BTreeSet::new(),
            leader: ReplicaId(1),
            index: 1,
            level: 1,
            tokens: BTreeMap::new(),
        }
    }

    fn voters(&self) -> BTreeSet<ReplicaId> {
        self.members.difference(&self.learners).copied().collect()
    }

    fn check(&self, id: ReplicaId) -> Result<(), ProposeError> {
        match self.members.contains(&id) {
            true => Ok(()),
            false => Err(refused(format!(
                "replica {id} is no member of the cluster; `cluster status` lists them"
            ))),
        }
    }

    fn change(
        &mut self,
        change: &MemberChange,
        expected: Option<u64>,
    ) -> Result<ReplicaId, ProposeError> {
        if let MemberChange::Lead { to, avoid } = change {
            let voters = self.voters();
            let fit = |id: &&ReplicaId| **id != self.leader && !avoid.contains(id);
            let next = to.or_else(|| voters.iter().find(fit).copied());
            let next = next.filter(|id| voters.contains(id));
            self.leader = next.ok_or_else(|| refused("nobody else votes".to_owned()))?;
            return Ok(self.leader);
        }
        if let MemberChange::Remove(id) = change
            && self.removed.contains(id)
        {
            return Ok(self.leader);
        }
        if expected.is_some_and(|expected| expected != self.index) {
            return Err(refused("the membership has changed".to_owned()));
        }
        match change {
            MemberChange::Remove(id) => self.remove(*id)?,
            MemberChange::Promote(id) => {
                self.check(*id)?;
                self.learners.remove(id);
            }
            MemberChange::Demote(id) => {
                self.check(*id)?;
                self.learners.insert(*id);
            }
            MemberChange::Replace { id, with } => {
                self.check(*with)?;
                if self.voters().contains(with) {
                    return Err(refused(format!(
                        "replica {with} votes already and takes nobody's place: remove replica {id} \
                         instead"
                    )));
                }
                self.remove(*id)?;
                self.learners.remove(with);
            }
            MemberChange::Lead { .. } => {}
        }
        self.index += 1;
        Ok(self.leader)
    }

    fn remove(&mut self, id: ReplicaId) -> Result<(), ProposeError> {
        self.check(id)?;
        if self.voters() == [id].into() {
            return Err(refused(
                "that is the last voter: add or promote another replica first".to_owned(),
            ));
        }
        self.members.remove(&id);
        self.learners.remove(&id);
        self.removed.insert(id);
        if self.leader == id {
            self.leader = self.voters().first().copied().unwrap_or(id);
        }
        Ok(())
    }
}

impl Administration for LocalLog {
    fn create_join_token(
        &self,
        ttl: Duration,
        replaces: Option<ReplicaId>,
    ) -> BoxFuture<'_, Result<String, ProposeError>> {
        async move {
            let mut members = self.members.lock();
            if let Some(id) = replaces {
                members.check(id)?;
            }
            let id = format!("token{}", members.tokens.len() + 1);
            let token = JoinTokenStatus {
                id: id.clone(),
                expiration: self.now().saturating_add(ttl),
                revoked: false,
                used_by: None,
                used_at: None,
                replaces: replaces.map(|id| id.0),
            };
            members.tokens.insert(id.clone(), token);
            Ok(format!("hydra-join-{id}"))
        }
        .boxed()
    }

    fn join_tokens(&self) -> BoxFuture<'_, Result<Vec<JoinTokenStatus>, ProposeError>> {
        async { Ok(self.members.lock().tokens.values().cloned().collect()) }.boxed()
    }

    fn revoke_join_token(&self, id: String) -> BoxFuture<'_, Result<(), ProposeError>> {
        async move {
            let mut members = self.members.lock();
            let unknown = || refused(format!("join token {id} is unknown"));
            let token = members.tokens.get_mut(&id).ok_or_else(unknown)?;
            token.revoked = true;
            Ok(())
        }
        .boxed()
    }

    fn change_member(
        &self,
        change: MemberChange,
        expected: Option<u64>,
    ) -> BoxFuture<'_, Result<ReplicaId, ProposeError>> {
        async move { self.members.lock().change(&change, expected) }.boxed()
    }

    fn raise_level(&self) -> BoxFuture<'_, Result<u32, ProposeError>> {
        self.members.lock().level = 2;
        async { Ok(2) }.boxed()
    }
}

impl LocalLog {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.now_ms.load(std::sync::atomic::Ordering::Relaxed))
    }
}
