//! Agents that are frozen while they should beat, and what became of them.

use super::tests::{MS, STEP, THRESHOLD, World};
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
    world.told.iter().filter_map(of).collect()
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

/// Its pid goes to another process, which beats before anybody knows of the end.
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
    assert_eq!(world.kinds(7), ["up", "frozen", "exit", "up"], "{:?}", world.told);
    assert_eq!((world.agents(), frozen(&world)), ((1, 0), 0));
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
    assert_eq!(world.kinds(7), ["up", "frozen", "frozen", "moved"], "{:?}", world.told);
    assert_eq!((world.agents(), frozen(&world)), ((1, 0), 0));
}
