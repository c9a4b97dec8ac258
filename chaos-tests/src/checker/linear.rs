//! Whether operations that overlap could have happened one after another.
//!
//! The search of Wing and Gong with the memory of Lowe: take operations that may come next, in
//! their order of invocation, until one that has ended should have been taken before; then go back.
//! A pair of (operations taken, state) that was reached before is not searched again.
//!
//! An operation without an end may be taken at any time after its invocation, or never. Such are
//! tried only when nothing else fits: most of them never happened.

use std::{collections::HashSet, hash::Hash};

/// What operations mean.
pub trait Model {
    /// What an operation works on.
    type State: Clone + Eq + Hash;
    /// An operation together with what it returned, if that is known.
    type Step;

    /// The state before the first operation.
    fn initial(&self) -> Self::State;

    /// The state after `step`, if it can return what it returned in `state`.
    fn apply(&self, state: &Self::State, step: &Self::Step) -> Option<Self::State>;
}

/// One operation and when it ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval<S> {
    /// What was done.
    pub step: S,
    /// It happened after this moment,
    pub call: u64,
    /// and before this one; `None` when it may happen later still, or never.
    pub end: Option<u64>,
}

/// What the search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// There is an order.
    Linearizable,
    /// There is none.
    Impossible {
        /// So many operations could be ordered at most,
        placed: usize,
        /// and then this one had no place.
        stuck: usize,
    },
    /// So many states were looked at that the search stopped.
    GaveUp {
        /// How many.
        states: usize,
    },
}

/// Looks for an order of `operations`, remembering at most `states_max` states.
pub fn search<M: Model>(model: &M, operations: &[Interval<M::Step>], states_max: usize) -> Search {
    Searching::new(model, operations).run(states_max)
}

/// The place before the first event.
const HEAD: usize = 0;

/// An operation begins or ends.
#[derive(Clone, Copy)]
enum Event {
    Head,
    Call(usize),
    End(usize),
}

struct Searching<'a, M: Model> {
    model: &'a M,
    operations: &'a [Interval<M::Step>],
    /// The calls and ends of operations with an end, in order of time.
    events: Events,
    /// The operations without an end, in order of their calls.
    open: Vec<usize>,
    taken: Bits,
    state: M::State,
    /// What was taken, and the state before it.
    trail: Vec<(usize, M::State)>,
    seen: HashSet<(Bits, M::State)>,
    /// Operations with an end that are not taken.
    left: usize,
    deepest: (usize, usize),
}

/// Where to look on.
#[derive(Clone, Copy)]
enum Cursor {
    /// At an event.
    Event(usize),
    /// At an operation without an end, by its place among those.
    Open(usize),
}

impl<'a, M: Model> Searching<'a, M> {
    fn new(model: &'a M, operations: &'a [Interval<M::Step>]) -> Self {
        let is_open = |index: &usize| operations.get(*index).is_none_or(|one| one.end.is_none());
        let mut open: Vec<usize> = (0..operations.len()).filter(is_open).collect();
        open.sort_by_key(|index| operations.get(*index).map(|one| one.call));
        Self {
            model,
            operations,
            events: Events::of(operations),
            left: operations.len() - open.len(),
            open,
            taken: Bits::new(operations.len()),
            state: model.initial(),
            trail: Vec::new(),
            seen: HashSet::new(),
            deepest: (0, 0),
        }
    }

    fn run(mut self, states_max: usize) -> Search {
        let mut cursor = Cursor::Event(self.events.after(HEAD));
        while self.left > 0 {
            if self.seen.len() >= states_max {
                let states = self.seen.len();
                return Search::GaveUp { states };
            }
            let next = match cursor {
                Cursor::Event(place) => self.look(place),
                Cursor::Open(place) => self.look_open(place),
            };
            let Some(next) = next.or_else(|| self.go_back()) else {
                let (placed, stuck) = self.deepest;
                return Search::Impossible { placed, stuck };
            };
            cursor = next;
        }
        Search::Linearizable
    }

    /// Where to look after the event at `place`; nowhere when this way is a dead end.
    fn look(&mut self, place: usize) -> Option<Cursor> {
        match self.events.at(place) {
            Event::Call(index) if self.take(index) => {
                self.events.lift(index);
                self.left -= 1;
                Some(Cursor::Event(self.events.after(HEAD)))
            }
            Event::Call(_) => Some(Cursor::Event(self.events.after(place))),
            // Everything that must come before this moment was tried.
            Event::End(index) => {
                if self.trail.len() >= self.deepest.0 {
                    self.deepest = (self.trail.len(), index);
                }
                Some(Cursor::Open(0))
            }
            Event::Head => None,
        }
    }

    fn look_open(&mut self, place: usize) -> Option<Cursor> {
        let index = *self.open.get(place)?;
        let begun = self.operations.get(index)?.call <= self.events.first_end(self.operations);
        if begun && !self.taken.has(index) && self.take(index) {
            return Some(Cursor::Event(self.events.after(HEAD)));
        }
        Some(Cursor::Open(place + 1))
    }

    /// Takes an operation as the next one, if it fits and that leads to something new.
    fn take(&mut self, index: usize) -> bool {
        let step = self.operations.get(index).map(|one| &one.step);
        let Some(state) = step.and_then(|step| self.model.apply(&self.state, step)) else {
            return false;
        };
        self.taken.set(index, true);
        if !self.seen.insert((self.taken.clone(), state.clone())) {
            self.taken.set(index, false);
            return false;
        }
        let before = std::mem::replace(&mut self.state, state);
        self.trail.push((index, before));
        true
    }

    /// Gives the last operation back; the search goes on behind it.
    fn go_back(&mut self) -> Option<Cursor> {
        let (index, before) = self.trail.pop()?;
        self.state = before;
        self.taken.set(index, false);
        if let Ok(place) = self
            .open
            .binary_search_by_key(&self.order(index), |one| self.order(*one))
        {
            return Some(Cursor::Open(place + 1));
        }
        self.left += 1;
        self.events.unlift(index);
        Some(Cursor::Event(self.events.after(self.events.call_of(index))))
    }

    /// What `open` is sorted by, and then by the index.
    fn order(&self, index: usize) -> (Option<u64>, usize) {
        (self.operations.get(index).map(|one| one.call), index)
    }
}

/// Calls and ends as a list from which operations can be lifted and put back.
struct Events {
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Where call and end of each operation are; both [`HEAD`] for one without an end.
    places: Vec<(usize, usize)>,
}

impl Events {
    fn of<S>(operations: &[Interval<S>]) -> Self {
        // Calls come before ends of the same moment: those operations overlap.
        let mut order = Vec::new();
        for (index, operation) in operations.iter().enumerate() {
            if let Some(end) = operation.end {
                order.push((operation.call, false, index));
                order.push((end, true, index));
            }
        }
        order.sort_unstable();
        let mut places = vec![(HEAD, HEAD); operations.len()];
        let mut events = vec![Event::Head];
        for (_, is_end, index) in order {
            let place = events.len();
            if let Some((call, end)) = places.get_mut(index) {
                *(if is_end { end } else { call }) = place;
            }
            events.push(if is_end {
                Event::End(index)
            } else {
                Event::Call(index)
            });
        }
        let len = events.len();
        Self {
            events,
            next: (1..=len).map(|place| place % len).collect(),
            previous: (0..len).map(|place| (place + len - 1) % len).collect(),
            places,
        }
    }

    fn at(&self, place: usize) -> Event {
        self.events.get(place).copied().unwrap_or(Event::Head)
    }

    fn after(&self, place: usize) -> usize {
        self.next.get(place).copied().unwrap_or(HEAD)
    }

    fn call_of(&self, index: usize) -> usize {
        self.places.get(index).map_or(HEAD, |(call, _)| *call)
    }

    /// The first moment at which an operation that is still in the list ends.
    fn first_end<S>(&self, operations: &[Interval<S>]) -> u64 {
        let mut place = self.after(HEAD);
        loop {
            match self.at(place) {
                Event::Call(_) => place = self.after(place),
                Event::End(index) => {
                    let end = operations.get(index).and_then(|one| one.end);
                    return end.unwrap_or(u64::MAX);
                }
                Event::Head => return u64::MAX,
            }
        }
    }

    fn lift(&mut self, index: usize) {
        let (call, end) = self.places.get(index).copied().unwrap_or_default();
        self.unlink(call);
        self.unlink(end);
    }

    fn unlift(&mut self, index: usize) {
        let (call, end) = self.places.get(index).copied().unwrap_or_default();
        self.link(end);
        self.link(call);
    }

    fn unlink(&mut self, place: usize) {
        let (previous, next) = self.neighbours(place);
        self.join(previous, next);
    }

    /// Undoes the last [`Self::unlink`].
    fn link(&mut self, place: usize) {
        let (previous, next) = self.neighbours(place);
        self.join(previous, place);
        self.join(place, next);
    }

    fn neighbours(&self, place: usize) -> (usize, usize) {
        let previous = self.previous.get(place).copied().unwrap_or(HEAD);
        (previous, self.after(place))
    }

    fn join(&mut self, one: usize, two: usize) {
        if let Some(next) = self.next.get_mut(one) {
            *next = two;
        }
        if let Some(previous) = self.previous.get_mut(two) {
            *previous = one;
        }
    }
}

/// A set of small numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    fn has(&self, index: usize) -> bool {
        let word = self.0.get(index / 64).copied().unwrap_or_default();
        word & (1 << (index % 64)) != 0
    }

    fn set(&mut self, index: usize, on: bool) {
        if let Some(word) = self.0.get_mut(index / 64) {
            let bit = 1 << (index % 64);
            *word = if on { *word | bit } else { *word & !bit };
        }
    }
}

#[cfg(test)]
mod tests;
