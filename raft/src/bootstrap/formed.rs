//! Nobody is served before the cluster that was expected stands.

use std::collections::BTreeSet;

use crate::core::Core;

/// Waits until most of the replicas that were expected are there with the vote, or as the non-voters, that
/// they are to be: before that, what is acknowledged would be on fewer disks than was asked for. At once
/// where the cluster began otherwise, or was shrunk since.
pub(crate) async fn formed(core: &Core) {
    let expect = core.identity.expect;
    if expect == 0 {
        return;
    }
    let mut applied = core.applied.clone();
    let mut told = false;
    loop {
        let placed = placed(core);
        let was_shrunk = core.records.load().removed().next().is_some();
        if placed > expect / 2 || was_shrunk {
            return;
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!(
                placed,
                expect,
                "waiting until most replicas of the new cluster vote"
            );
        }
        if applied.changed().await.is_err() {
            return;
        }
    }
}

/// The members that have what they were to have: a vote, or none.
fn placed(core: &Core) -> usize {
    let stored = core.effective_membership();
    let voters: BTreeSet<u64> = stored.voter_ids().collect();
    let records = core.records.load();
    let members = stored.membership().nodes().map(|(id, _)| *id);
    members
        .filter(|id| voters.contains(id) || records.is_non_voting(*id))
        .count()
}
