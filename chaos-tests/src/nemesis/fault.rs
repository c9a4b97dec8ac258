//! Which fault comes next. Pure: the seed, the replicas and the leader decide.

use std::{fmt, time::Duration};

use rand::{Rng as _, rngs::StdRng, seq::SliceRandom as _};

use super::topology::{self, Cuts};
use crate::proxy::{Flow, Modes};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Nemesis {
    /// Kills a replica, as many as may fail, or all.
    Kill,
    /// Kills the leader.
    KillLeader,
    /// Freezes a replica.
    Pause,
    /// Freezes the leader.
    PauseLeader,
    /// Parts a minority from the majority.
    Halves,
    /// Parts the leader from all others.
    IsolateLeader,
    /// A replica hears the others, or is heard by them, but not both.
    OneWay,
    /// Each replica reaches its two neighbours only.
    Ring,
    /// Two halves that reach each other through one replica only.
    Bridge,
    /// Delays or throttles all links of a replica.
    Slow,
    /// Cuts the connections of a replica after some bytes, again and again.
    Cut,
    /// Resets the connections of a replica.
    Reset,
}

impl Nemesis {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Kill,
        Self::KillLeader,
        Self::Pause,
        Self::PauseLeader,
        Self::Halves,
        Self::IsolateLeader,
        Self::OneWay,
        Self::Ring,
        Self::Bridge,
        Self::Slow,
        Self::Cut,
        Self::Reset,
    ];

    /// The name in commands and histories.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillLeader => "kill-leader",
            Self::Pause => "pause",
            Self::PauseLeader => "pause-leader",
            Self::Halves => "halves",
            Self::IsolateLeader => "isolate-leader",
            Self::OneWay => "one-way",
            Self::Ring => "ring",
            Self::Bridge => "bridge",
            Self::Slow => "slow",
            Self::Cut => "cut",
            Self::Reset => "reset",
        }
    }

    /// Whether another replica must lead after it: a run without such a change has shown nothing.
    pub const fn changes_leader(self) -> bool {
        match self {
            Self::KillLeader | Self::PauseLeader | Self::IsolateLeader => true,
            Self::Kill
            | Self::Pause
            | Self::Halves
            | Self::OneWay
            | Self::Ring
            | Self::Bridge
            | Self::Slow
            | Self::Cut
            | Self::Reset => false,
        }
    }

    /// The nemesis of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    /// Draws a fault for a cluster of `size` replicas.
    pub fn draw(self, random: &mut StdRng, size: usize, leader: usize) -> Fault {
        let mut order: Vec<usize> = (0..size).collect();
        order.shuffle(random);
        let one = order.first().copied().unwrap_or_default();
        let mut leader_first = order.clone();
        leader_first.sort_by_key(|index| *index != leader);
        match self {
            Self::Kill => {
                let victims = match random.random_range(0..4) {
                    0 => 1,
                    1 => size,
                    _ => size.saturating_sub(1) / 2,
                };
                order.truncate(victims.max(1));
                Fault::Kill(order)
            }
            Self::KillLeader => Fault::Kill(vec![leader]),
            Self::Pause => Fault::Pause(one),
            Self::PauseLeader => Fault::Pause(leader),
            Self::Halves => Fault::Part(topology::halves(&order)),
            Self::IsolateLeader => Fault::Part(topology::alone(&leader_first)),
            Self::OneWay if random.random() => Fault::Part(topology::deaf(&order)),
            Self::OneWay => Fault::Part(topology::mute(&order)),
            Self::Ring => Fault::Part(topology::ring(&order)),
            Self::Bridge => Fault::Part(topology::bridge(&order)),
            Self::Slow => Fault::Link(one, slow(random)),
            Self::Cut => Fault::Link(one, cut(random)),
            Self::Reset => Fault::Link(
                one,
                Modes {
                    reset: true,
                    ..Modes::default()
                },
            ),
        }
    }
}

fn slow(random: &mut StdRng) -> Modes {
    let flow = if random.random() {
        Flow::Delay(Duration::from_millis(random.random_range(50..400)))
    } else {
        Flow::Throttle(random.random_range(2_000..50_000))
    };
    Modes {
        there: flow,
        back: flow,
        reset: false,
    }
}

fn cut(random: &mut StdRng) -> Modes {
    let mut flow = || Flow::CutAfter(random.random_range(500..20_000));
    Modes {
        there: flow(),
        back: flow(),
        reset: false,
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// These processes are killed, to be started again.
    Kill(Vec<usize>),
    /// This process is frozen.
    Pause(usize),
    /// Nothing passes between these pairs.
    Part(Cuts),
    /// All links of this replica do this.
    Link(usize, Modes),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(victims) => write!(f, "kill {victims:?}"),
            Self::Pause(victim) => write!(f, "freeze {victim}"),
            Self::Part(cuts) => write!(f, "nothing passes {cuts:?}"),
            Self::Link(replica, modes) => {
                let Modes { there, back, reset } = modes;
                write!(
                    f,
                    "links of {replica}: there {there:?}, back {back:?}, reset {reset}"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn a_seed_draws_the_same_faults_again() {
        let draw = |seed| {
            let mut random = StdRng::seed_from_u64(seed);
            let draws = Nemesis::ALL.map(|one| one.draw(&mut random, 5, 2));
            draws.map(|fault| fault.to_string())
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn every_nemesis_does_something_to_any_cluster() {
        let mut random = StdRng::seed_from_u64(1);
        for nemesis in Nemesis::ALL {
            assert_eq!(Nemesis::named(nemesis.name()), Some(nemesis));
            for (size, leader) in [(3, 0), (3, 2), (5, 4)] {
                for _ in 0..20 {
                    let hits = match nemesis.draw(&mut random, size, leader) {
                        Fault::Kill(victims) => !victims.is_empty() && victims.len() <= size,
                        Fault::Pause(victim) => victim < size,
                        Fault::Part(cuts) => !cuts.is_empty(),
                        Fault::Link(replica, modes) => replica < size && modes != Modes::default(),
                    };
                    assert!(hits, "{nemesis:?}");
                }
            }
        }
    }

    #[test]
    fn what_aims_at_the_leader_hits_it() {
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..20 {
            assert_eq!(
                Nemesis::KillLeader.draw(&mut random, 5, 3),
                Fault::Kill(vec![3])
            );
            assert_eq!(
                Nemesis::PauseLeader.draw(&mut random, 5, 3),
                Fault::Pause(3)
            );
            let Fault::Part(cuts) = Nemesis::IsolateLeader.draw(&mut random, 5, 3) else {
                panic!("no partition");
            };
            assert!(cuts.iter().all(|(one, two)| [*one, *two].contains(&3)));
            assert_eq!(cuts.len(), 8);
        }
    }
}
