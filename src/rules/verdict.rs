//! What is told of an agent that fell silent or ended, and when. Pure, as all rules.
//!
//! Three questions, one after the other, because each needs facts that cost more than those of the one before:
//!
//! 1. What comes next: does it wait for an answer, and if not, what is told first? ([`next_step`])
//! 2. A stall comes next: may it be judged yet, by its own slot and the clock? ([`preliminary`])
//! 3. It may: what do the other slots and shards say? ([`verdict`])
//!
//! Of a stall that was over before it was told, [`preliminary_of_ended`] and [`verdict_of_ended`] answer the last two.
//!
//! No question waits for ever: every wait ends with the time to answer. One does not, because only the shard itself can
//! end it: the shard of a thawed agent, while it turns, first takes what lies in its queue.

use crate::time::MonoNs;

/// Whether the process of an agent is known to be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existence {
    /// Not asked lately.
    #[default]
    Unknown,
    /// The watch thread was asked.
    Asked,
    /// It was there when asked.
    There,
    /// It is gone.
    Gone,
}

/// What is open about an agent of which something waits to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// The slot is still held by the agent that this is about.
    pub is_same_holder: bool,
    /// The slot is on its way back to the shard.
    pub is_released: bool,
    /// What waits is the exit, for the last frames of the dead.
    pub is_exit: bool,
    /// Whether its process is there.
    pub existence: Existence,
    /// A shard that turns has not looked yet at what the dead may have sent it.
    pub are_last_frames_awaited: bool,
    /// There is time for an answer.
    pub has_time: bool,
    /// There is time for the lookup thread to say what its process runs by now.
    pub has_time_to_look: bool,
    /// What it says waits until its process is known to be the one that was told of.
    pub is_doubted: bool,
    /// It beats while another slot of its pid is told stalled.
    pub is_returning: bool,
    /// The lookup thread was asked who it is.
    pub is_identifying: bool,
    /// The lookup thread was asked what its process runs by now.
    pub is_looking_again: bool,
    /// A stall that was over before it was told waits to be told.
    pub is_recalled: bool,
    /// A stall waits to be told.
    pub is_stalled: bool,
}

/// What comes next for a [`Case`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it was told, its exit says more, or the slot is another agent's.
    Drop,
    /// Nothing: what waited is void, for the slot is on its way back.
    Void,
    /// An answer is under way.
    Wait,
    /// Shards are to look at what the dead may have sent them.
    WaitForShards,
    /// Its exit is told.
    Exit,
    /// What its slot says is told: its process is the one that was told of, or nobody can say in time.
    News,
    /// It is back from another shard.
    Return,
    /// A stall that was over before it was told is judged.
    Recall,
    /// Its stall is judged.
    Judge,
}

/// What comes next for an agent of which something waits to be told. An exit says more than anything else of it.
#[must_use]
pub fn next_step(case: &Case) -> Step {
    if !case.is_same_holder {
        return Step::Drop;
    }
    if case.is_released {
        return Step::Void;
    }
    if case.existence == Existence::Gone {
        return match () {
            () if !case.is_exit => Step::Drop,
            () if case.are_last_frames_awaited && case.has_time => Step::WaitForShards,
            () => Step::Exit,
        };
    }
    let is_existence_awaited = case.existence == Existence::Asked && case.has_time;
    if case.is_doubted {
        return if is_existence_awaited { Step::Wait } else { Step::News };
    }
    if case.is_returning {
        return if case.is_identifying && case.has_time { Step::Wait } else { Step::Return };
    }
    if !case.is_recalled && !case.is_stalled {
        return Step::Drop;
    }
    if case.is_looking_again && case.has_time_to_look {
        return Step::Wait;
    }
    if case.is_recalled {
        return Step::Recall;
    }
    // Of a process that is gone there is no stall to tell; and its pid, if it is another's by now, has not moved.
    if is_existence_awaited { Step::Wait } else { Step::Judge }
}

/// What an agent's own slot says of the silence that its shard calls a stall, and how long others may take to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Now.
    pub now: MonoNs,
    /// There is time for an answer.
    pub has_time: bool,
    /// What its slot says is in doubt again.
    pub is_doubted: bool,
    /// A stall on another slot of the agent, over before it was told, waits to be told.
    pub is_other_recalled: bool,
    /// The slot is the agent's, and its state is stalled.
    pub is_silent: bool,
    /// How long it is silent.
    pub silent_ns: u64,
    /// The threshold of the rule that holds for it by now.
    pub threshold_ns: u64,
    /// It was frozen, and until this instant it is owed time to beat.
    pub thawed_until: Option<MonoNs>,
    /// Its shard turns, and may hold a frame from before the stall.
    pub is_home_awaited: bool,
    /// Another shard turns, and may hold a frame from before the stall.
    pub is_other_awaited: bool,
    /// Its shard could not see for a whole threshold.
    pub is_uncertain: bool,
}

/// What is told of an agent that its shard calls, or called, stalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not yet anything.
    Wait,
    /// Nothing: it beat again, or stalled again after it had, and what is told of that says all.
    Overtaken,
    /// Nothing: it was thawed too recently.
    TooSoon,
    /// Nothing: it is no stall by what is known by now. A silence that goes on is judged again by its shard.
    Withdrawn,
    /// No stall, for it beat on another shard.
    Moved,
    /// It is frozen.
    Frozen,
    /// It is stalled.
    Stalled {
        /// Whether every shard saw for a whole threshold and nobody was asked in vain.
        is_certain: bool,
    },
}

/// The verdict that its own slot and the clock suffice for; `None` if the others have to be looked at.
#[must_use]
pub fn preliminary(silence: &Silence) -> Option<Verdict> {
    // Reporting this stall may release the other slot and destroy the evidence its verdict needs.
    if silence.has_time && (silence.is_other_recalled || silence.is_doubted) {
        return Some(Verdict::Wait);
    }
    if !silence.is_silent {
        return Some(Verdict::Overtaken);
    }
    if silence.thawed_until.is_some_and(|until| silence.now < until) {
        return Some(Verdict::TooSoon);
    }
    if silence.silent_ns < silence.threshold_ns {
        // Judged by the rule of before.
        return Some(Verdict::Withdrawn);
    }
    // Its shard did not judge the time since the thaw either: a beat may lie in its queue.
    let is_home_awaited = silence.thawed_until.is_some() && silence.is_home_awaited;
    if is_home_awaited || silence.is_other_awaited && silence.has_time {
        return Some(Verdict::Wait);
    }
    None
}

/// What others say of the silence of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Another of its slots beat later.
    pub lives_elsewhere: bool,
    /// It was frozen when it was looked at last.
    pub is_frozen: bool,
    /// A frame of it was refused, for a reason of ours, in its silence.
    pub was_turned_away: bool,
    /// A shard that does not judge it could not see for all of the silence.
    pub is_unsighted: bool,
    /// Nobody said in time whether its process is there.
    pub is_existence_unknown: bool,
    /// Nobody said in time what its process runs by now, and so by which rule it is to be judged.
    pub is_rule_unknown: bool,
}

/// What is told of a silence that may be judged.
#[must_use]
pub const fn verdict(silence: &Silence, evidence: &Evidence) -> Verdict {
    if evidence.lives_elsewhere {
        return Verdict::Moved;
    }
    if evidence.is_frozen {
        return Verdict::Frozen;
    }
    if evidence.was_turned_away && silence.thawed_until.is_none() && !silence.is_uncertain {
        // Its shard did not know yet what another refused of it.
        return Verdict::Withdrawn;
    }
    Verdict::Stalled { is_certain: is_certain(silence.is_uncertain, evidence) }
}

/// Whether a stall is certain: its shard saw enough, and others could see and were not asked in vain.
const fn is_certain(is_uncertain: bool, evidence: &Evidence) -> bool {
    !is_uncertain
        && !evidence.is_unsighted
        && !evidence.was_turned_away
        && !evidence.is_existence_unknown
        && !evidence.is_rule_unknown
}

/// What an agent's own slot says of a stall that was over before it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// There is time for an answer.
    pub has_time: bool,
    /// The slot is the agent's, and its state is not stalled.
    pub is_over: bool,
    /// How many stalls there were since the last that was told.
    pub stalls: u32,
    /// How long the last silence was.
    pub silent_ns: u64,
    /// How long it had to be by the rule that holds by now.
    pub threshold_ns: u64,
    /// Another shard turns, and may hold a frame from before the stall.
    pub is_other_awaited: bool,
    /// Its shard could not see for a whole threshold.
    pub is_uncertain: bool,
}

/// As [`preliminary`], of a stall that was over before it was told.
#[must_use]
pub const fn preliminary_of_ended(ended: &Ended) -> Option<Verdict> {
    if !ended.is_over || ended.stalls == 0 {
        return Some(Verdict::Overtaken);
    }
    // Of several only the last is known to be too short.
    if ended.stalls == 1 && ended.silent_ns < ended.threshold_ns {
        return Some(Verdict::Withdrawn);
    }
    if ended.is_other_awaited && ended.has_time {
        return Some(Verdict::Wait);
    }
    None
}

/// As [`verdict`], of a stall that was over before it was told. Whether it is frozen by now is no matter.
#[must_use]
pub const fn verdict_of_ended(ended: &Ended, evidence: &Evidence) -> Verdict {
    if evidence.lives_elsewhere {
        return Verdict::Moved;
    }
    Verdict::Stalled { is_certain: is_certain(ended.is_uncertain, evidence) }
}

/// What a shard can say of a silence that it does not judge itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Everything that arrived until here has been processed by the shard.
    pub watermark: MonoNs,
    /// And what it said of that was looked at.
    pub seen: MonoNs,
    /// End of its last blind window.
    pub last_blind_end: MonoNs,
}

/// Whether a shard could see for all of the silence since `silent_since` that ended in a stall at `stall_at`. It owes
/// the agent a threshold of sight as the judge does, and a shard that does not run any more never sees what it holds.
#[must_use]
pub fn is_sighted(witness: &Witness, silent_since: MonoNs, stall_at: MonoNs, threshold_ns: u64) -> bool {
    let blind_end = witness.last_blind_end;
    let was_blind = blind_end > silent_since && blind_end + threshold_ns > stall_at;
    !was_blind && witness.watermark >= stall_at && witness.seen >= stall_at
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
