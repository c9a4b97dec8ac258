//! Answering the greetings of replicas that were expected and have no cluster yet.

use std::time::Duration;

use hydrascale_proto::raft::v1 as pb;
use hydrascale_proto::raft::v1::greeting_answer::State;

use super::{cluster_doors, record_token};
use crate::bootstrap::{TOKEN_PREFIX, WordError, open_greeting, seal_answer};
use crate::core::Core;
use crate::{AdminError, Bootstrap};

/// The longest that a token may live: a replica that comes back before it has joined asks for the same
/// one again.
const TOKEN_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// Answers greetings for a cluster.
pub(super) struct Host<'a> {
    core: &'a Core,
    bootstrap: &'a Bootstrap,
}

impl<'a> Host<'a> {
    /// Answers for the replica's cluster; `None` where it has no bootstrap secret.
    pub(super) fn of(core: &'a Core) -> Option<Self> {
        let bootstrap = core.config.bootstrap.as_ref()?;
        Some(Self { core, bootstrap })
    }

    /// The answer to a greeting: an invitation while the cluster is smaller than it was to be.
    ///
    /// # Errors
    /// The greeting comes from somebody without the secret.
    pub(super) async fn answer(&self, word: &pb::SealedWord) -> Result<pb::SealedWord, WordError> {
        let secret = &self.bootstrap.secret;
        let greeting = open_greeting(secret, word)?;
        let state = match self.invite(&greeting).await {
            Ok(invitation) => State::Invitation(invitation),
            Err(AdminError::Refused { reason }) => State::Refused(reason),
            Err(error) => State::Unavailable(error.to_string()),
        };
        seal_answer(secret, &greeting, state)
    }

    async fn invite(&self, greeting: &pb::Greeting) -> Result<pb::Invitation, AdminError> {
        let doors = cluster_doors(self.core).await?;
        if !self.is_recorded(&greeting.token_id) {
            self.check_room(greeting)?;
            let (id, secret_hash) = (greeting.token_id.clone(), greeting.secret_hash.clone());
            let recorded = record_token(self.core, id, secret_hash, TOKEN_LIFETIME, None).await;
            // Another replica may have been asked at the same time.
            recorded.or_else(|error| match self.is_recorded(&greeting.token_id) {
                true => Ok(()),
                false => Err(error),
            })?;
            tracing::info!(
                replica.name = name_of(greeting),
                "a replica of the same bootstrap is invited"
            );
        }
        Ok(pb::Invitation {
            cluster_id: doors.cluster_id,
            ca_sha256: doors.ca_sha256.to_vec().into(),
            addrs: doors.addrs,
        })
    }

    fn is_recorded(&self, token_id: &str) -> bool {
        let records = self.core.records.load();
        records.tokens().any(|token| token.id == token_id)
    }

    /// The secret fills the places of the beginning, each once. A removal ends that: who was removed
    /// must not come back by it.
    fn check_room(&self, greeting: &pb::Greeting) -> Result<(), AdminError> {
        let stored = self.core.effective_membership();
        let members = stored.membership().nodes().count();
        let records = self.core.records.load();
        let invited = records.tokens();
        let invited = invited.filter(|token| token.id.starts_with(TOKEN_PREFIX));
        // The maker of the cluster needed no token.
        let given = members.max(invited.count() + 1);
        if greeting.token_id.starts_with(TOKEN_PREFIX)
            && given < self.bootstrap.expect
            && records.removed().next().is_none()
        {
            return Ok(());
        }
        let reason = format!(
            "cluster {} has all the replicas that it began with, and {} is not one of them: if its data \
             was lost, give it a token from `cluster replace` for its old place; to grow the cluster, \
             one from `cluster join-token create` (`cluster join TOKEN`)",
            self.core.identity.cluster_id,
            name_of(greeting),
        );
        Err(AdminError::Refused { reason })
    }
}

fn name_of(greeting: &pb::Greeting) -> &str {
    greeting.from.as_ref().map_or("", |from| from.name.as_str())
}
