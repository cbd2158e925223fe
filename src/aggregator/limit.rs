//! How often events are reported of a shard and of one agent. An agent's events above the limit are reported
//! later, in one event.
//!
//! Time is an argument.

use std::collections::HashMap;

use crate::table::place::Place;
use crate::time::MonoNs;

pub const SECOND_NS: u64 = 1_000_000_000;
/// Events of one kind that are reported per second and shard, where they are limited.
const PER_SECOND: u32 = 10;
/// Events of one kind that are reported of one agent at once; after that, one a second.
const BURST: u64 = 10;
/// Agents remembered before those with full buckets are removed.
const AGENTS_MIN: usize = 1024;

/// A limit per second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limit {
    since: MonoNs,
    reported: u32,
}

impl Limit {
    /// Takes one event, if one is left.
    pub fn allows(&mut self, now: MonoNs) -> bool {
        if self.reported == 0 || now.since(self.since) >= SECOND_NS {
            *self = Self { since: now, reported: 0 };
        }
        self.reported += 1;
        self.reported <= PER_SECOND
    }
}

/// What an agent can do as often as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Often {
    /// Change its status.
    Status,
    /// Report a crash.
    Terminal,
    /// Begin a session or stream.
    Session,
}

/// A bucket of ten tokens for each agent and kind; one token is added a second.
#[derive(Debug, Default)]
pub struct Buckets {
    /// When each bucket of an agent is full again; agents that are not in here have full ones.
    full_at: HashMap<Place, [MonoNs; 3]>,
    look_at: usize,
}

impl Buckets {
    /// Takes a token for an event of this kind about the holder of `place`, if one is left.
    pub fn take(&mut self, place: Place, kind: Often, now: MonoNs) -> bool {
        if self.full_at.len() >= self.look_at.max(AGENTS_MIN) {
            self.full_at.retain(|_, full_at| full_at.iter().any(|at| *at > now));
            self.look_at = self.full_at.len() * 2;
        }
        let full_at = &mut self.full_at.entry(place).or_default()[kind as usize];
        let full_then = (*full_at).max(now) + SECOND_NS;
        let is_left = full_then.since(now) <= BURST * SECOND_NS;
        if is_left {
            *full_at = full_then;
        }
        is_left
    }

    /// Removes the buckets of a place that has another holder.
    pub fn forget(&mut self, place: Place) {
        self.full_at.remove(&place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { shard: 0, slot: 7 };

    #[test]
    fn ten_at_once_and_then_one_a_second_of_each_kind() {
        let mut buckets = Buckets::default();
        let start = MonoNs(1_000 * SECOND_NS);
        let mut taken = |kind, now: MonoNs| (0..20).filter(|_| buckets.take(PLACE, kind, now)).count();
        assert_eq!((taken(Often::Status, start), taken(Often::Session, start)), (10, 10));
        assert_eq!(taken(Often::Status, start + SECOND_NS - 1), 0);
        assert_eq!(taken(Often::Status, start + SECOND_NS), 1);
        assert_eq!(taken(Often::Status, start + 4 * SECOND_NS), 3);
        assert_eq!(taken(Often::Status, start + 4000 * SECOND_NS), 10);
    }

    #[test]
    fn who_is_quiet_takes_no_memory() {
        let mut buckets = Buckets::default();
        for slot in 0..100_000 {
            assert!(buckets.take(
                Place { shard: 1, slot },
                Often::Terminal,
                MonoNs(u64::from(slot) * SECOND_NS)
            ));
        }
        assert!(buckets.full_at.len() <= 2 * AGENTS_MIN, "{}", buckets.full_at.len());
        buckets.forget(Place { shard: 1, slot: 99_999 });
        assert!(!buckets.full_at.contains_key(&Place { shard: 1, slot: 99_999 }));
    }
}
