//! Histograms and counts, kept by the aggregator and copied for readers.

use hdrhistogram::Histogram;

use crate::event::SessionWhy;

/// One minute; whatever takes longer counts as a minute.
const LONGEST_NS: u64 = 60_000_000_000;
/// Relative error below 1 %; a histogram of times takes 40 KiB.
const DIGITS: u8 = 2;

/// Distributions of one shard, or of all merged.
#[derive(Clone, Debug)]
pub struct Histograms {
    /// Time to decode and track one frame, ns.
    pub decode_ns: Histogram<u64>,
    /// From arrival in the kernel's queue to being read, ns.
    pub queue_ns: Histogram<u64>,
    /// Datagrams of one receive call that found any.
    pub batch_frames: Histogram<u64>,
    /// From the deadline (last arrival + threshold) to the telling of a stall, ns.
    pub lateness_ns: Histogram<u64>,
}

impl Default for Histograms {
    fn default() -> Self {
        Self {
            decode_ns: histogram(LONGEST_NS),
            queue_ns: histogram(LONGEST_NS),
            batch_frames: histogram(1 << 20),
            lateness_ns: histogram(LONGEST_NS),
        }
    }
}

impl Histograms {
    /// Adds another shard's.
    pub fn merge(&mut self, other: &Self) {
        let pairs = [
            (&mut self.decode_ns, &other.decode_ns),
            (&mut self.queue_ns, &other.queue_ns),
            (&mut self.batch_frames, &other.batch_frames),
            (&mut self.lateness_ns, &other.lateness_ns),
        ];
        for (one, other) in pairs {
            // Same bounds by construction, the only thing that could be refused.
            let _ = one.add(other);
        }
    }
}

fn histogram(largest: u64) -> Histogram<u64> {
    match Histogram::new_with_bounds(1, largest, DIGITS) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("bounds are constants: {error}"),
    }
}

/// Counts of one shard that the aggregator keeps.
#[derive(Clone, Debug, Default)]
pub struct ShardTally {
    /// Agents that beat.
    pub up: u64,
    /// Of those, agents that are silent because they are frozen.
    pub frozen: u64,
    /// Agents whose stall was told and that did not resume.
    pub stalled: u64,
    /// Agents whose pid does not hash to this shard.
    pub off_hash: u64,
    /// Agents whose end is noticed at their threshold only, for want of a descriptor.
    pub unwatched: u64,
    /// Stalls told for certain.
    pub stalls_certain: u64,
    /// Stalls told without a whole threshold of sight.
    pub stalls_uncertain: u64,
    /// Stalls that the resuming beat refuted.
    pub stalls_refuted: u64,
    /// Resumes told.
    pub resumes: u64,
    /// Exits told.
    pub exits: u64,
    /// Sessions begun, by [`SessionWhy`] in the order of its variants.
    pub sessions: [u64; SessionWhy::ALL.len()],
    /// Agents that start now do not find its socket.
    pub is_unreachable: bool,
    /// Distributions.
    pub histograms: Histograms,
}

/// Everything the aggregator counts.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// One a shard.
    pub shards: Vec<ShardTally>,
    /// Events told.
    pub events: u64,
    /// Events that a slow reader missed, by [`Reader`] in the order of its variants.
    pub events_dropped: [u64; Reader::ALL.len()],
    /// Beats that a subscriber that asked for them missed.
    pub beats_untold: u64,
    /// Lookups that the kernel would not answer.
    pub lookups_failed: u64,
    /// Reads of slots that met their writer too often and were done again.
    pub slot_reads_busy: u64,
    /// Write errors of event outputs.
    pub event_write_errors: u64,
    /// Manifest or symlink are not in place.
    pub is_unlisted: bool,
}

/// Who reads events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// The event output.
    Log,
    /// Those who ask by HTTP.
    Http,
    /// A subscriber of the program that embeds the fleet.
    Subscriber,
}

impl Reader {
    /// Every reader once, in the order of declaration.
    pub const ALL: [Self; 3] = [Self::Log, Self::Http, Self::Subscriber];

    /// The word of the metrics.
    #[cfg(feature = "http")]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Http => "http",
            Self::Subscriber => "subscriber",
        }
    }
}

impl Tally {
    /// Of so many shards, nothing counted yet.
    pub fn of_shards(shards: usize) -> Self {
        Self { shards: vec![ShardTally::default(); shards], ..Self::default() }
    }

    /// The distributions of all shards together.
    pub fn merged(&self) -> Histograms {
        let mut merged = Histograms::default();
        for shard in &self.shards {
            merged.merge(&shard.histograms);
        }
        merged
    }
}
