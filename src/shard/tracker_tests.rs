//! The tracker through its whole interface, and rebuilt from its table.

use proptest::prelude::*;

use super::*;
use crate::table::{Header, create, create_granted};
use crate::wire::{Status, Version};

const MS: u64 = 1_000_000;
const TICK: u64 = 10 * MS;
const LONG: u64 = 2_000 * MS;
const SHORT: u64 = 500 * MS;
const START: MonoNs = MonoNs(1_000_000_000_000);
const HEADER: Header = Header { boot_id: 1, pid_namespace: 2, shard: 0, shards: 1 };

fn at(ms: u64) -> MonoNs {
    START + ms * MS
}

fn fixture(slots: u32, agents_max: u32) -> Tracker {
    let (writer, _) = create(slots, HEADER).unwrap();
    Tracker::new(
        writer,
        Classes::new(LONG, [SHORT]),
        TICK,
        Admission::new(agents_max).unwrap(),
        UidAccounts::default(),
        START,
    )
}

fn frame(pid: u32, nonce: u64) -> Frame {
    Frame { version: Version::V02, status: Status::Ok, pid, timestamp: 1, nonce, payload: 0 }
}

fn terminal(pid: u32) -> Frame {
    Frame { status: Status::Critical, ..frame(pid, u64::MAX) }
}

fn hear(tracker: &mut Tracker, ms: u64, frame: &Frame) -> Outcome {
    let sender = Sender { pid: frame.pid, uid: 1000, arrival: at(ms), paused_before: 0 };
    tracker.on_frame(frame, &sender)
}

fn beat(tracker: &mut Tracker, ms: u64, pid: u32, nonce: u64) -> Outcome {
    hear(tracker, ms, &frame(pid, nonce))
}

fn slot_of(outcome: Outcome) -> u32 {
    match outcome {
        Outcome::Beat(slot) | Outcome::Changed(slot) => slot,
        other => panic!("{other:?}"),
    }
}

fn sight(ms: u64) -> Sight {
    Sight { watermark: at(ms), paused_before: 0, last_blind_end: MonoNs(0) }
}

/// The pids found stalled, in order.
fn stalls(tracker: &mut Tracker, ms: u64) -> Vec<u32> {
    let mut slots = Vec::new();
    while tracker.judge(&sight(ms), 64, |_| 0, |slot| slots.push(slot)) {}
    let mut pids: Vec<u32> = slots.into_iter().map(|slot| tracker.hot(slot).pid).collect();
    pids.sort_unstable();
    pids
}

fn release(tracker: &mut Tracker, slot: u32, as_of_ms: u64, bits: u32) -> bool {
    let instruction = Instruction { as_of: at(as_of_ms), ..Instruction::default() };
    tracker.on_instruction(slot, instruction::RELEASE | bits, instruction)
}

// --- capacity --------------------------------------------------------------------------------------

#[test]
fn fault_52_a_full_table_refuses_and_admits_again_after_a_release() {
    for (slots, agents_max) in [(3, 100), (100, 3)] {
        let mut tracker = fixture(slots, agents_max);
        let taken: Vec<u32> = (0..3).map(|n| slot_of(beat(&mut tracker, u64::from(n), 100 + n, 1))).collect();
        let full = Outcome::Refused(Refusal::TableFull);
        for ms in 3..10 {
            assert_eq!(beat(&mut tracker, ms, 200, 1), full);
        }
        assert_eq!(tracker.admission.tracked(), 3);
        assert!(matches!(beat(&mut tracker, 10, 101, 2), Outcome::Beat(_)), "who is in stays in");
        assert!(release(&mut tracker, taken[0], 20, 0));
        assert_eq!(slot_of(beat(&mut tracker, 21, 200, 2)), taken[0]);
        assert_eq!(beat(&mut tracker, 22, 100, 2), full);
        assert_eq!(tracker.admission.tracked(), 3);
    }
}

#[test]
fn nobody_takes_the_places_of_a_shard_that_starts_over() {
    let mut tracker = fixture(3, 3);
    for pid in 100..103 {
        beat(&mut tracker, 0, pid, 1);
    }
    let admission = Arc::clone(&tracker.admission);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let stolen = std::thread::scope(|scope| {
        let thief = scope.spawn(|| {
            let mut stolen = 0;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                stolen += u32::from(admission.enter(1000, 1000).is_ok());
            }
            stolen
        });
        for _ in 0..5 {
            tracker.recover(at(10));
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        thief.join().unwrap()
    });
    assert_eq!(stolen, 0);
    for slot in 0..3 {
        assert!(release(&mut tracker, slot, 20, 0));
    }
    assert_eq!(tracker.admission.tracked(), 0);
}

#[test]
fn fault_52_any_pid_of_the_kernel_has_its_place_and_no_other_one() {
    let mut pids: Vec<u32> = vec![2, 3, 4_194_304, 4_194_303];
    pids.extend((1..64).map(|n| n << 16));
    pids.extend((1..200).map(|n| n * 4096 + 7));
    let mut tracker = fixture(1000, 1000);
    let slots: Vec<u32> = pids.iter().map(|pid| slot_of(beat(&mut tracker, 0, *pid, 1))).collect();
    for (pid, slot) in pids.iter().zip(&slots) {
        assert_eq!(beat(&mut tracker, 1, *pid, 2), Outcome::Beat(*slot));
        assert_eq!(tracker.hot(*slot).pid, *pid);
    }
    for pid in [4_194_305, u32::MAX] {
        assert_eq!(beat(&mut tracker, 1, pid, 1), Outcome::Refused(Refusal::Unattested));
    }
}

// --- release ---------------------------------------------------------------------------------------

#[test]
fn no_two_holders_of_a_slot_have_one_generation() {
    let mut tracker = fixture(1, 1);
    let mut seen = Vec::new();
    for (n, pid) in (0..20).zip(100..) {
        let slot = slot_of(beat(&mut tracker, n * 10, pid, 1));
        seen.push(tracker.cold(slot).generation);
        if n % 3 == 0 {
            // Another process beat in this slot after the holder had exited.
            beat(&mut tracker, n * 10 + 5, pid, 2);
            assert!(release(&mut tracker, slot, n * 10 + 3, 0));
            seen.push(tracker.cold(slot).generation);
        }
        assert!(release(&mut tracker, slot, n * 10 + 9, 0));
        seen.push(tracker.cold(slot).generation);
    }
    let told = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), told);
}

#[test]
fn who_beat_after_the_exit_begins_anew_in_place() {
    let mut tracker = fixture(4, 4);
    let slot = slot_of(beat(&mut tracker, 0, 100, 50));
    for nonce in [52, 53, 1, 9_000_000, 2] {
        beat(&mut tracker, nonce % 100, 100, nonce);
    }
    let before = tracker.cold(slot);
    assert!(before.beats_lost > 0 && before.streams > 0);
    beat(&mut tracker, 100, 100, 3);
    assert!(release(&mut tracker, slot, 99, 0));
    let (hot, cold) = (tracker.hot(slot), tracker.cold(slot));
    assert_eq!((hot.state, hot.beats(), hot.last_arrival, hot.nonce()), (State::Up, 1, at(100), 3));
    assert_eq!(cold.first_arrival, at(100));
    assert_eq!(
        (cold.beats_lost, cold.streams, cold.stalls, cold.downgrades),
        (0, 0, 0, 0),
        "nothing is inherited"
    );
    assert!(!hot.flags.has(Flags::MIXED));
    assert_eq!(beat(&mut tracker, 101, 100, 4), Outcome::Beat(slot));
    assert_eq!(tracker.admission.tracked(), 1);
    assert_eq!(stalls(&mut tracker, 101 + LONG / MS + 10), [100]);
}

#[test]
fn an_heir_of_a_stalled_holder_is_up_and_stalls_for_itself() {
    let mut tracker = fixture(4, 4);
    let slot = slot_of(beat(&mut tracker, 0, 100, 1));
    assert_eq!(stalls(&mut tracker, 3_000), [100]);
    assert!(release(&mut tracker, slot, 0, 0), "gone before its last beat: that beat was somebody else's");
    assert_eq!(tracker.hot(slot).state, State::Free);
    let slot = slot_of(beat(&mut tracker, 3_100, 100, 1));
    assert_eq!(stalls(&mut tracker, 6_000), [100]);
    assert!(release(&mut tracker, slot, 3_050, 0));
    assert_eq!((tracker.hot(slot).state, tracker.cold(slot).stalls), (State::Up, 0));
    assert_eq!(stalls(&mut tracker, 6_020), [100]);
    assert_eq!(tracker.cold(slot).stalls, 1);
}

#[test]
fn an_heir_of_terminal_frames_alone_waits_without_a_deadline() {
    let mut tracker = fixture(4, 4);
    let slot = slot_of(hear(&mut tracker, 100, &terminal(100)));
    assert!(release(&mut tracker, slot, 50, 0));
    assert_eq!(tracker.hot(slot).state, State::Waiting);
    assert_eq!(stalls(&mut tracker, 60_000), [0; 0]);
}

/// An instruction about the sender, posted together with a release that the agent outlives, still applies.
#[test]
fn fault_63_an_instruction_survives_a_release_that_the_agent_outlives() {
    let claiming = |nonce| Frame { pid: 7, ..frame(100, nonce) };
    let from_100 = |ms| Sender { pid: 100, uid: 1, arrival: at(ms), paused_before: 0 };
    for bits in [instruction::FORGED, instruction::INNER_PID] {
        let mut tracker = fixture(4, 4);
        let slot = slot_of(tracker.on_frame(&claiming(1), &from_100(100)));
        let instruction = Instruction { as_of: at(99), inner_pid: 7, ..Instruction::default() };
        assert!(tracker.on_instruction(
            slot,
            instruction::RELEASE | instruction::IF_SILENT | bits,
            instruction
        ));
        let hot = tracker.hot(slot);
        assert!(!hot.flags.has(Flags::UNVERIFIED), "it was looked into, and nobody does so again");
        assert_eq!(hot.flags.has(Flags::FORGER), bits == instruction::FORGED);
        assert_eq!(hot.frame_pid == 7, bits == instruction::INNER_PID);
    }
}

#[test]
fn a_slot_whose_agent_may_live_elsewhere_stays_if_it_beat_since() {
    let mut tracker = fixture(4, 4);
    let slot = slot_of(beat(&mut tracker, 100, 100, 1));
    let before = (tracker.hot(slot), tracker.cold(slot));
    assert!(release(&mut tracker, slot, 99, instruction::IF_SILENT));
    assert_eq!((tracker.hot(slot), tracker.cold(slot)), before);
    assert!(release(&mut tracker, slot, 100, instruction::IF_SILENT));
    assert_eq!(tracker.hot(slot).state, State::Free);
    assert!(!release(&mut tracker, slot, 100, 0), "nobody is there");
    assert_eq!(tracker.admission.tracked(), 0);
}

#[test]
fn what_is_said_of_a_former_holder_does_not_stick_to_the_next() {
    let mut tracker = fixture(4, 4);
    let slot = slot_of(beat(&mut tracker, 100, 100, 1));
    let instruction = Instruction { as_of: at(50), inner_pid: 7, threshold_ms: 7, class: 1, table: 0 };
    let all = instruction::RELEASE | instruction::FORGED | instruction::INNER_PID | instruction::CLASS;
    assert!(tracker.on_instruction(slot, all, instruction));
    let hot = tracker.hot(slot);
    let expected = (100, tracker.classes.unknown(), false);
    assert_eq!((hot.frame_pid, hot.class, hot.flags.has(Flags::FORGER)), expected);
}

// --- thresholds ------------------------------------------------------------------------------------

#[test]
fn a_class_moves_the_deadline_either_way() {
    let mut tracker = fixture(4, 4);
    let slot = slot_of(beat(&mut tracker, 0, 100, 1));
    let class = |class| Instruction { class, ..Instruction::default() };
    assert_eq!(stalls(&mut tracker, 400), [0; 0]);
    assert!(!tracker.on_instruction(slot, instruction::CLASS, class(1)));
    assert_eq!(stalls(&mut tracker, 499), [0; 0]);
    assert_eq!(stalls(&mut tracker, 510), [100]);
    beat(&mut tracker, 600, 100, 2);
    tracker.on_instruction(slot, instruction::CLASS, class(0));
    assert_eq!(stalls(&mut tracker, 2_599), [0; 0]);
    assert_eq!(stalls(&mut tracker, 2_610), [100]);
    tracker.on_instruction(slot, instruction::CLASS, class(200));
    assert_eq!(tracker.hot(slot).class, 0, "there is no such class");
}

#[test]
fn a_stall_and_its_end_take_turns_and_are_never_early_nor_a_tick_late() {
    let mut tracker = fixture(4, 4);
    let mut arrival = 3;
    for nonce in 1..=10 {
        let slot = slot_of(beat(&mut tracker, arrival, 100, nonce));
        assert_eq!(u64::from(tracker.cold(slot).resumes), nonce - 1);
        let deadline = arrival + LONG / MS;
        assert_eq!(stalls(&mut tracker, deadline - 1), [0; 0]);
        assert_eq!(stalls(&mut tracker, deadline + TICK / MS), [100]);
        assert_eq!(stalls(&mut tracker, deadline + 10_000), [0; 0], "once");
        arrival = deadline + 10_007;
    }
}

#[test]
fn a_budget_leaves_the_rest_for_the_next_time() {
    let mut tracker = fixture(100, 100);
    for n in 0..100 {
        beat(&mut tracker, 0, 100 + n, 1);
    }
    let mut found = Vec::new();
    for _ in 0..9 {
        assert!(tracker.judge(&sight(5_000), 11, |_| 0, |slot| found.push(slot)));
    }
    assert!(!tracker.judge(&sight(5_000), 11, |_| 0, |slot| found.push(slot)));
    found.sort_unstable();
    assert_eq!(found, (0..100).collect::<Vec<_>>());
}

#[test]
fn an_instruction_about_the_claimed_pid_settles_it() {
    let claiming = |nonce| Frame { pid: 7, ..frame(100, nonce) };
    let from_100 = |ms| Sender { pid: 100, uid: 1, arrival: at(ms), paused_before: 0 };
    for bits in [instruction::FORGED, instruction::INNER_PID] {
        let mut tracker = fixture(4, 4);
        let slot = slot_of(tracker.on_frame(&claiming(1), &from_100(0)));
        tracker.on_instruction(slot, bits, Instruction { inner_pid: 7, ..Instruction::default() });
        let outcome = tracker.on_frame(&claiming(2), &from_100(1));
        if bits == instruction::FORGED {
            assert_eq!(outcome, Outcome::Refused(Refusal::Forged));
        } else {
            assert_eq!(outcome, Outcome::Beat(slot));
            assert!(rules::is_ordinary(&tracker.hot(slot), &claiming(3), &from_100(2)));
        }
    }
}

// --- rebuilding ------------------------------------------------------------------------------------

#[test]
fn a_restart_takes_no_memory_for_agents_that_do_not_exist() {
    let (writer, table) = create_granted(1 << 20, HEADER, 64).unwrap();
    let mut tracker = Tracker::new(
        writer,
        Classes::single(LONG),
        TICK,
        Admission::new(1 << 20).unwrap(),
        UidAccounts::default(),
        START,
    );
    for pid in 1..=10 {
        slot_of(beat(&mut tracker, 0, pid, 1));
    }
    let before = table.memory();
    tracker.recover(at(10));
    assert_eq!(table.memory(), before);
    assert_eq!((tracker.slots_used(), tracker.free.len()), (10, 0));
    assert_eq!(beat(&mut tracker, 20, 7, 2), Outcome::Beat(6));
    assert_eq!(slot_of(beat(&mut tracker, 20, 11, 1)), 10);
}

#[test]
fn fault_79_an_agent_for_whom_no_memory_is_granted_is_refused_until_there_is() {
    let (writer, table) = create_granted(8, HEADER, 2).unwrap();
    let mut tracker = Tracker::new(
        writer,
        Classes::single(LONG),
        TICK,
        Admission::new(8).unwrap(),
        UidAccounts::default(),
        START,
    );
    for pid in 1..=2 {
        slot_of(beat(&mut tracker, 0, pid, 1));
    }
    let admission = Arc::clone(&tracker.admission);
    assert_eq!(beat(&mut tracker, 1, 3, 1), Outcome::Refused(Refusal::TableFull));
    assert_eq!(admission.tracked(), 2, "who is refused takes no place");
    table.grant_ahead(tracker.slots_used()).unwrap();
    assert_eq!(slot_of(beat(&mut tracker, 2, 3, 2)), 2);
}

/// A new tracker on the table of the old one, as after a restart of the thread.
fn rebuilt(old: Tracker, ms: u64) -> Tracker {
    let Tracker { writer, classes, admission, .. } = old;
    let admission = Admission::new(admission.agents_max()).unwrap();
    let mut tracker = Tracker::new(writer, classes, TICK, admission, UidAccounts::default(), at(ms));
    tracker.recover(at(ms));
    tracker
}

#[test]
fn after_a_restart_everybody_is_owed_a_threshold_of_sight() {
    let mut tracker = fixture(4, 4);
    beat(&mut tracker, 0, 100, 1);
    let slot = slot_of(beat(&mut tracker, 0, 200, 1));
    assert_eq!(stalls(&mut tracker, 2_010), [100, 200]);
    beat(&mut tracker, 2_500, 200, 2);
    // The shard was away for a minute.
    let mut tracker = rebuilt(tracker, 62_500);
    let view = |ms| Sight { watermark: at(ms), paused_before: at(62_500).0, last_blind_end: at(62_500) };
    let mut found = Vec::new();
    for ms in [62_500, 62_600, 64_499, 64_510] {
        tracker.judge(&view(ms), 100, |_| 0, |slot| found.push((ms, slot)));
    }
    assert_eq!(found, [(64_510, slot)]);
    assert!(!tracker.cold(slot).is_stall_uncertain);
}

#[test]
fn after_a_restart_nobody_can_be_hidden_for_longer_than_before() {
    let mut tracker = fixture(4, 4);
    // The previous thread had been awake for an hour.
    let sender = Sender { pid: 100, uid: 1, arrival: at(3_600_000), paused_before: START.0 };
    let slot = slot_of(tracker.on_frame(&frame(100, 1), &sender));
    let mut tracker = rebuilt(tracker, 3_700_000);
    // The queue has been full since.
    let view = |ms| Sight { watermark: at(ms), paused_before: at(3_700_000).0, last_blind_end: at(ms) };
    let mut found = Vec::new();
    for ms in (3_700_000..3_720_000).step_by(10) {
        tracker.judge(&view(ms), 100, |_| 0, |slot| found.push((ms, slot)));
    }
    assert_eq!(found, [(3_706_000, slot)]);
    assert!(tracker.cold(slot).is_stall_uncertain);
}

#[test]
fn lost_beats_add_up_over_agents_that_come_and_go() {
    let mut tracker = fixture(4, 4);
    for round in 0..3 {
        let ms = round * 100;
        let slot = slot_of(beat(&mut tracker, ms, 100, 1));
        beat(&mut tracker, ms + 1, 100, 4);
        beat(&mut tracker, ms + 2, 100, 5);
        release(&mut tracker, slot, ms + 3, 0);
    }
    assert_eq!(tracker.beats_lost(), 3 * 2);
}

#[derive(Clone, Debug)]
enum Step {
    Beat { pid: u32, ahead: u64 },
    Terminal(u32),
    Passes(u64),
    Judge,
    Release { pid: u32, ago: u64, bits: u32 },
    Class { pid: u32, class: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let pid = || 100u32..112;
    prop_oneof![
        6 => (pid(), prop_oneof![8 => Just(1u64), 1 => 2u64..5, 1 => Just(1_000_000u64)])
            .prop_map(|(pid, ahead)| Step::Beat { pid, ahead }),
        1 => pid().prop_map(Step::Terminal),
        4 => (0u64..60).prop_map(Step::Passes),
        3 => Just(Step::Judge),
        1 => (pid(), 0u64..50, prop_oneof![Just(0), Just(instruction::IF_SILENT)])
            .prop_map(|(pid, ago, bits)| Step::Release { pid, ago, bits }),
        1 => (pid(), 0u8..3).prop_map(|(pid, class)| Step::Class { pid, class }),
    ]
}

/// A tracker with its agents' nonces and its own time.
struct World {
    tracker: Tracker,
    nonces: [u64; 12],
    now: u64,
}

impl World {
    fn new() -> Self {
        Self { tracker: fixture(8, 8), nonces: [0; 12], now: 0 }
    }

    /// The effects of a step visible from outside, except slot numbers.
    fn take(&mut self, step: &Step) -> String {
        let slot_of_pid = |tracker: &Tracker, pid: u32| tracker.index.slot(AgentKey::of_pid(pid));
        match step {
            Step::Beat { pid, ahead } => {
                let nonce = &mut self.nonces[(*pid - 100) as usize];
                *nonce += ahead;
                let outcome = beat(&mut self.tracker, self.now, *pid, *nonce);
                self.seen(outcome)
            }
            Step::Terminal(pid) => {
                let outcome = hear(&mut self.tracker, self.now, &terminal(*pid));
                self.seen(outcome)
            }
            Step::Passes(ticks) => {
                // Whole ticks: within one, the entry's history decides which turn finds a stall.
                self.now += ticks * TICK / MS;
                String::new()
            }
            Step::Judge => format!("{:?}", stalls(&mut self.tracker, self.now)),
            Step::Release { pid, ago, bits } => match slot_of_pid(&self.tracker, *pid) {
                Some(slot) => {
                    let as_of = self.now.saturating_sub(*ago);
                    format!("{}", release(&mut self.tracker, slot, as_of, *bits))
                }
                None => String::new(),
            },
            Step::Class { pid, class } => match slot_of_pid(&self.tracker, *pid) {
                Some(slot) => {
                    let instruction = Instruction { class: *class, ..Instruction::default() };
                    format!("{}", self.tracker.on_instruction(slot, instruction::CLASS, instruction))
                }
                None => String::new(),
            },
        }
    }

    fn seen(&self, outcome: Outcome) -> String {
        let (kind, slot) = match outcome {
            Outcome::Beat(slot) => ("beat", slot),
            Outcome::Changed(slot) => ("changed", slot),
            other => return format!("{other:?}"),
        };
        let hot = Hot { paused_before: 0, ..self.tracker.hot(slot) };
        let cold = Cold { generation: 0, ..self.tracker.cold(slot) };
        format!("{kind} {hot:?} {cold:?}")
    }
}

proptest! {
    // Each case touches the index of all pids twice.
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A tracker rebuilt from its table behaves as if nothing had happened.
    #[test]
    fn a_rebuilt_tracker_is_the_same_to_everybody(
        before in prop::collection::vec(step(), 0..60),
        after in prop::collection::vec(step(), 0..60),
    ) {
        let (mut one, mut other) = (World::new(), World::new());
        for step in &before {
            prop_assert_eq!(one.take(step), other.take(step));
        }
        // Both have judged what was due: a restart does not change when deadlines are checked.
        prop_assert_eq!(one.take(&Step::Judge), other.take(&Step::Judge));
        other.tracker = rebuilt(other.tracker, other.now);
        prop_assert_eq!(one.tracker.admission.tracked(), other.tracker.admission.tracked());
        for step in &after {
            prop_assert_eq!(one.take(step), other.take(step), "{:?}", step);
        }
        one.now += 10_000;
        other.now += 10_000;
        prop_assert_eq!(one.take(&Step::Judge), other.take(&Step::Judge));
        prop_assert_eq!(one.tracker.admission.tracked(), other.tracker.admission.tracked());
    }
}

// --- reload ----------------------------------------------------------------------------------------

/// Swaps the classes at `ms`; agents are in the class that is not known yet until `renewed` and matched.
fn swap(tracker: &mut Tracker, ms: u64, table: u16, mut classes: Classes) {
    tracker.swap_classes(table, &mut classes, at(ms));
}

fn renew_all(tracker: &mut Tracker) {
    while tracker.is_renewing() {
        tracker.renew(1);
    }
}

fn put_in_class(tracker: &mut Tracker, slot: u32, class: u8, table: u16) {
    let instruction = Instruction { class, table, ..Instruction::default() };
    tracker.on_instruction(slot, instruction::CLASS, instruction);
}

/// The ms at which the agent of the only slot is found stalled, looking each 10 ms from `from`.
fn stalls_at(tracker: &mut Tracker, from: u64) -> u64 {
    (from..from + 20_000).step_by(10).find(|ms| !stalls(tracker, *ms).is_empty()).expect("a stall")
}

#[test]
fn a_class_of_the_table_before_is_never_one_of_the_next() {
    let mut tracker = fixture(200, 200);
    let slots: Vec<u32> = (0..150).map(|n| slot_of(beat(&mut tracker, 0, 100 + n, 1))).collect();
    for slot in &slots {
        put_in_class(&mut tracker, *slot, 1, 0);
    }
    swap(&mut tracker, 10, 1, Classes::new(3 * LONG, [4 * LONG, SHORT]));
    // Late: it names a class of the table before.
    put_in_class(&mut tracker, slots[3], 1, 0);
    put_in_class(&mut tracker, slots[4], 2, 1);
    tracker.renew(60);
    // An ordinary beat does not visit the slot, another one does.
    beat(&mut tracker, 11, 100 + 140, 2);
    hear(&mut tracker, 11, &Frame { status: Status::Degraded, ..frame(100 + 141, 2) });
    assert!(tracker.is_renewing());
    let admitted = slot_of(beat(&mut tracker, 12, 500, 1));
    renew_all(&mut tracker);
    let threshold = |slot: u32| tracker.threshold_of(&tracker.hot(slot));
    assert!(slots.iter().filter(|slot| **slot != slots[4]).all(|slot| threshold(*slot) == 4 * LONG));
    assert_eq!((threshold(slots[4]), threshold(admitted)), (SHORT, 4 * LONG));
}

#[test]
fn a_panic_while_classes_are_swapped_leaves_no_old_class() {
    let mut tracker = fixture(200, 200);
    let slots: Vec<u32> = (0..150).map(|n| slot_of(beat(&mut tracker, 0, 100 + n, 1))).collect();
    for slot in &slots {
        put_in_class(&mut tracker, *slot, 1, 0);
    }
    release(&mut tracker, slots[149], 1, 0);
    swap(&mut tracker, 10, 1, Classes::new(LONG, [4 * LONG]));
    tracker.renew(7);
    tracker.recover(at(11));
    renew_all(&mut tracker);
    let threshold = |slot: u32| tracker.threshold_of(&tracker.hot(slot));
    assert!(slots[..149].iter().all(|slot| threshold(*slot) == 4 * LONG));
    assert!(stalls(&mut tracker, 11 + 4 * LONG / MS - 20).is_empty());
}

#[test]
fn a_deadline_is_the_last_beat_and_the_threshold_but_never_before_a_shorter_one_passed_since_the_reload() {
    // Threshold before, after, and when the stall is due; the last beat at 0, the reload at 3 s.
    for (before, after, due) in [(5, 4, 7), (5, 1, 4), (5, 5, 5), (5, 9, 9), (2_000, 1, 4)] {
        let mut tracker = fixture(1, 1);
        swap(&mut tracker, 0, 1, Classes::single(before * 1000 * MS));
        beat(&mut tracker, 0, 100, 1);
        renew_all(&mut tracker);
        swap(&mut tracker, 3_000, 2, Classes::single(after * 1000 * MS));
        renew_all(&mut tracker);
        assert_eq!(stalls_at(&mut tracker, 3_000), due * 1000, "{before} s, then {after} s");
    }
}

#[test]
fn a_beat_after_the_reload_ends_the_grace() {
    let mut tracker = fixture(1, 1);
    swap(&mut tracker, 0, 1, Classes::single(10_000 * MS));
    beat(&mut tracker, 0, 100, 1);
    swap(&mut tracker, 3_000, 2, Classes::single(1_000 * MS));
    beat(&mut tracker, 3_010, 100, 2);
    renew_all(&mut tracker);
    assert_eq!(stalls_at(&mut tracker, 3_010), 4_010);
}

#[test]
fn an_agent_that_is_matched_late_has_a_threshold_since_the_reload_not_since_its_match() {
    let mut tracker = fixture(1, 1);
    swap(&mut tracker, 0, 1, Classes::single(10_000 * MS));
    beat(&mut tracker, 0, 100, 1);
    swap(&mut tracker, 3_000, 2, Classes::new(1_000 * MS, [30_000 * MS]));
    renew_all(&mut tracker);
    assert!(stalls(&mut tracker, 3_800).is_empty());
    put_in_class(&mut tracker, 0, 0, 2);
    assert_eq!(stalls_at(&mut tracker, 3_800), 4_000);
}

#[test]
fn one_reload_after_another_gives_no_agent_less_than_each_alone() {
    let mut tracker = fixture(1, 1);
    swap(&mut tracker, 0, 1, Classes::single(10_000 * MS));
    beat(&mut tracker, 0, 100, 1);
    swap(&mut tracker, 5_000, 2, Classes::single(2_000 * MS));
    renew_all(&mut tracker);
    // The same threshold again: the agent has until 7 s all the same, and no longer.
    swap(&mut tracker, 6_000, 3, Classes::single(2_000 * MS));
    renew_all(&mut tracker);
    assert_eq!(stalls_at(&mut tracker, 6_000), 7_000);
    // Back to the first: its silence counts from the beat.
    let mut tracker = fixture(1, 1);
    swap(&mut tracker, 0, 1, Classes::single(10_000 * MS));
    beat(&mut tracker, 0, 100, 1);
    for (ms, table, threshold) in [(5_000, 2, 2_000), (6_000, 3, 10_000)] {
        swap(&mut tracker, ms, table, Classes::single(threshold * MS));
        renew_all(&mut tracker);
    }
    assert_eq!(stalls_at(&mut tracker, 6_000), 10_000);
}

#[test]
fn who_gets_a_slot_later_owes_nothing_to_a_reload() {
    let mut tracker = fixture(1, 1);
    swap(&mut tracker, 0, 1, Classes::single(60_000 * MS));
    beat(&mut tracker, 0, 100, 1);
    swap(&mut tracker, 5_000, 2, Classes::single(30_000 * MS));
    renew_all(&mut tracker);
    release(&mut tracker, 0, 5_010, 0);
    beat(&mut tracker, 5_020, 200, 1);
    swap(&mut tracker, 5_030, 3, Classes::single(1_000 * MS));
    renew_all(&mut tracker);
    assert_eq!(stalls_at(&mut tracker, 5_030), 6_030);
}
