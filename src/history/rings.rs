//! The rings of the history: which step an instant belongs to, where it lies in memory, and what several seconds make
//! together. Time is an argument.
//!
//! Steps are numbered from the begin of the [`Axis`], and a slot holds the number of its step: what is older than a
//! ring is not cleared but overwritten, and a second without a sample leaves no trace that could pass for one.

#[cfg(any(test, feature = "http"))]
use std::ops::RangeInclusive;

pub const SECOND_NS: u64 = 1_000_000_000;
const MINUTE_NS: u64 = 60 * SECOND_NS;

/// Counts of the fleet as one step of the history has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Agents that beat, at the end of the step.
    pub up: u64,
    /// Agents that are stalled, at the end of the step.
    pub stalled: u64,
    /// Agents that died in the step.
    pub died: u64,
    /// Stalls that ended in the step.
    pub resumed: u64,
    /// Beats accepted in the step.
    pub beats: u64,
    /// Beats lost in the step.
    pub lost: u64,
    /// Datagrams refused in the step.
    pub refused: u64,
    /// The 99th percentile of the wait in the queue in the worst second of the step, ns.
    pub queue_p99_ns: u64,
    /// Blind time of all shards together in the step, ns.
    pub blind_ns: u64,
    /// The time in which all this was counted, ns of `CLOCK_MONOTONIC`: longer than a second if the second before
    /// has no sample.
    pub covered_ns: u64,
}

impl Sample {
    /// Words of a sample.
    pub const WORDS: usize = 10;

    pub const fn to_words(self) -> [u64; Self::WORDS] {
        let Self { up, stalled, died, resumed, beats, lost, refused, queue_p99_ns, blind_ns, covered_ns } =
            self;
        [up, stalled, died, resumed, beats, lost, refused, queue_p99_ns, blind_ns, covered_ns]
    }

    pub const fn from_words(words: [u64; Self::WORDS]) -> Self {
        let [up, stalled, died, resumed, beats, lost, refused, queue_p99_ns, blind_ns, covered_ns] = words;
        Self { up, stalled, died, resumed, beats, lost, refused, queue_p99_ns, blind_ns, covered_ns }
    }

    /// Both as one step, of which `later` is the later part.
    #[must_use]
    pub fn and(self, later: Self) -> Self {
        Self {
            up: later.up,
            stalled: later.stalled,
            died: self.died.saturating_add(later.died),
            resumed: self.resumed.saturating_add(later.resumed),
            beats: self.beats.saturating_add(later.beats),
            lost: self.lost.saturating_add(later.lost),
            refused: self.refused.saturating_add(later.refused),
            queue_p99_ns: self.queue_p99_ns.max(later.queue_p99_ns),
            blind_ns: self.blind_ns.saturating_add(later.blind_ns),
            covered_ns: self.covered_ns.saturating_add(later.covered_ns),
        }
    }

    /// Beats per second. What was counted in less than a second counts as a second's: an observer that starts with a
    /// full queue shows no peak.
    #[cfg(any(test, feature = "http"))]
    #[must_use]
    pub fn beats_per_second(&self) -> u64 {
        let covered = u128::from(self.covered_ns.max(SECOND_NS));
        let rate = (u128::from(self.beats) * u128::from(SECOND_NS) + covered / 2) / covered;
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

/// The time of the history: `CLOCK_BOOTTIME`, moved by less than a minute so that its seconds and minutes begin with
/// those of the wall clock at the time it was made.
///
/// Not `CLOCK_REALTIME`: where that steps back, two instants would share a step, and where it leaps, a day would pass at
/// once. Not `CLOCK_MONOTONIC`: it stands still in suspend, and the samples before it would seem to be as young as if
/// there had been none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// How far it is ahead of `CLOCK_BOOTTIME`, ns.
    pub ahead_ns: u64,
}

impl Axis {
    /// One whose minutes are those of a wall clock that shows `wall_ns` at `boot_ns`.
    pub const fn new(boot_ns: u64, wall_ns: u64) -> Self {
        Self { ahead_ns: (wall_ns % MINUTE_NS + MINUTE_NS - boot_ns % MINUTE_NS) % MINUTE_NS }
    }

    /// The instant of `CLOCK_BOOTTIME` in ns of this axis.
    pub const fn at(self, boot_ns: u64) -> u64 {
        boot_ns.saturating_add(self.ahead_ns)
    }
}

/// Samples of one resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Seconds of a step.
    pub step_seconds: u64,
    /// Steps kept.
    pub steps: usize,
}

impl Ring {
    /// All rings, the finest first.
    pub const ALL: [Self; 3] = [
        Self { step_seconds: 1, steps: 15 * 60 },
        Self { step_seconds: 10, steps: 4 * 360 },
        Self { step_seconds: 60, steps: 24 * 60 },
    ];

    /// The length of a step, ns.
    #[cfg(any(test, feature = "http"))]
    pub const fn step_ns(&self) -> u64 {
        self.step_seconds * SECOND_NS
    }

    /// The step that contains this second of the axis.
    pub const fn step_of(&self, second: u64) -> u64 {
        second / self.step_seconds
    }

    /// The place of a step.
    #[expect(clippy::cast_possible_truncation, reason = "the remainder is small")]
    pub const fn slot_of(&self, step: u64) -> usize {
        (step % self.steps as u64) as usize
    }

    /// The steps to show at `now`, an instant of the axis, if `newest` is the last second with a sample: those kept
    /// that overlap `from` to `to`. `None`: there are none.
    ///
    /// The last is the one with the last whole second, or with the second before that while its sample is due: no
    /// reader sees a gap that is about to close.
    #[cfg(any(test, feature = "http"))]
    pub fn shown(
        &self,
        newest: Option<u64>,
        now: u64,
        from: Option<u64>,
        to: Option<u64>,
    ) -> Option<RangeInclusive<u64>> {
        let whole = (now / SECOND_NS).checked_sub(1)?;
        let last_second = newest.filter(|newest| newest + 1 == whole).unwrap_or(whole);
        let last = self.step_of(last_second);
        let oldest = (last + 1).saturating_sub(self.steps as u64);
        let first = from.map_or(oldest, |from| oldest.max(from / self.step_ns()));
        let last = to.map_or(last, |to| last.min(to / self.step_ns()));
        (first <= last).then_some(first..=last)
    }
}

#[cfg(test)]
#[path = "rings_tests.rs"]
mod tests;
