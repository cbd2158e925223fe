//! Which action is taken for an event.

use super::Subject;
use crate::config::act::{Action, ActionMatch, Trigger};
use crate::event::{Event, EventKind, FrozenPhase};
use crate::label::Label;
use crate::pattern::Pattern;

/// The first action that is for this event of this process, if any.
pub fn action_for<'a>(
    actions: &'a [Action],
    event: &Event,
    subject: &Subject,
) -> Option<(usize, &'a Action)> {
    let is_for = |action: &&(usize, &Action)| {
        let (_, action) = action;
        action.on.iter().any(|trigger| is_trigger(*trigger, &event.kind))
            && (!action.certain || !is_uncertain(&event.kind))
            && matches(&action.matcher, subject)
    };
    actions.iter().enumerate().find(|action| is_for(&action))
}

const fn is_uncertain(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Stall { certain: false, .. })
}

fn is_trigger(trigger: Trigger, kind: &EventKind) -> bool {
    match (trigger, kind) {
        (Trigger::Exit, EventKind::Exit { .. })
        | (Trigger::Stall, EventKind::Stall { .. })
        | (Trigger::Terminal, EventKind::Terminal { .. })
        | (Trigger::Frozen, EventKind::Frozen { phase: FrozenPhase::Begin })
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

/// Whether all conditions hold. What is not known of a process matches nothing.
fn matches(matcher: &ActionMatch, subject: &Subject) -> bool {
    let about = &subject.agent.about;
    let ActionMatch { comm, uid, exe, unit } = matcher;
    let holds = |pattern: &Option<String>, text: Option<&str>| {
        pattern.as_deref().is_none_or(|pattern| text.is_some_and(|text| Pattern::new(pattern).matches(text)))
    };
    uid.is_none_or(|uid| about.uid == Some(uid))
        && holds(comm, Some(about.comm.as_str()).filter(|comm| !comm.is_empty()))
        && holds(exe, about.exe.and_then(Label::text).as_deref())
        && holds(unit, about.unit.and_then(Label::text).as_deref())
}
