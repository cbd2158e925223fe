//! Invariants of the verdicts, checked for every possible case, silence and piece of evidence.

use proptest::prelude::*;

use super::*;

const T: u64 = 600_000_000;
const NOW: MonoNs = MonoNs(1_000_000_000_000);
const EXISTENCES: [Existence; 4] = [Existence::Unknown, Existence::Asked, Existence::There, Existence::Gone];

/// Takes the bits of a number one by one.
struct Bits(u32);

impl Bits {
    fn next(&mut self) -> bool {
        let bit = self.0 & 1 != 0;
        self.0 >>= 1;
        bit
    }
}

/// Every possible case.
fn cases() -> impl Iterator<Item = Case> {
    EXISTENCES.into_iter().flat_map(|existence| (0..1 << 12).map(move |bits| case(existence, Bits(bits))))
}

fn case(existence: Existence, mut bits: Bits) -> Case {
    Case {
        is_same_holder: bits.next(),
        is_released: bits.next(),
        is_exit: bits.next(),
        existence,
        are_last_frames_awaited: bits.next(),
        has_time: bits.next(),
        has_time_to_look: bits.next(),
        is_doubted: bits.next(),
        is_returning: bits.next(),
        is_identifying: bits.next(),
        is_looking_again: bits.next(),
        is_recalled: bits.next(),
        is_stalled: bits.next(),
    }
}

/// Every silence that a rule can distinguish, at and around each limit.
fn silences() -> impl Iterator<Item = Silence> {
    let lengths = [0, T - 1, T, T + 1, u64::MAX];
    let thaws = [None, Some(NOW - 1), Some(NOW), Some(NOW + 1)];
    lengths.into_iter().flat_map(move |silent_ns| {
        thaws.into_iter().flat_map(move |thawed_until| {
            (0..1 << 7).map(move |bits| silence(silent_ns, thawed_until, Bits(bits)))
        })
    })
}

fn silence(silent_ns: u64, thawed_until: Option<MonoNs>, mut bits: Bits) -> Silence {
    Silence {
        now: NOW,
        has_time: bits.next(),
        is_doubted: bits.next(),
        is_other_recalled: bits.next(),
        is_silent: bits.next(),
        silent_ns,
        threshold_ns: T,
        thawed_until,
        is_home_awaited: bits.next(),
        is_other_awaited: bits.next(),
        is_uncertain: bits.next(),
    }
}

fn all_evidence() -> impl Iterator<Item = Evidence> {
    (0..1 << 6).map(|bits| evidence(Bits(bits)))
}

fn evidence(mut bits: Bits) -> Evidence {
    Evidence {
        lives_elsewhere: bits.next(),
        is_frozen: bits.next(),
        was_turned_away: bits.next(),
        is_unsighted: bits.next(),
        is_existence_unknown: bits.next(),
        is_rule_unknown: bits.next(),
    }
}

/// Every silence with all possible evidence, and its verdict.
fn judged() -> impl Iterator<Item = (Silence, Evidence, Verdict)> {
    silences().flat_map(|silence| {
        all_evidence().map(move |evidence| {
            let told = preliminary(&silence).unwrap_or_else(|| verdict(&silence, &evidence));
            (silence, evidence, told)
        })
    })
}

/// The silences reported as stalls, and whether each is certain.
fn stalled() -> impl Iterator<Item = (Silence, Evidence, bool)> {
    judged().filter_map(|(silence, evidence, told)| match told {
        Verdict::Stalled { is_certain } => Some((silence, evidence, is_certain)),
        _ => None,
    })
}

#[test]
fn every_wait_ends_with_the_time_to_answer() {
    for case in cases().filter(|case| !case.has_time && !case.has_time_to_look) {
        assert!(!matches!(next_step(&case), Step::Wait | Step::WaitForShards), "{case:?}");
    }
    for (silence, evidence, told) in judged().filter(|(silence, ..)| !silence.has_time) {
        // No shard has judged the time since the thaw.
        let is_thawed = silence.thawed_until.is_some() && silence.is_home_awaited;
        assert!(told != Verdict::Wait || is_thawed, "{silence:?} {evidence:?}");
    }
}

#[test]
fn what_is_waited_for_is_under_way() {
    for case in cases() {
        let is_asked = case.existence == Existence::Asked || case.is_identifying || case.is_looking_again;
        match next_step(&case) {
            Step::Wait => assert!(is_asked, "{case:?}"),
            Step::WaitForShards => assert!(case.are_last_frames_awaited, "{case:?}"),
            _ => {}
        }
    }
    for (silence, evidence, told) in judged().filter(|(.., told)| *told == Verdict::Wait) {
        let is_asked = silence.is_home_awaited || silence.is_other_awaited;
        let is_awaited = is_asked || silence.is_doubted || silence.is_other_recalled;
        assert!(is_awaited, "{silence:?} {evidence:?}: {told:?}");
    }
}

#[test]
fn an_agent_whose_process_is_gone_is_never_stalled() {
    for case in cases().filter(|case| case.existence == Existence::Gone) {
        let step = next_step(&case);
        let is_silent = matches!(step, Step::Drop | Step::Void | Step::WaitForShards | Step::Exit);
        assert!(is_silent, "{case:?}: {step:?}");
    }
}

#[test]
fn an_exit_is_told_of_the_dead_alone_and_after_their_last_frames() {
    let mut exits = 0;
    for case in cases().filter(|case| next_step(case) == Step::Exit) {
        assert!(case.existence == Existence::Gone && case.is_exit, "{case:?}");
        assert!(!case.are_last_frames_awaited || !case.has_time, "{case:?}");
        exits += 1;
    }
    assert_ne!(exits, 0);
}

#[test]
fn nothing_is_told_of_another_holder_or_of_a_slot_on_its_way_back() {
    for case in cases().filter(|case| !case.is_same_holder || case.is_released) {
        assert!(matches!(next_step(&case), Step::Drop | Step::Void), "{case:?}");
    }
}

#[test]
fn no_stall_is_judged_before_it_is_known_who_the_process_is() {
    for case in cases() {
        let step = next_step(&case);
        let is_judged = matches!(step, Step::Judge | Step::Recall);
        assert!(!is_judged || !case.is_doubted && !case.is_returning, "{case:?}: {step:?}");
        assert!(!is_judged || !case.is_looking_again || !case.has_time_to_look, "{case:?}: {step:?}");
        let is_asked = case.existence == Existence::Asked && case.has_time;
        assert!(step != Step::Judge && step != Step::News || !is_asked, "{case:?}: {step:?}");
        assert!(step != Step::Return || !case.is_identifying || !case.has_time, "{case:?}");
    }
}

/// Each step is about something that is open; it clears that, so settling ends.
#[test]
fn each_step_is_about_something_that_is_open() {
    for case in cases() {
        let step = next_step(&case);
        let is_open = match step {
            Step::News => case.is_doubted,
            Step::Return => case.is_returning,
            Step::Recall => case.is_recalled,
            Step::Judge => case.is_stalled,
            _ => true,
        };
        assert!(is_open, "{case:?}: {step:?}");
        let is_alive = case.existence != Existence::Gone && case.is_same_holder && !case.is_released;
        let waits = case.is_doubted || case.is_returning || case.is_recalled || case.is_stalled;
        assert!(!is_alive || !waits || step != Step::Drop, "{case:?}: nothing that waits is forgotten");
    }
}

#[test]
fn no_stall_is_told_before_the_threshold_of_the_rule_that_holds() {
    for (silence, ..) in stalled() {
        assert!(silence.is_silent && silence.silent_ns >= silence.threshold_ns, "{silence:?}");
        assert!(silence.thawed_until.is_none_or(|until| silence.now >= until), "{silence:?}");
    }
}

#[test]
fn no_stall_is_told_while_somebody_may_know_better_in_time() {
    for (silence, ..) in stalled() {
        let is_awaited = silence.is_other_awaited || silence.is_doubted || silence.is_other_recalled;
        assert!(!is_awaited || !silence.has_time, "{silence:?}");
        assert!(silence.thawed_until.is_none() || !silence.is_home_awaited, "{silence:?}");
    }
}

#[test]
fn who_beats_elsewhere_or_is_frozen_is_not_told_stalled() {
    for (silence, evidence, _) in stalled() {
        assert!(!evidence.lives_elsewhere && !evidence.is_frozen, "{silence:?} {evidence:?}");
    }
    for (silence, evidence, told) in judged().filter(|(.., told)| *told == Verdict::Frozen) {
        assert!(!evidence.lives_elsewhere, "{silence:?} {evidence:?}: {told:?}");
    }
}

#[test]
fn no_stall_is_certain_that_anybody_could_not_see_or_say() {
    for (silence, evidence, is_certain) in stalled() {
        let was_refused = evidence.was_turned_away;
        let is_blind = silence.is_uncertain || evidence.is_unsighted || was_refused;
        let is_mute = evidence.is_existence_unknown || evidence.is_rule_unknown;
        assert_eq!(is_certain, !is_blind && !is_mute, "{silence:?} {evidence:?}");
    }
}

/// The agent's own shard, which now knows of the refused frame, judges the silence again with more time,
/// unless the agent has had that time.
#[test]
fn a_silence_in_which_a_frame_was_refused_is_judged_again() {
    for (silence, evidence, _) in stalled().filter(|(_, evidence, _)| evidence.was_turned_away) {
        assert!(silence.thawed_until.is_some() || silence.is_uncertain, "{silence:?} {evidence:?}");
    }
}

/// A long silence without evidence against a stall is reported: no agent can suppress its stalls.
#[test]
fn a_silence_that_nothing_speaks_against_is_told() {
    for (silence, evidence, told) in judged() {
        let is_long = silence.is_silent && silence.silent_ns >= silence.threshold_ns;
        let is_owed_time = silence.thawed_until.is_some_and(|until| silence.now < until);
        let is_thawed = silence.thawed_until.is_some();
        let is_judged_again = evidence.was_turned_away && !is_thawed && !silence.is_uncertain;
        let is_other = evidence.lives_elsewhere || evidence.is_frozen || is_judged_again;
        let is_awaited = silence.has_time || is_thawed && silence.is_home_awaited;
        if is_long && !is_owed_time && !is_other && !is_awaited {
            assert!(matches!(told, Verdict::Stalled { .. }), "{silence:?} {evidence:?}: {told:?}");
        }
    }
}

/// Every stall that ended before it was reported, with all possible evidence, and its verdict.
fn ended() -> impl Iterator<Item = (Ended, Evidence, Verdict)> {
    let lengths = [0, T - 1, T, T + 1, u64::MAX];
    let counts = [0, 1, 2, u32::MAX];
    lengths.into_iter().flat_map(move |silent_ns| {
        counts.into_iter().flat_map(move |stalls| {
            (0..1 << 4).flat_map(move |bits| {
                let ended = one_ended(silent_ns, stalls, Bits(bits));
                all_evidence().map(move |evidence| {
                    let told =
                        preliminary_of_ended(&ended).unwrap_or_else(|| verdict_of_ended(&ended, &evidence));
                    (ended, evidence, told)
                })
            })
        })
    })
}

fn one_ended(silent_ns: u64, stalls: u32, mut bits: Bits) -> Ended {
    Ended {
        has_time: bits.next(),
        is_over: bits.next(),
        stalls,
        silent_ns,
        threshold_ns: T,
        is_other_awaited: bits.next(),
        is_uncertain: bits.next(),
    }
}

#[test]
fn a_stall_that_is_over_waits_for_others_while_there_is_time() {
    for (ended, evidence, told) in ended() {
        match told {
            Verdict::Wait => assert!(ended.has_time && ended.is_other_awaited, "{ended:?}"),
            Verdict::Stalled { .. } => {
                assert!(!ended.has_time || !ended.is_other_awaited, "{ended:?}");
                assert!(!evidence.lives_elsewhere, "{ended:?} {evidence:?}");
            }
            _ => {}
        }
    }
}

#[test]
fn a_stall_that_is_over_is_told_as_certain_only_if_all_could_see_and_say() {
    for (ended, evidence, told) in ended() {
        let Verdict::Stalled { is_certain } = told else { continue };
        let is_blind = ended.is_uncertain || evidence.is_unsighted || evidence.was_turned_away;
        let is_mute = evidence.is_existence_unknown || evidence.is_rule_unknown;
        assert_eq!(is_certain, !is_blind && !is_mute, "{ended:?} {evidence:?}");
    }
}

/// A stall that ended is reported unless it was none. If the agent is silent again, the report of that stall
/// covers both.
#[test]
fn a_stall_that_is_over_is_told_unless_it_was_none() {
    for (ended, evidence, told) in ended().filter(|(.., told)| *told != Verdict::Wait) {
        let is_there = ended.is_over && ended.stalls > 0;
        let is_short = ended.stalls == 1 && ended.silent_ns < ended.threshold_ns;
        let is_right = match told {
            Verdict::Overtaken => !is_there,
            Verdict::Withdrawn => is_there && is_short,
            Verdict::Moved => is_there && !is_short && evidence.lives_elsewhere,
            Verdict::Stalled { .. } => is_there && !is_short && !evidence.lives_elsewhere,
            _ => false,
        };
        assert!(is_right, "{ended:?} {evidence:?}: {told:?}");
    }
}

/// A stall at `NOW` and a shard that saw everything until then.
const SEES_ALL: Witness = Witness { watermark: NOW, seen: NOW, last_blind_end: MonoNs(0) };

#[test]
fn a_shard_that_may_hold_a_frame_did_not_see_the_silence() {
    let in_long = |last_blind_end| is_sighted(&Witness { last_blind_end, ..SEES_ALL }, NOW - 2 * T, NOW, T);
    assert!(in_long(NOW - T) && !in_long(NOW - T + 1), "a threshold of sight is enough");
    let is_sighted = |witness: &Witness| is_sighted(witness, NOW - T, NOW, T);
    assert!(is_sighted(&SEES_ALL));
    assert!(!is_sighted(&Witness { watermark: NOW - 1, ..SEES_ALL }));
    assert!(!is_sighted(&Witness { seen: NOW - 1, ..SEES_ALL }));
    assert!(is_sighted(&Witness { last_blind_end: NOW - T, ..SEES_ALL }), "blind before the silence");
    assert!(!is_sighted(&Witness { last_blind_end: NOW - T + 1, ..SEES_ALL }));
    assert!(!is_sighted(&Witness { last_blind_end: NOW, ..SEES_ALL }));
}

proptest! {
    #[test]
    fn a_shard_saw_a_silence_if_it_had_a_threshold_of_sight_and_holds_nothing(
        silent_ns in 0..4 * T,
        watermark in 0..6 * T,
        seen in 0..6 * T,
        blind_end in 0..6 * T,
    ) {
        let silent_since = NOW;
        let (watermark, seen, last_blind_end) = (NOW + watermark - T, NOW + seen - T, NOW + blind_end - T);
        let stall_at = silent_since + silent_ns;
        let witness = Witness { watermark, seen, last_blind_end };
        let holds_nothing = watermark.min(seen) >= stall_at;
        let sees_since = last_blind_end.max(silent_since);
        let has_threshold = sees_since == silent_since || stall_at.since(sees_since) >= T;
        prop_assert_eq!(is_sighted(&witness, silent_since, stall_at, T), holds_nothing && has_threshold);
    }
}
