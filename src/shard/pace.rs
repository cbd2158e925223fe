//! How long a shard sleeps before it drains its socket.
//!
//! Being woken costs more than a beat, so under load the shard sleeps briefly and drains many. It is
//! controlled by how deep the queue was found, not by the rate: a rate says nothing about bursts.
//! With less than about one beat per sleep, sleeping first would only double the wake-ups; then each
//! datagram wakes the shard.

use crate::time::MonoNs;

/// After a queue half full the shard is woken per datagram this long.
const ALERT_NS: u64 = 10_000_000_000;
/// The delay grows by this part of its maximum a turn.
const GROWTH: u64 = 64;
/// Turns' worth of delay over which the rate is looked at.
const LOOK_DELAYS: u64 = 16;
/// Sockets that hold no more start without delay.
const SMALL_QUEUE: u32 = 64;

/// The pace of one shard.
#[derive(Clone, Debug)]
pub struct Pace {
    max_ns: u64,
    delay_ns: u64,
    places: u32,
    alert_until: MonoNs,
    look_from: MonoNs,
    frames: u64,
    /// Datagrams read since the queue was seen empty.
    backlog: u64,
    is_busy: bool,
}

impl Pace {
    /// The pace of a shard that sleeps at most `max_ns` and whose socket holds `queue_limit` + 1.
    pub fn new(max_ns: u64, queue_limit: u32, now: MonoNs) -> Self {
        Self {
            max_ns,
            delay_ns: if queue_limit <= SMALL_QUEUE { 0 } else { max_ns },
            places: queue_limit.saturating_add(1),
            alert_until: MonoNs(0),
            look_from: now,
            frames: 0,
            backlog: 0,
            is_busy: false,
        }
    }

    /// Takes what the last turn found: `frames` datagrams, and whether they were all.
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
        // What came while it was drained is part of it: so much would have waited, had it come at once.
        let depth = std::mem::take(&mut self.backlog);
        let places = u64::from(self.places);
        if depth * 2 >= places && depth > 1 {
            self.delay_ns = 0;
            self.alert_until = now + ALERT_NS;
        } else if depth * 4 > places && depth > 1 {
            self.delay_ns /= 2;
        } else if now >= self.alert_until {
            self.delay_ns = (self.delay_ns + self.max_ns / GROWTH).min(self.max_ns);
        }
    }

    /// How long to sleep before draining, ns; `None`: be woken by the next datagram.
    #[inline]
    pub const fn delay(&self) -> Option<u64> {
        if self.is_busy && self.delay_ns > 0 { Some(self.delay_ns) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn turns(pace: &mut Pace, now: &mut MonoNs, turns: u64, frames: u64) {
        for _ in 0..turns {
            *now = *now + MS;
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
    fn a_deep_queue_shortens_the_sleep_and_a_half_full_one_ends_it_for_ten_seconds() {
        let mut now = MonoNs(0);
        let mut pace = Pace::new(MS, 511, now);
        turns(&mut pace, &mut now, 100, 50);
        turns(&mut pace, &mut now, 1, 150);
        assert_eq!(pace.delay(), Some(MS / 2));
        turns(&mut pace, &mut now, 1, 256);
        assert_eq!(pace.delay(), None);
        turns(&mut pace, &mut now, 9_000, 5);
        assert_eq!(pace.delay(), None);
        turns(&mut pace, &mut now, 1_100, 5);
        assert_eq!(pace.delay(), Some(MS));
    }

    #[test]
    fn a_drain_of_several_turns_is_one_depth() {
        let mut now = MonoNs(0);
        let mut pace = Pace::new(MS, 511, now);
        turns(&mut pace, &mut now, 100, 50);
        for is_drained in [false, false, true] {
            assert_eq!(pace.delay(), Some(MS), "nobody sleeps before the queue is drained");
            pace.on_turn(100, is_drained, now);
        }
        assert_eq!(pace.delay(), None, "300 of 512");
    }

    #[test]
    fn no_delay_means_none_and_a_small_queue_starts_without() {
        let mut now = MonoNs(0);
        let mut none = Pace::new(0, 512, now);
        turns(&mut none, &mut now, 100, 50);
        assert_eq!(none.delay(), None);
        let small = Pace::new(MS, 10, now);
        assert_eq!(small.delay_ns, 0);
    }
}
