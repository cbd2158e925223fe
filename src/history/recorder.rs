//! Counts what the fleet did in each second, and records it.
//!
//! In: what shards and aggregator publish. Out: a sample a second. Thread: upkeep, and that which hands over to a
//! successor. Blocks: for microseconds, if both call. Its cost depends on the number of shards, not of agents.
//!
//! The upkeep thread records, because nothing waits for it and it waits for nothing but the file system: while that
//! hangs, the seconds are missing, and whoever looks sees that they are. On the aggregator's thread a sample would delay
//! verdicts, and it would be missing just when many of them are due.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use super::memory::History;
use super::rings::{SECOND_NS, Sample};
use crate::lane::Port;
use crate::refusal::Refusal;
use crate::sys::clock::{SystemClock, boottime_ns};
use crate::time::{Clock, MonoNs};
use crate::view::copies::{Copies, Totals};
use crate::view::tally::Tally;

/// The aggregator turns at least once a second: totals that are older than this are not those of now.
const TURNS_WITHIN_NS: u64 = 2 * SECOND_NS;

/// Records the history of a fleet.
#[derive(Debug)]
pub struct Recorder {
    history: Arc<History>,
    ports: Arc<[Arc<Port>]>,
    copies: Arc<Copies>,
    so_far: Mutex<SoFar>,
}

/// What is recorded already.
#[derive(Debug)]
struct SoFar {
    counts: Counts,
    at: MonoNs,
    blind: Vec<BlindTime>,
    queue: QueueTimes,
}

/// Counts since the start of the fleet.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    totals: Totals,
    beats: u64,
    lost: u64,
    refused: u64,
}

impl Counts {
    fn now(totals: Totals, ports: &[Arc<Port>]) -> Self {
        let mut counts = Self { totals, ..Self::default() };
        for port in ports {
            counts.beats += port.counters.beats.get();
            counts.lost += port.counters.beats_lost.get();
            counts.refused += Refusal::ALL.iter().map(|refusal| port.counters.refused(*refusal)).sum::<u64>();
        }
        counts
    }

    /// What came since `before`.
    fn since(&self, before: &Self) -> Sample {
        Sample {
            up: self.totals.up,
            stalled: self.totals.stalled,
            died: self.totals.died.saturating_sub(before.totals.died),
            resumed: self.totals.resumed.saturating_sub(before.totals.resumed),
            beats: self.beats.saturating_sub(before.beats),
            lost: self.lost.saturating_sub(before.lost),
            refused: self.refused.saturating_sub(before.refused),
            ..Sample::default()
        }
    }
}

/// The blind time of a shard. It counts a window when that ends; here it also counts while it lasts.
#[derive(Clone, Copy, Debug, Default)]
struct BlindTime {
    /// Of windows that have ended.
    ended_ns: u64,
    /// When the present window was seen first.
    since: Option<MonoNs>,
    /// Returned so far.
    told_ns: u64,
}

impl BlindTime {
    /// How much came since the last call, if so much has ended and there is a window now or not. All that is returned
    /// adds up to what has ended, and differs from that only while a window lasts and for a tick of the shard after it.
    fn came(&mut self, ended_ns: u64, is_blind: bool, now: MonoNs) -> u64 {
        if ended_ns != self.ended_ns || !is_blind {
            (self.ended_ns, self.since) = (ended_ns, None);
        }
        if is_blind && self.since.is_none() {
            self.since = Some(now);
        }
        let known = ended_ns.saturating_add(self.since.map_or(0, |since| now.since(since)));
        let came = known.saturating_sub(self.told_ns);
        self.told_ns = self.told_ns.max(known);
        came
    }
}

/// How long datagrams waited in the queues.
#[derive(Debug)]
struct QueueTimes {
    last: Arc<Tally>,
    /// Of all shards in `last`.
    all: Histogram<u64>,
}

impl QueueTimes {
    fn new(last: Arc<Tally>) -> Self {
        Self { all: last.queue_ns(), last }
    }

    /// The 99th percentile of what came between two copies, ns; 0 if nothing did.
    fn p99_until(&mut self, copy: Arc<Tally>) -> u64 {
        if Arc::ptr_eq(&copy, &self.last) {
            return 0;
        }
        let all = copy.queue_ns();
        let mut new = all.clone();
        // Fails for a copy that lacks values of the one before, of which there is none.
        let has_grown = new.subtract(&self.all).is_ok();
        (self.all, self.last) = (all, copy);
        if has_grown && !new.is_empty() { new.value_at_quantile(0.99) } else { 0 }
    }
}

impl Recorder {
    /// Records into `history` what these publish, which have counted since now.
    pub fn new(history: Arc<History>, ports: Arc<[Arc<Port>]>, copies: Arc<Copies>) -> Self {
        let so_far = SoFar {
            counts: Counts::default(),
            at: SystemClock.mono(),
            blind: vec![BlindTime::default(); ports.len()],
            queue: QueueTimes::new(Arc::new(Tally::of_shards(ports.len()))),
        };
        Self { history, ports, copies, so_far: Mutex::new(so_far) }
    }

    /// How long the present second lasts.
    pub fn rest_of_second(&self) -> Duration {
        Duration::from_nanos(SECOND_NS - self.history.axis().at(boottime_ns()) % SECOND_NS)
    }

    /// Records the second that ended last, with all that came since the last call. Call it when one has ended.
    pub fn record_second(&self) {
        self.record(|now| (now / SECOND_NS).saturating_sub(1));
    }

    /// Records what came of the present second, because a successor or nobody will record the rest.
    pub fn record_part(&self) {
        self.record(|now| now / SECOND_NS);
    }

    fn record(&self, second_of: impl Fn(u64) -> u64) {
        // Held by the other thread for microseconds, unless that is not scheduled.
        let Some(mut so_far) = self.so_far.try_lock_for(Duration::from_millis(1)) else { return };
        let (second, now) = (second_of(self.history.axis().at(boottime_ns())), SystemClock.mono());
        let Some((totals, _)) = self.copies.totals().filter(|(_, at)| now.since(*at) <= TURNS_WITHIN_NS)
        else {
            return;
        };
        let counts = Counts::now(totals, &self.ports);
        let blind_ns = so_far.blind.iter_mut().zip(&*self.ports).map(|(time, port)| {
            time.came(port.counters.blind_ns.get(), port.counters.is_blind.get() != 0, now)
        });
        let sample = Sample {
            blind_ns: blind_ns.sum(),
            queue_p99_ns: so_far.queue.p99_until(self.copies.latest()),
            covered_ns: now.since(so_far.at),
            ..counts.since(&so_far.counts)
        };
        (so_far.counts, so_far.at) = (counts, now);
        self.history.record(second, &sample);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blind_time_counts_while_it_lasts_and_once() {
        let at = |seconds: u64| MonoNs(seconds * SECOND_NS);
        let mut time = BlindTime::default();
        assert_eq!(time.came(5, false, at(1)), 5, "the gap before the start");
        assert_eq!(time.came(5, false, at(2)), 0);
        assert_eq!(time.came(5, true, at(3)), 0, "it began just now, or a second ago");
        assert_eq!(time.came(5, true, at(4)), SECOND_NS);
        assert_eq!(time.came(5, true, at(6)), 2 * SECOND_NS);
        assert_eq!(time.came(5 + 4 * SECOND_NS, true, at(7)), SECOND_NS, "the mark stays for a tick");
        assert_eq!(time.came(5 + 4 * SECOND_NS, false, at(8)), 0);
        assert_eq!(time.came(7 + 4 * SECOND_NS, false, at(9)), 2, "a short one");
        assert_eq!(time.came(7 + 4 * SECOND_NS, true, at(10)), 0);
        assert_eq!(time.came(8 + 4 * SECOND_NS, true, at(11)), 1, "it ended, and another began");
        assert_eq!(time.came(8 + 4 * SECOND_NS, true, at(12)), SECOND_NS);
    }

    #[test]
    fn the_wait_in_the_queue_is_that_of_the_second() {
        let mut tally = Tally::of_shards(2);
        let mut times = QueueTimes::new(Arc::new(tally.clone()));
        let mut after = |shard: usize, value: u64, times_of: u64| {
            tally.shards[shard].histograms.queue_ns.saturating_record_n(value, times_of);
            times.p99_until(Arc::new(tally.clone()))
        };
        let is_about = |value: u64, expected: u64| value.abs_diff(expected) * 100 <= expected;
        assert!(is_about(after(0, 1_000_000, 1000), 1_000_000));
        assert!(is_about(after(1, 50_000, 100), 50_000), "what was before does not count");
        assert_eq!(after(0, 1, 0), 0);
        let copy = Arc::new(tally.clone());
        assert_eq!((times.p99_until(Arc::clone(&copy)), times.p99_until(copy)), (0, 0));
    }
}
