//! The links between replicas, each through a proxy of its own.
//!
//! Replicas announce a name, and each resolves the names of the others to its own proxies, because
//! each has a hosts file of its own. A proxy therefore belongs to an ordered pair: replica `from`
//! connects to replica `to`.
//!
//! ```text
//! replica a -- c.replica.test --(hosts of a)--> 127.1.1.3:7443 = proxy a->c --> 10.99.0.13:7443
//! replica b -- c.replica.test --(hosts of b)--> 127.1.2.3:7443 = proxy b->c --> 10.99.0.13:7443
//! client ------------------------------------> 127.2.0.3:8080 = the door of c -> 10.99.0.13:8080
//! ```

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::{Context as _, Result};

use crate::{
    cluster::{CLIENT_PORT, PEER_PORT},
    nemesis::Cuts,
    netns::replica_address,
    proxy::{Flow, Modes, Proxy},
};

/// All links of a cluster.
pub struct Links {
    proxies: BTreeMap<(usize, usize), Proxy>,
    /// Between clients and each replica.
    doors: Vec<Proxy>,
}

impl Links {
    /// Starts the proxies between `size` replicas, and between clients and each of them.
    ///
    /// # Errors
    /// When one cannot listen.
    pub async fn start(size: usize) -> Result<Self> {
        let mut proxies = BTreeMap::new();
        for (from, to) in pairs(size) {
            let target = SocketAddr::from((replica_address(to), PEER_PORT));
            let listen = SocketAddr::from((proxy_address(from, to)?, PEER_PORT));
            proxies.insert((from, to), Proxy::start(listen, target).await?);
        }
        let mut doors = Vec::new();
        for to in 0..size {
            let target = SocketAddr::from((replica_address(to), CLIENT_PORT));
            doors.push(Proxy::start(door_address(to)?, target).await?);
        }
        Ok(Self { proxies, doors })
    }

    /// Makes the link between clients and a replica do this.
    pub fn set_door(&self, replica: usize, modes: Modes) {
        if let Some(door) = self.doors.get(replica) {
            door.set(modes);
        }
    }

    /// Lets nothing pass between these pairs, and everything else.
    pub fn cut(&self, cuts: &Cuts) {
        for ((from, to), proxy) in &self.proxies {
            proxy.set(modes_of(cuts, *from, *to));
        }
    }

    /// Makes every link of a replica do the same.
    pub fn set(&self, replica: usize, modes: Modes) {
        for ((from, to), proxy) in &self.proxies {
            if [*from, *to].contains(&replica) {
                proxy.set(modes);
            }
        }
    }

    /// Makes all links whole again.
    pub fn heal(&self) {
        self.cut(&Cuts::new());
        for door in &self.doors {
            door.set(Modes::default());
        }
    }
}

/// What the proxy of an ordered pair does: an answer goes the other way.
fn modes_of(cuts: &Cuts, from: usize, to: usize) -> Modes {
    let flow = |pair: (usize, usize)| {
        if cuts.contains(&pair) {
            Flow::Hold
        } else {
            Flow::Pass
        }
    };
    Modes {
        there: flow((from, to)),
        back: flow((to, from)),
        reset: false,
    }
}

fn pairs(size: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..size).flat_map(move |from| {
        let others = (0..size).filter(move |to| *to != from);
        others.map(move |to| (from, to))
    })
}

/// Every address that begins with 127 is there already.
fn proxy_address(from: usize, to: usize) -> Result<Ipv4Addr> {
    let number = |index: usize| u8::try_from(index + 1).context("replicas are few");
    Ok(Ipv4Addr::new(127, 1, number(from)?, number(to)?))
}

/// Where clients find the proxy of a replica.
///
/// # Errors
/// When there are too many.
pub fn door_address(to: usize) -> Result<SocketAddr> {
    let number = u8::try_from(to + 1).context("replicas are few")?;
    Ok(SocketAddr::from((
        Ipv4Addr::new(127, 2, 0, number),
        CLIENT_PORT,
    )))
}

/// The name under which a replica is announced.
pub fn host_name(name: &str) -> String {
    format!("{name}.replica.test")
}

/// The hosts file of replica `own` among those of these names.
///
/// # Errors
/// When there are too many.
pub fn hosts(own: usize, names: &[&str]) -> Result<String> {
    let mut text = "127.0.0.1 localhost\n".to_owned();
    for (index, name) in names.iter().enumerate() {
        let address = if index == own {
            replica_address(own)
        } else {
            proxy_address(own, index)?
        };
        writeln!(text, "{address} {}", host_name(name))?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_replica_finds_the_others_behind_its_own_proxies() {
        let text = hosts(1, &["a", "b", "c"]).unwrap();
        assert_eq!(
            text,
            "127.0.0.1 localhost\n127.1.2.1 a.replica.test\n10.99.0.12 b.replica.test\n\
             127.1.2.3 c.replica.test\n"
        );
    }

    #[test]
    fn what_one_cannot_say_is_neither_asked_nor_answered() {
        let cuts = Cuts::from([(0, 1)]);
        let asks = modes_of(&cuts, 0, 1);
        assert_eq!((asks.there, asks.back), (Flow::Hold, Flow::Pass));
        let answers = modes_of(&cuts, 1, 0);
        assert_eq!((answers.there, answers.back), (Flow::Pass, Flow::Hold));
        assert_eq!(modes_of(&cuts, 0, 2), Modes::default());
        assert_eq!(pairs(3).count(), 6);
    }
}
