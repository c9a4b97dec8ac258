//! What is done to a simulated cluster.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::cluster::{Cluster, Keep};
use super::process::Running;
use super::secrets::rotate;
use super::{DISK, chance, choose, millis, note, random, with};
use crate::ReplicaId;

/// How often what was done; crashes by replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Done {
    pub(super) crashes: u64,
    pub(super) partitions: u64,
    pub(super) rotations: u64,
    pub(super) other: u64,
}

/// Does one thing after the other for as long as told, and undoes everything.
pub(super) async fn torment(cluster: &Arc<Cluster>, time: Duration) -> Done {
    let mut done = Done::default();
    let (votes, mut voted) = mpsc::channel(64);
    with(|world| world.voted = Some(votes));
    let until = tokio::time::Instant::now() + time;
    leave_behind(cluster).await;
    while tokio::time::Instant::now() < until {
        let fault = random(0..15);
        note(&[4, fault]);
        match fault {
            0..=3 => crash(cluster).await,
            4 | 5 => crash_voters(cluster, &mut voted).await,
            6..=8 => done.partitions += u64::from(part(cluster).await),
            9 => {
                slow(cluster).await;
                done.other += 1;
            }
            10 => {
                transfer(cluster).await;
                done.other += 1;
            }
            11 => {
                change_members(cluster).await;
                done.other += 1;
            }
            12 => {
                if let Some(asked) = choose(&cluster.ids()) {
                    let rotating =
                        cluster.ask(asked, |one| async move { rotate(&one.replica).await });
                    done.rotations += u64::from(rotating.await.is_some());
                }
            }
            _ => leave_behind(cluster).await,
        }
        sleep(millis(0..600)).await;
    }
    with(|world| world.voted = None);
    heal(cluster).await;
    done.crashes = cluster.crashes();
    done
}

/// Ends all that was done.
async fn heal(cluster: &Arc<Cluster>) {
    cluster.hub.heal();
    with(|world| world.disk = DISK);
    for id in cluster.down() {
        cluster.boot(id).await;
    }
}

/// Crashes one replica, the leader, most of them, or all at once.
async fn crash(cluster: &Arc<Cluster>) {
    let mut victims = shuffled(&cluster.ids());
    match random(0..4) {
        0 => victims = cluster.leader().into_iter().collect(),
        1 => victims.truncate(1),
        2 => victims.truncate(victims.len() / 2 + 1),
        _ => {}
    }
    for id in &victims {
        cluster.crash(*id, Keep::draw());
    }
    for id in victims {
        sleep(millis(0..400)).await;
        if chance(20) {
            // Once more while it starts.
            cluster.start(id);
            sleep(millis(1..10)).await;
            cluster.crash(id, Keep::draw());
        }
        cluster.boot(id).await;
    }
}

/// Leaves a replica down until the others have purged what it lacks.
async fn leave_behind(cluster: &Arc<Cluster>) {
    let Some(id) = choose(&cluster.ids()) else {
        return;
    };
    cluster.crash(id, Keep::draw());
    sleep(millis(500..3_000)).await;
    cluster.boot(id).await;
    sleep(millis(0..500)).await;
}

/// Takes the leader away and crashes those that vote right after their vote, to be back at once.
async fn crash_voters(cluster: &Arc<Cluster>, voted: &mut mpsc::Receiver<u64>) {
    while voted.try_recv().is_ok() {}
    cluster.hub.cut_off(cluster.leader(), &cluster.ids());
    for id in cluster.ids() {
        cluster.hub.slow(id, Duration::from_millis(200));
    }
    let crashing = async {
        let mut left = random(1..5);
        while left > 0 {
            let Some(id) = voted.recv().await else { return };
            if chance(50) {
                continue;
            }
            left -= 1;
            sleep(Duration::from_micros(random(0..4_000))).await;
            cluster.crash(id, Keep::Nothing);
            // A start goes on when the time for crashes is over.
            let cluster = Arc::clone(cluster);
            let booting = tokio::spawn(async move { cluster.boot(id).await });
            booting.await.expect("a start does not panic");
        }
    };
    // An election that does not come about is none.
    let _ = tokio::time::timeout(Duration::from_secs(3), crashing).await;
    heal(cluster).await;
}

/// Cuts links for a while; false if there was nothing to cut.
async fn part(cluster: &Arc<Cluster>) -> bool {
    let ids = shuffled(&cluster.ids());
    let (one, others) = ids
        .split_first()
        .map_or((0, &[][..]), |(one, rest)| (*one, rest));
    let hub = &cluster.hub;
    match random(0..5) {
        // The leader alone.
        0 | 1 => hub.cut_off(cluster.leader(), &ids),
        // One is deaf, or mute.
        2 if chance(50) => others.iter().for_each(|other| hub.cut(*other, one)),
        2 => others.iter().for_each(|other| hub.cut(one, *other)),
        // Halves, with a bridge between them.
        3 => {
            let (left, right) = others.split_at(others.len() / 2);
            for (left, right) in left
                .iter()
                .flat_map(|l| right.iter().map(move |r| (*l, *r)))
            {
                hub.cut(left, right);
                hub.cut(right, left);
            }
        }
        _ => hub.cut_off(Some(one), &ids),
    }
    let is_cut = !hub.is_whole();
    sleep(millis(300..3_000)).await;
    if chance(50) {
        hub.reset(one);
    }
    if chance(25) {
        hub.heal_with_losses();
    } else {
        hub.heal();
    }
    is_cut
}

/// Slow links, slow disks, broken connections.
async fn slow(cluster: &Arc<Cluster>) {
    let slowest = millis(10..400);
    if chance(50) {
        with(|world| world.disk = slowest);
    }
    if let Some(id) = choose(&cluster.ids()) {
        cluster.hub.slow(id, slowest);
        sleep(millis(300..2_000)).await;
        cluster.hub.reset(id);
    }
    cluster.hub.heal();
    with(|world| world.disk = DISK);
}

async fn transfer(cluster: &Arc<Cluster>) {
    let Some(leader) = cluster.leader() else {
        return;
    };
    let to = choose(&cluster.ids()).filter(|_| chance(70)).map(ReplicaId);
    // Refused or not: the cluster must bear it.
    let asked =
        move |one: Running| async move { one.replica.transfer_leadership(to, &[]).await.is_ok() };
    cluster.ask(leader, asked).await;
}

/// Takes votes away and gives them back.
async fn change_members(cluster: &Arc<Cluster>) {
    let ids = shuffled(&cluster.ids());
    let (Some(asked), Some(changed)) = (ids.first(), ids.last()) else {
        return;
    };
    let changed = ReplicaId(*changed);
    for voting in [false, true] {
        // Refused or not: the cluster must bear it.
        let change = move |one: Running| async move {
            one.replica.set_voting(changed, voting, None).await.is_ok()
        };
        cluster.ask(*asked, change).await;
        sleep(millis(0..1_000)).await;
    }
}

fn shuffled(ids: &[u64]) -> Vec<u64> {
    let mut ids = ids.to_vec();
    for place in (1..ids.len()).rev() {
        let other = usize::try_from(random(0..place as u64 + 1)).unwrap_or(0);
        ids.swap(place, other);
    }
    ids
}
