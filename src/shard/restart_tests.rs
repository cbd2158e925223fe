//! A shard whose process is killed and started again, with agents that beat on meanwhile: what survives is the
//! socket with its queue, and the table.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;

use super::*;
use crate::config::classes::Classes;
use crate::event::BlindWhy;
use crate::lab::planted::{self, Bug};
use crate::lab::replay::{Replay, Script};
use crate::lane::blind::BlindNews;
use crate::lane::kick::Kick;
use crate::shard::front::Limits;
use crate::shard::tracker::{Admission, Tracker};
use crate::shard::uids::UidAccounts;
use crate::table::adopt::{Legacy, adopt};
use crate::table::slot::State;
use crate::table::{Header, Table, create};
use crate::time::ManualClock;
use crate::wire::{Frame, Status, Version};

const MS: u64 = 1_000_000;
const TICK: u64 = 10 * MS;
const T: u64 = 200 * MS;
const START: MonoNs = MonoNs(1_000_000_000_000);
const HEADER: Header = Header { boot_id: 1, pid_namespace: 2, shard: 0, shards: 1 };
const SLOTS: u32 = 256;
const FIRST_PID: u32 = 1000;

/// What a start does with what the process before left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    /// It starts with an empty table.
    StateLost,
    /// It adopts the table.
    Adopts,
}

/// One shard, over the lives of its processes.
struct Host {
    threshold: u64,
    clock: ManualClock,
    script: Script,
    policy: Policy,
    /// What holds the descriptor while no process runs.
    table: Option<Table>,
    port: Option<Arc<Port>>,
    shard: Option<Shard<Replay, ManualClock>>,
    legacy: Option<Legacy>,
    /// Frames sent and not refused by the kernel; refused or taken by any process.
    queued: u64,
    taken: u64,
    kills: u64,
    sent: BTreeMap<u32, MonoNs>,
    stalled: BTreeMap<u32, MonoNs>,
    certain: BTreeSet<u32>,
    blind: Vec<BlindNews>,
}

impl Host {
    fn new(threshold: u64, queue_limit: u32, policy: Policy) -> Self {
        let clock = ManualClock::new(START, 1_700_000_000_000_000_000);
        let mut host = Self {
            threshold,
            script: Script::new(&clock, queue_limit),
            clock,
            policy,
            table: None,
            port: None,
            shard: None,
            legacy: None,
            queued: 0,
            taken: 0,
            kills: 0,
            sent: BTreeMap::new(),
            stalled: BTreeMap::new(),
            certain: BTreeSet::new(),
            blind: Vec::new(),
        };
        host.start();
        host
    }

    fn start(&mut self) {
        let now = self.clock.mono();
        let old = self.table.take().filter(|_| self.policy == Policy::Adopts);
        let (writer, table, legacy) = match old {
            Some(old) => {
                let memfd = old.memfd().try_clone_to_owned().unwrap();
                drop(old);
                let (writer, table, legacy) = adopt(memfd, &HEADER, SLOTS, SLOTS, now).unwrap();
                (writer, table, Some(legacy))
            }
            None => {
                let (writer, table) = create(SLOTS, HEADER).unwrap();
                (writer, table, None)
            }
        };
        let port = Arc::new(Port::new(table.clone(), Arc::new(Kick::new().unwrap()), false).unwrap());
        let uids = UidAccounts::new(Arc::clone(&port.uids), None);
        let admission = Admission::new(SLOTS).unwrap();
        let classes = Classes::single(self.threshold);
        let limits = Limits { threshold_min_ns: self.threshold, tick_ns: TICK };
        let (transport, clock) = (self.script.transport(), self.clock.clone());
        let front = match &legacy {
            Some(legacy) => {
                let tracker = Tracker::new(writer, classes, TICK, admission, uids, now).go_on_after(legacy);
                Front::adopted(transport, clock, tracker, limits, None, legacy)
            }
            None => {
                let tracker = Tracker::new(writer, classes, TICK, admission, uids, now);
                Front::new(transport, clock, tracker, limits, None)
            }
        };
        self.script.kick_through(Arc::clone(&port));
        self.shard = Some(Shard::new(front, Arc::clone(&port), Arc::new(Doorbell::default()), MS));
        (self.table, self.port, self.legacy) = (Some(table), Some(port), legacy);
    }

    /// The agent beats each half of the threshold, from `from` on, until `until`.
    fn beats(&mut self, pid: u32, nonce: &mut u64, from: MonoNs, until: MonoNs) {
        let mut at = from;
        while at < until {
            *nonce += 1;
            let frame = Frame {
                version: Version::V02,
                status: Status::Ok,
                pid,
                timestamp: 1,
                nonce: *nonce,
                payload: 0,
            };
            self.script.send(at, &frame, pid);
            at = at + self.threshold / 2;
        }
    }

    fn turn(&mut self) {
        self.shard.as_mut().unwrap().turn().unwrap();
        self.look();
    }

    fn run(&mut self, until: MonoNs) {
        while self.clock.mono() < until {
            // A wait never goes far beyond the end.
            self.script.at(until, crate::lab::replay::Act::Kick);
            self.turn();
        }
    }

    /// Makes happen what is due, whether a process runs or not.
    fn look_at_senders(&mut self) {
        for sent in self.script.take_sent() {
            self.queued += u64::from(sent.is_queued);
            self.sent.insert(sent.pid, sent.at);
        }
    }

    /// Takes note of what the kernel accepted and of what the shard has to tell.
    fn look(&mut self) {
        self.look_at_senders();
        let port = self.port.as_ref().unwrap();
        self.blind.extend(std::iter::from_fn(|| port.blind.pop()));
        while let Some((slot, _)) = port.facts.pop() {
            let (hot, cold) = port.table.read(slot).unwrap();
            // By its ordinal: what was queued may have ended it within the same turn.
            if cold.stalls > 0 && !self.stalled.contains_key(&hot.pid) {
                self.stalled.insert(hot.pid, self.clock.mono());
                if !cold.is_stall_uncertain {
                    self.certain.insert(hot.pid);
                }
            }
        }
    }

    /// The process is killed between two turns, or inside one, when it has taken so many datagrams of a batch,
    /// or inside a write of a slot. It is down for so long.
    fn kill(&mut self, inside: Option<usize>, open: Option<u32>, down_ns: u64) {
        if let Some(datagrams) = inside {
            self.script.panic_after(datagrams);
            let shard = self.shard.as_mut().unwrap();
            for _ in 0..3 {
                if catch_unwind(AssertUnwindSafe(|| shard.turn().unwrap())).is_err() {
                    break;
                }
            }
            self.script.forget_panic();
        }
        self.look();
        if let Some(slot) =
            open.filter(|slot| *slot < self.shard.as_ref().unwrap().front.tracker.slots_used())
        {
            self.table.as_ref().unwrap().open(slot);
        }
        self.taken += self.port.as_ref().unwrap().counters.frames.get();
        self.shard = None;
        self.port = None;
        self.kills += 1;
        self.clock.advance(down_ns);
        self.look_at_senders();
        self.start();
    }

    /// Frames that processes received and did not take: the kills lost them.
    fn lost(&mut self) -> u64 {
        self.look();
        let taken = self.taken + self.port.as_ref().unwrap().counters.frames.get();
        self.queued - taken - self.script.depth() as u64
    }
}

/// Something of a linear generator: the same in every run.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

/// What became of agents of which some stopped during each of 14 gaps.
#[derive(Debug)]
struct Score {
    false_stalls: usize,
    missed: usize,
    stopped: usize,
    lateness_ns: u64,
    lost: u64,
    kills: u64,
}

/// 200 agents, 14 kills, down 30 to 400 ms, 3 agents stop at the begin of each gap.
fn score(policy: Policy, queue_limit: u32) -> Score {
    const AGENTS: u32 = 200;
    const KILLS: u64 = 14;
    let mut seed = 18;
    let mut host = Host::new(T, queue_limit, policy);
    // Kills are so far apart that each gap is judged on its own.
    let gaps: Vec<(MonoNs, u64)> =
        (1..=KILLS).map(|n| (START + n * 4 * T, 30 * MS + next(&mut seed) % (370 * MS))).collect();
    let end = START + (KILLS + 1) * 4 * T;
    let mut stops = BTreeMap::new();
    for (n, (at, down_ns)) in (0..).zip(&gaps) {
        for k in 0..3 {
            stops.insert(FIRST_PID + 3 * n + k, (*at + next(&mut seed) % (30 * MS), *down_ns));
        }
    }
    for pid in FIRST_PID..FIRST_PID + AGENTS {
        let until = stops.get(&pid).map_or(end, |(at, _)| *at);
        host.beats(pid, &mut 0, START + next(&mut seed) % (T / 2), until);
    }
    for (n, (at, down_ns)) in (0..).zip(gaps) {
        host.run(at);
        let inside = usize::try_from(next(&mut seed) % 3).unwrap();
        host.kill((n % 2 == 0).then_some(inside), None, down_ns);
    }
    host.run(end);
    let late = stops.iter().filter_map(|(pid, (_, down_ns))| {
        let due = *host.sent.get(pid)? + T + *down_ns + T + TICK;
        Some(host.stalled.get(pid)?.since(due))
    });
    Score {
        lateness_ns: late.max().unwrap_or(0),
        false_stalls: host.stalled.keys().filter(|pid| !stops.contains_key(pid)).count(),
        missed: stops.keys().filter(|pid| !host.stalled.contains_key(pid)).count(),
        stopped: stops.len(),
        lost: host.lost(),
        kills: host.kills,
    }
}

#[test]
fn a_restart_condemns_nobody_and_misses_nobody() {
    for queue_limit in [11, 512, 4096] {
        let score = score(Policy::Adopts, queue_limit);
        assert_eq!((score.false_stalls, score.missed), (0, 0), "queue {queue_limit}: {score:?}");
        // One turn may pass between the deadline and the look at it.
        assert!(score.lateness_ns <= 2 * MS, "queue {queue_limit}: {score:?}");
        assert!(score.lost <= score.kills * 64, "queue {queue_limit}: {score:?}");
    }
}

#[test]
fn with_an_empty_table_most_true_stalls_would_be_missed() {
    let score = score(Policy::StateLost, 4096);
    assert_eq!(score.false_stalls, 0, "{score:?}");
    assert!(score.missed > score.stopped / 2, "{score:?}");
}

#[test]
fn judged_before_the_queue_is_read_agents_that_beat_would_be_condemned() {
    let score = planted::with(Bug::JudgesBeforeDraining, || score(Policy::Adopts, 4096));
    assert!(score.false_stalls > 0, "{score:?}");
}

#[test]
fn a_restart_is_told_as_one_blind_window() {
    let mut host = Host::new(T, 512, Policy::Adopts);
    host.beats(FIRST_PID, &mut 0, START, START + 20 * T);
    host.run(START + 4 * T);
    let killed = host.clock.mono();
    host.kill(None, None, 300 * MS);
    let started = host.clock.mono();
    host.blind.clear();
    host.run(started + 2 * T);
    let [BlindNews::Both(window, BlindWhy::Restart)] = host.blind[..] else { panic!("{:?}", host.blind) };
    assert!(window.start <= killed && killed.since(window.start) < T, "{window:?}");
    assert_eq!(window.end, started);
}

#[test]
fn what_was_queued_in_the_gap_counts_by_its_stamp() {
    let mut host = Host::new(T, 512, Policy::Adopts);
    host.beats(FIRST_PID, &mut 0, START, START + 6 * T);
    host.run(START + 2 * T);
    // Inside the gap, 30 ms before its end.
    let sent = START + 3 * T;
    let at = host.clock.mono();
    host.kill(None, None, (sent + 30 * MS).since(at));
    let watermark = host.shard.as_ref().unwrap().front.sight.watermark();
    assert!(watermark <= at, "older datagrams are still queued");
    host.turn();
    let hot = host.table.as_ref().unwrap().read_hot(0).unwrap();
    assert_eq!((hot.last_arrival, hot.nonce()), (sent, 7));
}

#[test]
fn a_process_that_stops_in_order_leaves_nothing_in_doubt() {
    let mut host = Host::new(T, 512, Policy::Adopts);
    host.beats(FIRST_PID, &mut 0, START, START + 6 * T);
    host.run(START + 2 * T);
    host.shard.take().unwrap().finish();
    assert_eq!(host.script.depth(), 0);
    host.start();
    assert_eq!(host.legacy.map(|legacy| (legacy.was_clean, legacy.agents, legacy.torn)), Some((true, 1, 0)));
    host.kill(None, Some(0), 0);
    assert_eq!(host.legacy.map(|legacy| (legacy.was_clean, legacy.agents, legacy.torn)), Some((false, 1, 1)));
}

#[test]
fn stalled_stays_stalled_until_a_beat_and_waiting_stays_waiting() {
    let mut host = Host::new(T, 512, Policy::Adopts);
    let (silent, waiting) = (FIRST_PID, FIRST_PID + 1);
    host.beats(silent, &mut 0, START, START + 1);
    let crash = Frame {
        version: Version::V02,
        status: Status::Critical,
        pid: waiting,
        timestamp: 1,
        nonce: u64::MAX,
        payload: 3,
    };
    host.script.send(START, &crash, waiting);
    host.run(START + 3 * T);
    for _ in 0..3 {
        host.kill(None, None, T);
        host.run(host.clock.mono() + 3 * T);
    }
    let table = host.table.clone().unwrap();
    let (hot, cold) = table.read(0).unwrap();
    assert_eq!((hot.pid, hot.state, cold.stalls, cold.resumes), (silent, State::Stalled, 1, 0));
    assert_eq!(table.read_hot(1).unwrap().state, State::Waiting);
    let now = host.clock.mono();
    for pid in [silent, waiting] {
        host.beats(pid, &mut 1, now, now + 1);
    }
    host.run(now + T / 2);
    let (hot, cold) = table.read(0).unwrap();
    assert_eq!((hot.state, cold.stalls, cold.resumes), (State::Up, 1, 1));
    assert_eq!(cold.resume_silent_ns, now.since(START));
    assert_eq!(table.read_hot(1).unwrap().state, State::Up);
}

/// Each restart owes everybody a whole threshold of sight. If they come more often than that, what is left is the
/// time in which some process was awake.
#[test]
fn restarts_however_often_do_not_switch_stalls_off() {
    let threshold = 60_000 * MS;
    let mut host = Host::new(threshold, 512, Policy::Adopts);
    let (silent, beating) = (FIRST_PID, FIRST_PID + 1);
    host.beats(silent, &mut 0, START, START + 1);
    host.beats(beating, &mut 0, START, START + 20 * threshold);
    let (period, down) = (threshold / 2, 400 * MS);
    for _ in 0..10 {
        host.run(host.clock.mono() + period);
        host.kill(None, None, down);
    }
    let told = host.stalled.get(&silent).expect("told").since(START);
    let gaps = told / period * down;
    // Of each life of a process, the time since its last turn is not known: it ends within a second.
    let unknown = told / period * IDLE_NS;
    assert!((3 * threshold..=3 * threshold + gaps + unknown + TICK).contains(&told), "{told}");
    assert!(!host.certain.contains(&silent), "no process saw for a whole threshold");
    assert!(!host.stalled.contains_key(&beating));
}

/// The wall clock steps while nobody runs: what is queued was stamped before and after.
#[test]
fn fault_50_a_step_of_the_wall_clock_in_the_gap_condemns_nobody() {
    for step in [-3_600_000_i64, -150, -50, 50, 150, 3_600_000] {
        let mut host = Host::new(T, 512, Policy::Adopts);
        for n in 0..10 {
            host.beats(FIRST_PID + n, &mut 0, START + u64::from(n) * 7 * MS, START + 30 * T);
        }
        host.beats(FIRST_PID + 10, &mut 0, START, START + 5 * T + 1);
        host.run(START + 5 * T);
        host.script.at(START + 6 * T, crate::lab::replay::Act::StepWall(step * 1_000_000));
        host.kill(None, None, 2 * T);
        host.run(START + 20 * T);
        let stalled: Vec<u32> = host.stalled.keys().copied().collect();
        assert_eq!(stalled, [FIRST_PID + 10], "{step} ms");
        assert_eq!(host.port.as_ref().unwrap().counters.clock_steps.get(), 1, "{step} ms");
        // No beat was put before its predecessor: the next start would take the table for corrupt.
        host.kill(None, None, T);
        assert!(host.legacy.is_some());
    }
}

#[test]
fn agents_beyond_the_limit_stay_and_are_counted() {
    let mut host = Host::new(T, 512, Policy::Adopts);
    for pid in FIRST_PID..FIRST_PID + 5 {
        host.beats(pid, &mut 0, START, START + 3 * T);
    }
    host.run(START + T);
    let memfd = host.table.take().unwrap().memfd().try_clone_to_owned().unwrap();
    host.shard = None;
    let now = host.clock.mono();
    let (writer, _, legacy) = adopt(memfd, &HEADER, 3, 3, now).unwrap();
    let admission = Admission::new(3).unwrap();
    let uids = UidAccounts::default();
    let tracker =
        Tracker::new(writer, Classes::new(T, [T / 2, 3 * T]), TICK, Arc::clone(&admission), uids, now)
            .go_on_after(&legacy);
    assert_eq!((legacy.agents, admission.tracked(), admission.agents_max()), (5, 5, 3));
    assert_eq!(tracker.slots_used(), 5);
    for slot in 0..5 {
        assert_eq!(tracker.threshold_of(&tracker.hot(slot)), 3 * T, "the largest, until it is matched");
    }
}

#[derive(Clone, Debug)]
struct Kill {
    after_ms: u64,
    inside: Option<usize>,
    open: Option<u32>,
    down_ms: u64,
}

fn kills() -> impl Strategy<Value = Vec<Kill>> {
    let kill = (1u64..600, prop::option::of(0usize..6), prop::option::weighted(0.3, 0u32..20), 0u64..700);
    let kill = kill.prop_map(|(after_ms, inside, open, down_ms)| Kill { after_ms, inside, open, down_ms });
    prop::collection::vec(kill, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Wherever a process is killed, and however soon again: who beats is not condemned, who stopped is told, and
    /// what a kill loses was in the hands of the process.
    #[test]
    fn processes_killed_anywhere_keep_the_promises(
        kills in kills(),
        stops in prop::collection::vec(0u64..3_000, 20),
        queue_limit in prop::sample::select(vec![11u32, 512]),
    ) {
        let mut host = Host::new(T, queue_limit, Policy::Adopts);
        let end = START + 12_000 * MS;
        let mut stopped = BTreeMap::new();
        for (pid, stop) in (FIRST_PID..).zip(stops) {
            // One half of the agents stops some time.
            let until = if pid % 2 == 0 { START + stop * MS } else { end };
            host.beats(pid, &mut 0, START + u64::from(pid % 10) * 9 * MS, until);
            if pid % 2 == 0 {
                stopped.insert(pid, until);
            }
        }
        let mut last_start = START;
        for kill in kills {
            let until = host.clock.mono() + kill.after_ms * MS;
            host.run(until);
            host.kill(kill.inside, kill.open, kill.down_ms * MS);
            last_start = host.clock.mono();
        }
        host.run(last_start.max(START + 3_000 * MS) + 3 * T + 2 * TICK);
        for (pid, at) in &host.stalled {
            prop_assert!(stopped.contains_key(pid), "{} was told at {} and beats", pid, at.since(START) / MS);
        }
        for pid in stopped.keys() {
            // A frame that a kill lost may have been its only one.
            let is_known = (0..SLOTS).any(|slot| host.table.as_ref().unwrap().read_hot(slot).unwrap().pid == *pid);
            let is_told = host.stalled.contains_key(pid);
            prop_assert!(is_told || !is_known, "{} was not told", pid);
        }
        let lost = host.lost();
        prop_assert!(lost <= host.kills * 64, "{} lost by {} kills", lost, host.kills);
    }
}
