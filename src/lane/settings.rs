//! What a reload changes in a shard, and how it gets there without the shard allocating or freeing memory.
//!
//! The aggregator offers settings in a box; the shard swaps its own with them between two turns and leaves the
//! box, with what was in force before, for the aggregator to drop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::config::classes::Classes;

/// Boxes that may wait to be dropped: one of each offer since the aggregator looked last, and of the one before.
const SPENT_MAX: usize = 2;

/// What a reload changes in one shard.
#[derive(Debug)]
pub struct Settings {
    /// The number of the reload, from 1 on.
    pub edition: u64,
    /// The classes of agents, with the number of their table, if they change.
    pub table: Option<(u16, Classes)>,
    /// Users that may beat here, sorted; `None`: every user that the socket's mode admits.
    pub allow_uids: Option<Box<[u32]>>,
    /// Most datagrams of one user a second; `None`: no limit.
    pub uid_frames_max: Option<u32>,
    /// Longest coalescing sleep, ns.
    pub max_delay_ns: u64,
}

/// The way of [`Settings`] to a shard, and back.
#[derive(Debug)]
pub struct Handover {
    is_offered: AtomicBool,
    offer: ArrayQueue<Box<Settings>>,
    spent: ArrayQueue<Box<Settings>>,
    /// Edition of the settings in force; 0: those of the start.
    edition: AtomicU64,
}

impl Default for Handover {
    fn default() -> Self {
        Self {
            is_offered: AtomicBool::new(false),
            offer: ArrayQueue::new(1),
            spent: ArrayQueue::new(SPENT_MAX),
            edition: AtomicU64::new(0),
        }
    }
}

impl Handover {
    /// Offers settings. They replace an offer that the shard has not taken. Aggregator only; kick the shard
    /// afterwards.
    pub fn offer(&self, settings: Box<Settings>) {
        while self.spent.pop().is_some() {}
        drop(self.offer.force_push(settings));
        self.is_offered.store(true, Ordering::Release);
    }

    /// Whether settings are offered. Shard only; one load.
    #[inline]
    pub fn is_offered(&self) -> bool {
        self.is_offered.load(Ordering::Acquire)
    }

    /// Takes the offered settings. Shard only.
    pub fn take(&self) -> Option<Box<Settings>> {
        // In this order: an offer made in between is found by the next look.
        self.is_offered.store(false, Ordering::Release);
        self.offer.pop()
    }

    /// The settings of this edition are in force; `before` is what they replaced. Shard only.
    pub fn settle(&self, edition: u64, before: Box<Settings>) {
        // There is room: see `SPENT_MAX`.
        let _ = self.spent.push(before);
        self.edition.store(edition, Ordering::Release);
    }

    /// Edition of the settings in force; 0: those of the start.
    pub fn edition(&self) -> u64 {
        self.edition.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(edition: u64) -> Box<Settings> {
        Box::new(Settings { edition, table: None, allow_uids: None, uid_frames_max: None, max_delay_ns: 0 })
    }

    #[test]
    fn the_last_offer_is_taken_and_every_box_comes_back() {
        let handover = Handover::default();
        assert!(!handover.is_offered() && handover.take().is_none());
        handover.offer(settings(1));
        handover.offer(settings(2));
        let taken = handover.take().expect("offered");
        assert_eq!((taken.edition, handover.is_offered()), (2, false));
        handover.settle(2, taken);
        assert_eq!((handover.edition(), handover.spent.len()), (2, 1));
        handover.offer(settings(3));
        assert!(handover.spent.is_empty(), "the aggregator dropped it");
    }

    /// The shard frees nothing, however its turns lie between those of the aggregator.
    #[test]
    fn there_is_always_room_for_what_was_in_force_before() {
        let handover = Handover::default();
        for order in 0..64_u32 {
            for step in 0..6 {
                if order >> step & 1 == 0 {
                    handover.offer(settings(1));
                } else if handover.is_offered()
                    && let Some(taken) = handover.take()
                {
                    assert!(handover.spent.len() < SPENT_MAX);
                    handover.settle(1, taken);
                }
            }
        }
    }
}
