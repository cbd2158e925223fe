//! Copies of the aggregator's counts for readers. The aggregator makes them between two turns and never
//! changes them afterwards, so it never waits for a reader that holds a lock, however long the reader is
//! preempted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use parking_lot::Mutex;

use crate::lane::Doorbell;
use crate::lane::counters::Counter;
use crate::rules::Death;
use crate::time::MonoNs;
use crate::view::tally::Tally;

/// After this time without an answer the aggregator counts as stuck or gone, and the last copy is used.
const PATIENCE: Duration = Duration::from_millis(100);

/// The aggregator makes a copy at least this often, for readers that do not ask.
const EVERY_NS: u64 = 900_000_000;

/// The readers' end: asks for copies.
#[derive(Debug)]
pub struct Copies {
    asked: Sender<Sender<Arc<Tally>>>,
    doorbell: Arc<Doorbell>,
    /// The aggregator only tries this lock.
    last: Arc<Mutex<Arc<Tally>>>,
    /// A reader timed out; until that request is answered, no reader waits.
    is_overdue: AtomicBool,
    totals: Arc<Published>,
}

/// Totals as of a turn of the aggregator, of all shards together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Agents that beat.
    pub up: u64,
    /// Agents that are stalled.
    pub stalled: u64,
    /// Agents that died, but for those of which nobody knows how.
    pub died: u64,
    /// Resumes reported.
    pub resumed: u64,
}

/// The same, and the turn, for any thread. The aggregator writes.
#[derive(Debug, Default)]
struct Published {
    at: Counter,
    up: Counter,
    stalled: Counter,
    died: Counter,
    resumed: Counter,
}

/// The aggregator's end: pending requests for a copy.
#[derive(Debug)]
pub struct Asked {
    asks: Receiver<Sender<Arc<Tally>>>,
    last: Arc<Mutex<Arc<Tally>>>,
    last_at: MonoNs,
    totals: Arc<Published>,
}

impl Totals {
    fn of(tally: &Tally) -> Self {
        let mut totals = Self::default();
        for shard in &tally.shards {
            totals.up += shard.up;
            totals.stalled += shard.stalled;
            totals.died += shard.deaths.iter().sum::<u64>() - shard.deaths[Death::Unknown.kind()];
            totals.resumed += shard.resumes;
        }
        totals
    }
}

impl Published {
    fn set(&self, totals: &Totals, now: MonoNs) {
        self.up.set(totals.up);
        self.stalled.set(totals.stalled);
        self.died.set(totals.died);
        self.resumed.set(totals.resumed);
        // Last: who sees it sees at least these.
        self.at.set(now.0);
    }
}

impl Copies {
    /// Both ends, for shards with no counts yet.
    pub fn new(shards: usize, doorbell: Arc<Doorbell>) -> (Self, Asked) {
        let (asked, asks) = unbounded();
        let last = Arc::new(Mutex::new(Arc::new(Tally::of_shards(shards))));
        let totals = Arc::<Published>::default();
        let asked_of =
            Asked { asks, last: Arc::clone(&last), last_at: MonoNs(0), totals: Arc::clone(&totals) };
        (Self { asked, doorbell, last, is_overdue: AtomicBool::new(false), totals }, asked_of)
    }

    /// The present counts, or those of the aggregator's last answer. Wakes the aggregator and waits for its
    /// turn, at most a tenth of a second.
    pub fn take(&self) -> Arc<Tally> {
        self.ask().unwrap_or_else(|| self.latest())
    }

    /// Counts at most about a second old, if the aggregator runs. Wakes no thread.
    pub fn latest(&self) -> Arc<Tally> {
        Arc::clone(&self.last.lock())
    }

    /// The totals as of the last turn of the aggregator, and when that was; `None` before its first. What happened is
    /// among them as soon as it is reported, where a copy may be a second old. Wakes no thread.
    pub fn totals(&self) -> Option<(Totals, MonoNs)> {
        let Published { at, up, stalled, died, resumed } = &*self.totals;
        let at = Some(MonoNs(at.get())).filter(|at| *at > MonoNs(0))?;
        let totals =
            Totals { up: up.get(), stalled: stalled.get(), died: died.get(), resumed: resumed.get() };
        Some((totals, at))
    }

    fn ask(&self) -> Option<Arc<Tally>> {
        if self.is_overdue.load(Ordering::Relaxed) && !self.asked.is_empty() {
            return None;
        }
        let (reply, copy) = bounded(1);
        self.asked.send(reply).ok()?;
        self.doorbell.ring();
        let copy = copy.recv_timeout(PATIENCE);
        self.is_overdue.store(matches!(copy, Err(RecvTimeoutError::Timeout)), Ordering::Relaxed);
        copy.ok()
    }

    /// Stores the final counts, once counting has ended.
    pub fn keep(&self, last: Tally) {
        *self.last.lock() = Arc::new(last);
    }

    /// Always returns these counts.
    #[cfg(any(test, all(feature = "http", feature = "bench")))]
    pub fn of(tally: Tally) -> Self {
        let (copies, _) = Self::new(0, Arc::default());
        copies.keep(tally);
        copies
    }
}

impl Asked {
    /// Gives every waiting reader the same copy, and stores it for readers that do not ask. Checks one empty
    /// queue if no reader waits and the last copy is recent; a copy takes some ten microseconds per shard. The totals
    /// are published each time.
    pub fn answer(&mut self, tally: &Tally, now: MonoNs) {
        self.totals.set(&Totals::of(tally), now);
        let first = self.asks.try_recv().ok();
        if first.is_none() && now.since(self.last_at) < EVERY_NS {
            return;
        }
        self.last_at = now;
        let copy = Arc::new(tally.clone());
        // Do not wait for a reader that holds the lock: the next copy replaces the old one.
        if let Some(mut last) = self.last.try_lock() {
            *last = Arc::clone(&copy);
        }
        for reply in first.into_iter().chain(self.asks.try_iter()) {
            // A reader that timed out is gone.
            let _ = reply.try_send(Arc::clone(&copy));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn everybody_who_asks_gets_what_is_counted_when_the_aggregator_turns() {
        let (copies, mut asked) = Copies::new(1, Arc::default());
        let mut tally = Tally::of_shards(1);
        tally.events = 7;
        let seen = thread::scope(|scope| {
            let readers = [scope.spawn(|| copies.take()), scope.spawn(|| copies.take())];
            while readers.iter().any(|reader| !reader.is_finished()) {
                asked.answer(&tally, MonoNs(1));
                thread::yield_now();
            }
            readers.map(|reader| reader.join().unwrap().events)
        });
        assert_eq!(seen, [7, 7]);
    }

    #[test]
    fn a_stuck_aggregator_and_one_that_ended_leave_what_was_counted_last() {
        let (copies, mut asked) = Copies::new(2, Arc::default());
        assert_eq!((copies.take().shards.len(), copies.take().events), (2, 0));
        let mut tally = Tally::of_shards(2);
        tally.events = 9;
        // The aggregator was stuck and continues: a reader that timed out does no harm.
        asked.answer(&tally, MonoNs(1));
        drop(asked);
        copies.keep(tally.clone());
        assert_eq!((copies.take().events, Copies::of(tally).take().events), (9, 9));
    }

    #[test]
    fn nobody_waits_again_for_an_aggregator_that_did_not_answer() {
        let (copies, mut asked) = Copies::new(1, Arc::default());
        for _ in 0..3 {
            copies.take();
            assert_eq!(asked.asks.len(), 1, "who did not ask does not wait");
        }
        // The aggregator continues.
        asked.answer(&Tally::of_shards(1), MonoNs(1));
        copies.take();
        assert_eq!(asked.asks.len(), 1);
    }

    #[test]
    fn who_does_not_ask_sees_what_was_counted_a_second_ago_at_most() {
        let (copies, mut asked) = Copies::new(1, Arc::default());
        let mut tally = Tally::of_shards(1);
        for (now, events, seen) in [(1_000_000_000, 1, 1), (1_800_000_000, 2, 1), (2_000_000_000, 3, 3)] {
            tally.events = events;
            asked.answer(&tally, MonoNs(now));
            assert_eq!(copies.latest().events, seen);
        }
    }

    #[test]
    fn totals_are_as_of_the_last_turn_and_leave_out_deaths_of_which_nobody_knows_how() {
        let (copies, mut asked) = Copies::new(2, Arc::default());
        assert_eq!(copies.totals(), None);
        let mut tally = Tally::of_shards(2);
        for now in [MonoNs(1_000_000_000), MonoNs(1_000_000_001)] {
            (tally.shards[0].up, tally.shards[1].up, tally.shards[1].stalled) = (now.0, 3, 4);
            tally.shards[0].deaths[Death::Signal(9).kind()] = 5;
            tally.shards[1].deaths[Death::Unknown.kind()] = 6;
            tally.shards[1].resumes = 7;
            asked.answer(&tally, now);
            let totals = Totals { up: now.0 + 3, stalled: 4, died: 5, resumed: 7 };
            assert_eq!(copies.totals(), Some((totals, now)));
        }
    }
}
