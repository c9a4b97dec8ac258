//! Pre-auth keys and API keys: create, expire, delete.

use hydrascale_proto::state::v1::{
    CreateApiKey, CreatePreAuthKey, DeleteApiKey, DeletePreAuthKey, ExpireApiKey, ExpirePreAuthKey,
    Refusal, RefusalCode,
};

use super::super::secret::{PREFIX_DIGITS, is_hex};
use super::super::{ApiKey, PreAuthKey, convert::timestamp, names};
use super::{Txn, Verdict, done, invalid, refuse};
use crate::types::{Timestamp, UserId};

impl Txn<'_> {
    pub(super) fn create_pre_auth_key(&mut self, op: &CreatePreAuthKey) -> Verdict {
        let user_id = op.user_id.map(UserId);
        if let Some(id) = user_id {
            self.existing_user(id)?;
        }
        let tags = names::checked_tags(&op.tags)?;
        if user_id.is_none() && tags.is_empty() {
            return Err(invalid(
                "auth-key must be either tagged or owned by user: name a user or at least one tag",
            ));
        }
        let secret_hash = checked_secret(&op.prefix, &op.secret_hash)?;
        if self.state.pre_auth_key_by_prefix(&op.prefix).is_some() {
            return Err(prefix_taken(&op.prefix));
        }
        let id = self.with_tailnet(|tailnet| {
            tailnet.last_pre_auth_key_id += 1;
            tailnet.last_pre_auth_key_id
        })?;
        self.put_pre_auth_key(PreAuthKey {
            id,
            prefix: op.prefix.clone(),
            secret_hash,
            user_id,
            reusable: op.reusable,
            ephemeral: op.ephemeral,
            used: false,
            revoked: false,
            expires_at: timestamp(op.expires_at_ms),
            created_at: self.now(),
            tags,
        });
        Ok(done(id))
    }

    /// Ends a key now. One that ended earlier keeps its time.
    pub(super) fn expire_pre_auth_key(&mut self, op: &ExpirePreAuthKey) -> Verdict {
        let key = self.existing_pre_auth_key(op.key_id)?;
        let now = self.now();
        if op.revoke && !key.revoked {
            self.put_pre_auth_key(PreAuthKey {
                revoked: true,
                ..key
            });
        } else if !op.revoke && !key.is_expired(now) {
            self.put_pre_auth_key(PreAuthKey {
                expires_at: Some(now),
                ..key
            });
        }
        Ok(done(op.key_id))
    }

    pub(super) fn delete_pre_auth_key(&mut self, op: &DeletePreAuthKey) -> Verdict {
        self.existing_pre_auth_key(op.key_id)?;
        self.delete_pre_auth_key_row(op.key_id);
        Ok(done(op.key_id))
    }

    pub(super) fn create_api_key(&mut self, op: &CreateApiKey) -> Verdict {
        let secret_hash = checked_secret(&op.prefix, &op.secret_hash)?;
        if self.state.api_key_by_prefix(&op.prefix).is_some() {
            return Err(prefix_taken(&op.prefix));
        }
        let id = self.with_tailnet(|tailnet| {
            tailnet.last_api_key_id += 1;
            tailnet.last_api_key_id
        })?;
        self.put_api_key(ApiKey {
            id,
            prefix: op.prefix.clone(),
            secret_hash,
            expires_at: timestamp(op.expires_at_ms),
            created_at: self.now(),
        });
        Ok(done(id))
    }

    /// Ends a key now. One that ended earlier keeps its time.
    pub(super) fn expire_api_key(&mut self, op: &ExpireApiKey) -> Verdict {
        let key = self.existing_api_key(op.key_id)?;
        let now: Timestamp = self.now();
        if !key.is_expired(now) {
            self.put_api_key(ApiKey {
                expires_at: Some(now),
                ..key
            });
        }
        Ok(done(op.key_id))
    }

    pub(super) fn delete_api_key(&mut self, op: &DeleteApiKey) -> Verdict {
        self.existing_api_key(op.key_id)?;
        self.delete_api_key_row(op.key_id);
        Ok(done(op.key_id))
    }

    fn existing_pre_auth_key(&self, id: u64) -> Result<PreAuthKey, Refusal> {
        let missing = || {
            refuse(
                RefusalCode::NotFound,
                format!("auth-key not found: no id {id}"),
            )
        };
        self.state
            .pre_auth_key(id)
            .map(|key| (**key).clone())
            .ok_or_else(missing)
    }

    fn existing_api_key(&self, id: u64) -> Result<ApiKey, Refusal> {
        let missing = || {
            refuse(
                RefusalCode::NotFound,
                format!("API key not found: no id {id}"),
            )
        };
        self.state
            .api_key(id)
            .map(|key| (**key).clone())
            .ok_or_else(missing)
    }
}

fn checked_secret(prefix: &str, hash: &[u8]) -> Result<[u8; 32], Refusal> {
    if !is_hex(prefix, PREFIX_DIGITS) {
        return Err(invalid("key prefix is not 12 hex digits"));
    }
    hash.try_into().map_err(|_| {
        invalid(format!(
            "hash of key {prefix} has {} bytes instead of 32",
            hash.len()
        ))
    })
}

fn prefix_taken(prefix: &str) -> Refusal {
    refuse(
        RefusalCode::AlreadyExists,
        format!("a key with prefix {prefix} exists: make one with another random prefix"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{World, refusal};

    fn command() -> CreatePreAuthKey {
        CreatePreAuthKey {
            prefix: "0123456789ab".into(),
            secret_hash: vec![1; 32].into(),
            tags: vec!["tag:a".into()],
            ..Default::default()
        }
    }

    #[test]
    fn bad_pre_auth_keys_are_refused_and_named() {
        let mut world = World::new();
        world.ok(CreatePreAuthKey {
            prefix: "ffffffffffff".into(),
            ..command()
        });
        let cases = [
            (
                CreatePreAuthKey {
                    user_id: Some(9),
                    ..command()
                },
                RefusalCode::NotFound,
                "no id 9",
            ),
            (
                CreatePreAuthKey {
                    tags: vec![],
                    ..command()
                },
                RefusalCode::Invalid,
                "tagged or owned",
            ),
            (
                CreatePreAuthKey {
                    tags: vec!["web".into()],
                    ..command()
                },
                RefusalCode::Invalid,
                "must start with the string 'tag:'",
            ),
            (
                CreatePreAuthKey {
                    prefix: "xyz".into(),
                    ..command()
                },
                RefusalCode::Invalid,
                "12 hex",
            ),
            (
                CreatePreAuthKey {
                    secret_hash: vec![1; 31].into(),
                    ..command()
                },
                RefusalCode::Invalid,
                "31 bytes",
            ),
            (
                CreatePreAuthKey {
                    prefix: "ffffffffffff".into(),
                    ..command()
                },
                RefusalCode::AlreadyExists,
                "ffffffffffff",
            ),
        ];
        for (command, code, text) in cases {
            let (got, message) = refusal(&world.apply(command));
            assert_eq!(got, code, "{message}");
            assert!(message.contains(text), "{message}");
        }
    }

    #[test]
    fn expiring_twice_keeps_the_first_time_and_writes_nothing() {
        let mut world = World::new();
        world.ok(CreatePreAuthKey {
            expires_at_ms: Some(i64::MAX),
            ..command()
        });
        world.ok(ExpirePreAuthKey {
            key_id: 1,
            revoke: false,
        });
        let ended = world.state.pre_auth_key(1).unwrap().expires_at;
        assert_eq!(ended, Some(world.now));
        world.pass(1_000);
        assert!(
            world
                .ok(ExpirePreAuthKey {
                    key_id: 1,
                    revoke: false
                })
                .writes
                .is_empty()
        );
        assert_eq!(world.state.pre_auth_key(1).unwrap().expires_at, ended);
    }

    #[test]
    fn a_revoked_key_is_marked_and_a_deleted_one_is_gone_for_good() {
        let mut world = World::new();
        world.ok(command());
        world.ok(ExpirePreAuthKey {
            key_id: 1,
            revoke: true,
        });
        assert!(world.state.pre_auth_key(1).unwrap().revoked);
        world.ok(DeletePreAuthKey { key_id: 1 });
        assert!(world.state.pre_auth_key_by_prefix("0123456789ab").is_none());
        let again = world.apply(DeletePreAuthKey { key_id: 1 });
        assert_eq!(refusal(&again).0, RefusalCode::NotFound);
        world.ok(command());
        assert_eq!(world.state.pre_auth_keys().next().unwrap().id, 2);
    }

    #[test]
    fn api_keys_are_created_expired_and_deleted() {
        let mut world = World::new();
        let create = CreateApiKey {
            prefix: "0123456789ab".into(),
            secret_hash: vec![1; 32].into(),
            expires_at_ms: None,
        };
        world.ok(create.clone());
        assert!(
            !world
                .state
                .api_key_by_prefix("0123456789ab")
                .unwrap()
                .is_expired(world.now)
        );
        assert_eq!(refusal(&world.apply(create)).0, RefusalCode::AlreadyExists);
        world.ok(ExpireApiKey { key_id: 1 });
        assert!(world.state.api_key(1).unwrap().is_expired(world.now));
        world.ok(DeleteApiKey { key_id: 1 });
        assert_eq!(
            refusal(&world.apply(ExpireApiKey { key_id: 1 })).0,
            RefusalCode::NotFound
        );
    }
}
