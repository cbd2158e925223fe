//! Copies of what the aggregator counts, for whoever asks: made by the aggregator itself between two turns, and
//! never changed afterwards. So no reader holds a lock that it waits for, however long the reader is kept from
//! running in the middle of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use parking_lot::Mutex;

use crate::aggregator::tally::Tally;
use crate::lane::Doorbell;

/// An aggregator that takes no turn for so long is stuck, or gone: what was counted last is shown.
const PATIENCE: Duration = Duration::from_millis(100);

/// Where to ask for a copy.
#[derive(Debug)]
pub struct Copies {
    asked: Sender<Sender<Arc<Tally>>>,
    doorbell: Arc<Doorbell>,
    /// Readers alone share it.
    last: Mutex<Arc<Tally>>,
    /// Somebody lost patience; until what was asked then is answered, nobody waits.
    is_overdue: AtomicBool,
}

/// Who wants a copy: the aggregator's end.
#[derive(Debug)]
pub struct Asked(Receiver<Sender<Arc<Tally>>>);

impl Copies {
    /// Both ends, of shards that were counted nothing yet.
    pub fn new(shards: usize, doorbell: Arc<Doorbell>) -> (Self, Asked) {
        let (asked, asks) = unbounded();
        let last = Mutex::new(Arc::new(Tally::of_shards(shards)));
        (Self { asked, doorbell, last, is_overdue: AtomicBool::new(false) }, Asked(asks))
    }

    /// What is counted now, or what was when the aggregator last answered. Wakes the aggregator and waits for its
    /// turn, a tenth of a second at most.
    pub fn take(&self) -> Arc<Tally> {
        let Some(copy) = self.ask() else { return Arc::clone(&self.last.lock()) };
        *self.last.lock() = Arc::clone(&copy);
        copy
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
    /// Gives everybody who asked the same copy. One look at an empty queue if nobody did; the copy takes some ten
    /// microseconds a shard.
    pub fn answer(&self, tally: &Tally) {
        let mut copy = None;
        while let Ok(reply) = self.0.try_recv() {
            let copy = copy.get_or_insert_with(|| Arc::new(tally.clone()));
            // Whoever lost patience is gone.
            let _ = reply.try_send(Arc::clone(copy));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn everybody_who_asks_gets_what_is_counted_when_the_aggregator_turns() {
        let (copies, asked) = Copies::new(1, Arc::default());
        let mut tally = Tally::of_shards(1);
        tally.events = 7;
        let seen = thread::scope(|scope| {
            let readers = [scope.spawn(|| copies.take()), scope.spawn(|| copies.take())];
            while readers.iter().any(|reader| !reader.is_finished()) {
                asked.answer(&tally);
                thread::yield_now();
            }
            readers.map(|reader| reader.join().unwrap().events)
        });
        assert_eq!(seen, [7, 7]);
    }

    #[test]
    fn a_stuck_aggregator_and_one_that_ended_leave_what_was_counted_last() {
        let (copies, asked) = Copies::new(2, Arc::default());
        assert_eq!((copies.take().shards.len(), copies.take().events), (2, 0));
        let mut tally = Tally::of_shards(2);
        tally.events = 9;
        // It was stuck and goes on: who waited no longer does no harm.
        asked.answer(&tally);
        drop(asked);
        copies.keep(tally.clone());
        assert_eq!((copies.take().events, Copies::of(tally).take().events), (9, 9));
    }
}
