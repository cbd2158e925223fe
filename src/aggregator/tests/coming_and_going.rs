//! What is reported of agents that come and go faster than each can be reported.

use super::*;
use crate::wire::Frame;

const USER: u32 = 1001;
const OTHER: u32 = 1002;

impl World {
    /// A world in which two agents of a user are reported singly before the rest is counted.
    fn of_churn() -> Self {
        let mut world = Self::new(2);
        world.is_watching = true;
        world.aggregator.limit_churn(2);
        world
    }

    /// These processes of a user beat once each.
    fn come(&mut self, pids: std::ops::Range<u32>, uid: u32) {
        for pid in pids {
            self.born(pid);
            self.send_as(pid as usize % 2, pid, uid, &beat(pid, 1));
        }
        // Too short for another token.
        self.run(20 * MS);
    }

    fn go(&mut self, pids: std::ops::Range<u32>) {
        pids.for_each(|pid| drop(self.processes.remove(&pid)));
        self.run(20 * MS);
    }

    /// Ups, exits, crash reports and changes of a user that were only counted.
    fn counted(&self, of: u32) -> [u32; 4] {
        let mut sum = [0; 4];
        for event in &self.reported {
            if let EventKind::Churn { uid: Some(uid), ups, exits, terminals, changes, for_ns } = event.kind
                && uid == of
            {
                assert!(event.agent.is_none() && for_ns <= 1100 * MS, "{event:?}");
                sum = [sum[0] + ups, sum[1] + exits, sum[2] + terminals, sum[3] + changes];
            }
        }
        sum
    }
}

#[test]
fn fault_83_a_loop_that_starts_processes_is_counted_and_others_are_told() {
    let mut world = World::of_churn();
    world.come(100..110, USER);
    world.come(7..8, OTHER);
    world.go(100..110);
    world.go(7..8);
    assert_eq!(world.counted(USER), [0; 4], "a second has not passed");
    world.run(1100 * MS);
    assert_eq!((world.count("up"), world.count("exit"), world.count("churn")), (3, 3, 1));
    assert_eq!(world.counted(USER), [8, 8, 0, 0]);
    assert_eq!(world.kinds(7), ["up", "exit"]);
    for pid in 100..110 {
        let kinds = world.kinds(pid);
        assert!(kinds.is_empty() || kinds == ["up", "exit"], "{kinds:?}");
    }
    let exits: u64 = world.aggregator.tally().shards.iter().map(|shard| shard.exits).sum();
    assert_eq!(exits, 11, "the counters leave nobody out");
}

/// Each agent has ten events of each kind at once, but those of fresh agents count against their user.
#[test]
fn fault_83_what_fresh_agents_say_is_counted_too() {
    let mut world = World::of_churn();
    world.come(100..110, USER);
    for nonce in 2..7 {
        let status = if nonce % 2 == 0 { Status::Degraded } else { Status::Ok };
        (100..110).for_each(|pid| {
            let frame = Frame { status, ..beat(pid, nonce) };
            world.send_as(pid as usize % 2, pid, USER, &frame);
        });
        world.run(10 * MS);
    }
    let last_words = Frame { status: Status::Critical, nonce: NONCE_TERMINAL, ..beat(109, 0) };
    world.send_as(1, 109, USER, &last_words);
    world.run(10 * MS);
    world.go(100..110);
    world.run(1100 * MS);
    let [ups, exits, terminals, changes] = world.counted(USER);
    // The other changes are reported with the exits of those two, at the latest.
    let reported: u32 = world
        .reported
        .iter()
        .map(|event| match event.kind {
            EventKind::Status { coalesced } => coalesced,
            _ => 0,
        })
        .sum();
    assert_eq!((ups, exits, terminals, changes + reported), (8, 8, 1, 50));
    assert!(world.count("status") <= 4, "{}", world.count("status"));
}

#[test]
fn fault_83_a_verdict_names_its_agent_first() {
    let mut world = World::of_churn();
    world.come(100..103, USER);
    world.run(THRESHOLD + 50 * MS);
    assert_eq!(world.count("stall"), 3);
    for pid in 100..103 {
        assert_eq!(world.kinds(pid), ["up", "stall"]);
    }
    world.send_as(0, 102, USER, &beat(102, 2));
    world.run(20 * MS);
    world.go(100..103);
    assert_eq!(world.kinds(102), ["up", "stall", "resume", "exit"]);
    assert_eq!(world.kinds(100), ["up", "stall", "exit"]);
    world.run(1000 * MS);
    assert_eq!(world.counted(USER), [1, 0, 0, 0]);
}

/// An agent that lives on does not come and go.
#[test]
fn fault_83_the_end_of_an_agent_that_lived_is_told() {
    let mut world = World::of_churn();
    world.come(100..103, USER);
    for nonce in 2..2 + churn::SETTLED_NS / (500 * MS) {
        (100..103).for_each(|pid| world.send_as(pid as usize % 2, pid, USER, &beat(pid, nonce)));
        world.run(500 * MS);
    }
    // The bucket is empty again.
    world.come(200..210, USER);
    world.go(100..103);
    for pid in 100..103 {
        assert_eq!(world.kinds(pid), ["up", "exit"]);
    }
}

#[test]
fn fault_83_what_was_counted_is_told_before_the_stop() {
    let mut world = World::of_churn();
    world.come(100..110, USER);
    world.requests.send(Request::Stop).expect("the aggregator is there");
    world.aggregate();
    let kinds: Vec<&str> = world.reported.iter().map(|event| event.kind.name()).collect();
    assert!(kinds.ends_with(&["churn", "stop"]), "{kinds:?}");
    assert_eq!(world.counted(USER), [8, 0, 0, 0]);
}
