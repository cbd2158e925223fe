//! Agents that beat, and whose payload stays the same.

use super::*;
use crate::config::plan::{Progress, Rule};
use crate::config::{ProgressOf, RuleMatch};
use crate::view::tally::ShardTally;

/// Long enough for a beat every 100 ms to be looked at several times.
const P: u64 = 4000 * MS;
const PROGRESS: Progress =
    Progress { of: ProgressOf::Payload, threshold_ns: P, idle_payload: Some(99), idle_status: None };

fn rule(matcher: RuleMatch) -> Rule {
    Rule { progress: Some(PROGRESS), ..Rule::new(matcher, THRESHOLD) }
}

fn world() -> World {
    World::with(2, 64, vec![rule(RuleMatch::comm("agent"))])
}

/// A stream of beats: its shard, its next nonce, and its payload.
struct Stream {
    shard: usize,
    nonce: u64,
    payload: u64,
}

impl Stream {
    fn new(shard: usize) -> Self {
        Self { shard, nonce: 1, payload: 0 }
    }
}

impl World {
    /// Each stream beats every 100 ms for so long; those that work count each beat.
    fn beats_of(&mut self, pid: u32, for_ns: u64, streams: &mut [(&mut Stream, bool)]) {
        for _ in 0..for_ns / (100 * MS) {
            for (stream, works) in &mut *streams {
                stream.payload += u64::from(*works);
                let frame = Frame { payload: stream.payload, ..beat(pid, stream.nonce) };
                self.send(stream.shard, pid, &frame);
                stream.nonce += 1;
            }
            self.run(100 * MS);
        }
    }

    fn still(&self) -> (u64, u64, u64) {
        let shards = &self.aggregator.tally().shards;
        let sum = |of: fn(&ShardTally) -> u64| shards.iter().map(of).sum();
        (
            sum(|shard| shard.still),
            sum(|shard| shard.standstills_certain),
            sum(|shard| shard.standstills_uncertain),
        )
    }

    /// Runs with beats until a standstill is reported, and says how long it took.
    fn until_still(&mut self, pid: u32, stream: &mut Stream) -> u64 {
        let (from, before) = (self.now(), self.count("standstill"));
        while self.count("standstill") == before {
            self.beats_of(pid, 100 * MS, &mut [(stream, false)]);
            assert!(self.now().since(from) < 2 * P, "{:?}", self.reported);
        }
        self.now().since(from)
    }
}

/// An eighth of the progress threshold passes between two looks, and beats come every 100 ms.
const LATE: u64 = P / 8 + 200 * MS;

#[test]
fn an_agent_at_a_standstill_is_reported_once_and_once_more_when_it_advances() {
    let mut world = world();
    world.born(7);
    let mut stream = Stream::new(0);
    world.beats_of(7, 2 * P, &mut [(&mut stream, true)]);
    assert_eq!(world.kinds(7), ["up"]);
    let took = world.until_still(7, &mut stream);
    assert!((P - LATE..=P + LATE).contains(&took), "{took}");
    let EventKind::Standstill { still_ns, certain } = world.last("standstill").kind else { unreachable!() };
    assert!(certain && (P..=P + LATE).contains(&still_ns), "{still_ns}");
    assert_eq!(world.last("standstill").agent.unwrap().payload, stream.payload);
    world.beats_of(7, 3 * P, &mut [(&mut stream, false)]);
    assert_eq!((world.kinds(7), world.still()), (vec!["up", "standstill"], (1, 1, 0)));
    assert_eq!(world.agents(), (1, 0), "it beats");
    world.beats_of(7, P, &mut [(&mut stream, true)]);
    let EventKind::Advance { still_ns, why } = world.last("advance").kind else { unreachable!() };
    assert_eq!((why, world.still()), (AdvanceWhy::Payload, (0, 1, 0)));
    assert!(still_ns >= 4 * P - LATE, "{still_ns}");
    world.until_still(7, &mut stream);
    stream.payload = 99;
    world.beats_of(7, 3 * P, &mut [(&mut stream, false)]);
    assert_eq!(world.kinds(7), ["up", "standstill", "advance", "standstill", "advance"]);
    assert!(matches!(world.last("advance").kind, EventKind::Advance { why: AdvanceWhy::Idle, .. }));
}

#[test]
fn who_falls_silent_is_stalled_and_begins_anew() {
    let mut world = world();
    world.born(7);
    let mut stream = Stream::new(0);
    world.beats_of(7, P - 500 * MS, &mut [(&mut stream, false)]);
    world.run(2 * P);
    assert_eq!(world.kinds(7), ["up", "stall"]);
    let took = world.until_still(7, &mut stream);
    assert!(took >= P, "{took}");
    assert_eq!(world.kinds(7), ["up", "stall", "resume", "standstill"]);
    // It falls silent at the standstill, which goes on afterwards: that is said once.
    world.run(2 * THRESHOLD);
    assert_eq!(world.agents(), (0, 1));
    world.beats_of(7, 2 * P, &mut [(&mut stream, false)]);
    assert_eq!(world.kinds(7)[4..], ["stall", "resume"]);
    world.processes.remove(&7);
    world.run(3 * THRESHOLD);
    assert_eq!((world.kinds(7)[6..].to_vec(), world.still().0), (vec!["exit"], 0), "{:?}", world.reported);
}

#[test]
fn an_agent_that_advances_on_another_shard_advances() {
    let mut world = world();
    world.born(7);
    let (mut worker, mut helper) = (Stream::new(0), Stream::new(1));
    world.beats_of(7, 3 * P, &mut [(&mut worker, true), (&mut helper, false)]);
    assert_eq!(world.kinds(7), ["up"], "{:?}", world.reported);
    world.beats_of(7, 2 * P, &mut [(&mut worker, false), (&mut helper, false)]);
    assert_eq!(world.kinds(7), ["up", "standstill"]);
    world.beats_of(7, P, &mut [(&mut worker, true), (&mut helper, false)]);
    assert_eq!(world.kinds(7), ["up", "standstill", "advance"]);
    assert_eq!(world.still().0, 0);
}

/// What cannot be read might say that another rule applies.
#[test]
fn only_who_a_rule_is_known_to_match_is_judged() {
    let mut world = World::with(2, 64, vec![rule(RuleMatch::exe("/agent"))]);
    world.born(7);
    world.processes.get_mut(&7).unwrap().exe = "";
    let mut stream = Stream::new(0);
    world.beats_of(7, 3 * P, &mut [(&mut stream, false)]);
    assert_eq!(world.kinds(7), ["up"]);
}

#[test]
fn fault_61_who_has_another_name_by_then_is_not_judged_by_the_rule_of_before() {
    let mut world = world();
    world.born(7);
    let mut stream = Stream::new(0);
    world.beats_of(7, P / 2, &mut [(&mut stream, false)]);
    world.processes.get_mut(&7).unwrap().comm = "other";
    world.beats_of(7, 3 * P, &mut [(&mut stream, false)]);
    assert_eq!(world.kinds(7), ["up"], "{:?}", world.reported);
}

#[test]
fn a_standstill_does_not_wait_for_ever_for_the_name() {
    let mut world = world();
    world.born(7);
    let mut stream = Stream::new(0);
    world.beats_of(7, P / 2, &mut [(&mut stream, false)]);
    world.is_mute = true;
    world.beats_of(7, P, &mut [(&mut stream, false)]);
    assert_eq!(world.kinds(7), ["up", "standstill"]);
    assert!(matches!(world.last("standstill").kind, EventKind::Standstill { certain: false, .. }));
    assert_eq!(world.still(), (1, 0, 1));
}

#[test]
fn a_reload_that_asks_for_no_progress_ends_it_and_one_that_does_begins_it() {
    let mut world = world();
    world.born(7);
    let mut stream = Stream::new(0);
    world.until_still(7, &mut stream);
    world.reload_and_match(THRESHOLD, Vec::new());
    world.beats_of(7, 2 * P, &mut [(&mut stream, false)]);
    assert_eq!(world.kinds(7), ["up", "standstill", "advance"]);
    assert!(matches!(world.last("advance").kind, EventKind::Advance { why: AdvanceWhy::Rule, .. }));
    world.reload_and_match(THRESHOLD, vec![rule(RuleMatch::comm("agent"))]);
    world.until_still(7, &mut stream);
    assert_eq!(world.kinds(7), ["up", "standstill", "advance", "standstill"]);
}

#[test]
fn a_successor_reports_no_standstill_again_and_its_end() {
    let mut world = world();
    world.born(7);
    let mut stream = Stream::new(0);
    world.until_still(7, &mut stream);
    world.succeed(|_| {});
    assert_eq!(world.still().0, 1);
    world.beats_of(7, 3 * P, &mut [(&mut stream, false)]);
    assert_eq!(world.kinds(7), ["up", "standstill"], "{:?}", world.reported);
    world.beats_of(7, P, &mut [(&mut stream, true)]);
    assert_eq!(world.kinds(7), ["up", "standstill", "advance"]);
    assert_eq!(world.still().0, 0);
}

#[test]
fn another_program_is_another_session_and_ends_it() {
    let mut world = world();
    world.born(7);
    let mut stream = Stream::new(0);
    world.until_still(7, &mut stream);
    world.processes.get_mut(&7).unwrap().exe = "/other";
    let mut other = Stream::new(0);
    world.beats_of(7, P / 2, &mut [(&mut other, false)]);
    assert_eq!(world.kinds(7), ["up", "standstill", "advance", "session"], "{:?}", world.reported);
    assert!(matches!(world.last("advance").kind, EventKind::Advance { why: AdvanceWhy::Session, .. }));
    world.until_still(7, &mut other);
}

/// A full queue refuses beats that may have had another payload.
#[test]
fn while_the_shard_is_blind_nobody_stands_still_for_certain() {
    let mut world = world();
    world.born(7);
    let mut stream = Stream::new(0);
    world.beats_of(7, P / 2, &mut [(&mut stream, false)]);
    world.asleep = vec![0];
    world.run(THRESHOLD);
    world.asleep.clear();
    let took = world.until_still(7, &mut stream);
    assert!(took >= P - LATE, "a whole threshold of sight: {took}");
    assert!(matches!(world.last("standstill").kind, EventKind::Standstill { certain: true, .. }));
}

#[test]
fn a_fleet_of_which_nobody_is_to_advance_is_not_looked_at() {
    let mut world = World::new(2);
    world.born(7);
    let mut stream = Stream::new(0);
    world.beats_of(7, P, &mut [(&mut stream, false)]);
    assert_eq!(world.aggregator.look_for_progress(), None);
    assert!(world.aggregator.shards[0].watched.get(0).is_none());
}
