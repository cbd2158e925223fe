//! What is reported of a silence while another shard, to which the agent may have gone, could not see.

use super::*;

impl World {
    /// Whether the last reported stall is certain.
    fn is_certain(&self) -> bool {
        let EventKind::Stall { certain, .. } = self.last("stall").kind else { unreachable!() };
        certain
    }
}

/// The agent may have gone to the other shard, whose queue refused it.
#[test]
fn fault_21_a_full_queue_leaves_no_certainty_of_agents_that_the_shard_has_never_seen() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..5);
    world.flood(1, 5_000);
    world.run(2 * THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "stall"]);
    assert!(!world.is_certain(), "{:?}", world.last("stall"));
    // Once that shard saw for a whole threshold, the stall is certain.
    world.beats(0, 7, 5..8);
    world.flood(1, 5_000);
    world.beats(0, 7, 8..10);
    world.run(2 * THRESHOLD);
    assert!(world.is_certain(), "{:?}", world.last("stall"));
}

#[test]
fn fault_23_a_pause_leaves_no_certainty_of_agents_that_the_shard_has_never_seen() {
    let mut world = World::new(2);
    [7, 8].into_iter().for_each(|pid| world.born(pid));
    world.beats(0, 7, 1..5);
    // The beat of another agent waited for all of the pause, which proves it.
    world.send(1, 8, &beat(8, 1));
    world.asleep = vec![1];
    world.run(THRESHOLD / 2);
    world.asleep.clear();
    world.run(THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "stall"]);
    assert!(!world.is_certain(), "{:?}", world.last("stall"));
}

/// The full queue may have refused a beat of the agent, however short it was full.
#[test]
fn fault_21_however_short_a_queue_was_full_no_stall_is_certain() {
    for is_known in [false, true] {
        let mut world = World::new(2);
        world.born(7);
        world.born(8);
        if is_known {
            world.beats(1, 7, 1..2);
        }
        world.beats(0, 7, 2..3);
        for nonce in 1..=u64::from(QUEUE) + 1 {
            world.send(1, 8, &beat(8, nonce));
        }
        world.run(2 * THRESHOLD);
        let stall = world
            .reported
            .iter()
            .find(|event| event.kind.name() == "stall" && event.agent.is_some_and(|agent| agent.pid == 7));
        let EventKind::Stall { certain, .. } = stall.expect("a stall").kind else { panic!("{stall:?}") };
        assert!(!certain, "{stall:?}");
    }
}

/// The silence ended before it was reported.
#[test]
fn fault_21_a_silence_that_ended_before_it_was_told_is_as_uncertain() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..5);
    world.flood(1, 5_000);
    world.is_aggregator_asleep = true;
    world.run(THRESHOLD);
    world.send(0, 7, &beat(7, 5));
    world.run(20 * MS);
    world.is_aggregator_asleep = false;
    world.run(100 * MS);
    assert_eq!(world.kinds(7), ["up", "stall", "resume"]);
    assert!(!world.is_certain(), "{:?}", world.last("stall"));
}

/// A shard that failed for good will never read what it holds.
#[test]
fn fault_31_a_shard_that_is_dead_leaves_no_certainty_and_is_not_waited_for() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..5);
    world.asleep = vec![1];
    world.ports[1].counters.set_health(ShardHealth::SocketFailed);
    world.run(THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "stall"]);
    assert!(!world.is_certain(), "{:?}", world.last("stall"));
}

/// A shard that had nothing to do meanwhile missed nothing.
#[test]
fn fault_32_a_long_turn_of_the_aggregator_is_no_pause_of_the_shards() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..5);
    // The other shard is asked about the silence, and woken at the end of a long turn.
    while world.aggregator.pending.is_empty() {
        let is_stalled = world.ports[0].table.read_hot(0).unwrap().state == State::Stalled;
        world.next_turn_takes = if is_stalled { 300 * MS } else { 0 };
        world.is_aggregator_asleep = !is_stalled;
        world.run(STEP);
    }
    world.is_aggregator_asleep = false;
    world.run(THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "stall"]);
    assert!(world.is_certain(), "{:?}", world.last("stall"));
    assert_eq!(world.count("blind"), 0, "{:?}", world.reported);
}
