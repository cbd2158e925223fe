//! Histograms and counts, kept by the aggregator and copied for readers.

use hdrhistogram::Histogram;

use crate::event::SessionWhy;
use crate::rules::Death;
use crate::time::WallNs;
use crate::view::deaths::RecentDeaths;
use crate::view::too_short::FoundTooShort;
use crate::view::units::Units;

/// One minute; longer times count as a minute.
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
    /// From the deadline (last arrival + threshold) to the report of a stall, ns.
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
    /// Adds those of another shard.
    pub fn merge(&mut self, other: &Self) {
        let pairs = [
            (&mut self.decode_ns, &other.decode_ns),
            (&mut self.queue_ns, &other.queue_ns),
            (&mut self.batch_frames, &other.batch_frames),
            (&mut self.lateness_ns, &other.lateness_ns),
        ];
        for (one, other) in pairs {
            // Cannot fail: the bounds are the same by construction.
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
    /// Agents in `up` that are silent because they are frozen.
    pub frozen: u64,
    /// Agents that beat and are at a standstill.
    pub still: u64,
    /// Standstills reported as certain.
    pub standstills_certain: u64,
    /// Standstills reported without a whole threshold of sight.
    pub standstills_uncertain: u64,
    /// Standstills that ended with an advance.
    pub advances: u64,
    /// Agents whose stall was reported and that have not resumed.
    pub stalled: u64,
    /// Agents whose pid does not hash to this shard.
    pub off_hash: u64,
    /// Agents whose exit is noticed only at their threshold, for lack of a descriptor.
    pub unwatched: u64,
    /// Stalls reported as certain.
    pub stalls_certain: u64,
    /// Stalls reported without a whole threshold of sight.
    pub stalls_uncertain: u64,
    /// Stalls that the resuming beat refuted.
    pub stalls_refuted: u64,
    /// Resumes reported.
    pub resumes: u64,
    /// Exits reported.
    pub exits: u64,
    /// Those of them that nobody asked for, by [`Death::kind`].
    pub deaths: [u64; Death::KINDS],
    /// Sessions begun, by [`SessionWhy`] in the order of its variants.
    pub sessions: [u64; SessionWhy::ALL.len()],
    /// New agents do not find its socket.
    pub is_unreachable: bool,
    /// Distributions.
    pub histograms: Histograms,
}

/// Everything the aggregator counts.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// One per shard.
    pub shards: Vec<ShardTally>,
    /// Events reported.
    pub events: u64,
    /// Events that a slow reader missed, by [`Reader`] in the order of its variants.
    pub events_dropped: [u64; Reader::ALL.len()],
    /// Beats missed by a subscriber to every beat.
    pub beats_untold: u64,
    /// Lookups that the kernel did not answer.
    pub lookups_failed: u64,
    /// Senders of one message that ended at once: scripts, and no agents.
    pub one_shots: u64,
    /// Slot reads that met the writer too often and were repeated.
    pub slot_reads_busy: u64,
    /// Write errors of event outputs.
    pub event_write_errors: u64,
    /// The last reload was refused.
    pub is_reload_refused: bool,
    /// When the present configuration came into force: at the start, or by a reload.
    pub configured: WallNs,
    /// Manifest or symlink is not in place.
    pub is_unlisted: bool,
    /// Thresholds that cannot work.
    pub too_short: FoundTooShort,
    /// Counts by unit, of all shards.
    pub units: Units,
    /// Deaths of the last minute, of all shards.
    pub recent_deaths: RecentDeaths,
}

/// A kind of event reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// The event output.
    Log,
    /// HTTP clients.
    Http,
    /// A subscriber of the program that embeds the fleet.
    Subscriber,
    /// The thread that acts.
    Act,
}

impl Reader {
    /// Every reader once, in the order of declaration.
    pub const ALL: [Self; 4] = [Self::Log, Self::Http, Self::Subscriber, Self::Act];

    /// The word of the metrics.
    #[cfg(feature = "http")]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Http => "http",
            Self::Subscriber => "subscriber",
            Self::Act => "act",
        }
    }
}

impl Tally {
    /// A tally of `shards` shards with nothing counted yet.
    pub fn of_shards(shards: usize) -> Self {
        Self { shards: vec![ShardTally::default(); shards], ..Self::default() }
    }

    /// The wait in the queues of all shards together.
    pub fn queue_ns(&self) -> Histogram<u64> {
        let mut all = histogram(LONGEST_NS);
        for shard in &self.shards {
            // Cannot fail: the bounds are the same by construction.
            let _ = all.add(&shard.histograms.queue_ns);
        }
        all
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
