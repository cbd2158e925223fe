//! How shards wake the aggregator.

use std::sync::OnceLock;
#[cfg(test)]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::Thread;

use crossbeam::utils::CachePadded;

use crate::table::word::Word;

/// Wakes the aggregator. Facts always ring; reports only while the aggregator sleeps without a tick.
#[derive(Debug, Default)]
pub struct Doorbell {
    aggregator: OnceLock<Thread>,
    tickless: Tickless<AtomicU32>,
    /// Rung since the test last checked.
    #[cfg(test)]
    rung: AtomicBool,
}

impl Doorbell {
    /// Sets the thread to wake; until then ringing does nothing.
    pub fn answer(&self, aggregator: Thread) {
        let _ = self.aggregator.set(aggregator);
    }

    /// Wakes the aggregator. Neither locks nor allocates; a system call only if the aggregator sleeps.
    #[inline]
    pub fn ring(&self) {
        #[cfg(test)]
        self.rung.store(true, Ordering::Relaxed);
        if let Some(thread) = self.aggregator.get() {
            thread.unpark();
        }
    }

    /// Whether it was rung since the last call.
    #[cfg(test)]
    pub fn take_ring(&self) -> bool {
        self.rung.swap(false, Ordering::Relaxed)
    }

    /// Wakes the aggregator if it sleeps without a tick. It then sees what was queued before.
    #[inline]
    pub fn ring_if_tickless(&self) {
        if self.tickless.is_to_be_rung() {
            self.ring();
        }
    }

    /// Called by the aggregator before it sleeps without a tick; it must check for work once more afterwards.
    pub fn sleep_tickless(&self) {
        self.tickless.begin();
    }

    /// Called by the aggregator when it is awake or ticks.
    pub fn wake(&self) {
        self.tickless.end();
    }
}

/// 1 while the aggregator sleeps without a tick.
#[derive(Debug)]
pub(super) struct Tickless<W: Word<Value = u32>>(CachePadded<W>);

impl<W: Word<Value = u32>> Default for Tickless<W> {
    fn default() -> Self {
        Self(CachePadded::new(W::new(0)))
    }
}

impl<W: Word<Value = u32>> Tickless<W> {
    /// Call this after queuing something; if true, ring.
    #[inline]
    pub(super) fn is_to_be_rung(&self) -> bool {
        // Either this sees that the aggregator is going to sleep, or the aggregator sees what was queued.
        W::fence(Ordering::SeqCst);
        if self.0.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.0.store(0, Ordering::Relaxed);
        true
    }

    /// From here on it must be rung; check for what was queued before after this.
    pub(super) fn begin(&self) {
        self.0.store(1, Ordering::Relaxed);
        W::fence(Ordering::SeqCst);
    }

    pub(super) fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}
