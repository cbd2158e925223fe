//! The counts of a running fleet at one moment: an owned copy.

use std::sync::Arc;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::config::sizing::queue_limit_for;
use crate::lane::Port;
use crate::lane::uids::UidCounts;
use crate::refusal::Refusal;
use crate::view::tally::{Histograms, Tally};
use crate::view::too_short::TooShort;

/// The fleet's counts at one moment. The numbers of different shards are not of the same instant.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// One per shard, by index.
    pub shards: Vec<ShardSnapshot>,
    /// Most agents the fleet tracks.
    pub agents_max: u32,
    /// Events reported.
    pub events: u64,
    /// Events that slow subscribers missed; each such subscriber receives a report of the gap.
    pub events_dropped: u64,
    /// Beats missed by subscribers to every beat.
    pub beats_untold: u64,
    /// Lookups that the kernel did not answer.
    pub lookups_failed: u64,
    /// Slot reads repeated because the shard was writing the slot.
    pub slot_reads_busy: u64,
    /// Failures of event outputs.
    pub event_write_errors: u64,
    /// Manifest and symlink are in place, as of the last check, at most two seconds ago.
    pub is_listed: bool,
    /// Thresholds that cannot work.
    pub too_short: Vec<TooShort>,
}

/// One shard's counts. Times in ns of `CLOCK_MONOTONIC`; counts since the start.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ShardSnapshot {
    /// Agents that beat.
    pub up: u64,
    /// Agents that are stalled.
    pub stalled: u64,
    /// Agents whose exit is noticed only at their threshold, for lack of a descriptor.
    pub unwatched: u64,
    /// Agents whose pid does not hash to this shard.
    pub off_hash: u64,
    /// Datagrams received; the sum of `beats` and all `refused`.
    pub frames: u64,
    /// Accepted frames.
    pub beats: u64,
    /// Beats lost before they reached the shard, from gaps in nonces: a lower bound.
    pub beats_lost: u64,
    /// Refused datagrams by reason, every reason once.
    pub refused: Vec<(Refusal, u64)>,
    /// Frames refused because their user's share of the fleet's agents is used up; included in those refused
    /// as `table_full`.
    pub table_refused_uid: u64,
    /// Counts by user, busiest first. Adds up to the totals of the shard.
    pub uids: Vec<UidCounts>,
    /// Stalls reported as certain.
    pub stalls_certain: u64,
    /// Stalls reported without a whole threshold of sight.
    pub stalls_uncertain: u64,
    /// Stalls that turned out to be lost beats.
    pub stalls_refuted: u64,
    /// Resumes reported.
    pub resumes: u64,
    /// Agents at a standstill.
    pub standstill: u64,
    /// Standstills reported as certain.
    pub standstills_certain: u64,
    /// Standstills reported without a whole threshold of sight.
    pub standstills_uncertain: u64,
    /// Standstills that ended with an advance.
    pub advances: u64,
    /// Exits reported.
    pub exits: u64,
    /// Exits that nobody asked for: neither status 0 nor SIGTERM, SIGINT, SIGHUP or SIGPIPE.
    pub deaths: u64,
    /// Calls of recvmmsg.
    pub receive_calls: u64,
    /// Receive reports dropped because their lane was full.
    pub reports_dropped: u64,
    /// Total blind time of the shard.
    pub blind_ns: u64,
    /// It cannot see: it was paused, or its queue is full.
    pub is_blind: bool,
    /// Steps of the wall clock seen.
    pub clock_steps: u64,
    /// Failed calls on the socket.
    pub io_errors: u64,
    /// Limit of the socket's queue; it holds one datagram more.
    pub queue_limit: u64,
    /// Its thread runs and makes progress.
    pub is_alive: bool,
    /// Its socket is at its path, as of the last check, at most two seconds ago. If not, connected agents are
    /// still observed, but new agents do not find it.
    pub is_reachable: bool,
    /// Its distributions.
    pub latencies: Latencies,
}

impl ShardSnapshot {
    /// The `net.unix.max_dgram_qlen` that its agents need, if the limit of its queue is lower: see
    /// [`queue_limit_for`](crate::config::sizing::queue_limit_for).
    #[must_use]
    pub fn queue_limit_missed(&self) -> Option<u64> {
        let agents = u32::try_from(self.up + self.stalled).unwrap_or(u32::MAX);
        Some(queue_limit_for(agents, 1)).filter(|needed| *needed > self.queue_limit)
    }
}

/// Distributions: as quantiles, or as another type for each.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Latencies<T = Quantiles> {
    /// Time to decode and track one frame, ns.
    pub decode_ns: T,
    /// From arrival in the kernel's queue to being read, ns.
    pub queue_ns: T,
    /// Datagrams of one receive call.
    pub batch_frames: T,
    /// From the deadline to the report of a stall, ns.
    pub lateness_ns: T,
}

#[cfg(feature = "http")]
impl<T> Latencies<T> {
    /// Something else of each.
    pub(crate) fn each<U>(self, of: impl Fn(T) -> U) -> Latencies<U> {
        Latencies {
            decode_ns: of(self.decode_ns),
            queue_ns: of(self.queue_ns),
            batch_frames: of(self.batch_frames),
            lateness_ns: of(self.lateness_ns),
        }
    }
}

/// One distribution; values are exact to 1 %.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Quantiles {
    /// Values recorded.
    pub count: u64,
    /// Median.
    pub p50: u64,
    /// 90 % are at most this.
    pub p90: u64,
    /// 99 % are at most this.
    pub p99: u64,
    /// 99.9 % are at most this.
    pub p999: u64,
    /// The largest.
    pub max: u64,
}

impl From<&Histogram<u64>> for Quantiles {
    fn from(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}

impl From<&Histograms> for Latencies {
    fn from(histograms: &Histograms) -> Self {
        Self {
            decode_ns: (&histograms.decode_ns).into(),
            queue_ns: (&histograms.queue_ns).into(),
            batch_frames: (&histograms.batch_frames).into(),
            lateness_ns: (&histograms.lateness_ns).into(),
        }
    }
}

impl Snapshot {
    pub(crate) fn take(ports: &[Arc<Port>], tally: &Tally, agents_max: u32) -> Self {
        let shards = ports.iter().zip(&tally.shards).map(|(port, tally)| {
            let counters = &port.counters;
            let refused: Vec<(Refusal, u64)> =
                Refusal::ALL.iter().map(|refusal| (*refusal, counters.refused(*refusal))).collect();
            let beats = counters.beats.get();
            ShardSnapshot {
                up: tally.up,
                stalled: tally.stalled,
                unwatched: tally.unwatched,
                off_hash: tally.off_hash,
                frames: beats + refused.iter().map(|(_, count)| count).sum::<u64>(),
                beats,
                beats_lost: counters.beats_lost.get(),
                refused,
                table_refused_uid: port.uids.share_refused.get(),
                uids: uids_of(port),
                stalls_certain: tally.stalls_certain,
                stalls_uncertain: tally.stalls_uncertain,
                stalls_refuted: tally.stalls_refuted,
                resumes: tally.resumes,
                standstill: tally.still,
                standstills_certain: tally.standstills_certain,
                standstills_uncertain: tally.standstills_uncertain,
                advances: tally.advances,
                exits: tally.exits,
                deaths: tally.deaths.iter().sum(),
                receive_calls: counters.receive_calls.get(),
                reports_dropped: counters.reports_dropped.get(),
                blind_ns: counters.blind_ns.get(),
                is_blind: counters.is_blind.get() != 0,
                clock_steps: counters.clock_steps.get(),
                io_errors: counters.io_errors.get(),
                queue_limit: counters.queue_limit.get(),
                is_alive: port.is_alive(),
                is_reachable: !tally.is_unreachable,
                latencies: (&tally.histograms).into(),
            }
        });
        let beats_untold = ports.iter().map(|port| port.counters.beats_untold.get()).sum::<u64>();
        Self {
            shards: shards.collect(),
            agents_max,
            events: tally.events,
            events_dropped: tally.events_dropped.iter().sum(),
            beats_untold: tally.beats_untold + beats_untold,
            lookups_failed: tally.lookups_failed,
            slot_reads_busy: tally.slot_reads_busy,
            event_write_errors: tally.event_write_errors,
            is_listed: !tally.is_unlisted,
            too_short: tally.too_short.all().to_vec(),
        }
    }

    /// Agents tracked.
    #[must_use]
    pub fn agents(&self) -> u64 {
        self.shards.iter().map(|shard| shard.up + shard.stalled).sum()
    }

    /// Agents that are stalled.
    #[must_use]
    pub fn stalled(&self) -> u64 {
        self.shards.iter().map(|shard| shard.stalled).sum()
    }
}

/// The users of a shard, busiest first. Empty only if its thread ended while it reassigned a row.
fn uids_of(port: &Port) -> Vec<UidCounts> {
    let mut uids = port.uids.read().unwrap_or_default();
    uids.retain(|counts| counts.frames > 0);
    uids.sort_by_key(|counts| std::cmp::Reverse(counts.frames));
    uids
}
