//! How far a rolling upgrade is: whether the next replica may be restarted, and what is left. Pure:
//! from the status that one replica sees.

use serde::Serialize;

use super::{ClusterStatus, FeatureLevels, MemberStatus};

/// A replica this close behind what is committed follows in step.
const CAUGHT_UP_ENTRIES: u64 = 100;

/// Where an upgrade stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UpgradePhase {
    /// All replicas run the same version, at its feature level.
    #[default]
    Finished,
    /// Some replicas run another version than others.
    Rolling,
    /// All run the new version; the cluster's feature level is still the one before, so that each
    /// may go back.
    Raising,
}

/// What `cluster status` says about upgrades.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeStatus {
    /// Where it stands.
    pub phase: UpgradePhase,
    /// The cluster's feature level; absent before the cluster is known.
    pub feature_level: Option<u32>,
    /// The highest feature level that all members are known to support.
    pub supported_level: Option<u32>,
    /// Whether one replica, whichever, can be restarted now without anybody noticing.
    pub safe: bool,
    /// Why not, one sentence each.
    pub waits_for: Vec<String>,
    /// Replicas (by name) that support less than others.
    pub behind: Vec<String>,
    /// Replicas (by name) that want to be asked before the level is raised.
    pub held_by: Vec<String>,
    /// What to do next.
    pub next: String,
}

/// Judges a status whose members have what they announced.
pub(super) fn judge(status: &ClusterStatus) -> UpgradeStatus {
    let levels: Vec<FeatureLevels> = status
        .members
        .iter()
        .filter_map(|member| member.feature_levels)
        .collect();
    let all_known = levels.len() == status.members.len();
    let supported = levels.iter().map(|levels| levels.max).min();
    let highest = levels.iter().map(|levels| levels.max).max();
    let behind = |member: &&MemberStatus| {
        let max = member.feature_levels.map(|levels| levels.max);
        max.is_some() && max < highest
    };
    let waits_for = obstacles(status);
    let upgrade = UpgradeStatus {
        phase: phase(status, supported.filter(|_| all_known)),
        feature_level: status.feature_level,
        supported_level: supported.filter(|_| all_known),
        safe: waits_for.is_empty(),
        waits_for,
        behind: names(status.members.iter().filter(behind)),
        held_by: names(status.members.iter().filter(|member| member.holds_level)),
        next: String::new(),
    };
    UpgradeStatus {
        next: next(&upgrade),
        ..upgrade
    }
}

fn phase(status: &ClusterStatus, supported: Option<u32>) -> UpgradePhase {
    let mut versions = status
        .members
        .iter()
        .filter_map(|member| Some((member.feature_levels, &member.announced.as_ref()?.version)));
    let first = versions.next();
    if versions.any(|other| Some(other) != first) {
        UpgradePhase::Rolling
    } else if supported > status.feature_level {
        UpgradePhase::Raising
    } else {
        UpgradePhase::Finished
    }
}

/// Why no replica should be restarted now.
fn obstacles(status: &ClusterStatus) -> Vec<String> {
    let mut waits_for: Vec<String> = status
        .members
        .iter()
        .filter_map(|member| obstacle(status, member))
        .collect();
    if status.leader.is_none() {
        waits_for.push("there is no leader".to_owned());
    }
    if status.joint {
        waits_for.push("a change of the members is under way".to_owned());
    }
    let voters = status.members.iter().filter(|member| member.voter).count();
    if status.tolerated_failures == 0 && voters < 3 {
        waits_for.push(format!(
            "with {voters} voter{} nothing is taken while one restarts: clients wait, and go on then",
            if voters == 1 { "" } else { "s" }
        ));
    } else if status.tolerated_failures == 0 {
        waits_for.push("no voter more may be away, or nothing is taken".to_owned());
    }
    waits_for
}

fn obstacle(status: &ClusterStatus, member: &MemberStatus) -> Option<String> {
    let label = format!("replica {} ({})", member.id, member.name);
    if !member.reachable {
        return Some(format!("{label} does not answer"));
    }
    let Some(announced) = member.announced.as_ref().filter(|known| !known.dead) else {
        return Some(format!("{label} has started and does not serve yet"));
    };
    if announced.drained {
        return Some(format!(
            "{label} is drained: `cluster undrain {}` when the work on it is done",
            member.id
        ));
    }
    let applied = member.applied_index.unwrap_or(0);
    let lag = status.committed_index.saturating_sub(applied);
    (lag > CAUGHT_UP_ENTRIES).then(|| format!("{label} is {lag} entries behind"))
}

fn names<'a>(members: impl Iterator<Item = &'a MemberStatus>) -> Vec<String> {
    members.map(|member| member.name.clone()).collect()
}

fn next(upgrade: &UpgradeStatus) -> String {
    let level = |level: Option<u32>| level.map_or_else(|| "-".to_owned(), |at| at.to_string());
    let (active, supported) = (level(upgrade.feature_level), level(upgrade.supported_level));
    match upgrade.phase {
        UpgradePhase::Finished => {
            format!("all replicas run the same version at feature level {active}: nothing to do")
        }
        UpgradePhase::Rolling if !upgrade.safe => {
            "wait until it is safe to restart the next replica".to_owned()
        }
        UpgradePhase::Rolling if upgrade.behind.is_empty() => {
            "restart those with the older version next, one after the other".to_owned()
        }
        UpgradePhase::Rolling => format!(
            "restart with the new version next, one after the other: {}",
            upgrade.behind.join(", ")
        ),
        UpgradePhase::Raising if upgrade.held_by.is_empty() => format!(
            "the feature level rises from {active} to {supported} by itself within a minute or two; \
             until then a replica may go back to the version before"
        ),
        UpgradePhase::Raising => format!(
            "run `cluster upgrade finalize` to raise the feature level from {active} to {supported}; \
             until then a replica may go back to the version before ({} asked for this with \
             cluster.auto_upgrade)",
            upgrade.held_by.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::AnnouncedStatus;
    use super::*;

    fn member(id: u64, version: &str, max: u32) -> MemberStatus {
        MemberStatus {
            id,
            name: format!("r{id}"),
            voter: true,
            reachable: true,
            applied_index: Some(1000),
            feature_levels: Some(FeatureLevels { min: 1, max }),
            announced: Some(AnnouncedStatus {
                version: version.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn status(members: [MemberStatus; 3]) -> ClusterStatus {
        ClusterStatus {
            leader: Some(1),
            committed_index: 1000,
            quorum: true,
            tolerated_failures: 1,
            feature_level: Some(1),
            members: members.into(),
            ..Default::default()
        }
    }

    #[test]
    fn an_upgrade_goes_from_rolling_to_raising_to_finished() {
        let mut seen = status([member(1, "2", 2), member(2, "1", 1), member(3, "1", 1)]);
        let rolling = judge(&seen);
        assert_eq!((rolling.phase, rolling.safe), (UpgradePhase::Rolling, true));
        assert_eq!(
            (rolling.supported_level, &rolling.behind[..]),
            (Some(1), &["r2".to_owned(), "r3".to_owned()][..])
        );
        assert!(rolling.next.contains("r2, r3"), "{}", rolling.next);

        seen.members = [1, 2, 3].map(|id| member(id, "2", 2)).into();
        let raising = judge(&seen);
        assert_eq!(
            (raising.phase, raising.supported_level),
            (UpgradePhase::Raising, Some(2))
        );
        assert!(raising.next.contains("by itself"), "{}", raising.next);
        seen.members[2].holds_level = true;
        let held = judge(&seen);
        assert!(
            held.next.contains("upgrade finalize") && held.next.contains("r3"),
            "{}",
            held.next
        );

        seen.feature_level = Some(2);
        assert_eq!(judge(&seen).phase, UpgradePhase::Finished);
    }

    #[test]
    fn a_version_without_a_new_level_is_an_upgrade_too() {
        let seen = status([
            member(1, "1.1", 1),
            member(2, "1.0", 1),
            member(3, "1.0", 1),
        ]);
        let rolling = judge(&seen);
        assert_eq!(rolling.phase, UpgradePhase::Rolling);
        assert!(rolling.behind.is_empty());
    }

    #[test]
    fn what_stands_in_the_way_of_the_next_restart_is_named() {
        let usual = || status([1, 2, 3].map(|id| member(id, "1", 1)));
        assert_eq!(judge(&usual()).waits_for, [""; 0]);
        type Change = fn(&mut ClusterStatus);
        let cases: [(Change, &str); 8] = [
            (
                |s| s.members[1].reachable = false,
                "replica 2 (r2) does not answer",
            ),
            (|s| s.members[1].announced = None, "does not serve yet"),
            (
                |s| s.members[1].applied_index = Some(800),
                "200 entries behind",
            ),
            (
                |s| s.members[1].announced.as_mut().unwrap().drained = true,
                "cluster undrain 2",
            ),
            (|s| s.joint = true, "change of the members"),
            (|s| s.leader = None, "no leader"),
            (|s| s.tolerated_failures = 0, "no voter more"),
            (
                |s| {
                    s.tolerated_failures = 0;
                    s.members.truncate(1);
                },
                "with 1 voter nothing",
            ),
        ];
        for (change, reason) in cases {
            let mut seen = usual();
            change(&mut seen);
            let judged = judge(&seen);
            assert!(!judged.safe, "{reason}");
            assert!(
                judged.waits_for.iter().any(|text| text.contains(reason)),
                "{reason}: {judged:?}"
            );
        }
    }
}
