//! Agents that are frozen while they should beat, and what is reported of them.

use super::*;
use crate::event::FrozenPhase;
use crate::lane::sessions::Freeze;

/// An agent that beat, and is frozen since.
fn with_frozen(shards: usize) -> World {
    let mut world = World::new(shards);
    world.born(7);
    world.beats(0, 7, 1..4);
    freeze(&mut world, true);
    world
}

fn freeze(world: &mut World, is_frozen: bool) {
    world.processes.get_mut(&7).unwrap().is_frozen = is_frozen;
}

fn phases(world: &World) -> Vec<FrozenPhase> {
    let of = |event: &Event| match event.kind {
        EventKind::Frozen { phase } => Some(phase),
        _ => None,
    };
    world.reported.iter().filter_map(of).collect()
}

fn frozen(world: &World) -> u64 {
    world.aggregator.tally().shards.iter().map(|shard| shard.frozen).sum()
}

fn shown(world: &World) -> Freeze {
    let (_, cold) = world.ports[0].table.read(0).unwrap();
    world.ports[0].sessions.get(0, cold.generation).unwrap().freeze
}

#[test]
fn fault_65_a_frozen_agent_is_not_stalled_however_long_that_lasts() {
    let mut world = with_frozen(2);
    world.run(10 * THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "frozen"]);
    assert_eq!(phases(&world), [FrozenPhase::Begin]);
    assert_eq!((world.agents(), frozen(&world), shown(&world)), ((1, 0), 1, Freeze::Frozen));
}

#[test]
fn fault_65_after_the_thaw_it_has_a_threshold_to_beat_in() {
    let mut world = with_frozen(2);
    world.run(5 * THRESHOLD);
    freeze(&mut world, false);
    while phases(&world).len() < 2 {
        world.run(STEP);
    }
    let thawed = world.last("frozen").mono;
    assert_eq!((world.agents(), frozen(&world), shown(&world)), ((1, 0), 0, Freeze::Thawed));
    world.run(THRESHOLD - 100 * MS);
    assert_eq!(world.kinds(7), ["up", "frozen", "frozen"]);
    world.run(200 * MS);
    assert_eq!(world.kinds(7), ["up", "frozen", "frozen", "stall"]);
    let stall = world.last("stall");
    let EventKind::Stall { silent_ns, certain, coalesced, .. } = stall.kind else { unreachable!() };
    assert_eq!((stall.mono, certain, coalesced), (thawed + THRESHOLD, true, 1));
    assert!(silent_ns > 6 * THRESHOLD, "the silence is as long as it is");
    assert_eq!((world.agents(), shown(&world)), ((0, 1), Freeze::No));
    world.beats(0, 7, 4..6);
    world.run(THRESHOLD + 200 * MS);
    assert_eq!(world.kinds(7)[3..], ["stall", "resume", "stall"]);
}

#[test]
fn fault_65_a_silence_in_the_freezer_is_neither_stall_nor_resume() {
    let mut world = with_frozen(2);
    world.run(3 * THRESHOLD);
    freeze(&mut world, false);
    while phases(&world).len() < 2 {
        world.run(STEP);
    }
    world.beats(0, 7, 4..30);
    assert_eq!(world.kinds(7), ["up", "frozen", "frozen"]);
    assert_eq!((world.agents(), frozen(&world), shown(&world)), ((1, 0), 0, Freeze::No));
    world.run(THRESHOLD + 100 * MS);
    assert_eq!(world.kinds(7), ["up", "frozen", "frozen", "stall"], "the next one is judged as any");
}

#[test]
fn fault_65_a_beat_ends_it_before_anybody_asks() {
    let mut world = with_frozen(2);
    while phases(&world).is_empty() {
        world.run(STEP);
    }
    freeze(&mut world, false);
    world.beats(0, 7, 4..5);
    assert_eq!(phases(&world), [FrozenPhase::Begin, FrozenPhase::End]);
    let (hot, _) = world.ports[0].table.read(0).unwrap();
    assert_eq!(world.last("frozen").mono, hot.last_arrival);
    world.beats(0, 7, 5..40);
    assert_eq!(world.kinds(7), ["up", "frozen", "frozen"]);
    assert_eq!((world.agents(), frozen(&world), shown(&world)), ((1, 0), 0, Freeze::No));
}

#[test]
fn fault_65_who_dies_in_the_freezer_is_gone() {
    for is_watching in [true, false] {
        let mut world = World::new(2);
        world.is_watching = is_watching;
        world.born(7);
        world.beats(0, 7, 1..4);
        freeze(&mut world, true);
        world.run(3 * THRESHOLD);
        world.processes.remove(&7);
        world.run(3000 * MS);
        assert_eq!(world.kinds(7), ["up", "frozen", "exit"], "watching: {is_watching}");
        assert_eq!((world.agents(), frozen(&world)), ((0, 0), 0));
    }
}

/// It fell silent, beat, and was frozen, before the aggregator looked.
#[test]
fn fault_65_a_stall_before_the_freeze_is_told_and_the_freeze_is_none() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..4);
    world.is_aggregator_asleep = true;
    world.run(THRESHOLD + 50 * MS);
    world.beats(0, 7, 4..5);
    freeze(&mut world, true);
    world.run(THRESHOLD);
    world.is_aggregator_asleep = false;
    world.run(3 * THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "stall", "resume", "frozen"], "{:?}", world.reported);
    let EventKind::Stall { certain, coalesced, .. } = world.last("stall").kind else { unreachable!() };
    assert_eq!((certain, coalesced), (false, 1), "nobody asked about that one in time");
    freeze(&mut world, false);
    world.beats(0, 7, 5..30);
    assert_eq!(world.kinds(7)[3..], ["frozen", "frozen"], "{:?}", world.reported);
    let tally = &world.aggregator.tally().shards[0];
    assert_eq!((tally.stalls_certain + tally.stalls_uncertain, tally.resumes, tally.up), (1, 1, 1));
}

/// Its beats may have been refused while its shard was paused.
#[test]
fn fault_65_a_thawed_agent_has_a_threshold_of_our_sight() {
    let mut world = with_frozen(1);
    world.born(8);
    world.run(3 * THRESHOLD);
    freeze(&mut world, false);
    while phases(&world).len() < 2 {
        world.run(STEP);
    }
    world.send(0, 8, &beat(8, 1));
    world.asleep = vec![0];
    world.run(THRESHOLD + THRESHOLD / 2);
    world.asleep.clear();
    world.run(THRESHOLD - 50 * MS);
    assert_eq!(world.kinds(7), ["up", "frozen", "frozen"], "{:?}", world.reported);
    world.run(100 * MS);
    assert_eq!(world.kinds(7), ["up", "frozen", "frozen", "stall"]);
}

/// A frame that we refuse after the thaw is evidence as at any other time.
#[test]
fn fault_65_a_thawed_agent_that_is_turned_away_is_not_condemned_before_three_thresholds() {
    let mut world = World::with_limits(1, 64, Vec::new(), None, Some(40));
    [7, 8].into_iter().for_each(|pid| world.born(pid));
    world.beats(0, 7, 1..4);
    freeze(&mut world, true);
    world.run(3 * THRESHOLD);
    freeze(&mut world, false);
    while phases(&world).len() < 2 {
        world.run(STEP);
    }
    let thawed = world.last("frozen").mono;
    world.run(STEP);
    (1..=50).for_each(|nonce| world.send(0, 8, &beat(8, nonce)));
    world.send(0, 7, &beat(7, 4));
    world.run(4 * THRESHOLD);
    assert!(world.ports[0].turned_away.last(7).is_some());
    let of_7 = |event: &&Event| event.agent.is_some_and(|agent| agent.pid == 7);
    let stall = world.reported.iter().rfind(of_7).expect("events");
    let EventKind::Stall { certain, .. } = stall.kind else { panic!("{:?}", world.kinds(7)) };
    assert_eq!((stall.mono, certain), (thawed + 3 * THRESHOLD, false));
}

/// Its shard is behind: a beat in the queue is not missing.
#[test]
fn fault_65_a_beat_in_the_queue_after_the_thaw_is_life() {
    let mut world = with_frozen(1);
    world.run(3 * THRESHOLD);
    freeze(&mut world, false);
    while phases(&world).len() < 2 {
        world.run(STEP);
    }
    world.asleep = vec![0];
    world.run(THRESHOLD / 2);
    world.send(0, 7, &beat(7, 4));
    world.run(THRESHOLD);
    world.asleep.clear();
    world.beats(0, 7, 5..10);
    assert_eq!(world.kinds(7), ["up", "frozen", "frozen"], "{:?}", world.reported);
}

/// Its pid goes to another process, which beats before the exit is known.
#[test]
fn fault_65_a_beat_of_an_heir_ends_no_freeze() {
    let mut world = with_frozen(2);
    world.run(2 * THRESHOLD);
    world.is_aggregator_asleep = true;
    world.born(7);
    let now = world.now();
    let heir = world.processes.get_mut(&7).unwrap();
    (heir.incarnation, heir.started) = (99, now);
    world.beats(0, 7, 1..4);
    world.is_aggregator_asleep = false;
    world.beats(0, 7, 4..20);
    assert_eq!(world.kinds(7), ["up", "frozen", "exit", "up"], "{:?}", world.reported);
    assert_eq!((world.agents(), frozen(&world)), ((1, 0), 0));
}

/// No pidfd watches, and the new process with its pid is in a frozen group, too.
#[test]
fn fault_65_an_heir_that_is_frozen_hides_no_end() {
    let mut world = with_frozen(1);
    world.run(2 * THRESHOLD);
    world.born(7);
    let now = world.now();
    let heir = world.processes.get_mut(&7).unwrap();
    (heir.incarnation, heir.started, heir.is_frozen) = (99, now, true);
    world.run(3000 * MS);
    assert_eq!(world.kinds(7), ["up", "frozen", "exit"]);
}

#[test]
fn fault_65_a_freeze_after_a_told_stall_changes_nothing() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..4);
    world.run(2 * THRESHOLD);
    freeze(&mut world, true);
    world.run(5 * THRESHOLD);
    freeze(&mut world, false);
    world.beats(0, 7, 4..6);
    assert_eq!(world.kinds(7), ["up", "stall", "resume"]);
}

#[test]
fn an_agent_that_is_frozen_again_before_it_could_beat_is_frozen() {
    let mut world = with_frozen(2);
    world.run(3 * THRESHOLD);
    freeze(&mut world, false);
    while phases(&world).len() < 2 {
        world.run(STEP);
    }
    freeze(&mut world, true);
    world.run(3 * THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "frozen", "frozen", "frozen"]);
    assert_eq!((frozen(&world), shown(&world)), (1, Freeze::Frozen));
}

#[test]
fn an_agent_that_beats_on_another_shard_after_the_thaw_moves() {
    let mut world = with_frozen(2);
    world.run(3 * THRESHOLD);
    freeze(&mut world, false);
    world.beats(1, 7, 1..60);
    assert_eq!(world.kinds(7), ["up", "frozen", "frozen", "moved"], "{:?}", world.reported);
    assert_eq!((world.agents(), frozen(&world)), ((1, 0), 0));
}
