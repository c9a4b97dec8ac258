//! Makes a starting replica known: creates the tailnet when there is none, then records the
//! replica's incarnation and relay, and again whenever the cluster has come to think it dead or the
//! relay has exchanged its certificate.

use std::time::Duration;

use hydrascale_proto::state::v1::{self as pb, command::Op};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Cluster, ProposeError, Role};
use crate::types::ReplicaId;

/// Pause between attempts while the cluster has no leader.
const RETRY_AFTER: Duration = Duration::from_millis(200);

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

/// Starts the task that keeps this replica's record true; `cert_name` is what the map must pin for
/// its relay. It ends with the cluster handle's machine.
pub fn spawn_announcer(
    cluster: Cluster,
    mut announcement: Announcement,
    mut cert_name: watch::Receiver<Option<String>>,
    tasks: &mut JoinSet<()>,
) {
    tasks.spawn(async move {
        let mut changes = cluster.subscribe();
        loop {
            announcement.pin(cert_name.borrow_and_update().clone());
            if !is_known(&cluster, &announcement.up) {
                announce(&cluster, &announcement).await;
            }
            tokio::select! {
                received = changes.recv() => match received {
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                // Without a relay nothing renews the certificate.
                Ok(()) = cert_name.changed() => {}
            }
        }
    });
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

async fn announce(cluster: &Cluster, announcement: &Announcement) {
    while !is_known(cluster, &announcement.up) {
        if let Err(error) = attempt(cluster, announcement).await {
            tracing::debug!(%error, "replica not announced yet");
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
    tracing::info!(
        incarnation = announcement.up.incarnation,
        "replica announced"
    );
}

async fn attempt(cluster: &Cluster, announcement: &Announcement) -> Result<(), ProposeError> {
    if cluster.state().settings().is_none() {
        // Only the leader creates the tailnet, so that a joiner that has not caught up does not try.
        if cluster.status().role != Role::Leader {
            return Err(ProposeError::Unavailable {
                reason: "there is no tailnet yet".to_owned(),
            });
        }
        match cluster
            .propose(Op::InitTailnet(announcement.init.clone()))
            .await
        {
            Ok(_) => tracing::info!("tailnet created"),
            // Somebody else was first; that tailnet is as good.
            Err(ProposeError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
    }
    cluster
        .propose(Op::ReplicaUp(announcement.up.clone()))
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
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

    #[tokio::test]
    async fn a_renewed_relay_certificate_is_announced() {
        let settings = pb::Settings {
            ipv4_prefix: "100.64.0.0/10".to_owned(),
            ephemeral_inactivity_ms: 120_000,
            login_ttl_ms: 900_000,
            ..pb::Settings::default()
        };
        let init = pb::InitTailnet {
            settings: Some(settings),
            noise_private_key: vec![1; 32].into(),
            secret_pepper: vec![2; 32].into(),
        };
        let now = Timestamp::from_unix_ms(1_800_000_000_000);
        let (cluster, _log) = Cluster::local(init.clone(), now).await.unwrap();
        let up = pb::ReplicaUp {
            replica_id: 1,
            incarnation: 1,
            level_min: 1,
            level_max: 1,
            relay: Some(pb::Relay {
                hostname: "relay.example".to_owned(),
                derp_port: 8443,
                public_key: vec![9; 32].into(),
                ..pb::Relay::default()
            }),
            ..pb::ReplicaUp::default()
        };
        let (renew, cert_name) = watch::channel(Some("sha256-raw:old".to_owned()));
        let mut tasks = JoinSet::new();
        let announcement = Announcement { init, up };
        spawn_announcer(cluster.clone(), announcement, cert_name, &mut tasks);
        wait_for_pin(&cluster, "sha256-raw:old").await;
        renew.send_replace(Some("sha256-raw:new".to_owned()));
        wait_for_pin(&cluster, "sha256-raw:new").await;
    }
}
