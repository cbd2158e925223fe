//! What is read of the history, whole however the reader and the writer meet.

use std::ops::RangeInclusive;

use super::memory::{ATTEMPTS, History, header};
use super::rings::{Ring, Sample};
use crate::table::sequence;

/// Steps of a ring, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Their numbers.
    pub steps: RangeInclusive<u64>,
    /// What they have; `None` for a step without a sample.
    pub samples: Vec<Option<Sample>>,
}

/// It was being written at each attempt to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl History {
    /// The steps to show at an instant of the axis; see [`Ring::shown`].
    ///
    /// # Errors
    /// [`Busy`]: the thread that writes ended meanwhile, or is not scheduled.
    pub fn read(
        &self,
        ring: &Ring,
        now: u64,
        from: Option<u64>,
        to: Option<u64>,
    ) -> Result<Option<Shown>, Busy> {
        let sequence = &self.words[header::SEQUENCE];
        let read = || {
            let newest = self.get(header::NEWEST).checked_sub(1);
            let steps = ring.shown(newest, now, from, to)?;
            let sample_of = |step| {
                let found = self.in_slot(ring, ring.slot_of(step)).filter(|(of, _)| *of == step);
                found.map(|(_, sample)| sample)
            };
            Some(Shown { samples: steps.clone().map(sample_of).collect(), steps })
        };
        for _ in 0..ATTEMPTS {
            if let Some((_, shown)) = sequence::read_once(sequence, read) {
                return Ok(shown);
            }
            std::thread::yield_now();
        }
        Err(Busy)
    }
}
