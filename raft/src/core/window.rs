//! The numbers of a replica's own commands, and how many may be under way.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::counters::Counters;
use crate::machine_store::dedup;

/// Commands of one replica under way at once; also what one replica may ask of the leader.
pub(crate) const IN_FLIGHT_MAX: usize = 512;

/// How far numbers may run ahead of the oldest command under way: every replica keeps the answers of
/// [`dedup::WINDOW`] numbers, and a retry must find its answer.
const AHEAD_MAX: u64 = dedup::WINDOW / 2;

/// Gives numbers to commands and remembers which are under way.
#[derive(Debug, Default)]
pub(crate) struct Window {
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    open: BTreeSet<u64>,
}

/// The number of a command under way; dropping it ends that.
#[derive(Debug)]
pub(crate) struct Ticket<'a> {
    window: &'a Window,
    seq: u64,
}

impl Window {
    /// The next number, as soon as the window has room.
    pub(crate) async fn open(&self, counters: &Counters) -> Ticket<'_> {
        let mut delayed = false;
        loop {
            let freed = self.freed.notified();
            if let Some(ticket) = self.try_open() {
                return ticket;
            }
            if !delayed {
                counters.proposals_delayed.add_one();
                delayed = true;
            }
            freed.await;
        }
    }

    fn try_open(&self) -> Option<Ticket<'_>> {
        let mut state = self.state.lock();
        let seq = state.next;
        let lowest = state.open.first().copied().unwrap_or(seq);
        if state.open.len() >= IN_FLIGHT_MAX || seq.saturating_sub(lowest) >= AHEAD_MAX {
            return None;
        }
        state.next = seq.saturating_add(1);
        state.open.insert(seq);
        // The end of one command may make room for several.
        self.freed.notify_one();
        Some(Ticket { window: self, seq })
    }
}

impl Ticket<'_> {
    /// The command's number.
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// The lowest number under way: nobody waits for answers below it any more.
    pub(crate) fn lowest_unacked(&self) -> u64 {
        self.window
            .state
            .lock()
            .open
            .first()
            .copied()
            .unwrap_or(self.seq)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.window.state.lock().open.remove(&self.seq);
        self.window.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_unacknowledged_number_follows_the_oldest_command_under_way() {
        let window = Window::default();
        let first = window.try_open().unwrap();
        let second = window.try_open().unwrap();
        assert_eq!(
            (first.seq(), second.seq(), second.lowest_unacked()),
            (0, 1, 0)
        );
        drop(first);
        assert_eq!(second.lowest_unacked(), 1);
    }

    #[test]
    fn numbers_do_not_run_away_from_a_command_that_takes_long() {
        let window = Window::default();
        let slow = window.try_open().unwrap();
        let run = std::iter::from_fn(|| window.try_open()).map(|ticket| ticket.seq());
        assert_eq!(run.max(), Some(AHEAD_MAX - 1));
        drop(slow);
        assert!(window.try_open().is_some());
    }

    #[tokio::test]
    async fn a_full_window_lets_the_next_in_when_one_ends() {
        let window = Window::default();
        let counters = Counters::default();
        let mut open: Vec<_> = std::iter::from_fn(|| window.try_open()).collect();
        assert_eq!(open.len(), IN_FLIGHT_MAX);
        let waiting = window.open(&counters);
        let freeing = async { drop(open.pop()) };
        let (ticket, ()) = tokio::join!(waiting, freeing);
        assert_eq!(ticket.seq(), IN_FLIGHT_MAX as u64);
        assert_eq!(counters.snapshot().proposals_delayed, 1);
    }
}
