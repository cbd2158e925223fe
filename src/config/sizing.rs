//! What a fleet of a given size needs: shards, queue limit, CPU, memory. Arithmetic on measured costs; the
//! guide (`performance`) shows the result for a large host, `varta-fleet check --rate` for yours.
//!
//! Assumptions: agents beat at their rate at unrelated times; pids spread over the shards as real ones do
//! (the busiest shard gets 1.12 times the mean); the kernel costs what it cost on the measured machine (2
//! cores of an AMD EPYC, a virtual machine, Linux 6.18, November 2026), and shards on different cores do not
//! slow each other down; memory is that of a fleet whose pids lie within four times their number, and in
//! which every agent stalled or lost a beat at some time.

use super::bounds::{PID_MAX, SHARDS_MAX};

/// CPU of one beat, ns: measured 1.1 to 1.4 us with 50 processes at 45 000 and 100 000 a second on a shard,
/// 1.6 us with 4000. Wake-ups are counted apart and not included.
const BEAT_NS: f64 = 1_450.0;
/// CPU of one wake-up, ns: the additional cost of a beat at low rates (2.3 us each at 10 000 a second on a
/// shard, 10 us at 250).
const WAKE_NS: f64 = 10_000.0;
/// CPU of judging an agent, once per threshold, ns: 11 with 1000 agents in a shard, 34 to 38 with a million
/// in random order.
const JUDGE_NS: f64 = 40.0;
/// The busiest shard's share of the beats, as a multiple of the mean (see [`crate::shard_for`]).
const BUSIEST: f64 = 1.12;
/// How busy a shard's core is planned to be: the rest is for catching up after a pause or a burst.
const BUSY_MAX: f64 = 0.5;
/// Resident memory before there are agents, with HTTP and metrics, bytes: measured 5.8 MiB, 6.3 with a few.
const BASE_BYTES: u64 = 7 << 20;
/// Resident memory of each shard, once its report lane has wrapped, bytes.
const SHARD_BYTES: u64 = 1 << 20;
/// The full history of events, bytes: 65 536 of 112.
const HISTORY_BYTES: u64 = 65_536 * 112;
/// An agent, bytes: measured 288, and 104 once it stalled or lost a beat.
const AGENT_BYTES: u64 = 392;
/// An entry of an index from pids to slots, bytes; each shard and the aggregator have one.
const INDEX_BYTES: u64 = 4;
/// The range of pids, as a multiple of the number of agents.
const PID_SPREAD: u64 = 4;
/// The pids that Linux assigns by default.
const PIDS_FEW: u64 = 32_768;
/// Kernel memory of one waiting frame, bytes.
const QUEUED_FRAME_BYTES: u64 = 768;
const SECOND_NS: f64 = 1e9;

/// A fleet to be observed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// Most agents.
    pub agents: u32,
    /// Beats per second of each agent.
    pub rate: f64,
    /// The smallest threshold, ns.
    pub threshold_ns: u64,
    /// The longest pause of the observer, ns, for which no beat may be refused.
    pub pause_ns: u64,
    /// The longest coalescing sleep of a shard, ns; 0: woken per datagram.
    pub max_delay_ns: u64,
}

/// What a fleet needs with a given number of shards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sizing {
    /// Shards.
    pub shards: u32,
    /// Beats per second of the busiest shard.
    pub busiest_rate: f64,
    /// How busy its core is, 1 = always.
    pub busiest_core: f64,
    /// CPU of all shards together, in cores.
    pub cores: f64,
    /// `net.unix.max_dgram_qlen`.
    pub queue_limit: u64,
    /// Kernel memory of all queues when they are full, bytes.
    pub queue_bytes: u64,
    /// Most resident memory of the observer, without clients that read lists of agents, bytes.
    pub resident_bytes: u64,
}

impl Demand {
    /// The fewest shards that keep the busiest core half idle; `None` if 64 do not suffice.
    #[must_use]
    pub fn shards(&self) -> Option<u32> {
        (1..=SHARDS_MAX).find(|shards| self.on(*shards).busiest_core <= BUSY_MAX)
    }

    /// What the fleet needs with this many shards.
    #[must_use]
    pub fn on(&self, shards: u32) -> Sizing {
        let shards = shards.max(1);
        let mean = 1.0 / f64::from(shards);
        let busiest = if shards > 1 { (BUSIEST * mean).min(1.0) } else { 1.0 };
        let busiest_rate = self.beats_per_second() * busiest;
        let at_once = queue_limit_for(self.agents, shards);
        // A pause may begin at the end of a sleep.
        let unread_ns = self.pause_ns.saturating_add(self.max_delay_ns);
        let queue_limit = at_once.max(whole(busiest_rate * unread_ns as f64 / SECOND_NS));
        Sizing {
            shards,
            busiest_rate,
            busiest_core: self.core_busy(busiest),
            cores: self.core_busy(mean) * f64::from(shards),
            queue_limit,
            queue_bytes: (queue_limit + 1) * QUEUED_FRAME_BYTES * u64::from(shards),
            resident_bytes: self.resident_bytes(u64::from(shards)),
        }
    }

    fn resident_bytes(&self, shards: u64) -> u64 {
        let agents = u64::from(self.agents);
        let pids = (agents * PID_SPREAD).clamp(PIDS_FEW, PID_MAX.into());
        let fixed = BASE_BYTES + HISTORY_BYTES + shards * SHARD_BYTES;
        fixed + agents * AGENT_BYTES + pids * INDEX_BYTES * (shards + 1)
    }

    fn beats_per_second(&self) -> f64 {
        f64::from(self.agents) * self.rate
    }

    /// How busy the core of a shard with this part of the fleet is.
    fn core_busy(&self, part: f64) -> f64 {
        let beats = self.beats_per_second() * part;
        let wakes =
            if self.max_delay_ns == 0 { beats } else { beats.min(SECOND_NS / self.max_delay_ns as f64) };
        let judged = f64::from(self.agents) * part * SECOND_NS / self.threshold_ns.max(1) as f64;
        (beats * BEAT_NS + wakes * WAKE_NS + judged * JUDGE_NS) / SECOND_NS
    }
}

/// The `net.unix.max_dgram_qlen` that this many agents need: 2 for each agent of a shard, so that all can
/// beat at once while their last beats are still in the queue.
#[must_use]
pub fn queue_limit_for(agents: u32, shards: u32) -> u64 {
    2 * u64::from(agents).div_ceil(u64::from(shards.max(1)))
}

/// Kernel memory of a full queue, bytes.
#[must_use]
pub const fn queue_bytes(limit: u64) -> u64 {
    limit.saturating_mul(QUEUED_FRAME_BYTES)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, and is never negative"
)]
fn whole(number: f64) -> u64 {
    number.ceil() as u64
}

#[cfg(test)]
#[path = "sizing_tests.rs"]
mod tests;
