//! What an operator wants to know of the cluster: consensus, joined with what the replicas have
//! announced.

use hydrascale_raft::KeyId;

use super::stopping::homes;
use super::{AnnouncedStatus, ClusterStatus, FeatureLevels, MemberStatus, upgrade};
use crate::state::State;
use crate::types::ReplicaId;

/// Adds to `status` what the replicas have announced, and says what should be looked into.
pub(super) fn report(mut status: ClusterStatus, state: &State) -> ClusterStatus {
    for member in &mut status.members {
        let id = ReplicaId(member.id);
        member.announced = announced(state, id);
        // What it supported when it last started, where this replica has not heard since.
        let levels = || {
            let (min, max) = state.replica(id)?.levels;
            Some(FeatureLevels { min, max })
        };
        member.feature_levels = member.feature_levels.or_else(levels);
    }
    status.upgrade = upgrade::judge(&status);
    status.warnings = [
        differing(&status.members, "configuration digest", |announced| {
            &announced.config_digest
        })
        .map(|text| {
            format!(
                "{text}: make server_url, prefixes, dns, derp.server.verify_clients and the other \
                 settings of the tailnet equal on all replicas, and restart those that you changed"
            )
        }),
        differing(&status.members, "version", |announced| &announced.version).map(|text| {
            format!(
                "{text}: fine during an upgrade, to be finished soon (`cluster upgrade status`)"
            )
        }),
    ]
    .into_iter()
    .flatten()
    .chain(status.members.iter().filter_map(dead))
    .chain(seal(&status, state))
    .collect();
    status
}

/// What to do when the secrets are not sealed as the key files say.
fn seal(status: &ClusterStatus, state: &State) -> Option<String> {
    const ROTATE: &str = "run `cluster rotate-sealing-key`";
    let noise_key = state.noise_private_key().map(KeyId::sealing);
    let noise_key = noise_key.map(|key| key.map(|id| id.to_string()));
    if noise_key.is_some_and(|key| key != status.sealing_key) {
        return Some(format!(
            "the sealing key has changed for some of the secrets only: {ROTATE}"
        ));
    }
    let mut files = status.members.iter();
    let told = |member: &MemberStatus| member.sealing_keys.clone().unwrap_or_default();
    let first = told(files.next()?);
    if files.any(|member| member.sealing_keys.is_some() && told(member) != first) {
        return Some(
            "replicas hold different sealing keys: give all the same file (cluster.sealing_key_file) \
             and send them SIGHUP"
                .to_owned(),
        );
    }
    let wanted = first.first()?;
    match &status.sealing_key {
        Some(key) if key == wanted => None,
        Some(key) => Some(format!(
            "the secrets are sealed under key {key}, the key files begin with {wanted}: {ROTATE}"
        )),
        None => Some(format!(
            "the secrets are not sealed though there are key files: {ROTATE}"
        )),
    }
}

/// What to do about a member that counts as dead.
fn dead(member: &MemberStatus) -> Option<String> {
    let announced = member.announced.as_ref()?;
    let MemberStatus { id, name, .. } = member;
    announced.dead.then(|| {
        format!(
            "replica {id} ({name}) counts as dead: start it again, or let a new one take its place \
             with `cluster replace {id}`"
        )
    })
}

fn announced(state: &State, id: ReplicaId) -> Option<AnnouncedStatus> {
    let replica = state.replica(id)?;
    let streams = state
        .sessions()
        .filter(|session| session.replica == id && session.incarnation == replica.incarnation)
        .filter(|session| session.closed_at.is_none())
        .count();
    Some(AnnouncedStatus {
        version: replica.version.clone(),
        config_digest: replica.config_digest.clone(),
        region_id: replica.region_id,
        streams,
        homes: replica.region_id.map_or(0, |region| homes(state, region)),
        drained: replica.drained_since.is_some(),
        dead: replica.down_since.is_some(),
    })
}

/// Who has what, when not all have the same.
fn differing(
    members: &[MemberStatus],
    what: &str,
    value: fn(&AnnouncedStatus) -> &String,
) -> Option<String> {
    let told: Vec<(&MemberStatus, &String)> = members
        .iter()
        .filter_map(|member| Some((member, value(member.announced.as_ref()?))))
        .collect();
    let (_, first) = told.first()?;
    if told.iter().all(|(_, value)| value == first) {
        return None;
    }
    let each: Vec<String> = told
        .iter()
        .map(|(member, value)| format!("{} has {value}", member.name))
        .collect();
    Some(format!(
        "replicas differ in their {what} ({})",
        each.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use hydrascale_proto::state::v1::{self as pb, command::Op};

    use super::super::{Cluster, plain_tailnet};
    use super::*;
    use crate::types::Timestamp;

    fn status() -> ClusterStatus {
        let member = |id: u64| MemberStatus {
            id,
            name: format!("r{id}"),
            ..Default::default()
        };
        ClusterStatus {
            members: vec![member(1), member(2), member(3)],
            ..Default::default()
        }
    }

    fn up(replica_id: u64, config_digest: &str) -> Op {
        Op::ReplicaUp(pb::ReplicaUp {
            replica_id,
            incarnation: 1,
            name: format!("r{replica_id}"),
            version: "0.1.0".to_owned(),
            level_min: 1,
            level_max: 1,
            config_digest: config_digest.to_owned(),
            relay: None,
        })
    }

    #[tokio::test]
    async fn replicas_with_another_configuration_are_named() {
        let (cluster, _control) = Cluster::local(plain_tailnet(), Timestamp::default())
            .await
            .unwrap();
        cluster.propose(up(2, "one")).await.unwrap();
        cluster.propose(up(3, "one")).await.unwrap();
        cluster.propose(up(1, "one")).await.unwrap();
        assert_eq!(report(status(), &cluster.state()).warnings, [""; 0]);

        cluster.propose(up(2, "two")).await.unwrap();
        let seen = report(status(), &cluster.state());
        let [warning] = &seen.warnings[..] else {
            panic!("{:?}", seen.warnings);
        };
        assert!(
            warning.contains("(r1 has one, r2 has two, r3 has one)"),
            "{warning}"
        );
    }

    #[tokio::test]
    async fn a_seal_that_is_not_what_the_files_say_is_named() {
        let (cluster, _control) = Cluster::local(plain_tailnet(), Timestamp::default())
            .await
            .unwrap();
        let warning = |in_use: Option<&str>, files: [&[&str]; 3]| {
            let mut status = status();
            status.sealing_key = in_use.map(str::to_owned);
            for (member, keys) in status.members.iter_mut().zip(files) {
                member.sealing_keys = Some(keys.iter().map(ToString::to_string).collect());
            }
            let warnings = report(status, &cluster.state()).warnings;
            warnings.first().cloned().unwrap_or_default()
        };
        assert_eq!(warning(None, [&[], &[], &[]]), "");
        let unsealed = warning(None, [&["a"], &["a"], &["a"]]);
        assert!(unsealed.contains("not sealed"), "{unsealed}");
        let different = warning(None, [&["a"], &["b", "a"], &["a"]]);
        assert!(different.contains("different sealing keys"), "{different}");
        // The Noise key of this tailnet is not sealed.
        let torn = warning(Some("a"), [&["a"], &["a"], &["a"]]);
        assert!(torn.contains("some of the secrets"), "{torn}");
    }

    #[tokio::test]
    async fn a_dead_replica_is_named_with_what_to_do() {
        let (cluster, _control) = Cluster::local(plain_tailnet(), Timestamp::default())
            .await
            .unwrap();
        cluster.propose(up(2, "")).await.unwrap();
        let down = pb::ReplicaDown {
            replica_id: 2,
            incarnation: 1,
            ..Default::default()
        };
        cluster.propose(Op::ReplicaDown(down)).await.unwrap();
        let seen = report(status(), &cluster.state());
        let dead = seen
            .warnings
            .iter()
            .find(|text| text.contains("counts as dead"));
        let dead = dead.map(String::as_str).unwrap_or_default();
        assert!(dead.contains("`cluster replace 2`"), "{:?}", seen.warnings);
    }
}
