//! Checks the arithmetic against itself, and against a simulated queue with real pids and the real pace.

use std::collections::{BTreeSet, VecDeque};

use super::*;
use crate::route::shard_for;
use crate::shard::pace::Pace;
use crate::time::MonoNs;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

fn demand(agents: u32, rate: f64) -> Demand {
    Demand { agents, rate, threshold_ns: 2 * SECOND, pause_ns: SECOND, max_delay_ns: MS }
}

#[test]
fn the_model_says_what_was_measured() {
    // Beats per second on one shard, and CPU per beat in us: no less than measured, and at most a third more.
    for (rate, measured) in [(250.0, 10.0), (10_000.0, 2.2), (45_000.0, 1.35), (100_000.0, 1.3)] {
        let us = demand(1, rate).on(1).cores * 1e6 / rate;
        assert!(us >= measured && us <= measured * 4.0 / 3.0, "{rate}/s: {us} us, measured {measured}");
    }
}

#[test]
fn a_fleet_gets_the_fewest_shards_that_leave_half_a_core_idle() {
    assert_eq!(demand(1, 1.0).shards(), Some(1));
    for (agents, rate) in [(100_000, 1.0), (1_000_000, 1.0), (1_000_000, 5.0)] {
        let demand = demand(agents, rate);
        let shards = demand.shards().unwrap();
        assert!(demand.on(shards).busiest_core <= BUSY_MAX);
        assert!(shards == 1 || demand.on(shards - 1).busiest_core > BUSY_MAX);
    }
    assert_eq!(demand(4_000_000, 10.0).shards(), None);
}

#[test]
fn the_queue_holds_two_beats_of_each_agent_and_all_of_a_pause() {
    let slow = demand(10_000, 0.1).on(1);
    assert_eq!(slow.queue_limit, 20_000);
    let fast = demand(10_000, 10.0).on(1);
    assert_eq!(fast.queue_limit, 100_100, "a pause and a sleep");
    assert_eq!(fast.queue_bytes, 100_101 * 768);
    let spread = demand(10_000, 10.0).on(4);
    assert_eq!(spread.queue_limit, 28_029, "1.12 times a quarter");
}

#[test]
fn memory_is_what_was_measured_at_least() {
    // Agents, shards, and MiB of a fleet whose history had an event of each agent and room for more.
    for (agents, shards, measured) in [(8000, 1, 9.1), (4000, 4, 8.9)] {
        let mib = demand(agents, 1.0).on(shards).resident_bytes as f64 / f64::from(1 << 20);
        assert!(mib >= measured && mib <= measured * 2.5, "{agents} on {shards}: {mib}, measured {measured}");
    }
    let large = demand(1_000_000, 1.0);
    let (few, many) = (large.on(8).resident_bytes, large.on(40).resident_bytes);
    assert_eq!(few, (15 << 20) + 65_536 * 112 + 392_000_000 + 9 * 16_000_000);
    assert_eq!(many - few, 32 * ((1 << 20) + 16_000_000));
}

/// The same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Beats that find the queue of a shard with these pids full in three seconds, in the middle of which the
/// shard is paused for `pause_ns`.
fn refused(agents: u64, demand: &Demand, queue_limit: u64) -> u64 {
    let mut random = Random(agents);
    let period = whole(SECOND as f64 / demand.rate);
    let mut due = BTreeSet::new();
    for agent in 0..agents {
        due.insert((random.below(period), agent));
    }
    let mut pace = Pace::new(demand.max_delay_ns, u32::try_from(queue_limit).unwrap(), MonoNs(0));
    let mut queue = VecDeque::new();
    let (mut now, mut refused, mut found) = (0, 0, 0);
    // `now` is the time of the shard's next step: it reads one datagram, or wakes.
    while now < 3 * SECOND {
        while let Some((at, agent)) = due.first().copied().filter(|(at, _)| *at <= now) {
            due.remove(&(at, agent));
            due.insert((at + period, agent));
            if queue.len() as u64 > queue_limit {
                refused += 1;
            } else {
                queue.push_back(at);
            }
        }
        if queue.pop_front().is_some() {
            found += 1;
            now += whole(BEAT_NS);
        } else {
            pace.on_turn(found, true, MonoNs(now));
            found = 0;
            let next = due.first().map_or(now, |(at, _)| *at);
            now = pace.delay().map_or(next, |delay| now + delay).max(now + 1);
        }
        if (SECOND..SECOND + 10 * MS).contains(&now) {
            now += demand.pause_ns;
        }
    }
    refused
}

#[test]
fn with_the_limit_advised_nothing_is_refused_and_with_a_quarter_of_it_something_is() {
    for (agents, rate, shards) in [(20_000, 2.0, 4), (4_000, 10.0, 2), (3_000, 5.0, 1)] {
        let demand = demand(agents, rate);
        let sizing = demand.on(shards);
        let mut random = Random(u64::from(agents));
        let mut pids = BTreeSet::new();
        while pids.len() < agents as usize {
            pids.insert(u32::try_from(1 + random.below(4_194_303)).unwrap());
        }
        let mut of_shard = vec![0; shards as usize];
        for pid in pids {
            of_shard[shard_for(pid, shards) as usize] += 1;
        }
        let busiest = of_shard.into_iter().max().unwrap();
        assert_eq!(refused(busiest, &demand, sizing.queue_limit), 0, "{agents} at {rate}");
        assert!(refused(busiest, &demand, sizing.queue_limit / 4) > 0, "{agents} at {rate}");
    }
}
