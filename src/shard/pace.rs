//! How long a shard sleeps before it drains its socket.
//!
//! A wake-up costs more than a beat, so under load the shard sleeps briefly and drains many datagrams at
//! once. The length of the sleep is controlled by how deep the queue became, not by the rate: a rate does not
//! show bursts. Below about one beat per sleep, sleeping first would only double the wake-ups; then each
//! datagram wakes the shard.
//!
//! Measured on 2 cores with a queue limit of 512, as CPU per beat. 4000 processes that start together and
//! then beat 45 000 times a second cost 8.2 us if a deep queue stops all sleeping for ten seconds, 3.6 us if
//! it makes sleeps as short as possible, 2.1 us if a queue that is deep because the shard ran late is not
//! counted, and 1.7 us with sleeps as long as the burst allows. At 250 000 beats a second the first refuses
//! 0.12 % and the last 0.02 %; a fixed sleep of 1 ms refuses 0.09 to 0.13 %. A shard woken for each datagram
//! has no time left for a burst. A shard that never waits uses a whole core: 21 us per beat at 45 000 a
//! second, and on two cores agents that send as fast as they can reach 76 000 beats a second instead of
//! 690 000.

use crate::time::MonoNs;

/// Sleeps do not grow for this long after one that half filled the queue.
const ALERT_NS: u64 = 10_000_000_000;
/// The shortest sleep: wake-ups, a few microseconds each, then take less than a tenth of a core.
const SHORTEST_NS: u64 = 60_000;
/// The delay grows by its maximum divided by this per turn.
const GROWTH: u64 = 64;
/// The rate is measured over this many maximum delays.
const LOOK_DELAYS: u64 = 16;
/// Sockets with a queue limit up to this start without delay and drop it after bursts: even the shortest
/// sleep could fill them.
const SMALL_QUEUE: u32 = 64;

/// The pace of one shard.
#[derive(Clone, Debug)]
pub struct Pace {
    max_ns: u64,
    min_ns: u64,
    delay_ns: u64,
    places: u32,
    alert_until: MonoNs,
    look_from: MonoNs,
    frames: u64,
    /// Datagrams read since the queue was seen empty.
    backlog: u64,
    /// The instant when the queue was last seen empty.
    drained_at: MonoNs,
    is_busy: bool,
}

impl Pace {
    /// The pace of a shard that sleeps at most `max_ns` and whose socket holds `queue_limit` + 1 datagrams.
    pub fn new(max_ns: u64, queue_limit: u32, now: MonoNs) -> Self {
        let is_small = queue_limit <= SMALL_QUEUE;
        Self {
            max_ns,
            min_ns: if is_small { 0 } else { SHORTEST_NS.min(max_ns) },
            delay_ns: if is_small { 0 } else { max_ns },
            places: queue_limit.saturating_add(1),
            alert_until: MonoNs(0),
            look_from: now,
            frames: 0,
            backlog: 0,
            drained_at: now,
            is_busy: false,
        }
    }

    /// Sleeps at most `max_ns` from now on. The length of the sleep adapts from there as after the start.
    pub fn set_max(&mut self, max_ns: u64) {
        if max_ns == self.max_ns {
            return;
        }
        let is_small = self.places <= SMALL_QUEUE + 1;
        self.max_ns = max_ns;
        self.min_ns = if is_small { 0 } else { SHORTEST_NS.min(max_ns) };
        self.delay_ns = if max_ns == 0 { 0 } else { self.delay_ns.clamp(self.min_ns, max_ns) };
        self.is_busy &= max_ns > 0;
    }

    /// Takes the result of the last turn: `frames` datagrams, and whether the queue was drained.
    #[inline]
    pub fn on_turn(&mut self, frames: u64, is_drained: bool, now: MonoNs) {
        if self.max_ns == 0 {
            return;
        }
        self.frames += frames;
        let looked = now.since(self.look_from);
        if looked >= self.max_ns * LOOK_DELAYS {
            self.is_busy = self.frames * self.max_ns >= looked;
            self.frames = 0;
            self.look_from = now;
        }
        self.backlog += frames;
        if !is_drained {
            return;
        }
        // Datagrams that arrived during the drain count as well: the queue would have held them, had they
        // arrived at once.
        let backlog = std::mem::take(&mut self.backlog);
        let elapsed = now.since(std::mem::replace(&mut self.drained_at, now));
        // A shorter sleep would not have avoided what arrived because the shard ran late.
        let depth = match self.delay() {
            Some(delay_ns) if elapsed > delay_ns => backlog * delay_ns / elapsed,
            _ => backlog,
        };
        let quarter = u64::from(self.places).div_ceil(4);
        if depth > quarter && depth > 1 {
            // The sleep that would have filled a quarter.
            let delay_ns = self.delay_ns * quarter / depth;
            self.delay_ns = if delay_ns < SHORTEST_NS { self.min_ns } else { delay_ns };
            if depth >= quarter * 2 {
                self.alert_until = now + ALERT_NS;
            }
        } else if now >= self.alert_until {
            self.delay_ns = (self.delay_ns + self.max_ns / GROWTH).min(self.max_ns);
        }
    }

    /// How long to sleep before draining, ns; `None`: wait for the next datagram.
    #[inline]
    pub const fn delay(&self) -> Option<u64> {
        if self.is_busy && self.delay_ns > 0 { Some(self.delay_ns) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Turns that each begin when the pace says, or after `MS` without a delay.
    fn turns(pace: &mut Pace, now: &mut MonoNs, turns: u64, frames: u64) {
        for _ in 0..turns {
            *now = *now + pace.delay().unwrap_or(MS);
            pace.on_turn(frames, true, *now);
        }
    }

    #[test]
    fn a_quiet_shard_is_woken_per_datagram_and_a_busy_one_sleeps() {
        let mut now = MonoNs(0);
        let mut pace = Pace::new(MS, 512, now);
        assert_eq!(pace.delay(), None);
        turns(&mut pace, &mut now, 100, 5);
        assert_eq!(pace.delay(), Some(MS));
        for _ in 0..10 {
            turns(&mut pace, &mut now, 1, 1);
            now = now + 99 * MS;
        }
        assert_eq!(pace.delay(), None, "10 beats a second do not pay for sleeping first");
    }

    #[test]
    fn after_a_deep_queue_sleeps_fill_a_quarter_and_after_a_half_full_one_they_stay_short_for_ten_seconds() {
        let mut now = MonoNs(0);
        let mut pace = Pace::new(MS, 511, now);
        turns(&mut pace, &mut now, 100, 50);
        turns(&mut pace, &mut now, 1, 160);
        assert_eq!(pace.delay(), Some(MS * 128 / 160));
        turns(&mut pace, &mut now, 64, 50);
        assert_eq!(pace.delay(), Some(MS), "one quarter is no alert");
        turns(&mut pace, &mut now, 1, 320);
        let short = MS * 128 / 320;
        let alert_until = now + ALERT_NS;
        while now + short < alert_until {
            assert_eq!(pace.delay(), Some(short));
            turns(&mut pace, &mut now, 1, 50);
        }
        turns(&mut pace, &mut now, 64, 50);
        assert_eq!(pace.delay(), Some(MS));
        turns(&mut pace, &mut now, 1, 5_000);
        assert_eq!(pace.delay(), Some(SHORTEST_NS));
    }

    #[test]
    fn a_queue_that_is_deep_because_the_shard_ran_late_does_not_shorten_the_sleep() {
        let mut now = MonoNs(0);
        let mut pace = Pace::new(MS, 511, now);
        turns(&mut pace, &mut now, 100, 100);
        // 4 ms instead of 1: a quarter of the queued datagrams arrived within the intended sleep.
        now = now + 4 * MS;
        pace.on_turn(400, true, now);
        assert_eq!(pace.delay(), Some(MS));
        // A burst counts even if the shard ran late: 300 of these arrived within the intended sleep.
        now = now + 2 * MS;
        pace.on_turn(600, true, now);
        assert_eq!(pace.delay(), Some(MS * 128 / 300));
    }

    #[test]
    fn a_drain_of_several_turns_is_one_depth() {
        let mut now = MonoNs(0);
        let mut pace = Pace::new(MS, 511, now);
        turns(&mut pace, &mut now, 100, 50);
        now = now + MS;
        for is_drained in [false, false, true] {
            assert_eq!(pace.delay(), Some(MS), "nobody sleeps before the queue is drained");
            pace.on_turn(100, is_drained, now);
        }
        assert_eq!(pace.delay(), Some(MS * 128 / 300), "300 of 512");
    }

    #[test]
    fn no_delay_means_none_and_a_small_queue_has_none_at_first_and_after_bursts() {
        let mut now = MonoNs(0);
        let mut none = Pace::new(0, 512, now);
        turns(&mut none, &mut now, 100, 50);
        assert_eq!(none.delay(), None);
        let mut small = Pace::new(MS, 10, now);
        assert_eq!(small.delay(), None);
        turns(&mut small, &mut now, 20, 2);
        assert!(small.delay().is_some_and(|delay_ns| delay_ns > 0), "it grows while the queue is shallow");
        turns(&mut small, &mut now, 3, 6);
        assert_eq!(small.delay(), None);
    }

    #[test]
    fn another_longest_sleep_holds_from_the_next_turn_on() {
        let mut now = MonoNs(0);
        let mut pace = Pace::new(MS, 512, now);
        turns(&mut pace, &mut now, 100, 50);
        pace.set_max(MS / 4);
        assert_eq!(pace.delay(), Some(MS / 4));
        pace.set_max(2 * MS);
        turns(&mut pace, &mut now, 200, 50);
        assert_eq!(pace.delay(), Some(2 * MS), "it grows to the new one");
        pace.set_max(0);
        turns(&mut pace, &mut now, 100, 50);
        assert_eq!(pace.delay(), None);
        pace.set_max(MS);
        turns(&mut pace, &mut now, 200, 50);
        assert_eq!(pace.delay(), Some(MS), "it sleeps again");
    }

    #[test]
    fn no_sleep_is_longer_than_it_may_be() {
        let mut now = MonoNs(0);
        let mut pace = Pace::new(SHORTEST_NS / 2, 512, now);
        turns(&mut pace, &mut now, 10_000, 50);
        assert_eq!(pace.delay(), Some(SHORTEST_NS / 2));
        turns(&mut pace, &mut now, 1, 500);
        assert_eq!(pace.delay(), Some(SHORTEST_NS / 2));
    }
}
