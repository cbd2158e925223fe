//! Processes that change their name, program or user after their first beat.

use super::*;
use crate::config::RuleMatch;
use crate::config::plan::Rule;

const PATIENCE: u64 = 4;
const ROOT: u32 = 0;
const USER: u32 = 4711;

fn rule(matcher: RuleMatch, thresholds: u64) -> Rule {
    Rule::new(matcher, thresholds * THRESHOLD)
}

/// Agents called `patient` may be silent for four thresholds.
fn with_patient() -> World {
    World::with(2, 64, vec![rule(RuleMatch::comm("patient"), PATIENCE)])
}

fn certain(event: Event) -> bool {
    let EventKind::Stall { certain, .. } = event.kind else { panic!("{event:?}") };
    certain
}

/// It takes its name after its first beat, as the workers of forking servers do.
#[test]
fn fault_61_a_process_is_judged_by_the_name_it_has_by_then() {
    let mut world = with_patient();
    world.born(7);
    world.beats(0, 7, 1..4);
    world.processes.get_mut(&7).unwrap().comm = "patient";
    world.run((PATIENCE - 1) * THRESHOLD + THRESHOLD / 2);
    assert_eq!(world.kinds(7), ["up"], "{:?}", world.reported);
    let (hot, cold) = world.ports[0].table.read(0).unwrap();
    assert_eq!((hot.state, cold.stalls), (State::Up, 0), "nobody sees a stall that was none");
    world.run(THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "stall"]);
    assert!(certain(world.last("stall")));
    let EventKind::Stall { silent_ns, .. } = world.last("stall").kind else { unreachable!() };
    assert!((PATIENCE * THRESHOLD..PATIENCE * THRESHOLD + 10 * MS + STEP).contains(&silent_ns));
    assert_eq!(world.agents(), (0, 1));
    world.beats(0, 7, 4..6);
    assert_eq!(world.kinds(7), ["up", "stall", "resume"]);
}

/// The silence ends while its process is looked up: by the rule that applies it was no stall.
#[test]
fn fault_61_a_silence_that_ends_while_its_rule_is_looked_up_is_none() {
    let mut world = with_patient();
    world.born(7);
    world.beats(0, 7, 1..4);
    world.processes.get_mut(&7).unwrap().comm = "patient";
    world.is_mute = true;
    while world.aggregator.pending.is_empty() {
        world.run(STEP);
    }
    world.send(0, 7, &beat(7, 4));
    world.run(STEP);
    world.is_mute = false;
    world.beats(0, 7, 5..10);
    assert_eq!(world.kinds(7), ["up"], "{:?}", world.reported);
    assert_eq!(world.agents(), (1, 0));
}

/// As above, but the lookup does not answer in time.
#[test]
fn fault_61_a_silence_that_ended_is_not_certain_before_its_rule_is_looked_up() {
    let mut world = with_patient();
    world.born(7);
    world.beats(0, 7, 1..4);
    world.is_mute = true;
    world.is_aggregator_asleep = true;
    world.run(THRESHOLD);
    world.send(0, 7, &beat(7, 4));
    world.run(STEP);
    world.is_aggregator_asleep = false;
    world.run(LOOK_NS / 2);
    assert_eq!(world.kinds(7), ["up", "stall", "resume"]);
    assert!(!certain(world.last("stall")));
}

#[test]
fn a_shorter_rule_holds_from_the_next_look_on() {
    let mut world = with_patient();
    world.born(7);
    world.processes.get_mut(&7).unwrap().comm = "patient";
    world.beats(0, 7, 1..4);
    world.processes.get_mut(&7).unwrap().comm = "other";
    world.run((PATIENCE + 1) * THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "stall"]);
    world.beats(0, 7, 4..6);
    world.run(2 * THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "stall", "resume", "stall"], "it was looked up with the last stall");
}

/// The lookup does not say what it runs now: the stall is reported all the same, as uncertain.
#[test]
fn a_stall_does_not_wait_for_ever_for_the_name() {
    let mut world = with_patient();
    world.born(7);
    world.beats(0, 7, 1..4);
    world.is_mute = true;
    world.run(THRESHOLD + 2 * LOOK_NS);
    assert_eq!(world.kinds(7), ["up", "stall"]);
    assert!(!certain(world.last("stall")));
}

/// It beats on the other shard all the while, and is judged twice on the first.
#[test]
fn an_agent_whose_stall_was_withdrawn_moves_as_any_other() {
    let mut world = with_patient();
    world.born(7);
    world.beats(0, 7, 1..4);
    world.processes.get_mut(&7).unwrap().comm = "patient";
    world.run(2 * THRESHOLD);
    for nonce in 4..40 {
        world.send(1, 7, &beat(7, nonce));
        world.run(100 * MS);
    }
    assert_eq!(world.kinds(7), ["up", "moved"], "{:?}", world.reported);
    assert_eq!(world.agents(), (1, 0));
}

/// It binds its port as root, then changes to its own user: it is counted and judged as that user.
#[test]
fn fault_61_a_process_that_becomes_another_user_is_that_users() {
    let mut world = World::with_limits(1, 64, vec![rule(RuleMatch::uid(USER), PATIENCE)], Some(1), None);
    world.born(7);
    for nonce in 1..4 {
        world.send_as(0, 7, ROOT, &beat(7, nonce));
        world.run(100 * MS);
    }
    assert_eq!((world.admission.share_of(ROOT), world.admission.share_of(USER)), (1, 0));
    for nonce in 4..8 {
        world.send_as(0, 7, USER, &beat(7, nonce));
        world.run(100 * MS);
    }
    assert_eq!(world.kinds(7), ["up", "session"]);
    assert_eq!(world.last("session").kind, EventKind::Session { why: SessionWhy::Uid, coalesced: 1 });
    assert_eq!((world.admission.share_of(ROOT), world.admission.share_of(USER)), (0, 1));
    let (hot, cold) = world.ports[0].table.read(0).unwrap();
    assert_eq!((hot.uid(), cold.beats(&hot)), (USER, 7));
    let agents_of = |uid| {
        let counts = world.ports[0].uids.read().unwrap();
        counts.iter().find(|counts| counts.uid == Some(uid)).map_or(0, |counts| counts.agents)
    };
    assert_eq!((agents_of(ROOT), agents_of(USER)), (0, 1));
    world.run((PATIENCE - 1) * THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "session"], "its user's rule holds");
}

/// As a server that uses another socket for each of its users.
#[test]
fn fault_61_a_process_that_becomes_another_user_as_it_moves_is_that_users() {
    let mut world = World::with_limits(2, 64, Vec::new(), Some(1), None);
    world.born(7);
    for nonce in 1..4 {
        world.send_as(0, 7, ROOT, &beat(7, nonce));
        world.run(100 * MS);
    }
    for nonce in 1..20 {
        world.send_as(1, 7, USER, &beat(7, nonce));
        world.run(100 * MS);
    }
    assert_eq!(world.kinds(7), ["up", "session", "moved"], "{:?}", world.reported);
    let session = world.last("session");
    assert_eq!(session.kind, EventKind::Session { why: SessionWhy::Uid, coalesced: 1 });
    let (_, cold) = world.ports[1].table.read(0).unwrap();
    assert_eq!(session.mono, cold.first_arrival);
    assert_eq!((world.admission.share_of(ROOT), world.admission.share_of(USER)), (0, 1));
    let number = |event: Event| event.agent.map(|agent| agent.session);
    assert_eq!(number(world.last("moved")), number(session), "it is the session that it began");
}

/// The new user's share is used up: the agent stays in the old user's share, and the refused frames are
/// evidence that it lives.
#[test]
fn fault_61_a_user_cannot_get_past_its_share_by_becoming_another() {
    let mut world = World::with_limits(1, 64, Vec::new(), Some(1), None);
    for (pid, uid) in [(7, ROOT), (8, USER)] {
        world.born(pid);
        world.send_as(0, pid, uid, &beat(pid, 1));
    }
    for nonce in 2..100 {
        world.send_as(0, 7, USER, &beat(7, nonce));
        world.send_as(0, 8, USER, &beat(8, nonce));
        world.run(100 * MS);
    }
    let of_7: Vec<_> =
        world.reported.iter().filter(|event| event.agent.is_some_and(|a| a.pid == 7)).collect();
    assert!(of_7.iter().all(|event| event.kind.name() != "session"), "{of_7:?}");
    assert!(of_7.iter().filter(|event| event.kind.name() == "stall").all(|event| !certain(**event)));
    assert_eq!((world.admission.share_of(ROOT), world.admission.share_of(USER)), (1, 1));
    assert!(world.ports[0].counters.refused(Refusal::TableFull) > 90);
}

/// Its pid goes to a process of another user: the new agent is that user's alone.
#[test]
fn fault_63_a_newcomer_is_its_own_users_and_not_the_deads() {
    let mut world = World::with_limits(1, 64, Vec::new(), Some(1), None);
    world.born(7);
    for nonce in 1..4 {
        world.send_as(0, 7, ROOT, &beat(7, nonce));
        world.run(100 * MS);
    }
    // The exit of one and the first beat of the other are there when the aggregator looks.
    world.is_aggregator_asleep = true;
    world.born(7);
    let now = world.now();
    let heir = world.processes.get_mut(&7).unwrap();
    (heir.incarnation, heir.started) = (99, now);
    for nonce in 1..4 {
        world.send_as(0, 7, USER, &beat(7, nonce));
        world.run(10 * MS);
    }
    world.is_aggregator_asleep = false;
    for nonce in 4..10 {
        world.send_as(0, 7, USER, &beat(7, nonce));
        world.run(100 * MS);
    }
    assert_eq!(world.kinds(7), ["up", "exit", "up"], "{:?}", world.reported);
    assert_eq!(world.ports[0].table.read(0).unwrap().0.uid(), USER);
    assert_eq!((world.admission.share_of(ROOT), world.admission.share_of(USER)), (0, 1));
}

/// Three handles beat at once; then another program of the same process does, with two.
#[test]
fn fault_62_another_program_of_a_mixed_agent_is_an_exec() {
    let mut world = World::new(1);
    world.born(7);
    for nonce in 1..6 {
        for stream in [0, 1 << 20, 1 << 40] {
            world.send(0, 7, &beat(7, stream + nonce));
            world.run(20 * MS);
        }
    }
    world.run(100 * MS);
    assert!(world.kinds(7).contains(&"mixed"));
    let before = world.kinds(7).len();
    world.processes.get_mut(&7).unwrap().exe = "/other";
    world.beats(0, 7, 1..5);
    assert_eq!(world.kinds(7)[before..], ["session"], "{:?}", world.reported);
    assert_eq!(world.last("session").kind, EventKind::Session { why: SessionWhy::Exec, coalesced: 1 });
    // Nonces that go on hide nothing either: the process is looked up before a stall is reported.
    world.processes.get_mut(&7).unwrap().exe = "/third";
    world.run(2 * THRESHOLD);
    assert_eq!(world.kinds(7)[before..], ["session", "session", "stall"], "{:?}", world.reported);
    assert_eq!(world.last("session").kind, EventKind::Session { why: SessionWhy::Exec, coalesced: 1 });
}
