//! Effects of a user's budget and share on its agents: a whole front on a scripted socket.

use std::sync::Arc;

use super::*;
use crate::config::classes::Classes;
use crate::lab::replay::{Act, Recorded, Replay, Script};
use crate::lane::uids::UidTable;
use crate::shard::tracker::Admission;
use crate::shard::uids::UidAccounts;
use crate::sys::datagram::Credentials;
use crate::table::slot::State;
use crate::table::{Header, create};
use crate::time::ManualClock;
use crate::wire::{Status, Version};

const MS: u64 = 1_000_000;
const T: u64 = 600 * MS;
const TICK: u64 = 10 * MS;
const START: MonoNs = MonoNs(1_000_000_000_000);
const HEADER: Header = Header { boot_id: 1, pid_namespace: 2, shard: 0, shards: 1 };
const USER: u32 = 1001;

struct World {
    clock: ManualClock,
    script: Script,
    front: Front<Replay, ManualClock>,
    table: Arc<UidTable>,
    admission: Arc<Admission>,
    refused: Vec<(u32, Refusal)>,
    /// Which pids were found stalled, when (ms since the start) and whether for certain.
    stalls: Vec<(u32, u64, bool)>,
}

impl World {
    fn new(admission: Arc<Admission>, frames_max: Option<u32>) -> Self {
        Self::allowing(admission, frames_max, &[1000, USER])
    }

    fn allowing(admission: Arc<Admission>, frames_max: Option<u32>, uids: &[u32]) -> Self {
        let clock = ManualClock::new(START, 1_700_000_000_000_000_000);
        let script = Script::new(&clock, 512);
        let (writer, _) = create(100, HEADER).unwrap();
        let table = Arc::<UidTable>::default();
        let accounts = UidAccounts::new(Arc::clone(&table), frames_max);
        let tracker = Tracker::new(writer, Classes::single(T), TICK, Arc::clone(&admission), accounts, START);
        let limits = Limits { threshold_min_ns: T, tick_ns: TICK };
        let front = Front::new(script.transport(), clock.clone(), tracker, limits, Some(uids));
        let mut world =
            Self { clock, script, front, table, admission, refused: Vec::new(), stalls: Vec::new() };
        // A new front is in grace for a threshold.
        world.run_until(2_000);
        world
    }

    fn with_budget(frames_max: u32) -> Self {
        Self::new(Admission::new(100).unwrap(), Some(frames_max))
    }

    fn send(&self, ms: u64, uid: u32, pid: u32, bytes: &[u8]) {
        let mut datagram = Recorded::bytes(bytes, pid);
        datagram.credentials = Some(Credentials { pid, uid });
        self.script.at(START + ms * MS, Act::Send(datagram));
    }

    fn beat(&self, ms: u64, uid: u32, pid: u32) {
        self.send(ms, uid, pid, &frame(pid, ms).encode());
    }

    /// Beats of one agent every `period` ms, from `from` to before `to`.
    fn beats(&self, uid: u32, pid: u32, from: u64, to: u64, period: usize) {
        (from..to).step_by(period).for_each(|ms| self.beat(ms, uid, pid));
    }

    /// Turns of 5 ms until `ms` after the start.
    fn run_until(&mut self, ms: u64) {
        while self.clock.mono() < START + ms * MS {
            self.front.wait(self.clock.mono() + 5 * MS, false).unwrap();
            loop {
                let batch = self.front.receive().unwrap();
                for index in 0..batch.len {
                    let heard = self.front.hear(&batch, index);
                    if let Outcome::Refused(refusal) = heard.outcome {
                        self.refused.push((heard.pid, refusal));
                    }
                }
                self.front.end_batch(&batch);
                if batch.is_last {
                    break;
                }
            }
            let mut found = Vec::new();
            while self.front.judge(100, |slot| found.push(slot)) {}
            for slot in found {
                let (hot, cold) = (self.front.tracker.hot(slot), self.front.tracker.cold(slot));
                assert_eq!(hot.state, State::Stalled);
                let at_ms = cold.stall_at.since(START) / MS;
                self.stalls.push((hot.pid, at_ms, !cold.is_stall_uncertain));
            }
        }
    }

    fn refusals_of(&self, pid: u32) -> Vec<Refusal> {
        self.refused.iter().filter(|(of, _)| *of == pid).map(|(_, refusal)| *refusal).collect()
    }

    fn stalls_of(&self, pid: u32) -> Vec<(u64, bool)> {
        self.stalls
            .iter()
            .filter(|(of, ..)| *of == pid)
            .map(|(_, at, is_certain)| (*at, *is_certain))
            .collect()
    }
}

fn frame(pid: u32, nonce: u64) -> Frame {
    Frame { version: Version::V02, status: Status::Ok, pid, timestamp: 1, nonce, payload: 0 }
}

fn terminal(pid: u32) -> [u8; FRAME_BYTES] {
    Frame { status: Status::Critical, ..frame(pid, wire::NONCE_TERMINAL) }.encode()
}

// --- what a budget refuses --------------------------------------------------------------------------

#[test]
fn over_the_budget_nothing_is_looked_at_but_whether_it_is_a_crash_report() {
    let mut world = World::with_budget(3);
    world.beats(USER, 100, 3_000, 3_003, 1);
    let mut torn = terminal(100);
    torn[25] ^= 1;
    world.send(3_010, USER, 100, &[0; 32]);
    world.send(3_010, USER, 100, &frame(100, 9_000).encode());
    world.send(3_010, USER, 100, &torn);
    world.send(3_011, USER, 100, &terminal(100));
    world.send(3_011, USER, 101, &terminal(101));
    world.beat(3_012, 1000, 200);
    world.run_until(3_100);
    assert_eq!(world.refusals_of(100), [Refusal::Budget; 3]);
    assert_eq!((world.refusals_of(101), world.refusals_of(200)), (vec![], vec![]));
    // Both crash reports were accepted, also that of an unknown process; other users were not affected.
    let slot_of = |pid: u32| (0..100).find(|slot| world.front.tracker.hot(*slot).pid == pid).unwrap();
    for pid in [100, 101] {
        assert_eq!(world.front.tracker.cold(slot_of(pid)).terminals, 1, "{pid}");
    }
    assert_eq!(world.front.tracker.hot(slot_of(200)).beats(), 1);
}

#[test]
fn what_is_refused_anyway_keeps_its_own_reason_and_costs_budget_all_the_same() {
    let mut world = World::with_budget(2);
    world.send(3_000, USER, 100, &[0; 31]);
    world.send(3_000, USER, 100, &[]);
    world.send(3_001, USER, 100, &[0; 33]);
    world.beat(3_002, USER, 100);
    world.beat(3_002, 77, 300);
    world.run_until(3_100);
    let reasons = [Refusal::WrongSize, Refusal::Probe, Refusal::WrongSize, Refusal::Budget];
    assert_eq!(world.refusals_of(100), reasons);
    assert_eq!(world.refusals_of(300), [Refusal::Uid], "not on the list");
}

// --- how a refusal limits a stall ---------------------------------------------------------------------

/// One agent of a user whose other process takes the whole budget.
fn crowded_out() -> World {
    let world = World::with_budget(50);
    world.beats(USER, 100, 2_000, 3_000, 100);
    // The 51st of them finds the budget spent, and so does every later frame: 1000 a second arrive.
    world.beats(USER, 666, 3_000, 12_000, 1);
    world
}

#[test]
fn whose_beats_we_refuse_is_not_called_stalled_for_certain_and_not_before_three_thresholds() {
    let mut world = crowded_out();
    // Each beat comes just after another one of the user, when the budget is always empty.
    (3_055..12_000).step_by(100).for_each(|ms| world.send(ms, USER, 100, &frame(100, ms).encode()));
    world.run_until(12_000);
    let stalls = world.stalls_of(100);
    let [(at, is_certain)] = stalls[..] else { panic!("{stalls:?}: {:?}", world.refusals_of(100).len()) };
    assert!(!is_certain, "it was heard knocking");
    let last_beat = 2_900;
    assert!((last_beat + 3 * T / MS..last_beat + 3 * T / MS + 20).contains(&at), "{at}");
    assert!(world.refusals_of(100).iter().all(|refusal| *refusal == Refusal::Budget));
}

#[test]
fn an_agent_of_the_same_user_that_is_truly_silent_is_told_in_time_and_for_certain() {
    let mut world = crowded_out();
    world.run_until(5_000);
    let [(at, true)] = world.stalls_of(100)[..] else { panic!("{:?}", world.stalls) };
    assert!((2_900 + T / MS..2_900 + T / MS + 20).contains(&at), "{at}");
}

/// One refused frame makes the stall uncertain: it may have been the last beat or the first of many.
#[test]
fn fault_66_one_refused_frame_leaves_no_certainty_of_its_silence() {
    let mut world = crowded_out();
    world.beat(3_155, USER, 100);
    world.run_until(6_000);
    assert_eq!(world.refusals_of(100), [Refusal::Budget]);
    let [(at, false)] = world.stalls_of(100)[..] else { panic!("{:?}", world.stalls) };
    assert!((2_900 + 3 * T / MS..2_900 + 3 * T / MS + 20).contains(&at), "{at}");
}

#[test]
fn an_agent_that_comes_through_again_in_time_was_never_stalled() {
    let mut world = World::with_budget(50);
    world.beats(USER, 100, 2_000, 3_000, 100);
    world.beats(USER, 666, 3_000, 4_000, 1);
    // By its accepted frames alone the agent was silent for more than a threshold.
    world.beats(USER, 100, 3_055, 6_000, 100);
    world.run_until(6_000);
    assert!(world.refusals_of(100).len() >= 9, "{:?}", world.refusals_of(100));
    assert_eq!(world.stalls_of(100), []);
}

// --- shares of the table ----------------------------------------------------------------------------

#[test]
fn a_user_fills_its_share_and_no_other_ones() {
    let mut world = World::new(Admission::with_shares(100, Some(2)).unwrap(), None);
    for pid in 100..110 {
        world.beats(USER, pid, 3_000, 4_000, 100);
    }
    world.beats(1000, 200, 3_000, 4_000, 100);
    world.run_until(4_000);
    let refused = world.refused.len();
    assert!(
        world.refused.iter().all(|(pid, refusal)| (102..110).contains(pid) && *refusal == Refusal::TableFull)
    );
    assert_eq!((world.table.share_refused.get(), refused), (80, 80));
    assert_eq!(world.table.share_refused_uid.get(), u64::from(USER));
    assert_eq!((world.admission.share_of(USER), world.admission.tracked()), (2, 3));
    assert_eq!(world.stalls, [], "whoever is in stays in");
    let agents =
        world.table.read().unwrap().iter().map(|counts| (counts.uid, counts.agents)).collect::<Vec<_>>();
    assert_eq!(agents, [(Some(USER), 2), (Some(1000), 1), (None, 0)]);
}

/// A process of a forbidden user beats at 10 Hz: it is reported late and as uncertain.
#[test]
fn fault_66_whom_we_do_not_let_beat_is_not_condemned_for_certain_and_not_before_three_thresholds() {
    let admission = Admission::new(10).unwrap();
    let mut left = World::new(Arc::clone(&admission), None);
    let mut entered = World::allowing(admission, None, &[1000]);
    left.beat(2_900, USER, 100);
    entered.beats(USER, 100, 3_000, 9_000, 100);
    let mut ms = 2_900;
    while left.stalls.is_empty() && ms < 9_000 {
        ms += 50;
        left.run_until(ms);
        entered.run_until(ms);
    }
    assert!(entered.refusals_of(100).iter().all(|refusal| *refusal == Refusal::Uid));
    let [(at, is_certain)] = left.stalls_of(100)[..] else { panic!("{:?}", left.stalls) };
    assert!(!is_certain && at >= 2_900 + 3 * T / MS, "{at}");
    let last = left.admission.turned_away().last(100).expect("it was");
    assert_eq!(last.why, TurnedAwayFor::Uid);
}

/// A refused frame puts off a stall; a beat that then ends the silence makes the next deadline come sooner than that.
#[test]
fn fault_66_a_doubt_that_is_over_does_not_put_off_the_next_stall() {
    let mut world = World::allowing(Admission::new(10).unwrap(), None, &[1000]);
    let last = 2_900 + T / MS + 200;
    world.beat(2_900, 1000, 100);
    world.beat(3_000, USER, 100);
    world.beat(last, 1000, 100);
    let mut ms = 2_900;
    while world.stalls.is_empty() && ms < 20_000 {
        ms += 10;
        world.run_until(ms);
    }
    let [(at, true)] = world.stalls_of(100)[..] else { panic!("{:?}", world.stalls) };
    assert!((last + T / MS..last + T / MS + 20).contains(&at), "{at}");
}

#[test]
fn fault_66_what_others_send_in_its_name_is_no_evidence() {
    let mut world = World::new(Admission::new(10).unwrap(), None);
    world.beat(2_900, USER, 100);
    for ms in (3_000..6_000).step_by(100) {
        // The kernel attests that 200 sent these, and only 200 is refused.
        world.send(ms, 77, 200, &frame(100, ms).encode());
    }
    world.run_until(6_000);
    let [(at, true)] = world.stalls_of(100)[..] else { panic!("{:?}", world.stalls) };
    assert!((2_900 + T / MS..2_900 + T / MS + 20).contains(&at), "{at}");
}

#[test]
fn after_a_panic_shares_are_what_the_table_says() {
    let admission = Admission::with_shares(100, Some(3)).unwrap();
    let mut world = World::new(admission, None);
    for pid in 100..103 {
        world.beat(3_000, USER, pid);
    }
    world.run_until(3_100);
    for _ in 0..3 {
        world.front.recover();
        assert_eq!((world.admission.share_of(USER), world.admission.tracked()), (3, 3));
        let counts = world.table.read().unwrap();
        assert_eq!((counts[0].uid, counts[0].agents), (Some(USER), 3));
    }
    let as_of = world.clock.mono();
    let instruction = crate::lane::Instruction { as_of, ..crate::lane::Instruction::default() };
    for slot in 0..100 {
        world.front.tracker.on_instruction(slot, crate::lane::instruction::RELEASE, instruction);
    }
    assert_eq!((world.admission.share_of(USER), world.admission.tracked()), (0, 0));
}
