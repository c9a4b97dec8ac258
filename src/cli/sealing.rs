//! Whether a replica could read the secrets of what a new cluster is to begin with.

use anyhow::bail;
use hydrascale_raft::{KeyId, SealingKeys};

/// Refuses what is sealed under a key that is not among `held`: no replica would start on it. `verb`
/// names what is done again once the key is there.
pub(super) fn refuse_without(
    key: Option<KeyId>,
    held: &SealingKeys,
    verb: &str,
) -> anyhow::Result<()> {
    let Some(key) = key.filter(|key| !held.ids().any(|held| held == *key)) else {
        return Ok(());
    };
    let held: Vec<String> = held.ids().map(|id| id.to_string()).collect();
    let held = match held.is_empty() {
        true => "and no key is configured".to_owned(),
        false => format!("and the configured keys are {}", held.join(", ")),
    };
    bail!(
        "the secrets in it are sealed under key {key}, {held}: put that key into the file that \
         cluster.sealing_key_file names, then {verb} again"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_under_a_key_that_is_not_configured_is_refused_by_name() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("sealing.key");
        let old = SealingKeys::add_to_file(&path).unwrap();
        let held = SealingKeys::read(&path).unwrap();
        refuse_without(Some(old), &held, "restore").unwrap();
        refuse_without(None, &SealingKeys::default(), "restore").unwrap();
        let refusal = |held: &SealingKeys| {
            let refused = refuse_without(Some(old), held, "restore");
            refused.unwrap_err().to_string()
        };
        let none = refusal(&SealingKeys::default());
        assert!(
            none.contains(&format!("under key {old}, and no key is configured")),
            "{none}"
        );
        assert!(none.ends_with("names, then restore again"), "{none}");
        let other = temp.path().join("other.key");
        let id = SealingKeys::add_to_file(&other).unwrap();
        let another = refusal(&SealingKeys::read(&other).unwrap());
        assert!(
            another.contains(&format!("the configured keys are {id}: put that key")),
            "{another}"
        );
    }
}
