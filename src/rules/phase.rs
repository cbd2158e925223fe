//! How long an agent may be silent at present: the threshold of its rule, or a longer one while it starts, or while its
//! payload says that it is in a phase that takes longer. Pure, like all rules.
//!
//! 1. An agent starts from its first beat until its first status `ok`, or until it has sent as many beats as its rule
//!    says. It starts anew with another program. What says so is kept in its slot, so the start outlives the observer.
//! 2. The payload of the last beat says in which phase the agent is. If another stream of it may have beaten since it said
//!    so, the longest threshold of all phases holds, because it is not known which of them speaks for the agent.
//! 3. Nothing is paid for a beat: what holds is looked up when a deadline is due. Because no phase has a shorter threshold
//!    than the rule, an agent that is looked at once in each threshold of its rule is never judged late.

use crate::config::classes::{Classes, PayloadPhase, Phases, Start};
use crate::event::StallPhase;
use crate::table::slot::{BEATS_BEGUN, Cold, Flags, Hot, State};
use crate::wire::Status;

/// Which threshold holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// That of the rule, or of agents that no rule matches.
    #[default]
    Rule,
    /// That of the start.
    Start,
    /// That of the phase with this number among those of the rule.
    Payload(u8),
    /// The longest of all phases: several streams beat.
    Several,
}

impl By {
    /// Its number in a slot.
    #[must_use]
    pub const fn to_code(self) -> u8 {
        match self {
            Self::Rule => 0,
            Self::Start => 1,
            Self::Several => 2,
            Self::Payload(number) => number.saturating_add(3),
        }
    }

    /// That with this number.
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Rule,
            1 => Self::Start,
            2 => Self::Several,
            code => Self::Payload(code - 3),
        }
    }

    /// How it is reported.
    #[must_use]
    pub const fn phase(self) -> Option<StallPhase> {
        match self {
            Self::Rule => None,
            Self::Start => Some(StallPhase::Start),
            Self::Payload(_) | Self::Several => Some(StallPhase::Payload),
        }
    }
}

/// The silence that is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// A silence of this length is a stall, ns.
    pub ns: u64,
    /// Why.
    pub by: By,
}

/// What a slot says of the phase of its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// It has not said `ok`.
    awaits_ok: bool,
    /// Its beats since it began.
    beats: u64,
    payload: u64,
    /// Another stream may speak for it that beat so long before the last beat, ns.
    other_ns: Option<u64>,
}

impl Facts {
    /// Those of the agent whose slot holds these halves.
    #[must_use]
    pub fn of(hot: &Hot, cold: &Cold) -> Self {
        Self {
            awaits_ok: awaits_ok(hot, cold),
            beats: beats_since_begin(hot, cold),
            payload: hot.payload,
            other_ns: other_ns(hot, cold),
        }
    }
}

/// Beats since the present program began, at most so many.
fn beats_since_begin(hot: &Hot, cold: &Cold) -> u64 {
    let beats = cold.beats(hot);
    match cold.begun {
        0 => beats,
        begun => beats.wrapping_sub(begun.into()) % u64::from(BEATS_BEGUN),
    }
}

/// Whether the program has said nothing, or nothing but other statuses.
fn awaits_ok(hot: &Hot, cold: &Cold) -> bool {
    match hot.status {
        // That may be the status of the program before.
        Status::Ok => cold.begun != 0 && beats_since_begin(hot, cold) == 0,
        _ => cold.awaits_ok,
    }
}

/// How long before the last beat another stream beat that goes on, as far as the slot shows.
fn other_ns(hot: &Hot, cold: &Cold) -> Option<u64> {
    if hot.flags.has(Flags::MIXED) {
        return Some(0);
    }
    if !hot.flags.has(Flags::OTHER_USED) {
        return None;
    }
    // After a reconnect the other stream is over. Nothing but its begin has changed since then, so that shows.
    let is_over = cold.other_seen < cold.changed_at && cold.statuses == 0 && cold.users == 0;
    (!is_over).then(|| hot.last_arrival.since(cold.other_seen))
}

/// A frame is about to be taken: whether the agent still waits to be ready after it.
#[must_use]
pub fn awaits_ok_after(hot: &Hot, cold: &Cold, status: Status) -> bool {
    if planted!(NeverEndsTheStart) {
        return cold.awaits_ok;
    }
    let was_ok = hot.status == Status::Ok && !awaits_ok(hot, cold);
    cold.awaits_ok && !was_ok && status != Status::Ok
}

/// Another program began under the pid of the agent. If it has beaten, its last beat counts.
pub fn begin_anew(hot: &Hot, cold: &mut Cold) {
    let has_beaten = hot.state != State::Stalled;
    let beats = cold.beats(hot).saturating_sub(has_beaten.into()) % u64::from(BEATS_BEGUN);
    // 0 would say that none began.
    cold.begun = u32::try_from(beats.max(1)).unwrap_or(1);
    cold.awaits_ok = true;
}

/// Whether it need not be known any more when the program began.
#[must_use]
pub fn is_begin_over(classes: &Classes, class: u8, hot: &Hot, cold: &Cold) -> bool {
    let beats = beats_since_begin(hot, cold);
    let is_counted =
        |phases: &Phases| phases.start.and_then(|start| start.beats).is_none_or(|n| beats >= n.into());
    cold.begun != 0 && beats > 0 && classes.phases_of(class).iter().all(is_counted)
}

/// The silence that is allowed to an agent of this class.
#[must_use]
pub fn allowed(classes: &Classes, class: u8, facts: &Facts) -> Allowed {
    let of_rule = Allowed { ns: classes.threshold_ns(class), by: By::Rule };
    classes.phases_of(class).iter().map(|phases| in_phases(phases, facts)).fold(of_rule, longer)
}

fn longer(one: Allowed, other: Allowed) -> Allowed {
    if other.ns > one.ns { other } else { one }
}

fn in_phases(phases: &Phases, facts: &Facts) -> Allowed {
    let of_start = phases.start.filter(|start| is_starting(start, facts));
    let of_start = Allowed { ns: of_start.map_or(0, |start| start.threshold_ns), by: By::Start };
    let longest_ns = phases.payload.iter().map(|phase| phase.threshold_ns).max().unwrap_or(0);
    if facts.other_ns.is_some_and(|ago| ago < longest_ns) {
        return longer(of_start, Allowed { ns: longest_ns, by: By::Several });
    }
    let is_in = |phase: &PayloadPhase| {
        (phase.from..=phase.to).contains(&facts.payload) && !planted!(IgnoresThePayload)
    };
    let phase = (0..).zip(&phases.payload).find(|(_, phase)| is_in(phase));
    let of_payload = phase.map(|(number, phase)| Allowed { ns: phase.threshold_ns, by: By::Payload(number) });
    longer(of_start, of_payload.unwrap_or(Allowed { ns: 0, by: By::Rule }))
}

fn is_starting(start: &Start, facts: &Facts) -> bool {
    if planted!(JudgesStartsAsUsual) {
        return false;
    }
    match start.beats {
        Some(beats) => facts.beats < u64::from(beats),
        None => facts.awaits_ok,
    }
}

/// The silence that was allowed to an agent of this class when its shard judged it so.
#[must_use]
pub fn allowed_by(classes: &Classes, class: u8, by: By) -> u64 {
    let of_rule = classes.threshold_ns(class);
    let of_phases = classes.phases_of(class).iter().map(|phases| match by {
        By::Rule => 0,
        By::Start => phases.start.map_or(0, |start| start.threshold_ns),
        By::Payload(number) => phases.payload.get(usize::from(number)).map_or(0, |phase| phase.threshold_ns),
        By::Several => phases.payload.iter().map(|phase| phase.threshold_ns).max().unwrap_or(0),
    });
    of_phases.max().unwrap_or(0).max(of_rule)
}

#[cfg(test)]
#[path = "phase_tests.rs"]
mod tests;
