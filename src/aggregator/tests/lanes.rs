//! Processes that send messages, frames, or both: one agent each, with a deadline of its own in each lane.

use super::*;
use crate::config::plan::Progress;
use crate::config::{ProgressOf, RuleMatch};
use crate::event::StallPhase;

const TERMS: Terms = Terms {
    threshold_ns: THRESHOLD,
    threshold_min_ns: 100 * MS,
    threshold_max_ns: 3_600_000 * MS,
    start_ns: None,
    stop_ns: 2000 * MS,
};

impl World {
    /// Two shards of frames, and one of daemons.
    fn of_lanes() -> Self {
        let mut world = Self::with_daemons(3, 64, Vec::new(), (None, None), Some(TERMS));
        world.is_watching = true;
        world.born(7);
        world
    }

    /// `pid` beats every 100 ms for so long, in the lanes that it speaks.
    fn speak(&mut self, pid: u32, rounds: std::ops::Range<u64>, frames: bool, messages: bool) {
        for nonce in rounds {
            if frames {
                self.send(0, pid, &beat(pid, nonce));
            }
            if messages {
                self.notify(pid, "WATCHDOG=1");
            }
            self.run(100 * MS);
        }
    }
}

#[test]
fn a_daemon_is_an_agent() {
    let mut world = World::of_lanes();
    world.notify(7, "READY=1\nSTATUS=Serving");
    world.speak(7, 1..10, false, true);
    assert_eq!(world.kinds(7), ["up"]);
    world.run(THRESHOLD + 50 * MS);
    assert_eq!(world.kinds(7), ["up", "stall"]);
    let EventKind::Stall { silent_ns, certain, .. } = world.last("stall").kind else { unreachable!() };
    assert!(certain && (THRESHOLD..THRESHOLD + 50 * MS).contains(&silent_ns), "{silent_ns}");
    world.speak(7, 1..3, false, true);
    assert_eq!(world.kinds(7), ["up", "stall", "resume"]);
    world.processes.remove(&7);
    world.run(100 * MS);
    assert_eq!(world.kinds(7), ["up", "stall", "resume", "exit"]);
}

/// It says that it is ready, and nothing more: its silence means nothing, and its exit is told.
#[test]
fn a_daemon_without_a_watchdog_is_told_and_not_judged() {
    let mut world = World::of_lanes();
    world.notify(7, "READY=1");
    world.run(10 * THRESHOLD);
    assert_eq!(world.kinds(7), ["up"]);
    world.processes.remove(&7);
    world.run(100 * MS);
    assert_eq!(world.kinds(7), ["up", "exit"]);
}

/// A threshold of its own that is longer than the configured one holds where the stall is confirmed, too.
#[test]
fn a_stall_is_confirmed_by_the_limit_that_was_missed() {
    let mut world = World::of_lanes();
    world.born(8);
    world.notify(7, "WATCHDOG_USEC=3000000");
    world.notify(8, "STOPPING=1");
    world.run(1900 * MS);
    assert_eq!((world.count("stall"), world.count("up")), (0, 2));
    world.run(200 * MS);
    assert_eq!(world.kinds(8), ["up", "phase", "stall"], "its stop takes too long");
    let EventKind::Stall { phase, .. } = world.last("stall").kind else { unreachable!() };
    assert_eq!(phase, Some(StallPhase::Stopping));
    assert_eq!(world.count("stall"), 1);
    world.run(1000 * MS);
    assert_eq!(world.kinds(7), ["up", "stall"]);
}

#[test]
fn a_process_that_speaks_both_is_one_agent() {
    let mut world = World::of_lanes();
    world.speak(7, 1..20, true, true);
    assert_eq!(world.kinds(7), ["up"]);
    let sessions: Vec<u32> = world.reported.iter().filter_map(|event| Some(event.agent?.session)).collect();
    assert!(sessions.windows(2).all(|two| two[0] == two[1]));
    world.processes.remove(&7);
    world.run(100 * MS);
    assert_eq!(world.kinds(7), ["up", "exit"]);
    let free = |port: &Arc<Port>| port.table.read_hot(0).unwrap().pid == 0;
    assert!(world.ports.iter().all(free), "every slot is released");
}

/// A helper thread that sends frames does not speak for the main loop that sent messages, nor the other way round.
#[test]
fn either_lane_may_stall_and_neither_moves() {
    let mut world = World::of_lanes();
    world.speak(7, 1..10, true, true);
    world.speak(7, 10..20, true, false);
    assert_eq!(world.kinds(7), ["up", "stall"], "no message");
    assert_eq!(world.last("stall").shard, Some(2));
    world.speak(7, 20..25, true, true);
    assert_eq!(world.kinds(7), ["up", "stall", "resume"]);
    world.speak(7, 25..35, false, true);
    assert_eq!(world.kinds(7), ["up", "stall", "resume", "stall"], "no frame");
    assert_eq!(world.last("stall").shard, Some(0));
    assert_eq!(world.count("moved"), 0);
}

/// Within its lane an agent may still move: that is no stall.
#[test]
fn an_agent_that_moves_among_shards_of_frames_moves_as_before() {
    let mut world = World::of_lanes();
    world.speak(7, 1..10, true, true);
    for nonce in 10..25 {
        world.send(1, 7, &beat(7, nonce));
        world.notify(7, "WATCHDOG=1");
        world.run(100 * MS);
    }
    assert_eq!(world.kinds(7), ["up", "moved"]);
}

/// A shard of frames that could not see says nothing about the silence of a daemon.
#[test]
fn blindness_of_the_other_lane_makes_no_stall_uncertain() {
    let mut world = World::of_lanes();
    world.speak(7, 1..10, false, true);
    world.scripts[0].pause(world.now(), 300 * MS, crate::lab::replay::Point::BeforeReceive);
    world.run(2 * THRESHOLD + 300 * MS);
    assert_eq!(world.kinds(7), ["up", "stall"]);
}

/// A script that reports something and ends was no agent: it has no `up`, no exit and no death.
#[test]
fn a_script_that_sends_one_message_and_ends_is_no_agent() {
    let mut world = World::of_lanes();
    world.notify(7, "STATUS=Backup done");
    world.run(900 * MS);
    world.processes.remove(&7);
    world.run(3000 * MS);
    assert!(world.kinds(7).is_empty(), "{:?}", world.kinds(7));
    assert_eq!(world.ports[2].table.read_hot(0).unwrap().pid, 0, "its slot is free again");
}

/// A second message makes it one at once.
#[test]
fn a_daemon_that_fails_right_after_its_start_is_told() {
    let mut world = World::of_lanes();
    world.notify(7, "STATUS=Loading");
    world.run(50 * MS);
    world.notify(7, "READY=1");
    world.run(50 * MS);
    assert_eq!(world.kinds(7), ["up"]);
    world.processes.remove(&7);
    world.run(100 * MS);
    assert_eq!(world.kinds(7), ["up", "exit"]);
}

/// An agent that has beaten in frames needs no second message.
#[test]
fn an_agent_that_sends_its_first_message_is_up_already() {
    let mut world = World::of_lanes();
    world.speak(7, 1..3, true, false);
    world.notify(7, "STATUS=Now in messages, too");
    world.run(50 * MS);
    world.processes.remove(&7);
    world.run(200 * MS);
    assert_eq!(world.kinds(7), ["up", "exit"]);
}

/// The status line of a daemon shows its work, if its rule says so: each change counts, also one that is undone.
#[test]
fn a_daemon_with_the_same_status_line_stands_still() {
    let progress =
        Progress { of: ProgressOf::Status, threshold_ns: 4000 * MS, idle_payload: None, idle_status: None };
    let rule = Rule { progress: Some(progress), ..Rule::new(RuleMatch::comm("*"), THRESHOLD) };
    let mut world = World::with_daemons(3, 64, vec![rule], (None, None), Some(TERMS));
    world.is_watching = true;
    for pid in [7, 8, 9, 10] {
        world.born(pid);
    }
    let rounds = |world: &mut World, rounds: std::ops::Range<u64>| {
        for round in rounds {
            world.notify(7, "WATCHDOG=1\nSTATUS=the same");
            world
                .notify(8, if round % 2 == 0 { "WATCHDOG=1\nSTATUS=odd" } else { "WATCHDOG=1\nSTATUS=even" });
            world.notify(9, "WATCHDOG=1");
            world.send(0, 10, &beat(10, round));
            world.run(100 * MS);
        }
    };
    rounds(&mut world, 1..60);
    assert_eq!(world.kinds(7), ["up", "standstill"]);
    let EventKind::Standstill { certain: true, .. } = world.last("standstill").kind else { panic!() };
    for pid in [8, 9, 10] {
        assert_eq!(world.kinds(pid), ["up"], "it works, sends no line, or sends frames");
    }
    world.notify(7, "STATUS=another");
    rounds(&mut world, 60..70);
    assert_eq!(world.kinds(7), ["up", "standstill", "advance"]);
    assert!(matches!(world.last("advance").kind, EventKind::Advance { why: AdvanceWhy::Status, .. }));
}

/// No descriptor is left to watch it, and no silence of it is ever judged.
#[test]
fn the_exit_of_a_daemon_that_nobody_can_watch_is_told() {
    let mut world = World::of_lanes();
    world.is_watching = false;
    world.notify(7, "READY=1");
    world.run(5000 * MS);
    assert_eq!(world.kinds(7), ["up"]);
    world.processes.remove(&7);
    world.run(2000 * MS);
    assert_eq!(world.kinds(7), ["up", "exit"]);
}

/// A frame of it was refused, which may have been a beat: its stall is put off, and not certain.
#[test]
fn a_daemon_that_was_turned_away_stalls_later_and_perhaps() {
    let mut world = World::of_lanes();
    world.notify(7, "READY=1");
    world.notify(7, "WATCHDOG=1");
    world.run(100 * MS);
    world.admission.turned_away().note(7, world.now(), table::turned_away::TurnedAwayFor::Uid);
    world.run(2 * THRESHOLD);
    assert_eq!(world.kinds(7), ["up"]);
    world.run(THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "stall"]);
    assert!(matches!(world.last("stall").kind, EventKind::Stall { certain: false, .. }));
}

/// What it was started with holds as long as its program runs, also once it has written over its environment.
#[test]
fn a_daemon_that_writes_over_its_environment_keeps_its_threshold() {
    let mut world = World::of_lanes();
    world.processes.get_mut(&7).unwrap().watchdog_ns = Some(3 * THRESHOLD);
    world.notify(7, "WATCHDOG=1");
    world.run(100 * MS);
    world.processes.get_mut(&7).unwrap().watchdog_ns = None;
    for stalls in 1..3 {
        world.notify(7, "WATCHDOG=1");
        world.run(3 * THRESHOLD - 50 * MS);
        assert_eq!(world.count("stall"), stalls - 1, "{:?}", world.kinds(7));
        world.run(100 * MS);
        assert_eq!(world.count("stall"), stalls, "{:?}", world.kinds(7));
    }
    // Another program was started with nothing.
    world.processes.get_mut(&7).unwrap().exe = "/other";
    world.notify(7, "WATCHDOG=1");
    world.run(3 * THRESHOLD + 50 * MS);
    assert_eq!(world.count("stall"), 3);
    world.notify(7, "WATCHDOG=1");
    world.run(THRESHOLD + 50 * MS);
    assert_eq!(world.count("stall"), 4, "{:?}", world.kinds(7));
}
