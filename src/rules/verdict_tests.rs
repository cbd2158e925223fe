//! The verdict against the one function that decided it before.

use super::*;
use crate::lab::simulator::random::Random;

const CASES: u32 = 1_000_000;
const T: u64 = 600_000_000;
const NOW: MonoNs = MonoNs(1_000_000_000_000);

/// All that a settling may find, whether it looks or not.
#[derive(Clone, Copy, Debug)]
struct Facts {
    case: Case,
    /// What the news changes.
    after_news: Case,
    /// Slots that are just being written.
    is_doubt_busy: bool,
    is_return_busy: bool,
    is_recall_waiting: bool,
    is_slot_busy: bool,
    is_other_busy: bool,
    /// It beats later elsewhere: its slot here goes.
    is_released_by_return: bool,
    /// After the look before the verdict.
    is_same_holder_then: bool,
    silence: Silence,
    evidence: Evidence,
}

/// What is done, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Did {
    Clear,
    Kick,
    News,
    Return,
    Recall,
    Look,
    Exit,
    Tell(Verdict),
    Stay,
    Leave,
}

fn facts(random: &mut Random) -> Facts {
    let case = case(random);
    let mut after_news = case;
    after_news.is_doubted = false;
    if random.is_one_in(2) {
        (after_news.is_stalled, after_news.is_looking_again) = (true, true);
        after_news.existence = Existence::Asked;
    }
    let has_time = case.has_time;
    let thawed_until = random.is_one_in(3).then(|| NOW + T - random.below(2 * T));
    Facts {
        case,
        after_news,
        is_doubt_busy: random.is_one_in(8),
        is_return_busy: random.is_one_in(8),
        is_recall_waiting: random.is_one_in(8),
        is_slot_busy: random.is_one_in(8),
        is_other_busy: random.is_one_in(8),
        is_released_by_return: random.is_one_in(4),
        is_same_holder_then: !random.is_one_in(8),
        silence: Silence {
            now: NOW,
            has_time,
            is_doubted: random.is_one_in(6),
            is_other_recalled: random.is_one_in(6),
            is_silent: !random.is_one_in(4),
            silent_ns: random.between(T / 2, 3 * T),
            threshold_ns: T,
            thawed_until,
            is_home_awaited: random.is_one_in(3),
            is_other_awaited: random.is_one_in(3),
            is_uncertain: random.is_one_in(3),
        },
        evidence: Evidence {
            lives_elsewhere: random.is_one_in(4),
            is_frozen: random.is_one_in(4),
            was_turned_away: random.is_one_in(3),
            is_unsighted: random.is_one_in(3),
            is_existence_unknown: random.is_one_in(3),
            is_rule_unknown: random.is_one_in(3),
        },
    }
}

fn case(random: &mut Random) -> Case {
    let existences = [Existence::Unknown, Existence::Asked, Existence::There, Existence::Gone];
    let existence = random.one_of(&existences);
    Case {
        is_same_holder: !random.is_one_in(8),
        is_released: random.is_one_in(8),
        // An exit waits for those alone that are gone.
        is_exit: existence == Existence::Gone && random.is_one_in(2),
        existence,
        are_last_frames_awaited: existence == Existence::Gone && random.is_one_in(2),
        has_time: random.is_one_in(2),
        has_time_to_look: random.is_one_in(2),
        is_doubted: random.is_one_in(4),
        is_returning: random.is_one_in(4),
        is_identifying: random.is_one_in(2),
        is_looking_again: random.is_one_in(3),
        is_recalled: random.is_one_in(4),
        is_stalled: !random.is_one_in(4),
    }
}

/// As it was: one function.
fn before(facts: &Facts) -> Vec<Did> {
    let mut did = Vec::new();
    let is_over = before_end(facts, &mut did);
    did.push(if is_over { Did::Leave } else { Did::Stay });
    did
}

fn before_end(facts: &Facts, did: &mut Vec<Did>) -> bool {
    let mut told = facts.case;
    if !told.is_same_holder {
        return true;
    }
    if told.is_released {
        did.push(Did::Clear);
        return true;
    }
    let has_time = told.has_time;
    if told.existence == Existence::Gone {
        if !told.is_exit {
            return true;
        }
        if has_time && told.are_last_frames_awaited {
            did.push(Did::Kick);
            return false;
        }
        did.push(Did::Look);
        if facts.is_same_holder_then {
            did.push(Did::Exit);
        }
        return true;
    }
    if told.is_doubted {
        if told.existence == Existence::Asked && has_time {
            return false;
        }
        if facts.is_doubt_busy {
            return false;
        }
        did.push(Did::News);
        told = facts.after_news;
    }
    if told.is_returning {
        if told.is_identifying && has_time || facts.is_return_busy {
            return false;
        }
        did.push(Did::Return);
        if facts.is_released_by_return {
            did.push(Did::Clear);
            return true;
        }
    }
    if told.is_looking_again && told.has_time_to_look {
        return !told.is_recalled && !told.is_stalled;
    }
    if told.is_recalled {
        if facts.is_recall_waiting {
            return false;
        }
        did.push(Did::Recall);
    }
    if !told.is_stalled {
        return true;
    }
    if told.existence == Existence::Asked && has_time {
        return false;
    }
    did.push(Did::Look);
    let Silence { threshold_ns, .. } = facts.silence;
    // The slot was another's by then, whatever else held; and was left a turn later.
    if !facts.is_same_holder_then {
        return true;
    }
    if has_time && facts.silence.is_other_recalled {
        return false;
    }
    if facts.silence.is_doubted && has_time {
        return false;
    }
    if facts.is_slot_busy {
        return false;
    }
    if !facts.silence.is_silent {
        did.push(Did::Tell(Verdict::BeatAgain));
        return true;
    }
    if let Some(at) = facts.silence.thawed_until
        && facts.silence.now < at
    {
        did.push(Did::Tell(Verdict::TooSoon));
        return true;
    }
    if facts.silence.silent_ns < threshold_ns {
        did.push(Did::Tell(Verdict::Withdrawn));
        return true;
    }
    let is_thawed = facts.silence.thawed_until.is_some();
    if is_thawed && facts.silence.is_home_awaited {
        return false;
    }
    let is_awaited = facts.silence.is_other_awaited || is_thawed && facts.silence.is_home_awaited;
    if has_time && is_awaited {
        return false;
    }
    let is_uncertain = facts.silence.is_uncertain
        || facts.evidence.is_existence_unknown
        || facts.evidence.is_rule_unknown
        || facts.evidence.is_unsighted;
    if facts.is_other_busy {
        return false;
    }
    if facts.evidence.lives_elsewhere {
        did.push(Did::Tell(Verdict::Moved));
        return true;
    }
    if facts.evidence.is_frozen {
        did.push(Did::Tell(Verdict::Frozen));
        return true;
    }
    let turned_away = facts.evidence.was_turned_away;
    if !is_thawed && !facts.silence.is_uncertain && turned_away {
        did.push(Did::Tell(Verdict::Withdrawn));
        return true;
    }
    // The last was looked at once more where the stall was told.
    did.push(Did::Tell(Verdict::Stalled { is_certain: !(is_uncertain || turned_away) }));
    true
}

/// As the aggregator does what the rules say.
fn after(facts: &Facts) -> Vec<Did> {
    let mut did = Vec::new();
    let mut case = facts.case;
    let is_over = loop {
        match next_step(&case) {
            Step::Drop => break true,
            Step::Void => {
                did.push(Did::Clear);
                break true;
            }
            Step::Wait => break false,
            Step::WaitForShards => {
                did.push(Did::Kick);
                break false;
            }
            Step::Exit => {
                did.push(Did::Look);
                if facts.is_same_holder_then {
                    did.push(Did::Exit);
                }
                break true;
            }
            Step::Judge => break after_judging(facts, &mut did),
            Step::News if facts.is_doubt_busy => break false,
            Step::News => {
                did.push(Did::News);
                case = facts.after_news;
            }
            Step::Return if facts.is_return_busy => break false,
            Step::Return => {
                did.push(Did::Return);
                (case.is_returning, case.is_released) = (false, facts.is_released_by_return);
            }
            Step::Recall if facts.is_recall_waiting => break false,
            Step::Recall => {
                did.push(Did::Recall);
                case.is_recalled = false;
            }
        }
    };
    did.push(if is_over { Did::Leave } else { Did::Stay });
    did
}

fn after_judging(facts: &Facts, did: &mut Vec<Did>) -> bool {
    did.push(Did::Look);
    if !facts.is_same_holder_then {
        return true;
    }
    if facts.is_slot_busy {
        return false;
    }
    let told = match preliminary(&facts.silence) {
        Some(told) => told,
        None if facts.is_other_busy => return false,
        None => verdict(&facts.silence, &facts.evidence),
    };
    if told == Verdict::Wait {
        return false;
    }
    did.push(Did::Tell(told));
    true
}

#[test]
fn it_is_what_one_function_decided() {
    let mut random = Random::new(17);
    for _ in 0..CASES {
        let facts = facts(&mut random);
        assert_eq!(after(&facts), before(&facts), "{facts:?}");
    }
}

/// Of every shard's sight the one condition that was.
#[test]
fn sight_is_what_it_was() {
    let mut random = Random::new(18);
    for _ in 0..CASES {
        let silent_since = NOW - random.below(4 * T);
        let stall_at = silent_since + random.between(T / 2, 4 * T);
        let mut near = || silent_since - T + random.below(6 * T);
        let witness = Witness { watermark: near(), seen: near(), last_blind_end: near() };
        let Witness { watermark, seen, last_blind_end } = witness;
        let is_blind = last_blind_end > silent_since && last_blind_end + T > stall_at;
        let was = is_blind || watermark < stall_at || seen < stall_at;
        assert_eq!(is_sighted(&witness, silent_since, stall_at, T), !was, "{witness:?}");
    }
}
