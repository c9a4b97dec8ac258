//! The replica's relay: built from the configuration, admitted by the node table, and cleared of
//! nodes that were removed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hydrascale_proto::state::v1 as pb;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::ServeError;
use super::clock::now;
use crate::cluster::{Cluster, What};
use crate::config::{Config, DerpConfig, RelayCertificate};
use crate::derp::{
    Admission, BootstrapDns, CertificateSource, DenyReason, OpenAdmission, RelayConfig,
    RelayHandle, RelayListener, RelayPrivateKey, RelayServer, RelayTls, Verdict,
};
use crate::state::State;
use crate::types::{NodeKey, Timestamp};

/// A client waits 10 s for its whole handshake; the node may have registered elsewhere a moment ago.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(2);
/// Keys also expire while no leader announces it.
const EVICT_EVERY: Duration = Duration::from_secs(10);

/// A drained relay answers STUN for so long: clients that are told its new score measure it a last
/// time, and find another home while they still have this one.
const QUIET_AFTER: Duration = Duration::from_secs(30);
/// Whoever has not left a drained relay by then is sent away, over this time.
const AWAY_AFTER: Duration = Duration::from_secs(60);
const AWAY_OVER: Duration = Duration::from_secs(5);
/// How often a relay looks whether it is drained.
const DRAINED_EVERY: Duration = Duration::from_millis(500);

/// Starts the relay on `listener`.
///
/// # Errors
/// Its key or certificate cannot be used.
pub(super) fn start(
    config: &Config,
    listener: RelayListener,
    cluster: &Cluster,
    bootstrap: Arc<dyn BootstrapDns>,
) -> Result<RelayServer, ServeError> {
    let derp = &config.derp;
    let key_path = derp.private_key_path.clone();
    let key_path = key_path.unwrap_or_else(|| config.cluster.data_dir.join("derp_private.key"));
    let key = RelayPrivateKey::load_or_create(&key_path)?;
    let tls = RelayTls::load(certificate_source(config), &key.public_hex(), now())?;
    let admission: Arc<dyn Admission> = if derp.verify_clients {
        Arc::new(NodeTable {
            cluster: cluster.clone(),
        })
    } else {
        Arc::new(OpenAdmission)
    };
    RelayServer::start(listener, RelayConfig::new(key, tls, admission, bootstrap)).map_err(
        |source| ServeError::Listen {
            what: "the relay",
            addr: derp.listen,
            source,
        },
    )
}

fn certificate_source(config: &Config) -> CertificateSource {
    match &config.derp.certificate {
        RelayCertificate::Files {
            cert_path,
            key_path,
        } => CertificateSource::Files {
            cert: cert_path.clone(),
            key: key_path.clone(),
        },
        RelayCertificate::SelfSigned => CertificateSource::SelfSigned {
            path: config.cluster.data_dir.join("derp_certificate.pem"),
            names: vec![public_host(config)],
        },
    }
}

/// What clients dial: the configured name, else a public address, else where replicas dial.
fn public_host(config: &Config) -> String {
    let derp = &config.derp;
    derp.public_host
        .clone()
        .or_else(|| derp.public_ipv4.map(|ip| ip.to_string()))
        .or_else(|| derp.public_ipv6.map(|ip| ip.to_string()))
        .unwrap_or_else(|| config.cluster.peer_advertise.host.clone())
}

/// What the replica tells the cluster about its relay.
pub(super) fn announcement(config: &Config, relay: &RelayHandle) -> pb::Relay {
    let derp = &config.derp;
    pb::Relay {
        wanted_region_id: derp.region_id.map_or(0, u32::from),
        region_code: derp.region_code.clone(),
        region_name: derp.region_name.clone(),
        hostname: public_host(config),
        ipv4: literal(derp, IpAddr::is_ipv4),
        ipv6: literal(derp, IpAddr::is_ipv6),
        derp_port: u32::from(derp.public_port),
        stun_port: i32::from(derp.stun_port),
        cert_name: relay.cert_name().borrow().clone().unwrap_or_default(),
        insecure_for_tests: derp.insecure_for_tests,
        can_port_80: false,
        public_key: relay.public_key().to_vec().into(),
    }
}

/// The literal address of one family. Where only the other family is given, this one is off: a name
/// may lead elsewhere in DNS.
fn literal(derp: &DerpConfig, of_family: fn(&IpAddr) -> bool) -> String {
    let given = [
        derp.public_ipv4.map(IpAddr::V4),
        derp.public_ipv6.map(IpAddr::V6),
    ];
    let mut given = given.into_iter().flatten().peekable();
    if given.peek().is_none() {
        return String::new();
    }
    given
        .find(of_family)
        .map_or_else(|| "none".to_owned(), |ip| ip.to_string())
}

/// Lets nodes of the tailnet in.
struct NodeTable {
    cluster: Cluster,
}

impl Admission for NodeTable {
    fn admit(&self, key: NodeKey, _source: IpAddr) -> BoxFuture<'_, Verdict> {
        async move {
            let verdict = look_up(&self.cluster.state(), &key, now());
            if verdict == Verdict::Allow {
                return verdict;
            }
            // The node may have come, or come back, through another replica a moment ago.
            match timeout(CATCH_UP_TIMEOUT, self.cluster.linearizable()).await {
                Ok(Ok(state)) => look_up(&state, &key, now()),
                Ok(Err(_)) | Err(_) => verdict,
            }
        }
        .boxed()
    }
}

fn look_up(state: &State, key: &NodeKey, now: Timestamp) -> Verdict {
    match state.node_by_node_key(key) {
        None => Verdict::Deny(DenyReason::UnknownNode),
        Some(node) if node.is_expired(state.present(now)) => Verdict::Deny(DenyReason::Expired),
        Some(_) => Verdict::Allow,
    }
}

/// Ends the relayed connections of nodes that are no longer in the table or whose key expires.
pub(super) fn spawn_evictor(cluster: Cluster, relay: RelayHandle, tasks: &mut JoinSet<()>) {
    tasks.spawn(async move {
        let mut changes = cluster.subscribe();
        let mut ticks = interval(EVICT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let received = tokio::select! {
                received = changes.recv() => received,
                _ = ticks.tick() => {
                    evict(&cluster.state(), &relay);
                    continue;
                }
            };
            match received {
                Ok(applied) => {
                    if matters(&applied.what) {
                        evict(&applied.state, &relay);
                    }
                }
                Err(RecvError::Lagged(_)) => evict(&cluster.state(), &relay),
                Err(RecvError::Closed) => return,
            }
        }
    });
}

/// Sends the relay's clients elsewhere while the replica is drained. The map tells them first, by the
/// region's score; here is what moves those who have not heard.
pub(super) fn spawn_drainer(cluster: Cluster, relay: RelayHandle, tasks: &mut JoinSet<()>) {
    tasks.spawn(async move {
        let mut ticks = interval(DRAINED_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut drained: Option<Drained> = None;
        loop {
            ticks.tick().await;
            match (cluster.is_drained(), drained) {
                (false, None) => {}
                (false, Some(_)) => {
                    relay.set_quiet(false);
                    drained = None;
                }
                (true, None) => drained = Some(Drained::new(Instant::now())),
                (true, Some(now)) => drained = Some(now.step(&relay).await),
            }
        }
    });
}

/// How far a relay is in losing its clients.
#[derive(Clone, Copy)]
struct Drained {
    since: Instant,
    quiet: bool,
    sent_away: bool,
}

impl Drained {
    const fn new(since: Instant) -> Self {
        Self {
            since,
            quiet: false,
            sent_away: false,
        }
    }

    async fn step(mut self, relay: &RelayHandle) -> Self {
        if !self.quiet && self.since.elapsed() >= QUIET_AFTER {
            relay.set_quiet(true);
            self.quiet = true;
        }
        if !self.sent_away && self.since.elapsed() >= AWAY_AFTER {
            relay.send_away(AWAY_OVER).await;
            self.sent_away = true;
        }
        self
    }
}

/// Whether a change can have ended a node's right to be relayed.
fn matters(what: &What) -> bool {
    match what {
        What::Reset => true,
        What::Change(change) => {
            !change.retired_node_keys.is_empty()
                || change
                    .nodes
                    .values()
                    .any(|node| node.removed || node.expiry)
        }
    }
}

fn evict(state: &State, relay: &RelayHandle) {
    let now = now();
    relay.close_where(|key| look_up(state, key, now) != Verdict::Allow);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netmap::testing::World;

    #[test]
    fn a_node_whose_expiry_was_announced_loses_its_relay_on_a_clock_that_is_behind() {
        let mut world = World::new();
        let node = world.register(1, 11, "alice").unwrap();
        let key = world.state.node(node).unwrap().node_key;
        world.expire(node, Some(1000));
        world.pass(1000);
        let behind = world.now.saturating_sub(Duration::from_millis(50));
        let verdict = look_up(&world.state, &key, behind);
        assert_eq!(verdict, Verdict::Deny(DenyReason::Expired));
    }

    #[test]
    fn a_node_whose_expiry_nobody_announced_loses_its_relay_by_the_local_clock() {
        let mut world = World::new();
        let node = world.register(1, 11, "alice").unwrap();
        let key = world.state.node(node).unwrap().node_key;
        world.expire(node, Some(1000));
        let later = world.now.saturating_add(Duration::from_millis(1000));
        assert_eq!(look_up(&world.state, &key, world.now), Verdict::Allow);
        let verdict = look_up(&world.state, &key, later);
        assert_eq!(verdict, Verdict::Deny(DenyReason::Expired));
    }
}
