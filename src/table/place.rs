//! The place where an agent is tracked, and its holder: one type each, and the words they are packed into.

use std::num::NonZeroU32;

/// Bits of a packed place that hold the slot: there are at most 2^22 (`AGENTS_MAX`).
const SLOT_BITS: u32 = 22;

/// A slot of the fleet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The shard.
    pub shard: u16,
    /// The slot of its table.
    pub slot: u32,
}

/// One holder of a place, among all it ever had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    /// The place.
    pub place: Place,
    /// That of the slot then: it changes with the holder; wraps.
    pub generation: u32,
}

/// The place in the eight bytes that the kernel keeps with a descriptor, epoll_ctl(2). Never [`u64::MAX`].
impl From<Place> for u64 {
    fn from(Place { shard, slot }: Place) -> Self {
        Self::from(shard) << 32 | Self::from(slot)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "takes the word apart")]
impl From<u64> for Place {
    fn from(word: u64) -> Self {
        Self { shard: (word >> 32) as u16, slot: word as u32 }
    }
}

/// A place in four bytes, as it is kept for every agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedPlace(NonZeroU32);

impl From<Place> for PackedPlace {
    fn from(Place { shard, slot }: Place) -> Self {
        debug_assert!(slot >> SLOT_BITS == 0 && shard < 1 << (31 - SLOT_BITS), "a fleet has no such slot");
        Self(NonZeroU32::MIN.saturating_add(u32::from(shard) << SLOT_BITS | slot))
    }
}

impl From<PackedPlace> for Place {
    fn from(PackedPlace(word): PackedPlace) -> Self {
        let word = word.get() - 1;
        Self { shard: (word >> SLOT_BITS) as u16, slot: word & ((1 << SLOT_BITS) - 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{AGENTS_MAX, SHARDS_MAX};

    #[test]
    fn every_place_of_the_largest_fleet_survives_packing() {
        let last_shard = u16::try_from(SHARDS_MAX - 1).expect("few");
        for (shard, slot) in [(0, 0), (1, 7), (0, AGENTS_MAX - 1), (last_shard, AGENTS_MAX - 1)] {
            let place = Place { shard, slot };
            assert_eq!(Place::from(PackedPlace::from(place)), place);
            assert_eq!(Place::from(u64::from(place)), place);
        }
    }

    #[test]
    fn what_is_kept_for_every_agent_is_small() {
        assert_eq!((size_of::<Option<PackedPlace>>(), size_of::<Place>(), size_of::<Holder>()), (4, 8, 12));
    }
}
