//! Which action is taken for an event.

use std::cell::LazyCell;

use super::Subject;
use crate::config::act::{Action, ActionMatch, Trigger};
use crate::event::{Event, EventKind, FrozenPhase};
use crate::label::Label;
use crate::pattern::Pattern;
use crate::process::unit::is_in_group;

/// The control groups of processes, which are looked up only where an action depends on them.
pub trait Groups {
    /// The content of `/proc/PID/cgroup`; empty if it is not known.
    fn groups(&self, pid: u32) -> String;
}

/// The first action that is for this event of this process, if any. `groups`: who its pid is a moment later, so what is
/// started must need that very process, or only tell of it.
pub fn action_for<'a>(
    actions: &'a [Action],
    event: &Event,
    subject: &Subject,
    groups: &impl Groups,
) -> Option<(usize, &'a Action)> {
    let of_process = LazyCell::new(|| groups.groups(subject.agent.pid));
    let is_for = |action: &&(usize, &Action)| {
        let (_, action) = action;
        action.on.iter().any(|trigger| is_trigger(*trigger, &event.kind))
            && (!action.certain || !is_uncertain(&event.kind))
            && matches(&action.matcher, subject)
            && action.matcher.cgroup.as_deref().is_none_or(|pattern| {
                !is_of_the_gone(&event.kind) && is_in_group(&of_process, &Pattern::new(pattern))
            })
    };
    actions.iter().enumerate().find(|action| is_for(&action))
}

const fn is_of_the_gone(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Exit { .. } | EventKind::Terminal { .. } | EventKind::Missing { .. })
}

const fn is_uncertain(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Stall { certain: false, .. } | EventKind::Standstill { certain: false, .. })
}

fn is_trigger(trigger: Trigger, kind: &EventKind) -> bool {
    match (trigger, kind) {
        (Trigger::Exit, EventKind::Exit { .. })
        | (Trigger::Stall, EventKind::Stall { .. })
        | (Trigger::Terminal, EventKind::Terminal { .. })
        | (Trigger::Frozen, EventKind::Frozen { phase: FrozenPhase::Begin })
        | (Trigger::Standstill, EventKind::Standstill { .. })
        | (Trigger::Missing, EventKind::Missing { .. })
        | (Trigger::Resume, EventKind::Resume { .. }) => true,
        (Trigger::ExitCode(code), EventKind::Exit { how, .. }) => {
            how.and_then(|how| how.code()) == Some(code)
        }
        (Trigger::ExitSignal(signal), EventKind::Exit { how, .. }) => {
            how.and_then(|how| how.signal()) == Some(signal)
        }
        _ => false,
    }
}

/// Whether all conditions hold but that of the control group. What is not known of a process matches nothing.
fn matches(matcher: &ActionMatch, subject: &Subject) -> bool {
    let about = &subject.agent.about;
    let ActionMatch { comm, uid, exe, unit, cgroup: _ } = matcher;
    let holds = |pattern: &Option<String>, text: Option<&str>| {
        pattern.as_deref().is_none_or(|pattern| text.is_some_and(|text| Pattern::new(pattern).matches(text)))
    };
    uid.is_none_or(|uid| about.uid == Some(uid))
        && holds(comm, Some(about.comm.as_str()).filter(|comm| !comm.is_empty()))
        && holds(exe, about.exe.and_then(Label::text).as_deref())
        && holds(unit, about.unit.and_then(Label::text).as_deref())
}
