//! Other thresholds, rules and limits while agents beat.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::config::RuleMatch;
use crate::config::plan::{RULES_MAX, Rule};
use crate::event::ReloadOutcome;
use crate::lane::settings::Settings;

fn rule(comm: &str, threshold_ns: u64) -> Rule {
    Rule::new(RuleMatch::comm(comm), threshold_ns)
}

fn settings() -> Settings {
    Settings { edition: 0, table: None, allow_uids: None, uid_frames_max: None, max_delay_ns: 0 }
}

impl World {
    fn request_reload(&self, policy: Option<Policy>, settings: impl Fn() -> Settings) -> Receiver<u64> {
        let (progress, steps) = unbounded();
        let reload = Reload {
            policy,
            shards: self.shards.iter().map(|_| settings()).collect(),
            output: None,
            event: EventKind::Reload {
                outcome: ReloadOutcome::Applied,
                changed: ["threshold"].into_iter().collect(),
                restart: Default::default(),
            },
            is_decided: Arc::default(),
            progress,
        };
        self.requests.send(Request::Reload(Box::new(reload))).unwrap();
        steps
    }

    /// Puts these thresholds in force, within two turns.
    fn reload(&mut self, threshold_ns: u64, rules: Vec<Rule>) {
        let classes = Classes::new(threshold_ns, rules.iter().map(|rule| rule.threshold_ns));
        let steps = self.request_reload(Some(Policy { classes, rules }), settings);
        self.run(3 * STEP);
        assert_eq!(steps.try_iter().count(), 2, "taken, and in force");
    }

    /// The same, and every agent was looked up again.
    pub(super) fn reload_and_match(&mut self, threshold_ns: u64, rules: Vec<Rule>) {
        self.reload(threshold_ns, rules);
        self.run(4 * STEP);
    }

    pub(super) fn named(&mut self, pid: u32, comm: &'static str) {
        self.born(pid);
        self.processes.get_mut(&pid).unwrap().comm = comm;
    }

    /// The threshold that the shard holds to, ns.
    fn threshold_at(&self, shard: usize, slot: u32) -> u64 {
        self.shards[shard].threshold_of(slot)
    }

    /// Runs until the first stall; returns how long it took.
    fn until_stall(&mut self, most: u64) -> u64 {
        let from = self.now();
        while self.count("stall") == 0 {
            self.run(STEP);
            assert!(self.now().since(from) < most, "no stall: {:?}", self.reported);
        }
        self.now().since(from)
    }
}

/// What the judgement and its report may take.
const LATE: u64 = TICK + 4 * STEP;

#[test]
fn a_longer_threshold_moves_the_deadline_out() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..4);
    world.run(THRESHOLD / 2);
    world.reload(4 * THRESHOLD, Vec::new());
    let silent = world.now().since(world.ports[0].table.read_hot(0).unwrap().last_arrival);
    let left = world.until_stall(4 * THRESHOLD) + silent;
    assert!((4 * THRESHOLD..=4 * THRESHOLD + LATE).contains(&left), "{left}");
    assert_eq!(world.kinds(7), ["up", "stall"]);
}

#[test]
fn a_shorter_threshold_holds_from_the_reload_on() {
    let mut world = World::with(2, 64, vec![rule("x", 10 * THRESHOLD)]);
    world.reload(10 * THRESHOLD, Vec::new());
    world.born(7);
    world.beats(0, 7, 1..4);
    world.run(5 * THRESHOLD);
    world.reload(THRESHOLD, Vec::new());
    let took = world.until_stall(2 * THRESHOLD) + 3 * STEP;
    assert!((THRESHOLD..=THRESHOLD + LATE).contains(&took), "{took}");
    let EventKind::Stall { silent_ns, certain: true, .. } = world.last("stall").kind else { panic!() };
    assert!(silent_ns > 6 * THRESHOLD, "its silence is what it is: {silent_ns}");
    assert_eq!(world.kinds(7), ["up", "stall"]);
}

/// An agent whose threshold stays is told when it would have been told without a reload.
#[test]
fn an_unchanged_threshold_moves_no_deadline() {
    let mut world = World::new(2);
    world.named(7, "x");
    world.beats(0, 7, 1..4);
    world.run(THRESHOLD / 2);
    let silent = world.now().since(world.ports[0].table.read_hot(0).unwrap().last_arrival);
    world.reload(THRESHOLD, vec![rule("y", 2 * THRESHOLD)]);
    let took = world.until_stall(THRESHOLD) + silent + 3 * STEP;
    assert!((THRESHOLD..=THRESHOLD + LATE).contains(&took), "{took}");
}

#[test]
fn a_stall_that_waits_for_answers_is_not_told_by_a_longer_threshold() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..4);
    world.is_mute = true;
    while world.aggregator.pending.is_empty() {
        world.run(STEP);
    }
    world.reload(3 * THRESHOLD, Vec::new());
    world.is_mute = false;
    world.run(THRESHOLD);
    assert_eq!(world.kinds(7), ["up"], "{:?}", world.reported);
    assert_eq!(world.ports[0].table.read_hot(0).unwrap().state, State::Up);
    world.run(THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "stall"], "it is told when that has passed");
}

#[test]
fn a_stall_that_waits_for_answers_is_told_by_a_shorter_threshold() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..4);
    world.is_mute = true;
    while world.aggregator.pending.is_empty() {
        world.run(STEP);
    }
    world.reload(THRESHOLD / 2, Vec::new());
    world.is_mute = false;
    world.run(4 * STEP);
    assert_eq!(world.kinds(7), ["up", "stall"]);
}

/// A stall that was told stays one until the agent beats, whatever its threshold is by then.
#[test]
fn what_was_told_is_not_taken_back() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..4);
    world.run(2 * THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "stall"]);
    world.reload(10 * THRESHOLD, Vec::new());
    world.run(20 * THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "stall"], "one stall for one silence");
    world.beats(0, 7, 4..6);
    assert_eq!(world.kinds(7), ["up", "stall", "resume"]);
}

#[test]
fn rules_that_are_added_removed_or_reordered_hold_once_an_agent_was_matched_again() {
    let mut world = World::with(2, 64, vec![rule("a*", 2 * THRESHOLD), rule("ab", 3 * THRESHOLD)]);
    for (shard, (pid, comm)) in [(7, "ab"), (8, "ac"), (9, "other")].into_iter().enumerate() {
        world.named(pid, comm);
        world.beats(shard % 2, pid, 1..2);
    }
    let thresholds = |world: &World| {
        [(0, 0), (1, 0), (0, 1)].map(|(shard, slot)| world.threshold_at(shard, slot) / THRESHOLD)
    };
    assert_eq!(thresholds(&world), [2, 2, 1]);
    world.reload_and_match(THRESHOLD, vec![rule("ab", 3 * THRESHOLD), rule("a*", 2 * THRESHOLD)]);
    assert_eq!(thresholds(&world), [3, 2, 1], "reordered");
    world.reload_and_match(
        THRESHOLD,
        vec![rule("oth*", 5 * THRESHOLD), rule("ab", 3 * THRESHOLD), rule("a*", 2 * THRESHOLD)],
    );
    assert_eq!(thresholds(&world), [3, 2, 5], "added");
    world.reload_and_match(THRESHOLD, vec![rule("a*", 2 * THRESHOLD)]);
    assert_eq!(thresholds(&world), [2, 2, 1], "removed");
    world.is_mute = true;
    world.reload(THRESHOLD, vec![rule("a*", 4 * THRESHOLD), rule("x", 9 * THRESHOLD)]);
    assert_eq!(thresholds(&world), [9; 3], "the largest, until they are looked up");
    world.is_mute = false;
    world.run(4 * STEP);
    assert_eq!(thresholds(&world), [4, 4, 1]);
}

/// The number of a class says another thing in another table, up to the largest there may be.
#[test]
fn two_hundred_rules_become_two_hundred_others() {
    let names: Vec<&'static str> = (0..2 * RULES_MAX).map(|n| &*format!("name-{n}").leak()).collect();
    let rules = |from: usize, unit: u64| -> Vec<Rule> {
        (0..RULES_MAX).map(|n| rule(names[from + n], THRESHOLD + n as u64 * unit)).collect()
    };
    let mut world = World::with(1, 64, rules(0, MS));
    for (pid, name) in [(7, 0), (8, RULES_MAX - 1), (9, RULES_MAX), (10, 2 * RULES_MAX - 1)] {
        world.named(pid, names[name]);
        world.beats(0, pid, 1..2);
    }
    let thresholds = |world: &World| [0, 1, 2, 3].map(|slot| (world.threshold_at(0, slot) - THRESHOLD) / MS);
    let last = RULES_MAX as u64 - 1;
    assert_eq!(thresholds(&world), [0, last, 0, 0]);
    world.reload_and_match(THRESHOLD, rules(RULES_MAX, 2 * MS));
    assert_eq!(thresholds(&world), [0, 0, 0, 2 * last]);
    world.reload_and_match(THRESHOLD, rules(0, MS));
    assert_eq!(thresholds(&world), [0, last, 0, 0]);
}

/// More agents than one turn moves to the new classes, in both shards, and none is judged by an old number.
#[test]
fn thousands_of_agents_are_matched_again_while_they_beat() {
    const AGENTS: u32 = 5_000;
    let mut world = World::with(2, AGENTS, vec![rule("short", THRESHOLD), rule("long", 50 * THRESHOLD)]);
    for pid in 1..=AGENTS {
        world.named(pid, if pid % 2 == 0 { "short" } else { "long" });
        world.send(pid as usize % 2, pid, &beat(pid, 1));
    }
    world.run(20 * STEP);
    // The rules change places: an old number would make half of them stall.
    let steps = world.request_reload(
        Some(Policy {
            classes: Classes::new(THRESHOLD, [50 * THRESHOLD, 4 * THRESHOLD]),
            rules: vec![rule("long", 50 * THRESHOLD), rule("short", 4 * THRESHOLD)],
        }),
        settings,
    );
    world.run(2 * THRESHOLD);
    assert_eq!(steps.try_iter().count(), 2);
    assert_eq!(world.count("stall"), 0);
    assert!(!world.aggregator.reloading.is_matching);
    world.run(4 * THRESHOLD);
    assert_eq!(world.count("stall"), AGENTS as usize / 2);
    assert!(world.reported.iter().all(|event| {
        event.kind.name() != "stall" || event.agent.is_some_and(|agent| agent.pid % 2 == 0)
    }));
}

/// A shard that makes no turn keeps its agents' old classes, and instructions by the new ones wait for it.
#[test]
fn a_shard_that_is_late_takes_the_reload_before_it_judges() {
    let mut world = World::with(2, 64, vec![rule("a", 2 * THRESHOLD), rule("b", 3 * THRESHOLD)]);
    world.named(7, "a");
    world.beats(0, 7, 1..3);
    world.asleep = vec![0];
    let rules = vec![rule("b", 3 * THRESHOLD), rule("a", 20 * THRESHOLD)];
    let classes = Classes::new(THRESHOLD, rules.iter().map(|rule| rule.threshold_ns));
    let steps = world.request_reload(Some(Policy { classes, rules }), settings);
    world.run(10 * THRESHOLD);
    assert_eq!(steps.try_iter().count(), 1, "it is not in force everywhere");
    // Another reload, which changes no classes, must not lose them.
    let later = world.request_reload(None, settings);
    world.run(THRESHOLD);
    assert_eq!(later.try_iter().count(), 1);
    world.asleep.clear();
    world.run(THRESHOLD);
    assert_eq!(later.try_iter().count(), 1);
    assert_eq!(world.kinds(7), ["up"], "{:?}", world.reported);
    assert_eq!(world.threshold_at(0, 0), 20 * THRESHOLD);
}

#[test]
fn a_reload_that_its_caller_gave_up_changes_nothing() {
    let mut world = World::new(1);
    let (progress, steps) = unbounded();
    let reload = Reload {
        policy: Some(Policy { classes: Classes::single(9 * THRESHOLD), rules: Vec::new() }),
        shards: vec![settings()],
        output: None,
        event: EventKind::REFUSED_RELOAD,
        is_decided: Arc::new(AtomicBool::new(true)),
        progress,
    };
    world.requests.send(Request::Reload(Box::new(reload))).unwrap();
    world.run(3 * STEP);
    assert_eq!((steps.try_iter().count(), world.count("reload")), (0, 0));
    world.born(7);
    world.beats(0, 7, 1..2);
    world.run(2 * THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "stall"]);
}

#[test]
fn a_refused_reload_is_told_and_counted_until_one_is_taken() {
    let mut world = World::new(1);
    assert!(!world.aggregator.tally().is_reload_refused);
    world.requests.send(Request::ReloadRefused).unwrap();
    world.run(STEP);
    assert!(world.aggregator.tally().is_reload_refused);
    assert_eq!(world.last("reload").kind, EventKind::REFUSED_RELOAD);
    world.request_reload(None, settings);
    world.run(STEP);
    assert!(!world.aggregator.tally().is_reload_refused);
    assert_eq!(world.count("reload"), 2);
}

#[test]
fn users_and_budgets_change_between_two_turns() {
    let mut world = World::new(1);
    world.born(7);
    let refused = |world: &World, why| world.ports[0].counters.refused(why);
    world.beats(0, 7, 1..3);
    world.request_reload(None, || Settings { allow_uids: Some([5].into()), ..settings() });
    world.run(2 * STEP);
    world.beats(0, 7, 3..5);
    assert_eq!(refused(&world, Refusal::Uid), 2);
    world.send_as(0, 7, 5, &beat(7, 5));
    world.run(STEP);
    assert_eq!(refused(&world, Refusal::Uid), 2);
    world.request_reload(None, || Settings { uid_frames_max: Some(3), ..settings() });
    world.run(2 * STEP);
    for nonce in 6..16 {
        world.send(0, 7, &beat(7, nonce));
    }
    world.run(STEP);
    assert_eq!(refused(&world, Refusal::Budget), 7);
    world.request_reload(None, settings);
    world.run(2 * STEP);
    world.beats(0, 7, 16..26);
    assert_eq!((refused(&world, Refusal::Budget), refused(&world, Refusal::Uid)), (7, 2));
}

/// What an agent is owed after the thaw is a threshold, by whichever is in force; never one that has passed.
#[test]
fn a_thawed_agent_is_judged_by_the_threshold_of_the_reload() {
    for (threshold_ns, least) in [(THRESHOLD / 3, THRESHOLD / 3), (3 * THRESHOLD, 3 * THRESHOLD)] {
        let mut world = World::new(1);
        world.born(7);
        world.beats(0, 7, 1..3);
        world.processes.get_mut(&7).unwrap().is_frozen = true;
        world.run(2 * THRESHOLD);
        world.processes.get_mut(&7).unwrap().is_frozen = false;
        while world.count("frozen") < 2 {
            world.run(STEP);
        }
        world.run(THRESHOLD / 2);
        world.reload(threshold_ns, Vec::new());
        let took = world.until_stall(4 * THRESHOLD) + 3 * STEP;
        assert!((least..=least + LATE).contains(&took), "{took}");
    }
}
