//! How many connections there may be: in all, not yet admitted, and not yet admitted by source.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

use super::health::RelayHealth;
use super::limits::{PENDING_CONNECTIONS_MAX, PENDING_PER_SOURCE_MAX};

/// Counts connections and refuses those above a limit.
#[derive(Debug)]
pub(crate) struct Doorkeeper {
    connections_max: usize,
    counts: Mutex<Counts>,
    health: RelayHealth,
}

#[derive(Debug, Default)]
struct Counts {
    open: usize,
    pending: usize,
    pending_by_source: HashMap<IpAddr, usize>,
}

/// A connection's place; given back on drop.
#[derive(Debug)]
pub(crate) struct Place {
    door: Arc<Doorkeeper>,
    /// Set until the client is admitted.
    pending_source: Option<IpAddr>,
}

impl Doorkeeper {
    /// Lets `connections_max` connections in at a time, and tells `health` when that is reached.
    pub(crate) fn new(connections_max: usize, health: RelayHealth) -> Self {
        Self {
            connections_max,
            counts: Mutex::default(),
            health,
        }
    }

    /// A place for a connection from `source`; `None` when a limit is reached.
    pub(crate) fn enter(self: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let source = grouped(source);
        let mut counts = self.counts.lock();
        let from_source = counts
            .pending_by_source
            .get(&source)
            .copied()
            .unwrap_or_default();
        if counts.open >= self.connections_max
            || counts.pending >= PENDING_CONNECTIONS_MAX
            || from_source >= PENDING_PER_SOURCE_MAX
        {
            return None;
        }
        counts.open += 1;
        counts.pending += 1;
        counts.pending_by_source.insert(source, from_source + 1);
        self.health.set_full(counts.open >= self.connections_max);
        Some(Place {
            door: Arc::clone(self),
            pending_source: Some(source),
        })
    }

    /// Connections that are not admitted yet.
    pub(crate) fn pending(&self) -> usize {
        self.counts.lock().pending
    }
}

impl Place {
    /// The client is admitted: its source may open more.
    pub(crate) fn admitted(&mut self) {
        let mut counts = self.door.counts.lock();
        counts.release(self.pending_source.take());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.door.counts.lock();
        counts.release(self.pending_source.take());
        counts.open -= 1;
        self.door
            .health
            .set_full(counts.open >= self.door.connections_max);
    }
}

impl Counts {
    fn release(&mut self, pending_source: Option<IpAddr>) {
        let Some(source) = pending_source else { return };
        self.pending -= 1;
        if let Some(from_source) = self.pending_by_source.get_mut(&source) {
            *from_source -= 1;
            if *from_source == 0 {
                self.pending_by_source.remove(&source);
            }
        }
    }
}

/// The address whose owner is one party: an IPv6 host has a /64 to itself.
fn grouped(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(connections_max: usize) -> (Arc<Doorkeeper>, RelayHealth) {
        let health = RelayHealth::default();
        health.set_accepting(true);
        (
            Arc::new(Doorkeeper::new(connections_max, health.clone())),
            health,
        )
    }

    #[test]
    fn a_full_relay_is_unhealthy_until_somebody_leaves() {
        let (door, health) = door(2);
        let ip = "192.0.2.1".parse().unwrap();
        let (one, two) = (door.enter(ip).unwrap(), door.enter(ip).unwrap());
        assert!(door.enter(ip).is_none() && !health.is_healthy());
        drop(one);
        assert!(health.is_healthy());
        assert_eq!(door.pending(), 1);
        drop(two);
        assert!(door.counts.lock().pending_by_source.is_empty());
    }

    #[test]
    fn one_source_cannot_take_all_pending_places() {
        let (door, _) = door(usize::MAX);
        let from = |last: u16| format!("2001:db8::{last:x}").parse().unwrap();
        let mut places = (0..1024)
            .map(|i| door.enter(from(i)).unwrap())
            .collect::<Vec<_>>();
        assert!(door.enter(from(9999)).is_none(), "same /64");
        assert!(door.enter("2001:db8:0:1::1".parse().unwrap()).is_some());
        places[0].admitted();
        assert!(door.enter(from(9999)).is_some());
    }

    #[test]
    fn mapped_addresses_are_their_ipv4_addresses() {
        assert_eq!(
            grouped("::ffff:192.0.2.1".parse().unwrap()),
            IpAddr::from([192, 0, 2, 1])
        );
    }
}
