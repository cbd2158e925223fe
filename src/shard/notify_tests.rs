//! A shard of daemons, on a scripted socket: what each message does to its slot, and when it is judged.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use super::*;
use crate::config::classes::Classes;
use crate::event::DaemonPhase;
use crate::lab::replay::{Act, MessageReplay, Point, Recorded, Script};
use crate::lane::kick::Kick;
use crate::lane::settings::Settings;
use crate::notify::daemon::{Daemon, Terms};
use crate::shard::front::Limits;
use crate::shard::tracker::{Admission, Tracker};
use crate::shard::uids::UidAccounts;
use crate::sys::allocations::during;
use crate::sys::datagram::Credentials;
use crate::table::adopt::adopt;
use crate::table::slot::{Cold, Hot, State};
use crate::table::{Header, Table, create};
use crate::time::ManualClock;
use crate::wire::Status;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
const TICK: u64 = 10 * MS;
const T: u64 = 2 * SECOND;
const START: MonoNs = MonoNs(1_000_000_000_000);
const HEADER: Header = Header { boot_id: 1, pid_namespace: 2, shard: 0, shards: 1 };
const SLOTS: u32 = 16;
const TERMS: Terms = Terms {
    threshold_ns: T,
    threshold_min_ns: 100 * MS,
    threshold_max_ns: 3600 * SECOND,
    start_ns: None,
    stop_ns: 90 * SECOND,
};

fn port_of(table: Table) -> Arc<Port> {
    let port = Port::new(table, Arc::new(Kick::new().unwrap()), false).unwrap();
    Arc::new(port.of_daemons(TERMS).unwrap())
}

struct Fixture {
    script: Script,
    clock: ManualClock,
    port: Arc<Port>,
    shard: Shard<MessageReplay, ManualClock>,
    let_go: Rc<RefCell<Vec<(usize, bool)>>>,
}

impl Fixture {
    fn new() -> Self {
        Self::with(None, Classes::single(T))
    }

    fn with(allow_uids: Option<&[u32]>, classes: Classes) -> Self {
        let clock = ManualClock::new(START, 1_700_000_000_000_000_000);
        let script = Script::new(&clock, 512);
        let (writer, table) = create(SLOTS, HEADER).unwrap();
        let port = port_of(table);
        let uids = UidAccounts::new(Arc::clone(&port.uids), None);
        let admission = Admission::new(SLOTS).unwrap();
        let tracker = Tracker::new(writer, classes, TICK, admission, uids, START)
            .of_daemons(port.daemons.clone().unwrap());
        let let_go = Rc::default();
        let transport = MessageReplay { inner: script.transport(), let_go: Rc::clone(&let_go) };
        let limits = Limits { threshold_min_ns: T, tick_ns: TICK };
        let front = Front::new(transport, clock.clone(), tracker, limits, allow_uids);
        script.kick_through(Arc::clone(&port));
        let shard = Shard::new(front, Arc::clone(&port), Arc::new(Doorbell::default()), MS);
        Self { script, clock, port, shard, let_go }
    }

    fn send(&self, after_ms: u64, pid: u32, text: &str) {
        self.send_recorded(after_ms, Recorded::bytes(text.as_bytes(), pid));
    }

    fn send_recorded(&self, after_ms: u64, recorded: Recorded) {
        self.script.at(START + after_ms * MS, Act::Send(recorded));
    }

    /// Turns until so many milliseconds after the start.
    fn run(&mut self, until_ms: u64) {
        while self.clock.mono() < START + until_ms * MS {
            // Never past the instant: the shard may sleep longer.
            self.script.at(START + until_ms * MS, Act::Kick);
            self.shard.turn().unwrap();
        }
        // Whatever was received is judged.
        self.script.wake();
        self.shard.turn().unwrap();
    }

    fn slot(&self, slot: u32) -> (Hot, Cold, Daemon) {
        let (hot, cold, extra) = self.port.table.read_with_extra(slot).unwrap();
        let extra = extra.expect("it is a daemon's");
        let daemon = Daemon::from_words(extra.first_chunk().unwrap(), hot.last_arrival, hot.paused_before);
        (hot, cold, daemon)
    }

    fn refused(&self, refusal: Refusal) -> u64 {
        self.port.counters.refused(refusal)
    }
}

#[test]
fn a_daemon_that_stops_beating_stalls_at_its_threshold_and_resumes() {
    let mut fixture = Fixture::new();
    fixture.send(0, 100, "READY=1\nSTATUS=Serving");
    (1..=5).for_each(|second| fixture.send(second * 1000, 100, "WATCHDOG=1"));
    fixture.send(9000, 100, "STATUS=Still serving");
    fixture.run(6990);
    let (hot, cold, _) = fixture.slot(0);
    assert_eq!((hot.state, hot.pid, hot.beats(), cold.stalls), (State::Up, 100, 5, 0));
    assert_eq!(hot.last_arrival, START + 5000 * MS);
    fixture.run(7020);
    let (hot, cold, _) = fixture.slot(0);
    assert_eq!((hot.state, cold.stalls, cold.is_stall_uncertain), (State::Stalled, 1, false));
    assert!((T..T + 2 * TICK).contains(&cold.stall_silent_ns), "{}", cold.stall_silent_ns);
    fixture.run(20_000);
    assert_eq!(fixture.slot(0).1.stalls, 1, "once, and its status is no beat");
    fixture.send(20_500, 100, "WATCHDOG=1");
    fixture.run(21_000);
    let (hot, cold, _) = fixture.slot(0);
    assert_eq!((hot.state, cold.resumes, cold.resume_silent_ns), (State::Up, 1, 15_500 * MS));
    fixture.run(23_000);
    assert_eq!(fixture.slot(0).1.stalls, 2);
}

#[test]
fn a_daemon_that_sends_no_beats_is_never_judged_by_silence() {
    let mut fixture = Fixture::new();
    fixture.send(0, 100, "READY=1\nSTATUS=Serving");
    fixture.send(5000, 100, "STATUS=Serving still");
    fixture.run(100_000);
    let (hot, cold, daemon) = fixture.slot(0);
    assert_eq!((hot.state, cold.stalls, daemon.phase()), (State::Waiting, 0, Some(DaemonPhase::Up)));
    let lines = &fixture.port.daemons.as_ref().unwrap().lines;
    assert_eq!(lines.get(0, cold.generation).as_deref(), Ok("Serving still"));
    assert_eq!(hot.last_arrival, START + 5000 * MS);
    assert_eq!((fixture.port.counters.beats.get(), fixture.port.counters.frames.get()), (0, 2));
}

#[test]
fn its_own_threshold_its_extensions_and_its_stop_hold_for_it_alone() {
    let mut fixture = Fixture::new();
    fixture.send(0, 100, "WATCHDOG_USEC=500000");
    fixture.send(0, 101, "WATCHDOG=1");
    fixture.send(0, 102, "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=10000000");
    fixture.send(0, 103, "WATCHDOG=1");
    fixture.send(100, 103, "STOPPING=1");
    let stalls = |fixture: &Fixture| [0, 1, 2, 3].map(|slot| fixture.slot(slot).1.stalls);
    for (until_ms, expected) in [
        (490, [0, 0, 0, 0]),
        (520, [1, 0, 0, 0]),
        (1990, [1, 0, 0, 0]),
        (2020, [1, 1, 0, 0]),
        (9990, [1, 1, 0, 0]),
        (10_020, [1, 1, 1, 0]),
        (90_090, [1, 1, 1, 0]),
        (90_120, [1, 1, 1, 1]),
    ] {
        fixture.run(until_ms);
        assert_eq!(stalls(&fixture), expected, "at {until_ms} ms");
    }
    let (_, cold, daemon) = fixture.slot(3);
    assert_eq!(daemon.phase(), Some(DaemonPhase::Stopping));
    assert!((90 * SECOND..90 * SECOND + 2 * TICK).contains(&cold.stall_silent_ns), "since STOPPING=1");
}

/// A threshold that becomes shorter moves the timer, which was set for the longer one.
#[test]
fn a_shorter_threshold_holds_at_once() {
    let mut fixture = Fixture::new();
    fixture.send(0, 100, "WATCHDOG_USEC=3600000000");
    fixture.send(1000, 100, "WATCHDOG_USEC=1000000");
    fixture.run(2020);
    assert_eq!(fixture.slot(0).1.stalls, 1);
}

#[test]
fn a_trigger_is_told_at_once_and_opens_no_deadline() {
    let mut fixture = Fixture::new();
    fixture.send(0, 100, "WATCHDOG=trigger");
    fixture.run(10_000);
    let (hot, cold, _) = fixture.slot(0);
    assert_eq!((hot.state, hot.status), (State::Waiting, Status::Critical));
    assert_eq!((cold.terminals, cold.terminal_at, cold.stalls), (1, START, 0));
    fixture.send(11_000, 100, "WATCHDOG=1");
    fixture.run(11_500);
    let (hot, cold, _) = fixture.slot(0);
    assert_eq!((hot.state, hot.status, cold.statuses), (State::Up, Status::Ok, 2));
}

/// Its beats lie in the queue meanwhile, or nobody knows whether there were any.
#[test]
fn a_shard_that_was_paused_calls_no_daemon_stalled() {
    let mut fixture = Fixture::new();
    (0..40).for_each(|second| fixture.send(second * 1000, 100, "WATCHDOG=1"));
    fixture.script.pause(START + 5500 * MS, 10 * SECOND, Point::BeforeReceive);
    fixture.script.pause(START + 20_500 * MS, 10 * SECOND, Point::Wait);
    fixture.run(39_000);
    let (hot, cold, _) = fixture.slot(0);
    assert_eq!((hot.state, cold.stalls, hot.beats()), (State::Up, 0, 40));
    assert!(fixture.port.counters.blind_ns.get() > 0);
    fixture.run(41_020);
    assert_eq!(fixture.slot(0).1.stalls, 1);
}

#[test]
fn what_is_no_message_of_somebody_known_enrols_nobody_and_is_counted() {
    let mut fixture = Fixture::with(Some(&[1000]), Classes::single(T));
    let stranger = |pid, uid| Some(Credentials { pid, uid });
    fixture.send(0, 100, "");
    fixture.send(0, 100, "X_OTHER=1");
    fixture.send(0, 100, "READY=1\0WATCHDOG=1");
    fixture.send(0, 1, "WATCHDOG=1");
    let beat = Recorded::bytes(b"WATCHDOG=1", 100);
    for recorded in [
        Recorded { credentials: None, ..beat.clone() },
        Recorded { credentials: stranger(0, 65_534), ..beat.clone() },
        Recorded { credentials: stranger(100, 1001), ..beat.clone() },
        Recorded { is_truncated: true, ..beat.clone() },
        Recorded { is_control_truncated: true, ..beat.clone() },
    ] {
        fixture.send_recorded(0, recorded);
    }
    fixture.run(1000);
    for (refusal, count) in [
        (Refusal::Probe, 1),
        (Refusal::Meaningless, 1),
        (Refusal::InnerNul, 1),
        (Refusal::BadPid, 1),
        (Refusal::Unattested, 2),
        (Refusal::Uid, 1),
        (Refusal::WrongSize, 1),
        (Refusal::TruncatedControl, 1),
    ] {
        assert_eq!(fixture.refused(refusal), count, "{refusal:?}");
    }
    assert_eq!((fixture.port.counters.beats.get(), fixture.port.table.used()), (0, 0));
}

/// A barrier is let go as one, after everything before it; one that is refused is closed, too.
#[test]
fn barriers_are_let_go_in_their_turn() {
    let mut fixture = Fixture::new();
    let barrier = Recorded { has_foreign_fds: true, ..Recorded::bytes(b"BARRIER=1", 100) };
    fixture.send(0, 100, "WATCHDOG=1");
    fixture.send_recorded(0, barrier.clone());
    fixture.send(0, 100, "BARRIER=1");
    fixture
        .send_recorded(0, Recorded { has_foreign_fds: true, ..Recorded::bytes(b"READY=1\nBARRIER=1", 100) });
    fixture.run(1000);
    assert_eq!(*fixture.let_go.borrow(), [(0, false), (1, true), (2, false), (3, false)]);
    assert_eq!((fixture.refused(Refusal::BadBarrier), fixture.slot(0).0.beats()), (2, 1));
}

#[test]
fn no_message_of_a_known_daemon_allocates() {
    let mut fixture = Fixture::new();
    let texts = [
        "READY=1\nSTATUS=Serving\nMAINPID=100",
        "WATCHDOG=1",
        "WATCHDOG_USEC=900000\nEXTEND_TIMEOUT_USEC=5000000",
        "RELOADING=1\nMONOTONIC_USEC=7",
        "WATCHDOG=trigger\nERRNO=5",
        "X_OTHER=1",
        "STOPPING=1\nEXIT_STATUS=7",
    ];
    for (index, text) in (0..).zip(texts) {
        fixture.send(index, 100, text);
    }
    fixture.clock.advance(50 * MS);
    let mut allocations = 0;
    for _ in 0..20 {
        allocations += during(|| fixture.shard.turn().unwrap());
    }
    assert_eq!(allocations, 0);
    assert_eq!(fixture.slot(0).2.phase(), Some(DaemonPhase::Stopping));
}

#[test]
fn another_process_with_the_pid_is_judged_by_its_own_messages() {
    let mut fixture = Fixture::new();
    fixture.send(0, 100, "WATCHDOG_USEC=500000");
    fixture.send(100, 100, "STOPPING=1");
    fixture.send(300, 100, "WATCHDOG=1");
    fixture.run(400);
    let generation = fixture.port.table.generation(0);
    let as_of = crate::lane::Instruction { as_of: START + 200 * MS, ..Default::default() };
    fixture.port.inbox.post(0, generation, instruction::RELEASE, as_of);
    fixture.run(500);
    let (hot, cold, daemon) = fixture.slot(0);
    assert_eq!((hot.state, daemon.phase()), (State::Up, Some(DaemonPhase::Up)));
    assert_eq!((cold.generation, cold.first_arrival), (generation.wrapping_add(1), START + 300 * MS));
    fixture.run(2290);
    assert_eq!(fixture.slot(0).1.stalls, 0, "the threshold is not that of the one before");
    fixture.run(2330);
    assert_eq!(fixture.slot(0).1.stalls, 1);
    // Nothing came after the end of this one.
    let as_of = crate::lane::Instruction { as_of: START + 2300 * MS, ..Default::default() };
    fixture.port.inbox.post(0, generation.wrapping_add(1), instruction::RELEASE, as_of);
    fixture.run(2500);
    let (hot, _, extra) = fixture.port.table.read_with_extra(0).unwrap();
    assert_eq!((hot.pid, extra), (0, None));
}

#[test]
fn a_verdict_by_a_threshold_that_was_too_short_is_taken_back() {
    let mut fixture = Fixture::with(None, Classes::new(T, [2 * T]));
    fixture.send(0, 100, "WATCHDOG=1");
    fixture.run(10);
    let generation = fixture.port.table.generation(0);
    let of_class = |class| crate::lane::Instruction { class, ..Default::default() };
    let known = instruction::CLASS | instruction::STARTED_WITH;
    fixture.port.inbox.post(0, generation, known, of_class(0));
    fixture.run(2020);
    assert_eq!(fixture.slot(0).0.state, State::Stalled);
    fixture.port.inbox.post(0, generation, known | instruction::WITHDRAW, of_class(1));
    fixture.run(2030);
    let (hot, cold, daemon) = fixture.slot(0);
    assert_eq!((hot.state, cold.stalls, daemon.missed()), (State::Up, 0, None));
    fixture.run(3990);
    assert_eq!(fixture.slot(0).1.stalls, 0);
    fixture.run(4020);
    assert_eq!(fixture.slot(0).1.stalls, 1);
}

/// What it sent comes first, then what it was started with, then a rule; and the longest of all until that is known.
#[test]
fn a_daemon_has_the_threshold_that_is_known_of_it() {
    let started_with =
        |threshold_ms, class| crate::lane::Instruction { threshold_ms, class, ..Default::default() };
    for (class, environment_ms, sent, stalls_ms) in [
        (0, 500, "WATCHDOG=1", 500),
        (1, 500, "WATCHDOG=1", 500),
        (1, 0, "WATCHDOG=1", 1000),
        (1, 500, "WATCHDOG_USEC=300000", 300),
        (1, 0, "WATCHDOG_USEC=300000", 300),
        (0, 0, "WATCHDOG=1", 2000),
    ] {
        let mut fixture = Fixture::with(None, Classes::new(T, [T / 2]));
        fixture.send(0, 100, sent);
        fixture.run(10);
        let generation = fixture.port.table.generation(0);
        let known = instruction::CLASS | instruction::STARTED_WITH;
        fixture.port.inbox.post(0, generation, known, started_with(environment_ms, class));
        fixture.run(stalls_ms - 20);
        assert_eq!(fixture.slot(0).1.stalls, 0, "{sent} {environment_ms} {class}");
        fixture.run(stalls_ms + 20);
        assert_eq!(fixture.slot(0).1.stalls, 1, "{sent} {environment_ms} {class}");
    }
    let mut fixture = Fixture::with(None, Classes::new(T, [T / 2]));
    fixture.send(0, 100, "WATCHDOG=1");
    fixture.run(1990);
    assert_eq!(fixture.slot(0).1.stalls, 0, "nobody has looked it up");
    // Another program of the same process was started with another one.
    let generation = fixture.port.table.generation(0);
    for (environment_ms, stalls) in [(3000, 0), (1000, 1)] {
        fixture.port.inbox.post(0, generation, instruction::STARTED_WITH, started_with(environment_ms, 0));
        fixture.run(2500 + stalls * 10);
        assert_eq!(u64::from(fixture.slot(0).1.stalls), stalls);
    }
}

#[test]
fn sessions_outlive_a_panic_of_the_shard() {
    let mut fixture = Fixture::new();
    fixture.send(0, 100, "WATCHDOG_USEC=3000000");
    fixture.send(0, 101, "READY=1");
    fixture.run(1000);
    fixture.send(1100, 102, "WATCHDOG=1");
    fixture.clock.advance(200 * MS);
    fixture.script.panic_after(0);
    assert!(catch_unwind(AssertUnwindSafe(|| fixture.shard.turn())).is_err());
    fixture.shard.recover();
    fixture.run(3500);
    assert_eq!(fixture.slot(0).1.stalls, 0, "it is in grace");
    assert_eq!(fixture.slot(1).0.state, State::Waiting);
    fixture.run(4500);
    assert_eq!(fixture.slot(0).1.stalls, 1, "its threshold is still its own");
    assert_eq!(fixture.slot(1).1.stalls, 0);
}

/// The next observer adopts daemons with their phases and deadlines, and gives them a whole threshold.
#[test]
fn sessions_outlive_the_observer() {
    let mut fixture = Fixture::new();
    fixture.send(0, 100, "WATCHDOG_USEC=3000000");
    fixture.send(0, 101, "STOPPING=1");
    fixture.send(0, 102, "READY=1");
    fixture.run(1000);
    let memfd = fixture.port.table.memfd().try_clone_to_owned().unwrap();
    let Fixture { script, clock, port, shard, .. } = fixture;
    shard.finish();
    drop(port);
    script.change_observer();
    clock.advance(10 * SECOND);
    let now = clock.mono();
    let (writer, table, legacy) = adopt(memfd, &HEADER, SLOTS, SLOTS, now).unwrap();
    let port = port_of(table);
    let uids = UidAccounts::new(Arc::clone(&port.uids), None);
    let tracker = Tracker::new(writer, Classes::single(T), TICK, Admission::new(SLOTS).unwrap(), uids, now)
        .of_daemons(port.daemons.clone().unwrap())
        .go_on_after(&legacy);
    let let_go = Rc::default();
    let transport = MessageReplay { inner: script.transport(), let_go: Rc::clone(&let_go) };
    let limits = Limits { threshold_min_ns: T, tick_ns: TICK };
    let front = Front::adopted(transport, clock.clone(), tracker, limits, None, &legacy);
    script.kick_through(Arc::clone(&port));
    let shard = Shard::new(front, Arc::clone(&port), Arc::new(Doorbell::default()), MS);
    let mut fixture = Fixture { script, clock, port, shard, let_go };
    fixture.run(13_950);
    assert_eq!([0, 1, 2].map(|slot| fixture.slot(slot).1.stalls), [0, 0, 0]);
    fixture.run(14_100);
    assert_eq!([0, 1, 2].map(|slot| fixture.slot(slot).1.stalls), [1, 0, 0], "its own threshold");
    assert_eq!(fixture.slot(2).2.phase(), Some(DaemonPhase::Up));
    fixture.run(110_000);
    assert_eq!([0, 1, 2].map(|slot| fixture.slot(slot).1.stalls), [1, 1, 0]);
}

impl Fixture {
    /// A reload gives the shard these classes, as table 1, and an instruction gives slot 0 one of them.
    fn reload(&mut self, at_ms: u64, classes: Classes, class: Option<u8>) {
        self.run(at_ms);
        let settings = Settings {
            edition: 1,
            table: Some((1, classes)),
            allow_uids: None,
            uid_frames_max: None,
            max_delay_ns: 0,
        };
        self.port.handover.offer(Box::new(settings));
        self.run(at_ms + 1);
        if let Some(class) = class {
            let instruction = crate::lane::Instruction { class, table: 1, ..Default::default() };
            let generation = self.port.table.generation(0);
            self.port.inbox.post(0, generation, instruction::CLASS | instruction::STARTED_WITH, instruction);
            self.run(at_ms + 2);
        }
    }
}

/// A pause that is short beside every rule may be long beside the threshold of a daemon.
#[test]
fn a_reload_does_not_make_the_shard_overlook_pauses() {
    let mut fixture = Fixture::new();
    fixture.send(0, 100, "WATCHDOG_USEC=1000000");
    (0..20).for_each(|second| fixture.send(second * 900, 100, "WATCHDOG=1"));
    fixture.reload(100, Classes::single(100 * T), None);
    fixture.script.pause(START + 5000 * MS, 3 * SECOND, Point::Wait);
    fixture.run(9000);
    assert!(fixture.port.counters.blind_ns.get() > 2 * SECOND);
}

/// Until it is looked up again, a daemon without a rule keeps the longest threshold, and not that of agents of frames.
#[test]
fn a_reload_does_not_give_a_daemon_the_threshold_of_frames() {
    let mut fixture = Fixture::with(None, Classes::new(T, [T / 4]));
    fixture.send(0, 100, "WATCHDOG=1");
    fixture.run(10);
    let known = crate::lane::Instruction::default();
    let generation = fixture.port.table.generation(0);
    fixture.port.inbox.post(0, generation, instruction::CLASS | instruction::STARTED_WITH, known);
    fixture.reload(100, Classes::new(T / 4, [T / 8]), None);
    fixture.run(1950);
    assert_eq!(fixture.slot(0).1.stalls, 0);
    fixture.run(2020);
    assert_eq!(fixture.slot(0).1.stalls, 1);
}

/// Before the reload the longest threshold held.
#[test]
fn a_rule_that_comes_by_a_reload_holds_from_then_on() {
    let mut fixture = Fixture::with(None, Classes::single(T / 8));
    fixture.send(0, 100, "WATCHDOG=1");
    fixture.run(10);
    let known = crate::lane::Instruction::default();
    let generation = fixture.port.table.generation(0);
    fixture.port.inbox.post(0, generation, instruction::STARTED_WITH, known);
    fixture.reload(1500, Classes::new(T / 8, [T / 2]), Some(1));
    fixture.run(2450);
    assert_eq!(fixture.slot(0).1.stalls, 0, "it was silent for longer, and not since the reload");
    fixture.run(2530);
    assert_eq!(fixture.slot(0).1.stalls, 1);
}

/// A reload that gives others a shorter threshold does not put off the stall of a daemon with one of its own.
#[test]
fn a_reload_leaves_a_daemon_its_own_threshold() {
    let mut fixture = Fixture::with(None, Classes::new(T, [T]));
    fixture.send(0, 100, "WATCHDOG_USEC=500000");
    fixture.run(10);
    let known = crate::lane::Instruction { class: 1, ..Default::default() };
    let generation = fixture.port.table.generation(0);
    fixture.port.inbox.post(0, generation, instruction::CLASS | instruction::STARTED_WITH, known);
    fixture.reload(450, Classes::new(T / 4, [T * 3 / 4]), Some(1));
    fixture.run(530);
    assert_eq!(fixture.slot(0).1.stalls, 1);
}
