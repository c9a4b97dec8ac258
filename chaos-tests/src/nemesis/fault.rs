//! Which fault comes next. Pure: the seed, the replicas and the leader decide.

use std::{fmt, slice, time::Duration};

use rand::{Rng as _, rngs::StdRng, seq::SliceRandom as _};

use super::{
    Nemesis,
    topology::{self, Cuts},
};
use crate::proxy::{Flow, Modes};

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// These processes are killed, to be started again.
    Kill(Vec<usize>),
    /// This process is frozen.
    Pause(usize),
    /// Nothing passes between these pairs.
    Part(Cuts),
    /// All links of this replica to others do this.
    Link(usize, Modes),
    /// The link between clients and this replica does this.
    Door(usize, Modes),
    /// The wall clock of this replica is wrong.
    Clock(usize, Skew),
    /// A fresh replica comes and goes; this one is killed before one of the steps.
    Churn(usize, ChurnStep),
    /// These lead, in turn.
    Transfer(Vec<usize>),
    /// These are restarted, in turn.
    Restart(Vec<usize>),
    /// The disk of this replica has no room.
    Fill(usize),
    /// A file of this replica is damaged while it is stopped.
    Damage(usize, Damage),
    /// All of these at once.
    All(Vec<Self>),
}

/// How a wall clock is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skew {
    /// How far it is set ahead, or back.
    pub offset_ms: i64,
    /// How fast it runs; 100 is right.
    pub rate_percent: u32,
}

/// The changes that a fresh replica goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChurnStep {
    /// It joins and is given a vote.
    Join,
    /// It loses its vote.
    Demote,
    /// It is given a vote again.
    Promote,
    /// It is removed.
    Remove,
}

impl ChurnStep {
    /// In order.
    pub const ALL: [Self; 4] = [Self::Join, Self::Demote, Self::Promote, Self::Remove];
}

/// How a file is damaged. Which one, and where, follows from `pick` and what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// What kind of file.
    pub file: FileKind,
    /// What is done to it.
    pub how: How,
    /// Whether the replica ended in order before, so that its log is in tables.
    pub in_order: bool,
    /// Chooses the file and the places.
    pub pick: u64,
}

/// The files of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// The write-ahead log of the database.
    Log,
    /// A table of the database.
    Table,
    /// A snapshot.
    Snapshot,
}

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// So many bits are flipped.
    Flip(u32),
    /// So much of it is cut off, in thousandths.
    Cut(u64),
}

impl Nemesis {
    /// Draws a fault for a cluster of `size` replicas.
    pub fn draw(self, random: &mut StdRng, size: usize, leader: usize) -> Fault {
        let mut order: Vec<usize> = (0..size).collect();
        order.shuffle(random);
        let one = order.first().copied().unwrap_or_default();
        let mut leader_first = order.clone();
        leader_first.sort_by_key(|index| *index != leader);
        match self {
            Self::Kill => Fault::Kill(some(random, order)),
            Self::KillLeader => Fault::Kill(vec![leader]),
            Self::Pause => Fault::Pause(one),
            Self::PauseLeader => Fault::Pause(leader),
            Self::Halves => Fault::Part(topology::halves(&order)),
            Self::IsolateLeader => Fault::Part(topology::alone(&leader_first)),
            Self::OneWay if random.random() => Fault::Part(topology::deaf(&order)),
            Self::OneWay => Fault::Part(topology::mute(&order)),
            Self::Ring => Fault::Part(topology::ring(&order)),
            Self::Bridge => Fault::Part(topology::bridge(&leader_first)),
            Self::Slow => Fault::Link(one, slow(random)),
            Self::Cut => Fault::Link(one, cut(random)),
            Self::Reset => Fault::Link(one, RESET),
            Self::Clients => Fault::Door(one, door(random)),
            Self::Clock if random.random() => Fault::Clock(leader, skew(random)),
            Self::Clock => Fault::Clock(one, skew(random)),
            Self::Churn => {
                let step = random.random_range(0..ChurnStep::ALL.len());
                let step = ChurnStep::ALL.get(step).copied();
                let victim = if random.random() { one } else { leader };
                Fault::Churn(victim, step.unwrap_or(ChurnStep::Remove))
            }
            Self::Transfer => Fault::Transfer(order),
            Self::Snapshot if random.random() => Fault::Kill(vec![one]),
            Self::Snapshot => Fault::Part(topology::alone(&order)),
            Self::Restart => Fault::Restart(order),
            Self::Combined => combined(random, size, leader),
            Self::DiskFull => Fault::Fill(one),
            Self::BitFlip => Fault::Damage(one, damage(random, false)),
            Self::Torn => Fault::Damage(one, damage(random, true)),
        }
    }
}

const RESET: Modes = Modes {
    there: Flow::Pass,
    back: Flow::Pass,
    reset: true,
};

/// One, as many as may fail, or all.
fn some(random: &mut StdRng, mut order: Vec<usize>) -> Vec<usize> {
    let victims = match random.random_range(0..4) {
        0 => 1,
        1 => order.len(),
        _ => order.len().saturating_sub(1) / 2,
    };
    order.truncate(victims.max(1));
    order
}

/// Links first, so that they are whole again before a killed replica must be ready.
fn combined(random: &mut StdRng, size: usize, leader: usize) -> Fault {
    let links = [Nemesis::Slow, Nemesis::Cut, Nemesis::OneWay];
    let processes = [Nemesis::KillLeader, Nemesis::Pause, Nemesis::PauseLeader];
    let mut part = |of: &[Nemesis]| {
        let place = random.random_range(0..of.len());
        let nemesis = of.get(place).copied().unwrap_or(Nemesis::Pause);
        nemesis.draw(random, size, leader)
    };
    Fault::All(vec![
        part(&links),
        part(&[Nemesis::Clients]),
        part(&processes),
    ])
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

fn door(random: &mut StdRng) -> Modes {
    let held = |there, back| Modes {
        there,
        back,
        reset: false,
    };
    match random.random_range(0..6) {
        0 => held(Flow::Hold, Flow::Hold),
        1 => held(Flow::Hold, Flow::Pass),
        2 => held(Flow::Pass, Flow::Hold),
        3 => RESET,
        4 => slow(random),
        _ => cut(random),
    }
}

/// From less than what the cluster lets pass to more than a minute.
fn skew(random: &mut StdRng) -> Skew {
    let size = if random.random() { 3_000 } else { 90_000 };
    Skew {
        offset_ms: random.random_range(-size..=size),
        rate_percent: random.random_range(80..=120),
    }
}

fn damage(random: &mut StdRng, torn: bool) -> Damage {
    let file = match random.random_range(0..4) {
        0 | 1 => FileKind::Log,
        2 => FileKind::Table,
        _ => FileKind::Snapshot,
    };
    let how = if torn {
        How::Cut(random.random_range(1..900))
    } else {
        How::Flip(random.random_range(1..20))
    };
    Damage {
        file,
        how,
        in_order: file == FileKind::Table,
        pick: random.random(),
    }
}

impl Fault {
    /// What it is made of: itself, or all that happens at once.
    pub fn parts(&self) -> &[Self] {
        if let Self::All(parts) = self {
            return parts;
        }
        slice::from_ref(self)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(victims) => write!(f, "kill {victims:?}"),
            Self::Pause(victim) => write!(f, "freeze {victim}"),
            Self::Part(cuts) => write!(f, "nothing passes {cuts:?}"),
            Self::Link(replica, modes) => write!(f, "links of {replica}: {}", text(modes)),
            Self::Door(replica, modes) => {
                write!(f, "clients' link to {replica}: {}", text(modes))
            }
            Self::Clock(victim, skew) => write!(
                f,
                "clock of {victim}: {:+} ms, at {} %",
                skew.offset_ms, skew.rate_percent
            ),
            Self::Churn(victim, step) => {
                write!(f, "a replica comes and goes, {victim} dies before {step:?}")
            }
            Self::Transfer(order) => write!(f, "leadership goes round {order:?}"),
            Self::Restart(order) => write!(f, "restart {order:?}"),
            Self::Fill(victim) => write!(f, "fill the disk of {victim}"),
            Self::Damage(victim, damage) => {
                let Damage { file, how, .. } = damage;
                write!(f, "damage {victim}: {how:?} in {file:?}")
            }
            Self::All(parts) => {
                for (index, part) in parts.iter().enumerate() {
                    let and = if index == 0 { "" } else { ", and " };
                    write!(f, "{and}{part}")?;
                }
                Ok(())
            }
        }
    }
}

fn text(Modes { there, back, reset }: &Modes) -> String {
    format!("there {there:?}, back {back:?}, reset {reset}")
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

    /// Whether a part of a fault hits a replica that there is, with something.
    fn hits(part: &Fault, size: usize) -> bool {
        match part {
            Fault::Kill(all) | Fault::Transfer(all) | Fault::Restart(all) => {
                !all.is_empty() && all.iter().all(|one| *one < size)
            }
            Fault::Pause(one) | Fault::Churn(one, _) | Fault::Fill(one) => *one < size,
            Fault::Damage(one, damage) => {
                *one < size && !matches!(damage.how, How::Flip(0) | How::Cut(0))
            }
            Fault::Part(cuts) => !cuts.is_empty(),
            Fault::Link(one, modes) | Fault::Door(one, modes) => {
                *one < size && *modes != Modes::default()
            }
            Fault::Clock(one, _) => *one < size,
            Fault::All(_) => false,
        }
    }

    #[test]
    fn every_nemesis_does_something_to_any_cluster() {
        let mut random = StdRng::seed_from_u64(1);
        for nemesis in Nemesis::ALL {
            assert_eq!(Nemesis::named(nemesis.name()), Some(nemesis));
            for (size, leader) in [(3, 0), (3, 2), (5, 4)] {
                for _ in 0..20 {
                    let fault = nemesis.draw(&mut random, size, leader);
                    assert!(fault.parts().iter().all(|part| hits(part, size)), "{fault}");
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
            let Fault::Part(cuts) = Nemesis::Bridge.draw(&mut random, 5, 3) else {
                panic!("no partition");
            };
            assert_eq!(cuts.iter().filter(|(from, _)| *from == 3).count(), 3);
        }
    }
}
