//! The network between simulated replicas: turmoil's TCP, below the HTTP/2 that replicas speak to
//! each other. It delays what is sent, holds it back while a link is cut, or loses it. A request to
//! connect goes the same way; its answer is there at once, also over a link that is cut.
//!
//! TLS is left out: its keys are drawn where no seed reaches. Who calls is known by the address.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::Uri;
use tower::service_fn;
use turmoil::net::{TcpListener, TcpStream};
use turmoil::{Sim, hold, partition, release, repair};

use super::wire::Wire;
use super::{chance, note};
use crate::network::{Connections, Lane, PeerChannel, PeerInfo, Reach, channel};
use crate::timing::{MULTIPLIERS, Timing};
use crate::tls::PeerName;

/// All links between replicas.
#[derive(Clone, Default)]
pub(crate) struct Hub(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Replicas by the addresses of their machines.
    machines: BTreeMap<IpAddr, u64>,
    /// From whom to whom nothing passes.
    cut: BTreeSet<(u64, u64)>,
    /// Longest delay of what goes to and from a replica, where it is not the usual one.
    slow: BTreeMap<u64, Duration>,
    /// Whether delays have changed since turmoil was told.
    is_changed: bool,
    /// How often links have lost something.
    losses: u64,
    /// What breaks the connections between two replicas, the smaller first, when it is cancelled.
    resets: BTreeMap<(u64, u64), CancellationToken>,
}

impl Hub {
    /// Learns which machine a replica runs on.
    pub(super) fn list(&self, replica: u64, machine: IpAddr) {
        self.0.lock().machines.insert(machine, replica);
    }

    /// Lets nothing pass from one replica to another: it waits, as TCP would send it again.
    pub(super) fn cut(&self, from: u64, to: u64) {
        if self.0.lock().cut.insert((from, to)) {
            hold(host_name(from), host_name(to));
        }
    }

    /// Parts a replica from all others.
    pub(super) fn cut_off(&self, replica: Option<u64>, all: &[u64]) {
        let Some(replica) = replica else { return };
        for other in all.iter().filter(|other| **other != replica) {
            self.cut(replica, *other);
            self.cut(*other, replica);
        }
    }

    /// Delays whatever a replica sends or is sent, by this at most.
    pub(super) fn slow(&self, replica: u64, by: Duration) {
        let mut state = self.0.lock();
        state.slow.insert(replica, by);
        state.is_changed = true;
    }

    /// Ends cuts and delays; what was held back arrives.
    pub(super) fn heal(&self) {
        for (one, two) in self.end_cuts() {
            release(host_name(one), host_name(two));
        }
    }

    /// As [`Self::heal`], but what is under way on links that were cut is lost, and each connection that
    /// lacks it is silent from then on.
    pub(super) fn heal_with_losses(&self) {
        self.0.lock().losses += 1;
        for (one, two) in self.end_cuts() {
            partition(host_name(one), host_name(two));
            repair(host_name(one), host_name(two));
        }
    }

    fn end_cuts(&self) -> BTreeSet<(u64, u64)> {
        let mut state = self.0.lock();
        state.is_changed |= !state.slow.is_empty();
        state.slow.clear();
        let cut = std::mem::take(&mut state.cut);
        cut.into_iter()
            .map(|(from, to)| (from.min(to), from.max(to)))
            .collect()
    }

    /// Whether nothing is cut.
    pub(super) fn is_whole(&self) -> bool {
        self.0.lock().cut.is_empty()
    }

    /// Breaks all connections of a replica.
    pub(super) fn reset(&self, replica: u64) {
        self.0.lock().resets.retain(|(one, two), reset| {
            let ends = *one == replica || *two == replica;
            if ends {
                reset.cancel();
            }
            !ends
        });
    }

    /// Ends what runs on a replica's machine, of which nobody hears: also what it has under way is lost.
    pub(super) fn power_off(&self, sim: &mut Sim<'_>, replica: u64) {
        let (own, others) = {
            let mut state = self.0.lock();
            state.losses += 1;
            (host_name(replica), state.others(replica))
        };
        for (other, _) in &others {
            sim.partition_oneway(&*own, host_name(*other));
        }
        sim.crash(&*own);
        for (other, is_cut) in others {
            sim.repair_oneway(&*own, host_name(other));
            if is_cut {
                sim.hold(&*own, host_name(other));
            }
        }
    }

    /// Does between two steps what turmoil allows then only: links cut one way let the other pass,
    /// and delays are set.
    pub(super) fn step(&self, sim: &Sim<'_>) {
        let mut state = self.0.lock();
        if !state.cut.is_empty() {
            sim.links(|links| {
                let held = links.flatten().filter(|sent| {
                    let (from, to) = sent.pair();
                    let ends = state.replica(from.ip()).zip(state.replica(to.ip()));
                    // As usual, some of it takes longer.
                    ends.is_some_and(|(from, to)| state.is_one_way(from, to)) && chance(50)
                });
                held.for_each(turmoil::SentRef::deliver);
            });
        }
        if std::mem::take(&mut state.is_changed) {
            state.set_delays(sim);
        }
    }

    /// Connects one replica to another, with the patience of real ones.
    async fn connect(&self, from: u64, to: u64) -> io::Result<Wire> {
        let patience = Timing::new(*MULTIPLIERS.start()).connect();
        let connecting = TcpStream::connect((host_name(to), PORT));
        let stream = timeout(patience, connecting).await??;
        Ok(self.wire(stream, from, to))
    }

    fn wire(&self, stream: TcpStream, own: u64, other: u64) -> Wire {
        let ends = (own.min(other), own.max(other));
        let mut state = self.0.lock();
        let reset = state.resets.entry(ends).or_default();
        Wire::new(stream, [own, other], reset.clone())
    }
}

impl State {
    fn replica(&self, machine: IpAddr) -> Option<u64> {
        self.machines.get(&machine).copied()
    }

    /// All others, and whether something is cut between this replica and them.
    fn others(&self, replica: u64) -> Vec<(u64, bool)> {
        let is_cut = |one, two| self.cut.contains(&(one, two)) || self.cut.contains(&(two, one));
        let ids = self.machines.values().filter(|id| **id != replica);
        ids.map(|id| (*id, is_cut(replica, *id))).collect()
    }

    /// Whether the way back is cut, but not this one.
    fn is_one_way(&self, from: u64, to: u64) -> bool {
        self.cut.contains(&(to, from)) && !self.cut.contains(&(from, to))
    }

    fn set_delays(&self, sim: &Sim<'_>) {
        let ids: Vec<u64> = self.machines.values().copied().collect();
        for (place, one) in ids.iter().enumerate() {
            for two in ids.iter().skip(place + 1) {
                let slow = [one, two].map(|id| self.slow.get(id).copied());
                let longest = slow.into_iter().flatten().max().unwrap_or(DELAY_MAX);
                sim.set_link_max_message_latency(host_name(*one), host_name(*two), longest);
            }
        }
    }
}

/// One start of a replica in the network.
#[derive(Clone)]
pub(crate) struct Host {
    pub(super) hub: Hub,
    pub(super) name: PeerName,
}

impl Host {
    /// Listens from now on.
    pub(crate) fn serve(&self, connections: Connections) {
        let host = self.clone();
        let accepting = host.accept(connections.clone());
        connections.accept_with(accepting);
    }

    async fn accept(self, connections: Connections) {
        let bound = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await;
        let listener = bound.expect("nobody else listens on a machine of its own");
        while let Ok((stream, from)) = listener.accept().await {
            let PeerName {
                cluster_id,
                replica_id: own,
            } = self.name.clone();
            let Some(from) = self.hub.0.lock().replica(from.ip()) else {
                continue;
            };
            note(&[5, from, own]);
            let info = PeerInfo::certified(PeerName::new(cluster_id, from));
            let (serving, wire) = (connections.clone(), self.hub.wire(stream, own, from));
            connections.spawn(async move { serving.serve(wire, info).await });
        }
    }
}

impl Reach for Host {
    fn open(&self, target: u64, lane: Lane) -> PeerChannel {
        let host = self.clone();
        let connector = service_fn(move |_: Uri| {
            let Self { hub, name } = host.clone();
            async move { hub.connect(name.replica_id, target).await.map(TokioIo::new) }
        });
        channel(lane, connector)
    }

    fn is_refused(&self, target: u64) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let (own, losses) = (self.name.replica_id, self.hub.0.lock().losses);
            let refused = self
                .hub
                .connect(own, target)
                .await
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
            // For turmoil a request that gets lost is refused as well.
            let state = self.hub.0.lock();
            refused && state.losses == losses && !state.cut.contains(&(target, own))
        })
    }
}

/// The name of the machine that a replica runs on.
pub(super) fn host_name(replica: u64) -> String {
    format!("r{replica}")
}

/// Where replicas listen.
pub(super) const PORT: u16 = 1;
/// The longest usual delay; the mean is a fifth of it.
pub(super) const DELAY_MAX: Duration = Duration::from_millis(10);
