//! What is reported, and how long it takes, when the fleet stops while its agents exit.

use super::*;
use crate::time::Clock;

impl World {
    /// Stops the fleet, whose shards have ended; `each_turn` runs before each turn. Returns how long the
    /// aggregator took.
    fn stop(&mut self, mut each_turn: impl FnMut(&mut Self)) -> u64 {
        let began = self.now();
        self.asleep = (0..self.shards.len()).collect();
        self.requests.send(Request::Stop).expect("the aggregator is there");
        loop {
            self.clock.advance(STEP);
            each_turn(self);
            let next = self.aggregator.turn(self.clock.mono(), self.clock.wall());
            if !self.is_mute {
                self.ask();
            }
            self.reported.extend(self.events.try_iter());
            if next == Next::Stopped {
                return self.now().since(began);
            }
            assert!(self.now().since(began) < 60_000 * MS, "it never stops");
        }
    }
}

#[test]
fn fault_75_exits_during_a_stop_are_told_and_do_not_hold_it_up() {
    const FIRST: u32 = 100;
    let mut world = World::new(2);
    world.is_watching = true;
    for pid in FIRST..FIRST + 50 {
        world.born(pid);
        world.beats(pid as usize % 2, pid, 1..2);
    }
    let mut next = FIRST;
    // One exits each turn, for longer than a stop may take: the watermarks of the shards stay where they are.
    let took = world.stop(|world| {
        world.processes.remove(&next);
        next += 1;
    });
    assert!(took <= STOP_NS + STEP, "{} ms", took / MS);
    assert_eq!(world.reported.last().expect("events").kind, EventKind::Stop);
}

#[test]
fn fault_75_what_had_happened_before_the_stop_is_told_though_no_shard_turns_any_more() {
    let mut world = World::new(2);
    world.is_watching = true;
    for pid in [7, 8, 9] {
        world.born(pid);
        world.beats(0, pid, 1..2);
    }
    // One has exited, one is found silent, and the aggregator has not looked.
    world.processes.remove(&8);
    world.is_aggregator_asleep = true;
    world.run(THRESHOLD + 50 * MS);
    world.send(0, 9, &beat(9, 2));
    world.run(STEP);
    let took = world.stop(|_| {});
    assert!(took <= 2 * CONFIRM_NS + 4 * STEP, "{} ms", took / MS);
    assert_eq!(world.kinds(7), ["up", "stall"]);
    assert_eq!(world.kinds(8), ["up", "exit"]);
    assert_eq!(world.kinds(9), ["up", "stall", "resume"]);
    assert_eq!(world.reported.last().expect("events").kind, EventKind::Stop);
}

/// The lookup thread is busy with other questions.
#[test]
fn fault_75_a_stall_that_waits_to_be_looked_into_is_told_before_the_stop() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..2);
    world.is_mute = true;
    while world.aggregator.pending.is_empty() {
        world.run(STEP);
    }
    let others = Holder { place: Place { shard: 1, slot: 5 }, generation: 9 };
    let took = world.stop(|world| {
        let finding = Finding::Program { holder: others, found: Program::default(), is_frozen: false };
        world.findings.send(finding).expect("the aggregator is there");
    });
    assert!(took <= STOP_NS + STEP, "{} ms", took / MS);
    assert_eq!(world.kinds(7), ["up", "stall"]);
}

#[test]
fn fault_75_neither_a_mute_watch_thread_nor_a_slot_left_open_holds_up_a_stop() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..2);
    world.is_mute = true;
    world.run(THRESHOLD + 50 * MS);
    // The thread that writes the slot is stuck.
    world.ports[0].table.open(0);
    world.ports[0].facts.push(0, 1);
    let took = world.stop(|_| {});
    assert!(took <= STOP_NS + STEP, "{} ms", took / MS);
    assert_eq!(world.reported.last().expect("events").kind, EventKind::Stop);
}
