//! Finds the slot of an agent by its key.
//!
//! One probe without collisions, whatever the keys. 16 MiB of address space, whose pages are touched as their
//! keys appear. Thread: shard. Allocates: at start only.

use crate::sys::memory::prefetch;
use crate::table::key::{AgentKey, KEYS};

const NOBODY: u32 = 0;

/// The entry of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The agent has this slot.
    Slot(u32),
    /// It has none.
    Nobody,
    /// No agent can have this key.
    Impossible,
}

/// The slots of a shard's agents, by key.
#[derive(Debug)]
pub struct Index {
    /// Slot + 1 of each key.
    places: Vec<u32>,
}

impl Index {
    /// An empty index.
    pub fn new() -> Self {
        Self { places: vec![NOBODY; KEYS] }
    }

    /// Returns the entry of a key.
    #[inline]
    pub fn find(&self, key: AgentKey) -> Found {
        match self.places.get(key.index()) {
            None => Found::Impossible,
            Some(&NOBODY) => Found::Nobody,
            Some(place) => Found::Slot(place - 1),
        }
    }

    /// The slot of an agent, if it has one.
    #[inline]
    pub fn slot(&self, key: AgentKey) -> Option<u32> {
        self.places.get(key.index()).and_then(|place| place.checked_sub(1))
    }

    /// Prefetches what [`Index::find`] will read.
    #[inline]
    pub fn prefetch(&self, key: AgentKey) {
        if let Some(place) = self.places.get(key.index()) {
            prefetch(place);
        }
    }

    /// Gives the agent a slot. The caller has checked that the key is possible.
    pub fn put(&mut self, key: AgentKey, slot: u32) {
        self.places[key.index()] = slot + 1;
    }

    /// Removes the entry of an agent.
    pub fn remove(&mut self, key: AgentKey) {
        self.places[key.index()] = NOBODY;
    }

    /// Removes all entries. Zeros are not written: a write would allocate their pages.
    pub fn clear(&mut self) {
        self.places.iter_mut().filter(|place| **place != NOBODY).for_each(|place| *place = NOBODY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_key_have_a_slot_and_the_next_cannot() {
        let key = |number: usize| AgentKey::of_pid(u32::try_from(number).expect("a pid"));
        let mut index = Index::new();
        let (first, last, beyond) = (key(0), key(KEYS - 1), key(KEYS));
        for (slot, key) in [(0, first), (7, last)] {
            assert_eq!((index.find(key), index.slot(key)), (Found::Nobody, None));
            index.put(key, slot);
            assert_eq!((index.find(key), index.slot(key)), (Found::Slot(slot), Some(slot)));
        }
        assert_eq!((index.find(beyond), index.slot(beyond)), (Found::Impossible, None));
        index.remove(first);
        assert_eq!((index.find(first), index.find(last)), (Found::Nobody, Found::Slot(7)));
        index.clear();
        assert_eq!(index.find(last), Found::Nobody);
    }
}
