//! Timers that the beat path never touches.
//!
//! Each tracked agent has one entry, placed at the deadline it had when it was last judged. A beat moves the
//! deadline, not the entry; when the entry comes due, the judge finds the deadline in the future and moves
//! the entry there. So an agent costs one visit per threshold, not one per beat.
//!
//! The wheel is a ring of buckets one tick wide. An entry further away than the ring is long is placed at its
//! end and visited once a round. A bucket is a list of chunks, each a cache line of entries, and every slot
//! records where its entry is. Due entries are thus read in rows; with one list through all slots, each entry
//! waits for the memory of the one before. `benches/sweep.rs` with 1M agents in random order: 34 to 38 ns per
//! agent instead of 76 to 152, and 12 in sequence; huge pages do not improve that. 9 bytes per slot. Never
//! early, at most a tick late. Thread: shard. Allocates: at start (pages are touched as slots are used).

use crate::time::MonoNs;

/// Buckets of the ring: 41 s at a tick of 10 ms.
const BUCKETS: u64 = 4096;
const BUCKETS_LEN: usize = 4096;
/// Entries of a chunk.
const ENTRIES: u32 = 14;
const ENTRIES_LEN: usize = 14;
/// No chunk; chunks are numbered from 1.
const NONE: u32 = 0;
/// What a chunk holds: its entries, the next chunk of its bucket (or of the unused ones), and its bucket.
type Chunk = [u32; ENTRIES_LEN + 2];
const NEXT: usize = ENTRIES_LEN;
const BUCKET: usize = ENTRIES_LEN + 1;
/// An entry's chunk is in the upper bits, its place in the chunk in these.
const PLACE_BITS: u32 = 4;

/// The chunks of one bucket. All but the first are full.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    first: u32,
    /// Entries in the first chunk; 0 if there is none.
    filled: u32,
}

/// The timers of one shard.
#[derive(Debug)]
pub struct Wheel {
    tick_ns: u64,
    /// Buckets before this tick are done; the bucket of this tick may still hold entries.
    now: u64,
    buckets: Box<[Bucket]>,
    occupied: [u64; BUCKETS_LEN / 64],
    chunks: Vec<Chunk>,
    /// The first returned chunk.
    unused: u32,
    /// Chunks from here on were never used.
    fresh: u32,
    /// Where each slot's entry is; 0 = it has none.
    places: Vec<u32>,
}

impl Wheel {
    /// An empty wheel for `slots` slots, starting at `now`.
    pub fn new(slots: u32, tick_ns: u64, now: MonoNs) -> Self {
        // One for each full chunk, one partly filled per bucket, and the unused chunk 0.
        let chunks = (slots / ENTRIES) as usize + BUCKETS_LEN.min(slots as usize) + 1;
        Self {
            tick_ns,
            now: now.0 / tick_ns,
            buckets: vec![Bucket::default(); BUCKETS_LEN].into_boxed_slice(),
            occupied: [0; BUCKETS_LEN / 64],
            // The kernel zeroes both page by page when they are touched.
            chunks: vec![[0; ENTRIES_LEN + 2]; chunks],
            unused: NONE,
            fresh: 1,
            places: vec![0; slots as usize],
        }
    }

    /// Empties the wheel, whatever its state.
    pub fn reset(&mut self, now: MonoNs) {
        self.now = now.0 / self.tick_ns;
        self.buckets.fill(Bucket::default());
        self.occupied.fill(0);
        (self.unused, self.fresh) = (NONE, 1);
        // Write only entries that are set: writing others would allocate their pages.
        self.places.iter_mut().filter(|place| **place != 0).for_each(|place| *place = 0);
    }

    /// Moves the slot's entry to `at`.
    #[inline]
    pub fn set(&mut self, slot: u32, at: MonoNs) {
        self.remove(slot);
        let tick = at.0.div_ceil(self.tick_ns).clamp(self.now + 1, self.now + BUCKETS - 1);
        let index = bucket_of(tick);
        let mut bucket = self.buckets[index as usize];
        if matches!(bucket.filled, 0 | ENTRIES) {
            bucket = Bucket { first: self.take_chunk(index, bucket.first), filled: 0 };
            self.occupied[index as usize / 64] |= 1 << (index % 64);
        }
        self.put(slot, bucket.first, bucket.filled);
        self.buckets[index as usize] = Bucket { filled: bucket.filled + 1, ..bucket };
    }

    /// Takes the slot's entry out, if it has one.
    #[inline]
    pub fn remove(&mut self, slot: u32) {
        let place = std::mem::take(&mut self.places[slot as usize]);
        if place == 0 {
            return;
        }
        let (chunk, at) = (place >> PLACE_BITS, place & ((1 << PLACE_BITS) - 1));
        // The last entry of the bucket fills the gap.
        let index = self.chunks[chunk as usize][BUCKET];
        let last = self.pop(index);
        if last != slot {
            self.put(last, chunk, at);
        }
    }

    /// Takes out entries due at `now`, as many as `due` has room for, and returns their number; a smaller
    /// number means that no more are due. `fetch` is called with each slot before anything is written, to
    /// prefetch what judging will touch.
    #[inline]
    pub fn take_due(&mut self, now: MonoNs, due: &mut [u32], fetch: impl Fn(u32)) -> usize {
        let target = now.0 / self.tick_ns;
        let mut taken = 0;
        while taken < due.len() {
            let index = bucket_of(self.now);
            let Bucket { first, filled } = self.buckets[index as usize];
            if filled > 0 {
                // From the end: entries added in sequence come up in sequence, chunk by chunk.
                let entries = &self.chunks[first as usize][..filled as usize];
                let mut left = filled;
                for (place, slot) in due[taken..].iter_mut().zip(entries.iter().rev()) {
                    fetch(*slot);
                    *place = *slot;
                    self.places[*slot as usize] = 0;
                    left -= 1;
                }
                taken += (filled - left) as usize;
                self.shorten(index, first, left);
            } else if self.now >= target {
                break;
            } else {
                // Skip to the next bucket with entries; after a leap of the clock, at most one round ahead.
                self.now = self.next_occupied().map_or(target, |tick| tick.min(target));
            }
        }
        taken
    }

    /// When the next entry comes up; `None` if there is none.
    pub fn next_due(&self) -> Option<MonoNs> {
        if self.buckets[bucket_of(self.now) as usize].filled > 0 {
            return Some(MonoNs(self.now * self.tick_ns));
        }
        self.next_occupied().map(|tick| MonoNs(tick * self.tick_ns))
    }

    /// The next tick after the present one whose bucket has entries.
    fn next_occupied(&self) -> Option<u64> {
        let start = self.now + 1;
        let mut ahead = 0;
        while ahead < BUCKETS {
            let bucket = bucket_of(start + ahead);
            let word = self.occupied[bucket as usize / 64] >> (bucket % 64);
            if word != 0 {
                let ahead = ahead + u64::from(word.trailing_zeros());
                return (ahead < BUCKETS).then_some(start + ahead);
            }
            ahead += 64 - u64::from(bucket % 64);
        }
        None
    }

    /// Takes the last entry of a non-empty bucket. The caller updates the place of its slot.
    fn pop(&mut self, index: u32) -> u32 {
        let Bucket { first, filled } = self.buckets[index as usize];
        let slot = self.chunks[first as usize][filled as usize - 1];
        self.shorten(index, first, filled - 1);
        slot
    }

    /// Sets how many entries the first chunk of a bucket has left; an empty chunk is returned to the unused
    /// ones.
    #[inline]
    fn shorten(&mut self, index: u32, first: u32, filled: u32) {
        self.buckets[index as usize] = if filled > 0 {
            Bucket { first, filled }
        } else {
            let next = std::mem::replace(&mut self.chunks[first as usize][NEXT], self.unused);
            self.unused = first;
            if next == NONE {
                self.occupied[index as usize / 64] &= !(1 << (index % 64));
                Bucket::default()
            } else {
                Bucket { first: next, filled: ENTRIES }
            }
        };
    }

    #[inline]
    fn put(&mut self, slot: u32, chunk: u32, at: u32) {
        self.chunks[chunk as usize][at as usize] = slot;
        self.places[slot as usize] = chunk << PLACE_BITS | at;
    }

    /// Adds an empty chunk before the others of the bucket. One is always left: a bucket has at most one that
    /// is not full.
    fn take_chunk(&mut self, index: u32, next: u32) -> u32 {
        let chunk = if self.unused == NONE {
            self.fresh += 1;
            self.fresh - 1
        } else {
            let chunk = self.unused;
            self.unused = self.chunks[chunk as usize][NEXT];
            chunk
        };
        self.chunks[chunk as usize][NEXT] = next;
        self.chunks[chunk as usize][BUCKET] = index;
        chunk
    }
}

const fn bucket_of(tick: u64) -> u32 {
    (tick % BUCKETS) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const TICK: u64 = 10;

    fn due(wheel: &mut Wheel, now: u64) -> Vec<u32> {
        let mut found = Vec::new();
        loop {
            // Not a divisor of the size of a chunk.
            let mut due = [0; 5];
            let len = wheel.take_due(MonoNs(now), &mut due, |_| {});
            found.extend_from_slice(&due[..len]);
            if len < due.len() {
                return found;
            }
        }
    }

    #[test]
    fn an_entry_is_never_early_and_at_most_a_tick_late() {
        let mut wheel = Wheel::new(4, TICK, MonoNs(1000));
        wheel.set(0, MonoNs(1015));
        assert_eq!(wheel.next_due(), Some(MonoNs(1020)));
        assert!(due(&mut wheel, 1019).is_empty());
        assert_eq!(due(&mut wheel, 1020), [0]);
        assert_eq!(wheel.next_due(), None);
    }

    #[test]
    fn an_entry_beyond_the_ring_comes_up_once_a_round() {
        let mut wheel = Wheel::new(1, TICK, MonoNs(0));
        wheel.set(0, MonoNs(10_000 * TICK));
        assert!(due(&mut wheel, 4094 * TICK).is_empty());
        assert_eq!(due(&mut wheel, 4095 * TICK), [0]);
    }

    #[test]
    fn there_is_room_for_every_slot_however_deadlines_are_spread() {
        for slots in [1, 14, 15, 100, 5_000] {
            let mut wheel = Wheel::new(slots, TICK, MonoNs(0));
            // All in one bucket, then spread so that most chunks are partly filled, then back.
            for apart in [0, 1, 15, 0] {
                for slot in 0..slots {
                    wheel.set(slot, MonoNs(TICK * (100 + u64::from(slot) * apart / 15)));
                }
            }
            let mut found = due(&mut wheel, 100 * TICK);
            found.sort_unstable();
            assert!(found.into_iter().eq(0..slots), "{slots} slots");
            wheel.set(slots - 1, MonoNs(200 * TICK));
            wheel.reset(MonoNs(300 * TICK));
            assert_eq!(wheel.next_due(), None);
            wheel.set(slots - 1, MonoNs(400 * TICK));
            assert_eq!(due(&mut wheel, 400 * TICK), [slots - 1]);
        }
    }

    #[test]
    fn fault_50_a_leap_of_the_clock_finds_everything() {
        let mut wheel = Wheel::new(3, TICK, MonoNs(0));
        for (slot, at) in [(0, 15), (1, 30_000), (2, 39_000)] {
            wheel.set(slot, MonoNs(at));
        }
        let mut found = due(&mut wheel, u64::MAX / 2);
        found.sort_unstable();
        assert_eq!(found, [0, 1, 2]);
        wheel.set(1, MonoNs(0));
        assert_eq!(due(&mut wheel, u64::MAX / 2 + 2 * TICK), [1], "a deadline of the past is due at once");
    }

    proptest! {
        /// The wheel agrees with a sorted map of ticks. Half of the deadlines are near, so that buckets have
        /// several chunks; the others are spread, so that hardly any chunk is full.
        #[test]
        fn agrees_with_a_sorted_map(
            steps in prop::collection::vec(
                (0u32..64, prop_oneof![0u64..3 * TICK, 0u64..60_000], 0u64..20, 0u8..8), 1..400
            )
        ) {
            let mut wheel = Wheel::new(64, TICK, MonoNs(0));
            let mut model = BTreeMap::<u32, u64>::new();
            let mut now = 0;
            for (slot, ahead, step, what) in steps {
                // An occasional leap, so that several come due together.
                let step = if what == 0 { step * 20 } else { step };
                if what == 1 {
                    wheel.remove(slot);
                    model.remove(&slot);
                } else {
                    wheel.set(slot, MonoNs(now + ahead));
                    let tick = (now + ahead).div_ceil(TICK).clamp(now / TICK + 1, now / TICK + BUCKETS - 1);
                    model.insert(slot, tick);
                }
                let next = model.values().min().map(|tick| MonoNs(tick * TICK));
                prop_assert_eq!(wheel.next_due(), next);
                now += step;
                let mut found = due(&mut wheel, now);
                found.sort_unstable();
                let expected: Vec<u32> =
                    model.iter().filter(|(_, tick)| **tick <= now / TICK).map(|(slot, _)| *slot).collect();
                model.retain(|_, tick| *tick > now / TICK);
                prop_assert_eq!(found, expected);
            }
        }
    }
}
