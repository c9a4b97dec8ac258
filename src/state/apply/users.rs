//! Users: create, rename, destroy.

use hydrascale_proto::state::v1::{CreateUser, DestroyUser, RefusalCode, RenameUser, SetUserRole};

use super::super::{User, UserRole, names};
use super::{Txn, Verdict, done, invalid, refuse};
use crate::types::UserId;

impl Txn<'_> {
    pub(super) fn create_user(&mut self, op: &CreateUser) -> Verdict {
        check_texts([
            &op.display_name,
            &op.email,
            &op.picture_url,
            &op.provider_id,
        ])?;
        match op.provider.as_str() {
            "" => self.check_local_name(&op.name)?,
            "oidc" => self.check_provider_id(&op.name, &op.provider_id)?,
            other => {
                return Err(invalid(format!(
                    "provider {other:?} is neither \"\" nor \"oidc\""
                )));
            }
        }
        let id = self.with_tailnet(|tailnet| {
            tailnet.last_user_id += 1;
            UserId(tailnet.last_user_id)
        })?;
        self.put_user(User {
            id,
            name: op.name.clone(),
            display_name: op.display_name.clone(),
            email: op.email.clone(),
            picture_url: op.picture_url.clone(),
            provider: op.provider.clone(),
            provider_id: op.provider_id.clone(),
            created_at: self.now(),
            role: UserRole::Member,
        });
        Ok(done(id.0))
    }

    pub(super) fn rename_user(&mut self, op: &RenameUser) -> Verdict {
        let user = self.existing_user(UserId(op.user_id))?;
        if !user.provider.is_empty() {
            return Err(refuse(
                RefusalCode::Precondition,
                "cannot edit OIDC user: rename it at the identity provider",
            ));
        }
        if user.name != op.name {
            self.check_local_name(&op.name)?;
            self.put_user(User {
                name: op.name.clone(),
                ..user
            });
        }
        Ok(done(op.user_id))
    }

    pub(super) fn set_user_role(&mut self, op: &SetUserRole) -> Verdict {
        let user = self.existing_user(UserId(op.user_id))?;
        let role = UserRole::try_from(op.role)
            .map_err(|_| invalid(format!("there is no user role with number {}", op.role)))?;
        if user.role != role {
            self.put_user(User { role, ..user });
        }
        Ok(done(op.user_id))
    }

    pub(super) fn destroy_user(&mut self, op: &DestroyUser) -> Verdict {
        let id = UserId(op.user_id);
        self.existing_user(id)?;
        if let Some(node) = self.state.nodes_by_user(id).next() {
            return Err(refuse(
                RefusalCode::Precondition,
                format!(
                    "user not empty: node(s) found, for example node {}",
                    node.id
                ),
            ));
        }
        let keys = self
            .state
            .pre_auth_keys()
            .filter(|key| key.user_id == Some(id));
        let keys: Vec<u64> = keys.map(|key| key.id).collect();
        for key in keys {
            self.delete_pre_auth_key_row(key);
        }
        self.delete_user(id);
        Ok(done(id.0))
    }

    pub(super) fn existing_user(&self, id: UserId) -> Result<User, super::Refusal> {
        let missing = || refuse(RefusalCode::NotFound, format!("user not found: no id {id}"));
        self.state
            .user(id)
            .map(|user| (**user).clone())
            .ok_or_else(missing)
    }

    fn check_local_name(&self, name: &str) -> Result<(), super::Refusal> {
        names::check_user_name(name)?;
        if self
            .state
            .users_by_name(name)
            .any(|user| user.provider.is_empty())
        {
            return Err(refuse(
                RefusalCode::AlreadyExists,
                format!("user already exists: {name:?}; choose another name"),
            ));
        }
        Ok(())
    }

    /// An identity provider's user may lack a name; its id there is what makes it unique.
    fn check_provider_id(&self, name: &str, provider_id: &str) -> Result<(), super::Refusal> {
        if !name.is_empty() {
            names::check_user_name(name)?;
        }
        if provider_id.is_empty() {
            return Err(invalid(
                "provider_id is empty: an OIDC user needs <issuer>/<subject>",
            ));
        }
        if self.state.user_by_provider_id(provider_id).is_some() {
            return Err(refuse(
                RefusalCode::AlreadyExists,
                format!("user already exists: provider id {provider_id:?}"),
            ));
        }
        Ok(())
    }
}

fn check_texts<'a>(texts: impl IntoIterator<Item = &'a String>) -> Result<(), super::Refusal> {
    texts
        .into_iter()
        .try_for_each(|text| names::check_text(text))
        .map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{World, refusal};

    #[test]
    fn users_get_growing_ids_that_are_never_reused() {
        let mut world = World::new();
        assert_eq!(world.create_user("alice"), UserId(1));
        assert_eq!(world.create_user("bob"), UserId(2));
        world.ok(DestroyUser { user_id: 2 });
        assert_eq!(world.create_user("carol"), UserId(3));
    }

    #[test]
    fn names_are_checked_and_unique() {
        let mut world = World::new();
        world.create_user("alice");
        let cases = [
            ("a", RefusalCode::Invalid, "at least 2 characters"),
            ("1ab", RefusalCode::Invalid, "start with a letter"),
            ("a@b@c", RefusalCode::Invalid, "more than one '@'"),
            ("a\"b", RefusalCode::Invalid, "invalid character"),
            ("a\\b", RefusalCode::Invalid, "invalid character"),
            ("a\u{7}b", RefusalCode::Invalid, "invalid character"),
            ("alice", RefusalCode::AlreadyExists, "user already exists"),
        ];
        for (name, code, text) in cases {
            let command = CreateUser {
                name: name.into(),
                ..Default::default()
            };
            let (got, message) = refusal(&world.apply(command));
            assert_eq!(got, code, "{name}");
            assert!(message.contains(text), "{message}");
        }
    }

    #[test]
    fn an_oidc_user_may_share_a_name_but_not_a_provider_id() {
        let mut world = World::new();
        world.create_user("alice");
        let oidc = |name: &str| CreateUser {
            name: name.into(),
            provider: "oidc".into(),
            provider_id: "https://idp/1".into(),
            ..Default::default()
        };
        world.ok(oidc("alice"));
        assert_eq!(
            refusal(&world.apply(oidc("other"))).0,
            RefusalCode::AlreadyExists
        );
        assert_eq!(world.state.user_by_name("alice").unwrap().id, UserId(1));
        let rename = RenameUser {
            user_id: 2,
            name: "bob".into(),
        };
        assert!(
            refusal(&world.apply(rename))
                .1
                .contains("cannot edit OIDC user")
        );
    }

    #[test]
    fn rename_moves_the_name_and_the_same_name_is_no_change() {
        let mut world = World::new();
        world.create_user("alice");
        world.ok(RenameUser {
            user_id: 1,
            name: "bob".into(),
        });
        assert!(world.state.user_by_name("alice").is_none());
        let again = world.ok(RenameUser {
            user_id: 1,
            name: "bob".into(),
        });
        assert!(again.change.is_empty() && again.writes.is_empty());
    }

    #[test]
    fn a_user_with_nodes_stays_and_one_without_takes_its_keys_along() {
        let mut world = World::new();
        let user = world.create_user("alice");
        let key = world.auth_key(user);
        let node = world.register(1, &key);
        let (code, message) = refusal(&world.apply(DestroyUser { user_id: user.0 }));
        assert_eq!(code, RefusalCode::Precondition);
        assert!(
            message.contains("user not empty: node(s) found"),
            "{message}"
        );
        world.delete_node(node);
        assert!(world.ok(DestroyUser { user_id: user.0 }).change.keys);
        assert_eq!(world.state.pre_auth_keys().count(), 0);
        assert_eq!(
            refusal(&world.apply(DestroyUser { user_id: user.0 })).0,
            RefusalCode::NotFound
        );
    }
}
