//! The policy: a new version replaces the one in force, and old ones are kept for a while.

use hydrascale_proto::state::v1::{RefusalCode, SetPolicy};

use super::super::PolicyVersion;
use super::{Txn, Verdict, done, invalid, refuse};

/// Longest text of a policy. One of 1,000 rules has about 100 KB; what is larger fits badly into one
/// log entry.
pub const POLICY_BYTES_MAX: usize = 512 * 1024;
/// Longer authors say nothing more.
const AUTHOR_BYTES_MAX: usize = 256;
/// Old versions are for looking back and for going back, and lie in memory.
const VERSIONS_KEPT: usize = 100;
/// All kept versions together, however few that leaves; the one in force stays in any case.
const VERSIONS_BYTES_MAX: usize = 8 * 1024 * 1024;

impl Txn<'_> {
    pub(super) fn set_policy(&mut self, op: &SetPolicy) -> Verdict {
        if op.text.len() > POLICY_BYTES_MAX {
            return Err(invalid(format!(
                "the policy has {} bytes: {POLICY_BYTES_MAX} are allowed",
                op.text.len()
            )));
        }
        if op.author.len() > AUTHOR_BYTES_MAX {
            return Err(invalid("the author's name is too long"));
        }
        let current = self.state.policy().cloned();
        let version = self.state.version_in_force();
        if op.replaces.is_some_and(|replaces| replaces != version) {
            return Err(refuse(
                RefusalCode::Precondition,
                format!(
                    "the policy was changed in the meantime: version {version} is in force; \
                     look at it and set yours again"
                ),
            ));
        }
        if current.is_some_and(|policy| policy.text == op.text) {
            return Ok(done(version));
        }
        self.put_policy(PolicyVersion {
            version: version + 1,
            text: op.text.clone(),
            author: op.author.clone(),
            created_at: self.now(),
        });
        self.forget_old_policies();
        Ok(done(version + 1))
    }

    fn forget_old_policies(&mut self) {
        let mut bytes = 0_usize;
        let mut kept = 0_usize;
        let mut old = Vec::new();
        for policy in self.state.policy_versions().rev() {
            bytes = bytes.saturating_add(policy.text.len());
            if kept > 0 && (kept == VERSIONS_KEPT || bytes > VERSIONS_BYTES_MAX) {
                old.push(policy.version);
            } else {
                kept += 1;
            }
        }
        for version in old {
            self.delete_policy_row(version);
        }
    }
}

#[cfg(test)]
mod tests {
    use hydrascale_proto::state::v1::RefusalCode;

    use super::super::super::testing::{World, done_id, refusal};
    use super::*;

    fn policy(text: &str, replaces: Option<u64>) -> SetPolicy {
        SetPolicy {
            text: text.to_owned(),
            author: "alice".to_owned(),
            replaces,
        }
    }

    fn versions(world: &World) -> Vec<u64> {
        let versions = world.state.policy_versions();
        versions.map(|policy| policy.version).collect()
    }

    #[test]
    fn a_policy_is_replaced_only_by_who_has_seen_it() {
        let mut world = World::new();
        assert_eq!(done_id(&world.ok(policy("{}", Some(0)))), 1);
        let late = world.apply(policy("{ }", Some(0)));
        let (code, message) = refusal(&late);
        assert_eq!(code, RefusalCode::Precondition);
        assert!(message.contains("version 1 is in force"), "{message}");
        let applied = world.ok(policy("{ }", Some(1)));
        assert!(applied.change.policy);
        assert_eq!(world.state.policy().unwrap().text, "{ }");
        assert_eq!(world.state.policy_version(1).unwrap().text, "{}");
    }

    #[test]
    fn the_same_text_again_is_no_new_version() {
        let mut world = World::new();
        world.ok(policy("{}", None));
        let again = world.ok(policy("{}", None));
        assert_eq!(done_id(&again), 1);
        assert!(again.change.is_empty());
        assert_eq!(versions(&world), [1]);
    }

    #[test]
    fn old_versions_go_by_count_and_by_size() {
        let mut world = World::new();
        for number in 0..VERSIONS_KEPT + 5 {
            world.ok(policy(&format!("// {number}"), None));
        }
        let kept = versions(&world);
        assert_eq!((kept.len(), kept[0]), (VERSIONS_KEPT, 6));
        for number in 0..20 {
            let filler = "x".repeat(POLICY_BYTES_MAX - 10);
            world.ok(policy(&format!("// {number} {filler}"), None));
        }
        assert_eq!(
            versions(&world).len(),
            VERSIONS_BYTES_MAX / POLICY_BYTES_MAX
        );
    }

    #[test]
    fn a_policy_that_is_too_large_is_refused() {
        let mut world = World::new();
        let applied = world.apply(policy(&"x".repeat(POLICY_BYTES_MAX + 1), None));
        assert_eq!(refusal(&applied).0, RefusalCode::Invalid);
    }
}
