//! How shards wake the aggregator.

use std::sync::OnceLock;
#[cfg(test)]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::Thread;

use crossbeam::utils::CachePadded;

use crate::table::word::Word;

/// Wakes the aggregator. Facts always ring; reports only while it sleeps without a tick.
#[derive(Debug, Default)]
pub struct Doorbell {
    aggregator: OnceLock<Thread>,
    tickless: Tickless<AtomicU32>,
    /// Rung, and the test has not looked.
    #[cfg(test)]
    rung: AtomicBool,
}

impl Doorbell {
    /// Says whom to wake; until then ringing does nothing.
    pub fn answer(&self, aggregator: Thread) {
        let _ = self.aggregator.set(aggregator);
    }

    /// Wakes the aggregator. Neither locks nor allocates; a system call only if it sleeps.
    #[inline]
    pub fn ring(&self) {
        #[cfg(test)]
        self.rung.store(true, Ordering::Relaxed);
        if let Some(thread) = self.aggregator.get() {
            thread.unpark();
        }
    }

    /// Whether it was rung, once.
    #[cfg(test)]
    pub fn take_ring(&self) -> bool {
        self.rung.swap(false, Ordering::Relaxed)
    }

    /// Wakes the aggregator if it sleeps without a tick. What was queued before is seen by it.
    #[inline]
    pub fn ring_if_tickless(&self) {
        if self.tickless.is_to_be_rung() {
            self.ring();
        }
    }

    /// The aggregator says that it sleeps without a tick; it must look for work once more after this.
    pub fn sleep_tickless(&self) {
        self.tickless.begin();
    }

    /// The aggregator is awake or ticks.
    pub fn wake(&self) {
        self.tickless.end();
    }
}

/// Whether the aggregator sleeps without a tick: 1 if so.
#[derive(Debug)]
pub(super) struct Tickless<W: Word<Value = u32>>(CachePadded<W>);

impl<W: Word<Value = u32>> Default for Tickless<W> {
    fn default() -> Self {
        Self(CachePadded::new(W::new(0)))
    }
}

impl<W: Word<Value = u32>> Tickless<W> {
    /// To be asked after something was queued; if true, ring.
    #[inline]
    pub(super) fn is_to_be_rung(&self) -> bool {
        // Either we see that it is going to sleep, or it sees what we queued.
        W::fence(Ordering::SeqCst);
        if self.0.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.0.store(0, Ordering::Relaxed);
        true
    }

    /// From here on it is to be rung; what was queued before is to be looked for after this.
    pub(super) fn begin(&self) {
        self.0.store(1, Ordering::Relaxed);
        W::fence(Ordering::SeqCst);
    }

    pub(super) fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}
