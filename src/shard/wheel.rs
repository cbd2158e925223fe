//! Timers whose upkeep the beat path never touches.
//!
//! Each tracked agent has one entry, put where its deadline was when it was last looked at. A beat moves
//! the deadline, not the entry; when the entry comes up, whoever judges finds the deadline in the future
//! and puts it there. So an agent costs one visit per threshold, not one per beat.
//!
//! A ring of buckets one tick wide; an entry further away than the ring is long is put at its end and
//! looked at once a round. Entries are linked through an array, 8 bytes a slot. Never early, at most a
//! tick late. Thread: shard. Allocates: at start (pages are touched as slots are used).

use crate::time::MonoNs;

/// Buckets of the ring: 41 s at a tick of 10 ms.
const BUCKETS: u64 = 4096;
const BUCKETS_LEN: usize = 4096;
const NOBODY: u32 = 0;
/// Marks a `previous` link that is a bucket.
const BUCKET: u32 = 1 << 31;

#[derive(Clone, Copy, Debug, Default)]
struct Links {
    /// 0 = not in the wheel; `BUCKET | bucket` = first of that bucket; else slot + 1.
    previous: u32,
    /// 0 = last; else slot + 1.
    next: u32,
}

/// The timers of one shard.
#[derive(Debug)]
pub struct Wheel {
    tick_ns: u64,
    /// Buckets before this tick are done; its own may hold entries still.
    now: u64,
    first: Box<[u32]>,
    occupied: [u64; BUCKETS_LEN / 64],
    links: Vec<[u32; 2]>,
}

impl Wheel {
    /// An empty wheel for `slots` slots, starting at `now`.
    pub fn new(slots: u32, tick_ns: u64, now: MonoNs) -> Self {
        Self {
            tick_ns,
            now: now.0 / tick_ns,
            first: vec![NOBODY; BUCKETS_LEN].into_boxed_slice(),
            occupied: [0; BUCKETS_LEN / 64],
            // Zeroed by the kernel page by page when touched.
            links: vec![[0; 2]; slots as usize],
        }
    }

    /// Empties the wheel, whatever state it is in.
    pub fn reset(&mut self, now: MonoNs) {
        self.now = now.0 / self.tick_ns;
        self.first.fill(NOBODY);
        self.occupied.fill(0);
        self.links.fill([0; 2]);
    }

    /// Puts the slot's entry at `at`, wherever it was.
    pub fn set(&mut self, slot: u32, at: MonoNs) {
        self.remove(slot);
        let tick = at.0.div_ceil(self.tick_ns).clamp(self.now + 1, self.now + BUCKETS - 1);
        let bucket = bucket_of(tick);
        let head = self.first[bucket as usize];
        self.put(slot, Links { previous: BUCKET | bucket, next: head });
        if head != NOBODY {
            self.links[(head - 1) as usize][0] = slot + 1;
        }
        self.first[bucket as usize] = slot + 1;
        self.occupied[bucket as usize / 64] |= 1 << (bucket % 64);
    }

    /// Takes the slot's entry out, if it has one.
    pub fn remove(&mut self, slot: u32) {
        let Links { previous, next } = self.get(slot);
        if previous == NOBODY {
            return;
        }
        if previous & BUCKET != 0 {
            let bucket = previous & !BUCKET;
            self.first[bucket as usize] = next;
            if next == NOBODY {
                self.occupied[bucket as usize / 64] &= !(1 << (bucket % 64));
            }
        } else {
            self.links[(previous - 1) as usize][1] = next;
        }
        if next != NOBODY {
            self.links[(next - 1) as usize][0] = previous;
        }
        self.put(slot, Links::default());
    }

    /// Takes out an entry that is due at `now`; `None` when there is no more.
    pub fn pop_due(&mut self, now: MonoNs) -> Option<u32> {
        let target = now.0 / self.tick_ns;
        loop {
            let head = self.first[bucket_of(self.now) as usize];
            if head != NOBODY {
                let slot = head - 1;
                self.remove(slot);
                return Some(slot);
            }
            if self.now >= target {
                return None;
            }
            // Straight to the next bucket with entries; after a leap of the clock at most one round.
            self.now = self.next_occupied().map_or(target, |tick| tick.min(target));
        }
    }

    /// When the next entry comes up; `None` if there is none.
    pub fn next_due(&self) -> Option<MonoNs> {
        if self.first[bucket_of(self.now) as usize] != NOBODY {
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

    fn get(&self, slot: u32) -> Links {
        let [previous, next] = self.links[slot as usize];
        Links { previous, next }
    }

    fn put(&mut self, slot: u32, links: Links) {
        self.links[slot as usize] = [links.previous, links.next];
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
        std::iter::from_fn(|| wheel.pop_due(MonoNs(now))).collect()
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
        /// Against the obvious model: a sorted map of the ticks.
        #[test]
        fn agrees_with_a_sorted_map(
            steps in prop::collection::vec((0u32..16, 0u64..60_000, 0u64..400, any::<bool>()), 1..200)
        ) {
            let mut wheel = Wheel::new(16, TICK, MonoNs(0));
            let mut model = BTreeMap::<u32, u64>::new();
            let mut now = 0;
            for (slot, ahead, step, is_removed) in steps {
                if is_removed {
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
