//! Makes a starting replica known: creates the tailnet when there is none, then records the
//! replica's incarnation and relay, and again whenever the cluster has come to think it dead or the
//! relay has exchanged its certificate. Once after each start it makes the tailnet's settings those
//! of the replica's configuration.

use std::time::Duration;

use hydrascale_proto::state::v1::{self as pb, command::Op};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::{Cluster, ProposeError, Role};
use crate::types::ReplicaId;

/// First pause between attempts, doubled each time: an election may be about to end.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// The longest pause: a replica that nobody knows serves nobody.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3);

/// What a replica says of itself.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// Creates the tailnet, should there be none yet.
    pub init: pb::InitTailnet,
    /// Name, version, feature levels and relay of this replica.
    pub up: pb::ReplicaUp,
}

impl Announcement {
    /// With the pin of the relay's present certificate.
    fn pin(&mut self, cert_name: Option<String>) {
        if let Some(relay) = &mut self.up.relay {
            relay.cert_name = cert_name.unwrap_or_default();
        }
    }
}

/// The cluster does not want this replica: it must end, and say why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cluster refused {what}: {reason}")]
pub struct Unwelcome {
    /// What the replica asked for.
    what: &'static str,
    /// What the cluster said.
    reason: String,
}

/// Starts the task that keeps this replica's record true; `cert_name` is what the map must pin for
/// its relay. It ends with the cluster handle's machine, or when the cluster refuses the replica,
/// which the answer then tells.
pub fn spawn_announcer(
    cluster: Cluster,
    announcement: Announcement,
    cert_name: watch::Receiver<Option<String>>,
    tasks: &mut JoinSet<()>,
) -> oneshot::Receiver<Unwelcome> {
    let (unwelcome, answer) = oneshot::channel();
    tasks.spawn(async move {
        if let Err(error) = keep_announced(&cluster, announcement, cert_name).await {
            tracing::error!(%error, "replica is not welcome and ends");
            // The server may be ending already.
            let _ = unwelcome.send(error);
        }
    });
    answer
}

async fn keep_announced(
    cluster: &Cluster,
    mut announcement: Announcement,
    mut cert_name: watch::Receiver<Option<String>>,
) -> Result<(), Unwelcome> {
    let mut changes = cluster.subscribe();
    let mut settings_due = true;
    loop {
        announcement.pin(cert_name.borrow_and_update().clone());
        announce(cluster, &announcement, &mut settings_due).await?;
        tokio::select! {
            received = changes.recv() => match received {
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
            // Without a relay nothing renews the certificate.
            Ok(()) = cert_name.changed() => {}
        }
    }
}

/// Whether the newest state has this incarnation as alive, and its relay's certificate.
fn is_known(cluster: &Cluster, up: &pb::ReplicaUp) -> bool {
    let state = cluster.state();
    let Some(replica) = state.replica(ReplicaId(up.replica_id)) else {
        return false;
    };
    let pin = replica.relay.as_ref().map(|relay| &relay.cert_name);
    replica.incarnation == up.incarnation
        && replica.down_since.is_none()
        && pin == up.relay.as_ref().map(|relay| &relay.cert_name)
}

/// Announces the replica unless it is known and, once after a start, the settings of its
/// configuration.
async fn announce(
    cluster: &Cluster,
    announcement: &Announcement,
    settings_due: &mut bool,
) -> Result<(), Unwelcome> {
    let mut pause = RETRY_AFTER;
    while *settings_due || !is_known(cluster, &announcement.up) {
        match attempt(cluster, announcement, settings_due).await {
            Ok(()) => {}
            Err(Failure::Unwelcome(unwelcome)) => return Err(unwelcome),
            Err(Failure::Later(error)) => {
                tracing::debug!(%error, "replica not announced yet");
                tokio::time::sleep(pause).await;
                pause = RETRY_AFTER_MAX.min(pause * 2);
            }
        }
    }
    Ok(())
}

enum Failure {
    Unwelcome(Unwelcome),
    Later(ProposeError),
}

impl Failure {
    fn of(what: &'static str, error: ProposeError) -> Self {
        match error {
            ProposeError::Refused(refusal) => Self::Unwelcome(Unwelcome {
                what,
                reason: refusal.message,
            }),
            ProposeError::Unavailable { .. } | ProposeError::Unknown { .. } => Self::Later(error),
        }
    }
}

async fn attempt(
    cluster: &Cluster,
    announcement: &Announcement,
    settings_due: &mut bool,
) -> Result<(), Failure> {
    if cluster.state().settings().is_none() {
        create_tailnet(cluster, &announcement.init).await?;
    }
    if !is_known(cluster, &announcement.up) {
        let up = Op::ReplicaUp(announcement.up.clone());
        let proposed = cluster.propose(up).await;
        proposed.map_err(|error| Failure::of("this replica", error))?;
        tracing::info!(
            incarnation = announcement.up.incarnation,
            "replica announced"
        );
    }
    if *settings_due {
        // The announcement is applied here, so that these are not settings of long ago.
        propose_settings(cluster, &announcement.init).await?;
        *settings_due = false;
    }
    Ok(())
}

async fn create_tailnet(cluster: &Cluster, init: &pb::InitTailnet) -> Result<(), Failure> {
    // Only the leader creates the tailnet, so that a joiner that has not caught up does not try.
    if cluster.status().role != Role::Leader {
        return Err(Failure::Later(ProposeError::Unavailable {
            reason: "there is no tailnet yet".to_owned(),
        }));
    }
    match cluster.propose(Op::InitTailnet(init.clone())).await {
        Ok(_) => {
            tracing::info!("tailnet created");
            Ok(())
        }
        // Somebody else was first; that tailnet is as good.
        Err(ProposeError::Refused(refusal)) if refusal.code() == pb::RefusalCode::AlreadyExists => {
            Ok(())
        }
        Err(error) => Err(Failure::of("the settings of a new tailnet", error)),
    }
}

/// Makes the tailnet's settings those of this replica's configuration, where they differ.
async fn propose_settings(cluster: &Cluster, init: &pb::InitTailnet) -> Result<(), Failure> {
    let committed = cluster.state().settings().map(pb::Settings::from);
    if committed == init.settings {
        return Ok(());
    }
    let op = Op::UpdateSettings(pb::UpdateSettings {
        settings: init.settings.clone(),
    });
    let proposed = cluster.propose(op).await;
    proposed.map_err(|error| Failure::of("the settings of this replica's configuration", error))?;
    tracing::warn!(
        "the tailnet's settings differed from this replica's configuration and are now the latter: \
         give every replica the same"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::plain_tailnet;
    use crate::types::Timestamp;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// What the map of relays pins.
    fn pins(cluster: &Cluster) -> Vec<String> {
        let regions = cluster.state().derp_map().regions.unwrap_or_default();
        let nodes = regions.into_values().flat_map(|region| region.nodes);
        nodes.map(|node| node.cert_name).collect()
    }

    async fn wait_for_pin(cluster: &Cluster, pin: &str) {
        let mut changes = cluster.subscribe();
        let wait = async {
            while pins(cluster) != [pin] {
                changes.recv().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{:?} instead of {pin}", pins(cluster));
    }

    fn up(incarnation: u64) -> pb::ReplicaUp {
        pb::ReplicaUp {
            replica_id: 2,
            incarnation,
            level_min: 1,
            level_max: 1,
            ..pb::ReplicaUp::default()
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_unix_ms(1_800_000_000_000)
    }

    fn announce_in(
        cluster: &Cluster,
        announcement: Announcement,
        tasks: &mut JoinSet<()>,
    ) -> oneshot::Receiver<Unwelcome> {
        spawn_announcer(cluster.clone(), announcement, watch::channel(None).1, tasks)
    }

    #[tokio::test]
    async fn an_old_copy_of_a_data_folder_ends_the_replica_and_says_why() {
        let (cluster, _log) = Cluster::local(plain_tailnet(), now()).await.unwrap();
        cluster.propose(Op::ReplicaUp(up(7))).await.unwrap();
        let mut tasks = JoinSet::new();
        let announcement = Announcement {
            init: plain_tailnet(),
            up: up(6),
        };
        let answer = announce_in(&cluster, announcement, &mut tasks);
        let told = tokio::time::timeout(PATIENCE, answer).await.unwrap();
        let text = told.unwrap().to_string();
        assert!(text.contains("is an old copy"), "{text}");
        tasks.join_next().await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_finds_no_leader_goes_on_trying_ever_less_often() {
        let (cluster, log) = Cluster::local(plain_tailnet(), now()).await.unwrap();
        log.set_available(false);
        let mut tasks = JoinSet::new();
        let announcement = Announcement {
            init: plain_tailnet(),
            up: up(1),
        };
        let _answer = announce_in(&cluster, announcement, &mut tasks);
        tokio::time::sleep(Duration::from_secs(60)).await;
        log.set_available(true);
        assert!(cluster.state().replica(ReplicaId(2)).is_none());
        tokio::time::sleep(RETRY_AFTER_MAX + RETRY_AFTER).await;
        assert!(cluster.state().replica(ReplicaId(2)).is_some());
    }

    #[tokio::test]
    async fn a_restart_with_another_configuration_changes_the_settings() {
        let (cluster, _log) = Cluster::local(plain_tailnet(), now()).await.unwrap();
        let mut tasks = JoinSet::new();
        let mut dual = plain_tailnet();
        if let Some(settings) = &mut dual.settings {
            settings.ipv6_prefix = "fd7a:115c:a1e0::/48".to_owned();
        }
        let mut changes = cluster.subscribe();
        let announcement = Announcement {
            init: dual.clone(),
            up: up(1),
        };
        let _answer = announce_in(&cluster, announcement, &mut tasks);
        let committed = || cluster.state().settings().map(pb::Settings::from);
        let changed = async {
            while committed() != dual.settings {
                changes.recv().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(PATIENCE, changed).await;
        assert!(waited.is_ok(), "{:?}", committed());
    }

    #[tokio::test]
    async fn a_renewed_relay_certificate_is_announced() {
        let (cluster, _log) = Cluster::local(plain_tailnet(), now()).await.unwrap();
        let up = pb::ReplicaUp {
            relay: Some(pb::Relay {
                hostname: "relay.example".to_owned(),
                derp_port: 8443,
                public_key: vec![9; 32].into(),
                ..pb::Relay::default()
            }),
            ..up(1)
        };
        let (renew, cert_name) = watch::channel(Some("sha256-raw:old".to_owned()));
        let mut tasks = JoinSet::new();
        let announcement = Announcement {
            init: plain_tailnet(),
            up,
        };
        let _answer = spawn_announcer(cluster.clone(), announcement, cert_name, &mut tasks);
        wait_for_pin(&cluster, "sha256-raw:old").await;
        renew.send_replace(Some("sha256-raw:new".to_owned()));
        wait_for_pin(&cluster, "sha256-raw:new").await;
    }
}
