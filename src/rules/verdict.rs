//! What is reported of an agent that fell silent or exited, and when. Pure, like all rules.
//!
//! Three questions, one after the other, because each needs facts that cost more than those of the one
//! before:
//!
//! 1. What is the next step: wait for an answer, or report, and what? ([`next_step`])
//! 2. If a stall: can it be judged yet, by the agent's own slot and the clock? ([`preliminary`])
//! 3. If it can: what do the other slots and shards show? ([`verdict`])
//!
//! For a stall that ended before it was reported, [`preliminary_of_ended`] and [`verdict_of_ended`] answer
//! the last two.
//!
//! Every wait ends with the time to answer, except one that only the shard can end: the shard of a thawed
//! agent, as long as it makes progress, must first read its queue.

use crate::time::MonoNs;

/// Whether the process of an agent is known to exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existence {
    /// Not checked recently.
    #[default]
    Unknown,
    /// The watch thread was asked and has not answered.
    Asked,
    /// It existed when checked.
    There,
    /// It exited.
    Gone,
}

/// What is open about an agent with a pending report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// The same agent still holds the slot.
    pub is_same_holder: bool,
    /// The slot is being returned to the shard.
    pub is_released: bool,
    /// The pending report is the exit, which waits for the last frames of the process.
    pub is_exit: bool,
    /// Whether its process exists.
    pub existence: Existence,
    /// A shard that makes progress has not yet read what the exited process may have sent it.
    pub are_last_frames_awaited: bool,
    /// The time to answer has not passed.
    pub has_time: bool,
    /// The lookup thread's time to find out what its process runs now has not passed.
    pub has_time_to_look: bool,
    /// Its reports wait until its process is known to be the one reported before.
    pub is_doubted: bool,
    /// It beats while another slot of its pid is reported as stalled.
    pub is_returning: bool,
    /// The lookup thread was asked for its identity.
    pub is_identifying: bool,
    /// The lookup thread was asked what its process runs now.
    pub is_looking_again: bool,
    /// The report of a stall that is already over is pending.
    pub is_recalled: bool,
    /// The report of a stall is pending.
    pub is_stalled: bool,
}

/// The next step of a [`Case`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Report nothing: it was reported, the exit replaces it, or another agent holds the slot.
    Drop,
    /// Report nothing and discard what is pending: the slot is being returned.
    Void,
    /// Wait for an answer.
    Wait,
    /// Have the shards read what the exited process may have sent them.
    WaitForShards,
    /// Report its exit.
    Exit,
    /// Report the changes in its slot: its process is the one reported before, or no answer came in time.
    News,
    /// Report that it came back from another shard.
    Return,
    /// Judge a stall that ended before it was reported.
    Recall,
    /// Judge its stall.
    Judge,
}

/// The next step for an agent with a pending report. An exit takes precedence over any other report.
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
    // An exited process has no stall to report, and if another process has its pid by now, the agent has not
    // moved.
    if is_existence_awaited { Step::Wait } else { Step::Judge }
}

/// What an agent's own slot shows of the silence that its shard judged a stall, and whether answers may still
/// come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Now.
    pub now: MonoNs,
    /// The time to answer has not passed.
    pub has_time: bool,
    /// The identity of its process is in doubt again.
    pub is_doubted: bool,
    /// The report of a stall on another slot of the agent, already over, is pending.
    pub is_other_recalled: bool,
    /// The agent holds the slot, and its state is stalled.
    pub is_silent: bool,
    /// Length of its silence.
    pub silent_ns: u64,
    /// The threshold of the rule that applies to it now.
    pub threshold_ns: u64,
    /// It was frozen, and has until this instant to beat.
    pub thawed_until: Option<MonoNs>,
    /// Its shard makes progress, and its queue may hold a frame from before the stall.
    pub is_home_awaited: bool,
    /// Another shard makes progress, and its queue may hold a frame from before the stall.
    pub is_other_awaited: bool,
    /// Its shard could not see for a whole threshold.
    pub is_uncertain: bool,
}

/// What is reported of an agent whose silence its shard judged a stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Wait,
    /// Nothing: it beat again, and may have stalled again since; another report covers that.
    Overtaken,
    /// Nothing: it was thawed too recently.
    TooSoon,
    /// Nothing: by what is known now it is no stall. If the silence goes on, its shard judges it again.
    Withdrawn,
    /// No stall: it beat on another shard.
    Moved,
    /// It is frozen.
    Frozen,
    /// It is stalled.
    Stalled {
        /// Whether every shard saw for a whole threshold and every question was answered.
        is_certain: bool,
    },
}

/// The verdict, if the agent's own slot and the clock suffice for it; `None` if other slots and shards
/// matter.
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
        // The shard judged it by the rule that applied before.
        return Some(Verdict::Withdrawn);
    }
    // Its shard has not judged the time since the thaw either: a beat may be in its queue.
    let is_home_awaited = silence.thawed_until.is_some() && silence.is_home_awaited;
    if is_home_awaited || silence.is_other_awaited && silence.has_time {
        return Some(Verdict::Wait);
    }
    None
}

/// What other slots, shards and threads know of the silence of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Another of its slots got a later beat.
    pub lives_elsewhere: bool,
    /// It was frozen when last checked.
    pub is_frozen: bool,
    /// A frame of it was refused during its silence by a limit of ours.
    pub was_turned_away: bool,
    /// A shard that does not judge it could not see for all of the silence.
    pub is_unsighted: bool,
    /// No answer came in time to whether its process exists.
    pub is_existence_unknown: bool,
    /// No answer came in time to what its process runs now, which decides the rule that applies.
    pub is_rule_unknown: bool,
}

/// What is reported of a silence that can be judged.
#[must_use]
pub const fn verdict(silence: &Silence, evidence: &Evidence) -> Verdict {
    if evidence.lives_elsewhere {
        return Verdict::Moved;
    }
    if evidence.is_frozen {
        return Verdict::Frozen;
    }
    if evidence.was_turned_away && silence.thawed_until.is_none() && !silence.is_uncertain {
        // Its shard did not know yet that another shard had refused the frame.
        return Verdict::Withdrawn;
    }
    Verdict::Stalled { is_certain: is_certain(silence.is_uncertain, evidence) }
}

/// Whether a stall is certain: every shard saw enough, and every question was answered.
const fn is_certain(is_uncertain: bool, evidence: &Evidence) -> bool {
    !is_uncertain
        && !evidence.is_unsighted
        && !evidence.was_turned_away
        && !evidence.is_existence_unknown
        && !evidence.is_rule_unknown
}

/// What an agent's own slot shows of a stall that ended before it was reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The time to answer has not passed.
    pub has_time: bool,
    /// The agent holds the slot, and its state is not stalled.
    pub is_over: bool,
    /// Stalls since the last one reported.
    pub stalls: u32,
    /// Length of the last silence.
    pub silent_ns: u64,
    /// How long the silence had to be for a stall: the threshold of the rule that applies now, or three of them if a
    /// frame was refused in it.
    pub threshold_ns: u64,
    /// Another shard makes progress, and its queue may hold a frame from before the stall.
    pub is_other_awaited: bool,
    /// Its shard could not see for a whole threshold.
    pub is_uncertain: bool,
}

/// As [`preliminary`], for a stall that ended before it was reported.
#[must_use]
pub const fn preliminary_of_ended(ended: &Ended) -> Option<Verdict> {
    if !ended.is_over || ended.stalls == 0 {
        return Some(Verdict::Overtaken);
    }
    // Only the length of the last silence is known.
    if ended.stalls == 1 && ended.silent_ns < ended.threshold_ns {
        return Some(Verdict::Withdrawn);
    }
    if ended.is_other_awaited && ended.has_time {
        return Some(Verdict::Wait);
    }
    None
}

/// As [`verdict`], for a stall that ended before it was reported. Whether the agent is frozen now does not
/// matter.
#[must_use]
pub const fn verdict_of_ended(ended: &Ended, evidence: &Evidence) -> Verdict {
    if evidence.lives_elsewhere {
        return Verdict::Moved;
    }
    Verdict::Stalled { is_certain: is_certain(ended.is_uncertain, evidence) }
}

/// What a shard knows of a silence that it does not judge itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The shard has processed everything that arrived until this instant.
    pub watermark: MonoNs,
    /// The aggregator has taken, though perhaps not looked at, what the shard reported until this instant.
    pub seen: MonoNs,
    /// End of its last blind window.
    pub last_blind_end: MonoNs,
}

/// Whether a shard could see for all of the silence since `silent_since` that led to a stall at `stall_at`.
/// It must give the agent a threshold of sight, as the judging shard does. A shard that no longer runs never
/// reads its queue.
#[must_use]
pub fn is_sighted(witness: &Witness, silent_since: MonoNs, stall_at: MonoNs, threshold_ns: u64) -> bool {
    let blind_end = witness.last_blind_end;
    let was_blind = blind_end > silent_since && blind_end + threshold_ns > stall_at;
    !was_blind && witness.watermark >= stall_at && witness.seen >= stall_at
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
