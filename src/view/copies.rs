//! Copies of what the aggregator counts, for readers: made by the aggregator itself between two turns, and
//! never changed afterwards. So no reader holds a lock that it waits for, however long the reader is kept from
//! running in the middle of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use parking_lot::Mutex;

use crate::lane::Doorbell;
use crate::time::MonoNs;
use crate::view::tally::Tally;

/// An aggregator that takes no turn for so long is stuck, or gone: what was counted last is shown.
const PATIENCE: Duration = Duration::from_millis(100);

/// A copy is made at least so often if the aggregator turns at all, for those who do not ask.
const EVERY_NS: u64 = 900_000_000;

/// Where to ask for a copy.
#[derive(Debug)]
pub struct Copies {
    asked: Sender<Sender<Arc<Tally>>>,
    doorbell: Arc<Doorbell>,
    /// The aggregator only tries to lock it.
    last: Arc<Mutex<Arc<Tally>>>,
    /// A reader lost patience; until that question is answered, no reader waits.
    is_overdue: AtomicBool,
}

/// Who wants a copy: the aggregator's end.
#[derive(Debug)]
pub struct Asked {
    asks: Receiver<Sender<Arc<Tally>>>,
    last: Arc<Mutex<Arc<Tally>>>,
    last_at: MonoNs,
}

impl Copies {
    /// Both ends, of shards that were counted nothing yet.
    pub fn new(shards: usize, doorbell: Arc<Doorbell>) -> (Self, Asked) {
        let (asked, asks) = unbounded();
        let last = Arc::new(Mutex::new(Arc::new(Tally::of_shards(shards))));
        let asked_of = Asked { asks, last: Arc::clone(&last), last_at: MonoNs(0) };
        (Self { asked, doorbell, last, is_overdue: AtomicBool::new(false) }, asked_of)
    }

    /// What is counted now, or what was when the aggregator last answered. Wakes the aggregator and waits for its
    /// turn, a tenth of a second at most.
    pub fn take(&self) -> Arc<Tally> {
        self.ask().unwrap_or_else(|| self.latest())
    }

    /// What was counted a second ago or later, if the aggregator turns. Wakes no thread.
    pub fn latest(&self) -> Arc<Tally> {
        Arc::clone(&self.last.lock())
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

    /// What was counted at the end, once nobody counts any more.
    pub fn keep(&self, last: Tally) {
        *self.last.lock() = Arc::new(last);
    }

    /// Of these counts, for ever.
    #[cfg(any(test, all(feature = "http", feature = "bench")))]
    pub fn of(tally: Tally) -> Self {
        let (copies, _) = Self::new(0, Arc::default());
        copies.keep(tally);
        copies
    }
}

impl Asked {
    /// Gives everybody who asked the same copy, and leaves it for those who do not. One look at an empty queue if
    /// nobody did and the last is not old; the copy takes some ten microseconds a shard.
    pub fn answer(&mut self, tally: &Tally, now: MonoNs) {
        let first = self.asks.try_recv().ok();
        if first.is_none() && now.since(self.last_at) < EVERY_NS {
            return;
        }
        self.last_at = now;
        let copy = Arc::new(tally.clone());
        // A reader that holds it is not waited for: the next copy is for it.
        if let Some(mut last) = self.last.try_lock() {
            *last = Arc::clone(&copy);
        }
        for reply in first.into_iter().chain(self.asks.try_iter()) {
            // A reader that lost patience is gone.
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
        // It was stuck and goes on: who waited no longer does no harm.
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
        // It goes on.
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
}
