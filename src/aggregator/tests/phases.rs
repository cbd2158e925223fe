//! Agents whose rule allows them a longer silence while they start, or while their payload says so.

use super::*;
use crate::aggregator::reload::Reload;
use crate::config::RuleMatch;
use crate::config::plan::{PayloadPhase, Phases, Rule, Start};
use crate::event::StallPhase;

const START_UP: u64 = 4 * THRESHOLD;
const BUSY: u64 = 3 * THRESHOLD;

/// Every agent has a rule with a start and a phase.
fn world(start_beats: Option<u32>) -> World {
    let phases = Phases {
        start: Some(Start { threshold_ns: START_UP, beats: start_beats }),
        payload: vec![PayloadPhase { from: 10, to: 19, threshold_ns: BUSY }],
    };
    World::with(2, 64, vec![Rule { phases, ..Rule::new(RuleMatch::comm("*"), THRESHOLD) }])
}

impl World {
    /// Beats with a status and a payload, each 50 ms.
    fn says(&mut self, pid: u32, nonces: std::ops::Range<u64>, status: Status, payload: u64) {
        for nonce in nonces {
            self.send(0, pid, &Frame { status, payload, ..beat(pid, nonce) });
            self.run(50 * MS);
        }
    }

    /// Waits for a stall, which comes after this silence, in this phase.
    fn stalls_after(&mut self, pid: u32, expected_ns: u64, in_phase: Option<StallPhase>) {
        let before = self.count("stall");
        self.run(expected_ns - 60 * MS);
        assert_eq!(self.count("stall"), before, "{:?}", self.kinds(pid));
        self.run(100 * MS);
        assert_eq!(self.count("stall"), before + 1, "{:?}", self.kinds(pid));
        let EventKind::Stall { silent_ns, certain: true, phase, .. } = self.last("stall").kind else {
            panic!("{:?}", self.last("stall"))
        };
        assert!((expected_ns..expected_ns + TICK + STEP).contains(&silent_ns), "{silent_ns}");
        assert_eq!(phase, in_phase);
    }
}

#[test]
fn who_starts_may_be_silent_for_longer_until_it_says_ok() {
    let mut world = world(None);
    world.born(7);
    world.says(7, 1..4, Status::Degraded, 0);
    world.stalls_after(7, START_UP, Some(StallPhase::Start));
    world.says(7, 4..7, Status::Ok, 0);
    world.says(7, 7..10, Status::Degraded, 0);
    world.stalls_after(7, THRESHOLD, None);
    world.born(8);
    world.says(8, 1..3, Status::Ok, 0);
    world.stalls_after(8, THRESHOLD, None);
}

#[test]
fn so_many_beats_end_a_start() {
    let mut world = world(Some(10));
    world.born(7);
    world.says(7, 1..10, Status::Ok, 0);
    world.stalls_after(7, START_UP, Some(StallPhase::Start));
    world.says(7, 10..11, Status::Degraded, 0);
    world.stalls_after(7, THRESHOLD, None);
}

#[test]
fn a_payload_says_how_long_a_silence_may_be() {
    let mut world = world(None);
    world.born(7);
    world.says(7, 1..4, Status::Ok, 0);
    world.says(7, 4..5, Status::Ok, 15);
    world.stalls_after(7, BUSY, Some(StallPhase::Payload));
    assert_eq!(world.kinds(7).last(), Some(&"stall"));
    world.says(7, 5..6, Status::Ok, 20);
    world.stalls_after(7, THRESHOLD, None);
    // The phase is over right after the agent was looked at in it.
    world.says(7, 6..10, Status::Ok, 10);
    world.run(2 * THRESHOLD);
    world.says(7, 10..11, Status::Ok, 9);
    world.stalls_after(7, THRESHOLD, None);
}

#[test]
fn another_program_starts_anew_with_its_first_beat() {
    for start_beats in [None, Some(10)] {
        let mut world = world(start_beats);
        world.born(7);
        world.says(7, 100..120, Status::Ok, 0);
        world.processes.get_mut(&7).unwrap().exe = "/other";
        world.says(7, 1..3, Status::Degraded, 0);
        assert!(matches!(world.last("session").kind, EventKind::Session { why: SessionWhy::Exec, .. }));
        world.stalls_after(7, START_UP, Some(StallPhase::Start));
        world.says(7, 3..13, Status::Ok, 0);
        world.stalls_after(7, THRESHOLD, None);
    }
}

/// It runs another program when its silence is about to be reported: that one may take its time to get ready.
#[test]
fn another_program_starts_anew_before_its_first_beat() {
    let mut world = world(None);
    world.born(7);
    world.says(7, 100..120, Status::Ok, 0);
    world.processes.get_mut(&7).unwrap().exe = "/other";
    world.stalls_after(7, START_UP, Some(StallPhase::Start));
    let (_, cold) = world.ports[0].table.read(0).unwrap();
    assert_eq!(cold.stalls, 1, "the first one was none");
    world.says(7, 1..5, Status::Ok, 0);
    assert!(matches!(world.last("session").kind, EventKind::Session { why: SessionWhy::Exec, .. }));
    world.stalls_after(7, THRESHOLD, None);
    assert_eq!(world.kinds(7), ["up", "stall", "resume", "session", "stall"]);
}

/// The stall ended before it was reported, and by what is known then it was none.
#[test]
fn a_silence_that_ends_when_another_program_is_found_is_none() {
    let mut world = world(None);
    world.born(7);
    world.says(7, 100..120, Status::Ok, 0);
    world.processes.get_mut(&7).unwrap().exe = "/other";
    world.is_mute = true;
    while world.aggregator.pending.is_empty() {
        world.run(STEP);
    }
    world.is_mute = false;
    world.run(10 * MS);
    world.says(7, 1..5, Status::Degraded, 0);
    assert_eq!(world.kinds(7), ["up", "status", "session"]);
    world.stalls_after(7, START_UP, Some(StallPhase::Start));
}

/// Until its rule is known, an agent that starts has the longest start of all rules.
#[test]
fn who_is_not_known_may_be_starting() {
    let start = |comm, threshold_ns| Rule {
        phases: Phases { start: Some(Start { threshold_ns, beats: None }), payload: Vec::new() },
        ..Rule::new(RuleMatch::comm(comm), THRESHOLD)
    };
    let mut world = World::with(1, 64, vec![start("agent", 2 * THRESHOLD), start("slow", START_UP)]);
    world.born(7);
    world.is_mute = true;
    world.says(7, 1..3, Status::Degraded, 0);
    world.run(3 * THRESHOLD);
    assert_eq!(world.count("stall"), 0);
    world.is_mute = false;
    world.run(THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "stall"]);
}

#[test]
fn a_thawed_agent_has_the_silence_of_its_phase() {
    let mut world = world(None);
    world.born(7);
    world.says(7, 1..4, Status::Degraded, 0);
    world.processes.get_mut(&7).unwrap().is_frozen = true;
    world.run(START_UP + 100 * MS);
    assert_eq!(world.kinds(7), ["up", "frozen"]);
    world.processes.get_mut(&7).unwrap().is_frozen = false;
    world.run(START_UP);
    assert_eq!(world.kinds(7), ["up", "frozen", "frozen"]);
    world.run(1100 * MS);
    assert_eq!(world.kinds(7), ["up", "frozen", "frozen", "stall"]);
}

/// It beats once in a while that is longer than its threshold.
#[test]
fn a_threshold_that_cannot_work_is_said_once() {
    let rules = vec![Rule::new(RuleMatch::comm("slow"), THRESHOLD)];
    let mut world = World::with(1, 64, rules);
    for pid in [7, 8, 9] {
        world.born(pid);
        world.processes.get_mut(&pid).unwrap().comm = "slow";
    }
    world.processes.get_mut(&9).unwrap().comm = "quick";
    let rounds = |world: &mut World, nonces: std::ops::Range<u64>| {
        for nonce in nonces {
            for pid in [7, 8] {
                world.send(0, pid, &beat(pid, nonce));
            }
            for beats in 0..10 {
                world.send(0, 9, &beat(9, nonce * 10 + beats));
                world.run(THRESHOLD / 8);
            }
        }
    };
    rounds(&mut world, 1..16);
    assert_eq!(world.aggregator.tally().too_short.all(), []);
    rounds(&mut world, 16..60);
    // No names are known in this world.
    let found = world.aggregator.tally().too_short.all();
    let said: Vec<_> =
        found.iter().map(|found| (found.rule, found.threshold_ns, found.name.as_str())).collect();
    assert_eq!(said, [(Some(0), THRESHOLD, "pid 7"), (Some(0), THRESHOLD, "pid 8")]);
    let periods = THRESHOLD * 5 / 4..THRESHOLD * 4 / 3;
    assert!(found.iter().all(|found| periods.contains(&found.period_ns)), "{found:?}");
    // Whoever changes the rules has heard of it.
    let policy = world.aggregator.policy.clone();
    world.aggregator.reload(Reload {
        policy: Some(policy),
        shards: Vec::new(),
        output: None,
        event: EventKind::Up,
        is_decided: Arc::default(),
        progress: unbounded().0,
    });
    assert_eq!(world.aggregator.tally().too_short.all(), []);
}
