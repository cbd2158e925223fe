//! The history in memory: a sealed memfd of plain words, and how it is written and copied.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::rings::{Axis, Ring, SECOND_NS, Sample};
use crate::journal::Refused;
use crate::sys::memory::Words;
use crate::table::sequence;

/// The name under which a successor gets it.
pub const NAME: &str = "history";

/// Words of the header: one page.
const HEADER_WORDS: usize = 512;
/// `vartahst` in byte order.
const MAGIC: u64 = u64::from_le_bytes(*b"vartahst");
/// Incremented whenever the meaning of a word changes.
const LAYOUT: u64 = 1;
/// A step: its number, plus 1, and its sample; the rest is spare.
const STEP_WORDS: usize = 12;
const WORDS: usize =
    HEADER_WORDS + (Ring::ALL[0].steps + Ring::ALL[1].steps + Ring::ALL[2].steps) * STEP_WORDS;
/// Attempts to read while it is written.
pub const ATTEMPTS: usize = 64;

/// Indices of the header's words.
pub mod header {
    pub const MAGIC: usize = 0;
    pub const LAYOUT: usize = 1;
    pub const BOOT_HIGH: usize = 2;
    pub const BOOT_LOW: usize = 3;
    /// How far the axis is ahead of `CLOCK_BOOTTIME`, ns.
    pub const AHEAD: usize = 4;
    /// Guards all words below and the rings.
    pub const SEQUENCE: usize = 5;
    /// The last second with a sample, plus 1; 0 before the first.
    pub const NEWEST: usize = 6;
}

const _: () = assert!(Sample::WORDS < STEP_WORDS && WORDS * 8 <= 512 * 1024);

/// The samples of 24 hours.
#[derive(Debug)]
pub struct History {
    pub words: Words<AtomicU64>,
}

impl History {
    /// An empty one, of this boot, at a time at which the clocks show this. Obtains all its memory.
    ///
    /// # Errors
    /// The kernel's, if it grants no memfd, address space or memory.
    pub fn create(boot_id: u128, boot_ns: u64, wall_ns: u64) -> io::Result<Self> {
        let history = Self { words: Words::sealed("varta-history", WORDS)? };
        history.words.grant(0..WORDS)?;
        history.put(header::LAYOUT, LAYOUT);
        let [high, low] = halves(boot_id);
        history.put(header::BOOT_HIGH, high);
        history.put(header::BOOT_LOW, low);
        history.put(header::AHEAD, Axis::new(boot_ns, wall_ns).ahead_ns);
        history.words[header::MAGIC].store(MAGIC, Ordering::Release);
        Ok(history)
    }

    /// Copies what a predecessor recorded, which may still write it. Call it before anything is recorded or read here.
    ///
    /// # Errors
    /// [`Refused`]: it is none, or of no use now. This history stays empty.
    pub fn go_on_from(&self, memfd: OwnedFd, boot_ns: u64) -> Result<(), Refused> {
        let words = Words::<AtomicU64>::adopt(memfd).map_err(Refused::Memory)?;
        words.grant(0..words.len()).map_err(Refused::Memory)?;
        let before = Self { words };
        before.check([header::BOOT_HIGH, header::BOOT_LOW].map(|index| self.get(index)))?;
        let axis = before.axis();
        let (newest, steps) = before.copied();
        let now = axis.at(boot_ns) / SECOND_NS;
        match newest {
            None => return Ok(()),
            Some(newest) if newest > now => return Err(Refused::ClockBehind),
            Some(_) => {}
        }
        let is_sound = |of: &Filled| {
            of.ring.slot_of(of.step) == of.slot
                && newest.is_some_and(|newest| of.step <= of.ring.step_of(newest))
        };
        if axis.ahead_ns >= 60 * SECOND_NS || !steps.iter().all(is_sound) {
            return Err(Refused::Corrupt);
        }
        self.put(header::AHEAD, axis.ahead_ns);
        for Filled { ring, step, sample, .. } in steps {
            self.put_step(&ring, step, &sample);
        }
        self.put(header::NEWEST, newest.map_or(0, |newest| newest + 1));
        Ok(())
    }

    /// Whether it is a history of this boot.
    fn check(&self, boot_id: [u64; 2]) -> Result<(), Refused> {
        if self.words.len() < HEADER_WORDS || self.get(header::MAGIC) != MAGIC {
            return Err(Refused::NotOurs);
        }
        if self.get(header::LAYOUT) != LAYOUT {
            return Err(Refused::Layout(self.get(header::LAYOUT)));
        }
        if self.words.len() != WORDS {
            return Err(Refused::Corrupt);
        }
        match [header::BOOT_HIGH, header::BOOT_LOW].map(|index| self.get(index)) == boot_id {
            true => Ok(()),
            false => Err(Refused::OtherBoot),
        }
    }

    /// The last second with a sample, and all steps with their slots.
    fn copied(&self) -> (Option<u64>, Vec<Filled>) {
        let copy = || {
            let newest = self.get(header::NEWEST).checked_sub(1);
            let slots = Ring::ALL.into_iter().flat_map(|ring| (0..ring.steps).map(move |slot| (ring, slot)));
            let steps = slots.filter_map(|(ring, slot)| {
                let (step, sample) = self.in_slot(&ring, slot)?;
                Some(Filled { ring, slot, step, sample })
            });
            (newest, steps.collect::<Vec<_>>())
        };
        let sequence = &self.words[header::SEQUENCE];
        for _ in 0..ATTEMPTS {
            if let Some((_, whole)) = sequence::read_once(sequence, copy) {
                return whole;
            }
            std::thread::yield_now();
        }
        // It ended while it wrote its last sample: the steps of that may be torn.
        let (newest, mut steps) = copy();
        steps.retain(|of| newest.is_none_or(|newest| of.ring.step_of(newest) != of.step));
        (newest, steps)
    }

    /// Its time.
    pub fn axis(&self) -> Axis {
        Axis { ahead_ns: self.get(header::AHEAD) }
    }

    /// Records what was counted in this second of the axis, or in a part of it. One thread at a time.
    pub fn record(&self, second: u64, sample: &Sample) {
        let sequence = &self.words[header::SEQUENCE];
        sequence::begin(sequence);
        self.put(header::NEWEST, second + 1);
        // Whoever finds one of the steps half written knows which they are.
        fence(Ordering::Release);
        for ring in Ring::ALL {
            let step = ring.step_of(second);
            let so_far = self.in_slot(&ring, ring.slot_of(step)).filter(|(of, _)| *of == step);
            let whole = so_far.map_or(*sample, |(_, so_far)| so_far.and(*sample));
            self.put_step(&ring, step, &whole);
        }
        sequence::end(sequence, 0);
    }

    pub fn get(&self, index: usize) -> u64 {
        self.words[index].load(Ordering::Relaxed)
    }

    fn put(&self, index: usize, value: u64) {
        self.words[index].store(value, Ordering::Relaxed);
    }

    /// The step in this slot, if there is any.
    pub fn in_slot(&self, ring: &Ring, slot: usize) -> Option<(u64, Sample)> {
        let start = start_of(ring, slot);
        let step = self.get(start).checked_sub(1)?;
        let words = std::array::from_fn(|word| self.get(start + 1 + word));
        Some((step, Sample::from_words(words)))
    }

    fn put_step(&self, ring: &Ring, step: u64, sample: &Sample) {
        let start = start_of(ring, ring.slot_of(step));
        self.put(start, step + 1);
        for (word, value) in sample.to_words().into_iter().enumerate() {
            self.put(start + 1 + word, value);
        }
    }

    /// The descriptor to hand to a successor.
    pub fn memfd(&self) -> BorrowedFd<'_> {
        match self.words.memfd() {
            Some(memfd) => memfd,
            None => unreachable!("it is a memfd"),
        }
    }
}

/// A slot that was written.
struct Filled {
    ring: Ring,
    slot: usize,
    step: u64,
    sample: Sample,
}

/// Where the words of a slot begin.
fn start_of(ring: &Ring, slot: usize) -> usize {
    let before = Ring::ALL.iter().take_while(|other| *other != ring).map(|ring| ring.steps).sum::<usize>();
    HEADER_WORDS + (before + slot) * STEP_WORDS
}

#[expect(clippy::cast_possible_truncation, reason = "takes the two halves apart")]
const fn halves(boot_id: u128) -> [u64; 2] {
    [(boot_id >> 64) as u64, boot_id as u64]
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
