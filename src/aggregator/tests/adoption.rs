//! A successor of the aggregator alone: the shards go on, and what was reported is adopted.

use super::*;
use crate::config::RuleMatch;
use crate::config::plan::Rule;
use crate::event::RestartWhy;
use crate::journal::{Adoption, Journal, KeptTable};
use crate::process::expected::{Absence, Absent, Expected};

impl World {
    /// The aggregator is gone at once, and its output has everything; a successor adopts what it left. `meanwhile`
    /// happens before the first turn.
    pub(super) fn succeed(&mut self, meanwhile: impl FnOnce(&mut Self)) {
        self.succeed_after(self.aggregator.fanout.last_seq(), meanwhile);
    }

    /// As [`World::succeed`], but the output has the events up to this number.
    fn succeed_after(&mut self, acknowledged: u64, meanwhile: impl FnOnce(&mut Self)) {
        self.aggregator.journal.acknowledge(acknowledged);
        meanwhile(self);
        let dup = |memfd: std::os::fd::BorrowedFd<'_>| memfd.try_clone_to_owned().unwrap();
        let old = &self.aggregator;
        let journal = Journal::identify(dup(old.journal.memfd()), 0, 0).unwrap();
        let ended = journal.adopt(self.now()).unwrap();
        let identity = journal.identity();
        let kept = (0..).zip(&old.shards).map(|(shard, view)| {
            let (capacity, used) = (view.port.table.capacity(), view.port.table.used());
            let kept = KeptTable::identify(dup(view.kept.memfd()), shard, &identity).unwrap();
            kept.adopt(capacity, used).unwrap()
        });
        let alive: Vec<u32> = self.processes.keys().copied().collect();
        let exists = Box::new(move |pid: u32| alive.contains(&pid));
        let adoption = Some(Adoption { why: RestartWhy::Crash, gap_ns: 0, ended, exists });
        let estate = Estate { journal: Arc::new(journal), kept: kept.collect(), adoption };
        self.replace_by(estate);
    }

    /// An aggregator that reports from this starts.
    fn replace_by(&mut self, estate: Estate) {
        let old = &self.aggregator;
        let (lookups, questions) = Lookups::detached();
        let (watch, orders) = Watch::detached(Arc::new(Kick::new().expect("a descriptor")));
        let (finder, findings) = unbounded();
        let (requests, requests_of) = unbounded();
        let (subscriber, events) = Subscriber::new(Reader::Log, EVENTS_SLACK);
        requests.send(Request::Subscribe(subscriber)).unwrap();
        let (_copies, asked) = Copies::new(self.ports.len(), Arc::default());
        let policy = Policy { classes: old.policy.classes.clone(), rules: old.policy.rules.clone() };
        let inquiries = Inquiries { lookups, watch, findings, names: Arc::new(Names::new(0)) };
        let doorbell = Arc::clone(&old.doorbell);
        self.aggregator =
            Aggregator::new(&self.ports, policy, inquiries, requests_of, doorbell, asked, estate);
        (self.questions, self.orders) = (questions, orders);
        (self.findings, self.requests, self.events) = (finder, requests, events);
        self.watched.clear();
        self.aggregator.start(self.clock.mono(), self.clock.wall());
    }
}

#[test]
fn fault_25_what_was_reported_is_not_reported_again() {
    let mut world = World::new(2);
    world.is_watching = true;
    for pid in [7, 8, 9] {
        world.born(pid);
        world.beats(0, pid, 1..2);
    }
    // 7 stalls, 8 and 9 beat.
    let mut nonce = 2;
    while world.count("stall") == 0 {
        for pid in [8, 9] {
            world.beats(0, pid, nonce..nonce + 1);
        }
        nonce += 1;
    }
    let seq = world.aggregator.fanout.last_seq();
    world.succeed(|world| drop(world.processes.remove(&9)));
    world.beats(0, 8, nonce..nonce + 1);
    world.beats(0, 7, 2..3);
    assert_eq!(world.kinds(7), ["up", "stall", "resume"]);
    assert_eq!(world.kinds(8), ["up"]);
    assert_eq!(world.kinds(9), ["up", "exit"]);
    let restart = world.last("restart");
    assert_eq!(restart.seq, seq + 1);
    let EventKind::Restart { adopted, gone, .. } = restart.kind else { unreachable!("it was asked for") };
    assert_eq!((adopted, gone), (3, 1));
    assert!(matches!(world.last("exit").kind, EventKind::Exit { while_away: true, .. }));
    let tally = &world.aggregator.tally().shards[0];
    assert_eq!((tally.up, tally.stalled), (2, 0));
}

/// The process with a pid is gone, and this one has it from now on.
fn inherit(world: &mut World, pid: u32, incarnation: u64) {
    let started = world.now();
    world.processes.insert(pid, Process { incarnation, started, comm: "heir", ..Process::default() });
}

/// What becomes of the pid of a process that dies while no observer runs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Heir {
    None,
    /// Another process gets it before the successor starts.
    InGap,
    /// A second one gets it before the successor starts.
    SecondInGap,
    /// Another process gets it after the successor started.
    Later,
}

/// The first beat of the heir.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Beats {
    Never,
    /// It waits in the queue when the successor starts.
    Queued(usize),
    /// After the start.
    Then(usize),
}

/// However it becomes known: by the start, by the lookup, by the watch thread, or by the beat of the process that has
/// its pid now.
#[test]
fn fault_25_who_went_while_nobody_ran_is_said_to_whatever_became_of_its_pid() {
    let heirs = [Heir::None, Heir::InGap, Heir::SecondInGap, Heir::Later];
    let beats = [Beats::Never, Beats::Queued(0), Beats::Queued(1), Beats::Then(0), Beats::Then(1)];
    let cases = heirs.iter().flat_map(|heir| beats.iter().map(move |beats| (*heir, *beats)));
    let is_possible = |(heir, beats): &(Heir, Beats)| match heir {
        Heir::None => *beats == Beats::Never,
        Heir::Later => !matches!(beats, Beats::Queued(_)),
        Heir::InGap | Heir::SecondInGap => true,
    };
    for (heir, first) in cases.filter(is_possible) {
        // Known to the predecessor, or not; the lookup thread answers at once, or the watch thread before it; the
        // slot can be read at the start, or not.
        for bits in 0..8 {
            let [is_known, is_looked_up, is_readable] = [1, 2, 4].map(|bit| bits & bit != 0);
            let case = (heir, first, is_known, is_looked_up, is_readable);
            let mut world = World::new(2);
            world.is_watching = true;
            world.is_mute = !is_known;
            world.born(7);
            world.beats(0, 7, 1..4);
            world.is_mute = !is_looked_up;
            world.succeed(|world| {
                world.processes.remove(&7);
                if matches!(heir, Heir::InGap | Heir::SecondInGap) {
                    world.clock.advance(50 * MS);
                    inherit(world, 7, 77);
                }
                if let Beats::Queued(shard) = first {
                    world.send(shard, 7, &beat(7, 1));
                }
                if heir == Heir::SecondInGap {
                    world.clock.advance(50 * MS);
                    inherit(world, 7, 78);
                }
                world.clock.advance(50 * MS);
                if !is_readable {
                    world.ports[0].table.open(0);
                }
            });
            if !is_readable {
                world.ports[0].table.close(0);
            }
            let started = world.now();
            if heir == Heir::Later {
                world.clock.advance(15 * MS);
                inherit(&mut world, 7, 77);
            }
            if let Beats::Then(shard) = first {
                world.send(shard, 7, &beat(7, 1));
            }
            for _ in 0..20 {
                world.run(STEP);
                world.watch_answers();
            }
            world.is_mute = false;
            world.run(10 * STEP);
            let kinds = world.kinds(7);
            assert_eq!(kinds[..2], ["up", "exit"], "{case:?}: {kinds:?}");
            assert_eq!(kinds.iter().filter(|kind| **kind == "exit").count(), 1, "{case:?}: {kinds:?}");
            let exit = world.last("exit");
            assert!(matches!(exit.kind, EventKind::Exit { while_away: true, .. }), "{case:?}: {exit:?}");
            assert!(exit.mono <= started, "{case:?}: {exit:?}");
            let gone = u32::from(matches!(heir, Heir::None | Heir::Later));
            let restart = world.last("restart");
            let is_counted =
                matches!(restart.kind, EventKind::Restart { gone: counted, .. } if counted == gone);
            assert!(is_counted, "{case:?}: {restart:?}");
        }
    }
}

/// Nobody can be looked up. It lives when the successor starts, is silent, and dies later.
#[test]
fn fault_25_who_went_later_did_not_go_while_nobody_ran() {
    let mut world = World::new(1);
    world.is_watching = true;
    world.is_secretive = true;
    world.born(7);
    world.beats(0, 7, 1..4);
    world.succeed(|_| ());
    while world.count("stall") == 0 {
        world.run(STEP);
    }
    world.processes.remove(&7);
    world.run(10 * STEP);
    assert_eq!(world.kinds(7), ["up", "stall", "exit"]);
    assert!(matches!(world.last("exit").kind, EventKind::Exit { while_away: false, .. }));
}

/// The shard writes a slot at the instant at which the successor reads it.
#[test]
fn fault_25_a_slot_that_is_being_written_is_adopted_later() {
    let mut world = World::new(1);
    world.born(7);
    world.beats(0, 7, 1..3);
    world.succeed(|world| world.ports[0].table.open(0));
    world.ports[0].table.close(0);
    world.beats(0, 7, 3..5);
    assert_eq!(world.kinds(7), ["up"]);
    let EventKind::Restart { adopted, .. } = world.last("restart").kind else {
        unreachable!("it was asked for")
    };
    assert_eq!(adopted, 1);
}

/// Killed after its events were committed and before anybody got them.
#[test]
fn fault_25_what_no_output_acknowledged_is_repeated_under_its_number() {
    let mut world = World::new(1);
    world.born(7);
    world.beats(0, 7, 1..3);
    world.reported.clear();
    world.succeed_after(1, |_| ());
    world.run(STEP);
    let told = mem::take(&mut world.reported);
    let told: Vec<_> = told.iter().map(|event| (event.seq, event.again, event.kind.name())).collect();
    assert_eq!(told[..2], [(2, true, "up"), (3, false, "restart")]);
}

/// Killed after the release of a slot was committed and before its shard got the instruction.
#[test]
fn fault_25_a_release_that_its_shard_did_not_get_is_posted_again() {
    let mut world = World::new(1);
    world.is_watching = true;
    world.born(7);
    world.beats(0, 7, 1..3);
    world.asleep = vec![0];
    world.processes.remove(&7);
    // The exit waits for the shard for a second, then it is reported without it.
    world.run(2 * EXIT_NS);
    assert_eq!(world.kinds(7), ["up", "exit"]);
    while world.ports[0].inbox.take().is_some() {}
    world.succeed(|_| ());
    world.asleep.clear();
    world.run(10 * STEP);
    assert_eq!(world.kinds(7), ["up", "exit"]);
    assert_eq!(world.ports[0].table.read_hot(0).map(|hot| hot.state), Ok(State::Free));
}

fn expected(pid: u32) -> Expected {
    Expected { pid, uid: 1000, start: pid.into(), comm: "worker".into(), absence: None }
}

/// A world whose aggregator has just started and must expect these.
fn expecting(mut world: World, roster: impl IntoIterator<Item = Expected>) -> (World, Arc<[Absent]>) {
    let roster: Arc<[Absent]> = roster.into_iter().map(Absent::new).collect();
    let identity = Identity { boot_id: 0, pid_namespace: 0, fleet: 0 };
    let capacities = world.ports.iter().map(|port| port.table.capacity());
    world.replace_by(Estate::create(&identity, 0, world.now(), capacities).unwrap());
    world.reported.clear();
    world.requests.send(Request::Expect(Arc::clone(&roster))).unwrap();
    (world, roster)
}

/// Nothing could be adopted. Who lives and does not beat is missed, once, until it beats or exits.
#[test]
fn fault_26_who_lives_and_does_not_beat_is_missed_once() {
    let patient = Rule::new(RuleMatch::comm("patient"), 100 * THRESHOLD);
    // 7 beats at once, 8 later, 9 never and then exits, 10 has exited before, and 11's pid is another process's. 12 is
    // not due for long, and must not delay the exit of 9; 13 has taken such a name since.
    let odd = [
        Expected { start: 1, ..expected(11) },
        Expected { comm: "patient".into(), ..expected(12) },
        expected(13),
    ];
    let roster = [7, 8, 9, 10].map(expected).into_iter().chain(odd);
    let (mut world, roster) = expecting(World::with(1, 64, vec![patient]), roster);
    let started = world.now();
    for pid in [7, 8, 9, 11] {
        world.born(pid);
    }
    world.named(12, "patient");
    world.named(13, "patient");
    let mut nonce = 1;
    while world.count("missing") < 2 {
        assert!(world.now().since(started) < 2 * THRESHOLD, "{:?}", world.reported);
        world.beats(0, 7, nonce..nonce + 1);
        nonce += 1;
    }
    let missed: Vec<_> = world.reported.iter().filter(|event| event.kind.name() == "missing").collect();
    assert_eq!(missed.iter().filter_map(|event| event.pid()).collect::<Vec<_>>(), [8, 9]);
    assert!(missed.iter().all(|event| event.mono.since(started) >= THRESHOLD));
    let EventKind::Missing { uid, comm, .. } = missed[0].kind else { unreachable!("it was asked for") };
    assert_eq!((uid, comm.as_str()), (1000, "agent"));
    // As long as it cannot be found out, nothing is said.
    world.is_secretive = true;
    world.processes.remove(&9);
    world.beats(0, 7, nonce..nonce + 30);
    nonce += 30;
    assert_eq!(world.count("exit"), 0);
    world.is_secretive = false;
    while world.count("exit") == 0 {
        assert!(world.now().since(started) < 50 * THRESHOLD, "{:?}", world.reported);
        for pid in [7, 8] {
            world.beats(0, pid, nonce..nonce + 1);
        }
        nonce += 1;
    }
    world.run(3 * POLL_NS);
    assert_eq!((world.count("missing"), world.count("exit")), (2, 1));
    assert_eq!((world.kinds(8)[0], &world.kinds(9)[..]), ("up", &["exit"][..]));
    let absent: Vec<_> = roster.iter().filter_map(Absent::now).collect();
    assert_eq!(absent.iter().map(|expected| expected.pid).collect::<Vec<_>>(), [12, 13]);
    assert!(absent.iter().all(|expected| expected.absence == Some(Absence::Awaited)));
}

/// The observer before awaited 8 and had reported 9; this one adopted all others.
#[test]
fn fault_26_who_is_missing_stays_so_across_restarts() {
    let absent = |pid, absence| Expected { absence: Some(absence), ..expected(pid) };
    let roster = [absent(8, Absence::Awaited), absent(9, Absence::Missing)];
    let (mut world, roster) = expecting(World::new(1), roster);
    world.born(8);
    world.born(9);
    world.run(2 * THRESHOLD);
    assert_eq!((world.count("missing"), world.last("missing").pid()), (1, Some(8)));
    let absent: Vec<_> = roster.iter().filter_map(Absent::now).collect();
    assert!(absent.iter().all(|expected| expected.absence == Some(Absence::Missing)), "{absent:?}");
    world.processes.clear();
    world.run(2 * THRESHOLD);
    assert_eq!((world.kinds(8), world.kinds(9)), (vec!["exit"], vec!["exit"]));
    assert_eq!(roster.iter().find_map(Absent::now), None);
}

/// The observer before had reported both; 8 died while none ran, and another process has the pid of 8.
#[test]
fn fault_26_a_missing_agent_that_went_while_nobody_ran_is_said_to() {
    let roster = [8, 9].map(|pid| Expected { absence: Some(Absence::Missing), ..expected(pid) });
    let (mut world, _) = expecting(World::new(1), roster);
    inherit(&mut world, 8, 88);
    world.born(9);
    world.run(2 * THRESHOLD);
    world.processes.remove(&9);
    world.run(2 * POLL_NS);
    assert_eq!((world.kinds(8), world.kinds(9)), (vec!["exit"], vec!["exit"]));
    let while_away = |pid| {
        let exit = world.reported.iter().find(|event| event.pid() == Some(pid)).expect("it was counted");
        matches!(exit.kind, EventKind::Exit { while_away: true, .. })
    };
    assert_eq!((while_away(8), while_away(9)), (true, false));
}

/// Killed after it was reported as missing and before the roster said so: the successor knows it from the events.
#[test]
fn fault_26_who_was_just_reported_as_missing_is_not_reported_again() {
    let (mut world, _) = expecting(World::new(1), [8, 9].map(expected));
    world.born(8);
    world.born(9);
    world.run(2 * THRESHOLD);
    world.beats(0, 9, 1..3);
    assert_eq!(world.count("missing"), 2);
    let roster: Arc<[Absent]> = [8, 9]
        .map(|pid| Absent::new(Expected { absence: Some(Absence::Awaited), ..expected(pid) }))
        .into_iter()
        .collect();
    world.succeed(|_| ());
    world.requests.send(Request::Expect(Arc::clone(&roster))).unwrap();
    world.run(3 * THRESHOLD);
    let missing: Vec<_> = world.reported.iter().filter(|event| event.kind.name() == "missing").collect();
    assert_eq!(missing.iter().filter_map(|event| event.pid()).collect::<Vec<_>>(), [8, 9]);
    world.processes.remove(&8);
    world.run(2 * POLL_NS);
    assert_eq!(world.kinds(8), ["exit"]);
}

/// Its shard does not run, and its beats wait there.
#[test]
fn fault_26_who_beats_to_a_shard_that_is_stuck_is_not_missing() {
    let (mut world, _) = expecting(World::new(2), [expected(8)]);
    world.born(8);
    world.asleep = vec![1];
    world.beats(1, 8, 1..100);
    assert_eq!(world.count("missing"), 0);
    world.asleep.clear();
    world.beats(1, 8, 100..110);
    assert_eq!((world.count("missing"), world.kinds(8)), (0, vec!["up"]));
}

/// It exits before it is asked about once more.
#[test]
fn fault_26_who_was_missing_and_beat_exits_once() {
    let (mut world, _) = expecting(World::new(1), [expected(8)]);
    world.is_watching = true;
    world.born(8);
    while world.count("missing") == 0 {
        world.run(STEP);
    }
    world.beats(0, 8, 1..2);
    world.processes.remove(&8);
    world.run(3 * POLL_NS);
    assert_eq!(world.kinds(8), ["up", "exit"]);
}

/// It beats, but there is no room for it: it is not missing.
#[test]
fn fault_26_who_is_turned_away_is_not_missing() {
    let (mut world, _) = expecting(World::with(1, 1, Vec::new()), [expected(8)]);
    world.born(7);
    world.born(8);
    for nonce in 1..100 {
        world.beats(0, 7, nonce..nonce + 1);
        world.beats(0, 8, nonce..nonce + 1);
    }
    assert!(world.ports[0].turned_away.last(8).is_some());
    assert_eq!(world.count("missing"), 0);
}

/// The same of a frame that waited in the queue when the observer started.
#[test]
fn fault_26_whose_queued_frame_is_turned_away_is_not_missing() {
    let mut world = World::with(1, 1, Vec::new());
    world.born(7);
    world.born(8);
    world.beats(0, 7, 1..3);
    world.asleep = vec![0];
    world.send(0, 8, &beat(8, 1));
    world.run(STEP);
    let (mut world, _) = expecting(world, [expected(8)]);
    world.asleep.clear();
    world.beats(0, 7, 3..30);
    assert!(world.ports[0].turned_away.last(8).is_some());
    assert_eq!(world.count("missing"), 0);
}

/// Two processes, of which one sends what claims to be of the other.
fn with_forger() -> World {
    let mut world = World::new(1);
    world.is_watching = true;
    for pid in [7, 8] {
        world.born(pid);
    }
    world
}

/// Its shard never read that the frames are forged: they must not count as life for ever.
#[test]
fn fault_25_a_claim_whose_finding_was_lost_is_checked_again() {
    let mut world = with_forger();
    world.beats(0, 7, 1..3);
    world.send(0, 7, &beat(8, 3));
    world.run(STEP);
    world.asleep = vec![0];
    world.run(10 * STEP);
    assert!(world.ports[0].inbox.take().is_some(), "it was found out");
    while world.ports[0].inbox.take().is_some() {}
    world.succeed(|_| ());
    world.asleep.clear();
    for nonce in 4..40 {
        world.send(0, 7, &beat(8, nonce));
        world.run(100 * MS);
    }
    assert!(world.kinds(7).contains(&"stall"), "{:?}", world.kinds(7));
}

#[test]
fn fault_25_a_closed_forger_is_counted_nowhere() {
    let mut world = with_forger();
    world.send(0, 7, &beat(8, 1));
    world.run(100 * MS);
    let before = world.aggregator.tally().shards[0].up;
    world.succeed(|_| ());
    world.run(100 * MS);
    assert_eq!(world.aggregator.tally().shards[0].up, before);
}

/// Its shard never read that its crash report opens a deadline: it would never be reported as stalled.
#[test]
fn fault_25_a_deadline_that_was_not_opened_is_opened_again() {
    let mut world = World::new(2);
    world.is_watching = true;
    world.born(7);
    world.beats(0, 7, 1..4);
    world.send(1, 7, &Frame { status: Status::Critical, ..beat(7, NONCE_TERMINAL) });
    world.run(2 * STEP);
    world.asleep = vec![1];
    world.run(2 * THRESHOLD);
    assert!(world.kinds(7).contains(&"moved"), "{:?}", world.kinds(7));
    while world.ports[1].inbox.take().is_some() {}
    world.succeed(|_| ());
    world.asleep.clear();
    world.run(20 * THRESHOLD);
    assert!(world.kinds(7).contains(&"stall"), "{:?}", world.kinds(7));
}

/// It stalled on one shard and beats on the other, and that was about to be reported.
#[test]
fn fault_25_a_return_to_another_shard_is_not_forgotten() {
    let mut world = World::new(2);
    world.is_watching = true;
    world.born(7);
    world.beats(0, 7, 1..4);
    while world.count("stall") == 0 {
        world.run(STEP);
    }
    world.is_mute = true;
    world.send(1, 7, &beat(7, 4));
    world.run(STEP);
    assert_eq!(world.kinds(7), ["up", "stall"]);
    world.succeed(|_| ());
    world.is_mute = false;
    world.beats(1, 7, 5..30);
    assert_eq!(world.kinds(7)[..3], ["up", "stall", "resume"]);
}

/// However often it restarts, an agent that was thawed and does not beat is reported as stalled.
#[test]
fn fault_25_restarts_do_not_excuse_a_thawed_agent_for_ever() {
    let mut world = World::new(1);
    world.is_watching = true;
    world.born(7);
    world.beats(0, 7, 1..4);
    world.processes.get_mut(&7).expect("it was born").is_frozen = true;
    world.run(3 * THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "frozen"]);
    world.processes.get_mut(&7).expect("it was born").is_frozen = false;
    while world.count("frozen") < 2 {
        world.run(STEP);
    }
    for _ in 0..20 {
        world.succeed(|_| ());
        world.run(THRESHOLD / 2);
    }
    assert!(world.kinds(7).contains(&"stall"), "{:?}", world.kinds(7));
}

/// Killed after the commit and before its last number was noted, or before the commit.
#[test]
fn fault_25_numbers_have_no_hole_whenever_it_is_killed() {
    let mut world = World::new(1);
    world.born(7);
    world.beats(0, 7, 1..3);
    let seq = world.aggregator.fanout.last_seq();
    world.succeed(|world| world.aggregator.journal.forget_the_last_number());
    world.run(STEP);
    assert_eq!(world.last("restart").seq, seq + 1);
}
