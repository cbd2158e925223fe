//! A queue of slot indices that cannot overflow: it has as many places as there are slots, and a slot is in
//! it at most once. What to report of a slot is a set of bits beside it; reporting more while the slot is
//! queued only adds bits.
//!
//! One producer, one consumer, wait-free on both sides.

use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam::utils::CachePadded;

use crate::sys::memory::Words;
use crate::table::word::Word;

/// The queue; `S` holds its two arrays.
#[derive(Debug)]
pub struct IndexLane<W: Word<Value = u32>, S: Deref<Target = [W]>> {
    /// Per slot: the bits to report; 0 = the slot is not queued.
    pending: S,
    /// The queued slots.
    ring: S,
    /// Number of places taken out; written by the consumer.
    head: CachePadded<W>,
    /// Number of places put in; written by the producer.
    tail: CachePadded<W>,
}

impl<W: Word<Value = u32>, S: Deref<Target = [W]>> IndexLane<W, S> {
    /// A lane for as many slots as both arrays are long; their words must be 0.
    ///
    /// The length must be a power of two, so that the count may wrap at 2^32.
    pub fn new(pending: S, ring: S) -> Self {
        assert!(ring.len().is_power_of_two() && pending.len() <= ring.len(), "a lane needs a place per slot");
        Self { pending, ring, head: CachePadded::new(W::new(0)), tail: CachePadded::new(W::new(0)) }
    }

    /// Reports `bits` (not 0) of `slot`. Producer only. True if the slot was not queued yet, so that the
    /// consumer may have to be woken.
    ///
    /// What the producer wrote before is visible to the consumer once it has popped the slot.
    #[inline]
    pub fn push(&self, slot: u32, bits: u32) -> bool {
        debug_assert_ne!(bits, 0);
        if self.pending[slot as usize].fetch_or(bits, Ordering::AcqRel) != 0 {
            return false;
        }
        self.queue(slot);
        true
    }

    /// As [`IndexLane::push`], but `amend` computes the bits (not 0) from the pending ones; 0 = none are
    /// pending.
    pub fn push_amended(&self, slot: u32, amend: impl Fn(u32) -> u32) -> bool {
        let word = &self.pending[slot as usize];
        let mut waiting = word.load(Ordering::Relaxed);
        // The consumer only ever takes all bits, so this loops at most once more.
        while let Err(now) = word.compare_exchange(waiting, amend(waiting)) {
            waiting = now;
        }
        if waiting != 0 {
            return false;
        }
        self.queue(slot);
        true
    }

    #[inline]
    fn queue(&self, slot: u32) {
        let tail = self.tail.load(Ordering::Relaxed);
        self.place(tail).store(slot, Ordering::Relaxed);
        self.tail.store(tail.wrapping_add(1), Ordering::Release);
    }

    /// Takes the next slot and its bits. Consumer only.
    #[inline]
    pub fn pop(&self) -> Option<(u32, u32)> {
        let head = self.head.load(Ordering::Relaxed);
        if head == self.tail.load(Ordering::Acquire) {
            return None;
        }
        let slot = self.place(head).load(Ordering::Relaxed);
        self.head.store(head.wrapping_add(1), Ordering::Release);
        // After the place is free and before the slot is read: bits reported from here on queue the slot
        // again.
        Some((slot, self.pending[slot as usize].swap(0, Ordering::AcqRel)))
    }

    #[inline]
    fn place(&self, count: u32) -> &W {
        &self.ring[count as usize & (self.ring.len() - 1)]
    }
}

/// A lane for the slots of a table.
///
/// # Errors
/// The kernel's, if it grants no address space.
pub fn index_lane(slots: u32) -> io::Result<IndexLane<AtomicU32, Words<AtomicU32>>> {
    let places = (slots as usize).next_power_of_two();
    Ok(IndexLane::new(Words::anonymous(slots as usize)?, Words::anonymous(places)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<W: Word<Value = u32>>(n: usize) -> Box<[W]> {
        (0..n).map(|_| W::new(0)).collect()
    }

    #[test]
    fn a_slot_is_queued_once_whatever_is_said_of_it() {
        use std::sync::atomic::AtomicU32;
        let lane = IndexLane::<AtomicU32, _>::new(words(4), words(4));
        assert!(lane.push(3, 1));
        assert!(!lane.push(3, 2));
        assert!(lane.push(0, 4));
        assert_eq!(lane.pop(), Some((3, 3)));
        assert_eq!(lane.pop(), Some((0, 4)));
        assert_eq!(lane.pop(), None);
        assert!(lane.push(3, 1), "a popped slot queues again");
    }

    #[test]
    fn every_slot_fits_at_once_and_the_ring_goes_round() {
        use std::sync::atomic::AtomicU32;
        let lane = IndexLane::<AtomicU32, _>::new(words(8), words(8));
        for _ in 0..5 {
            for slot in 0..8 {
                assert!(lane.push(slot, 1));
            }
            for slot in 0..8 {
                assert_eq!(lane.pop(), Some((slot, 1)));
            }
            assert_eq!(lane.pop(), None);
        }
    }

    #[test]
    fn fault_33_loom_what_was_written_before_a_push_is_seen_after_the_pop_and_no_push_is_lost() {
        use loom::sync::Arc;
        use loom::sync::atomic::{AtomicU32, Ordering::Relaxed};

        /// What was reported of slot 1, and the fact as seen after it.
        fn look(lane: &IndexLane<AtomicU32, Box<[AtomicU32]>>, fact: &AtomicU32) -> (u32, u32) {
            let (mut said, mut seen) = (0, 0);
            while let Some((slot, bits)) = lane.pop() {
                assert_eq!(slot, 1);
                assert_ne!(bits, 0, "a queued slot has something to say");
                said |= bits;
                seen = fact.load(Relaxed);
                assert!(seen > bits.ilog2(), "said {bits}, but the fact before it is not visible");
            }
            (said, seen)
        }

        // A thread that writes a word it also reads must run first: loom forgets earlier readers of a word
        // when its writer reads it before writing, and would explore a single interleaving.
        loom::model(|| {
            let lane = Arc::new(IndexLane::<AtomicU32, _>::new(words(2), words(2)));
            let fact = Arc::new(AtomicU32::new(0));
            let consumer = {
                let (lane, fact) = (Arc::clone(&lane), Arc::clone(&fact));
                loom::thread::spawn(move || look(&lane, &fact))
            };
            fact.store(1, Relaxed);
            lane.push(1, 1);
            fact.store(2, Relaxed);
            lane.push(1, 2);
            let (mut said, mut seen) = consumer.join().expect("consumer");
            let (said_last, seen_last) = look(&lane, &fact);
            said |= said_last;
            seen = seen.max(seen_last);
            assert_eq!((said, seen), (3, 2), "the last word must reach the consumer");
        });
    }
}
