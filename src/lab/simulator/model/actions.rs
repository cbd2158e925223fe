//! What must hold of everything that is started for an agent: when the desk decides, by what was reported until then;
//! when it starts, by what is true.

use std::collections::{BTreeSet, HashSet};

use super::*;
use crate::action::Subject;
use crate::action::brake::{News, Scope};
use crate::action::case::Needs;
use crate::action::desk::Ticket;
use crate::config::act::{Action, Brake, Trigger};
use crate::event::ActionName;

/// What was started by the desk of the present observer.
#[derive(Debug, Default)]
pub(super) struct Actions {
    limits: Option<Brake>,
    tries: u32,
    configured: Vec<Action>,
    braked: HashSet<Scope>,
    blind: BTreeSet<u16>,
    /// Cases that were decided and have not ended: pid and session.
    open: BTreeMap<u64, (u32, u32)>,
    /// When, and which case.
    starts: VecDeque<(u64, u64)>,
    /// The action, process and case of each attempt.
    attempts: Vec<(ActionName, (u32, u32), u64)>,
}

impl Actions {
    fn brake(&self) -> Brake {
        self.limits.expect("an observer that acts has begun")
    }
}

impl Model {
    /// An observer that has started nothing begins to act within these limits.
    pub fn begins_to_act(&mut self, configured: &[Action], limits: Brake, tries: u16) {
        let (configured, limits) = (configured.to_vec(), Some(limits));
        self.actions = Actions { limits, tries: tries.into(), configured, ..Actions::default() };
    }

    /// Other actions and limits hold from now on. Attempts of actions that changed count anew.
    pub fn reloads_actions(&mut self, configured: &[Action], limits: Brake) {
        let before = std::mem::replace(&mut self.actions.configured, configured.to_vec());
        let is_kept = |name| before.iter().any(|old| old.name == name && configured.contains(old));
        self.actions.attempts.retain(|(name, ..)| is_kept(*name));
        // What the shorter period of before had forgotten stays so.
        let (now, per_ns) = (self.now, self.actions.brake().per_ns);
        self.actions.starts.retain(|(at, _)| now - at < per_ns);
        self.actions.limits = Some(limits);
    }

    /// The desk gets an event that was reported before.
    pub fn desk_hears(&mut self, event: &Event) {
        if let EventKind::Blind { phase, .. } = event.kind {
            let shard = event.shard.unwrap();
            match phase {
                BlindPhase::Begin => self.actions.blind.insert(shard),
                BlindPhase::End { .. } => self.actions.blind.remove(&shard),
            };
        }
    }

    /// A brake holds, or ceases to.
    pub fn brakes(&mut self, news: &News) {
        if news.is_engaged {
            self.actions.braked.insert(news.scope);
        } else {
            self.actions.braked.remove(&news.scope);
        }
    }

    /// The desk wants something started.
    pub fn is_ordered(&mut self, ticket: &Ticket) -> Verdict {
        let Subject { agent, .. } = ticket.subject;
        let (pid, session) = (agent.pid, agent.session);
        let unit = agent.about.unit.map(Scope::Unit);
        let scopes = [Some(Scope::Fleet), Some(Scope::Uid(ticket.subject.uid())), unit];
        let brake = scopes.into_iter().flatten().find(|scope| self.actions.braked.contains(scope));
        must!(self, I9, brake.is_none(), "under {brake:?}: {ticket:?}");
        let blind = &self.actions.blind;
        must!(self, I9, blind.is_empty(), "shards {blind:?} are blind: {ticket:?}");
        let is_first = self.actions.open.values().all(|open| *open != (pid, session));
        must!(self, I9, is_first, "a second child: {ticket:?}");
        self.actions.open.insert(ticket.id, (pid, session));
        let limits = self.actions.brake();
        must!(self, I9, !limits.dry_run, "in a dry run: {ticket:?}");
        let action = self.actions.configured.get(ticket.action);
        let is_for = action.is_some_and(|action| needs_of(action.on[0]) == ticket.needs);
        must!(self, I9, is_for, "it is not configured for that: {action:?}, {ticket:?}");
        let name = action.unwrap().name;
        let open = self.actions.open.len();
        must!(self, I9, open <= limits.running as usize, "{open} at once: {ticket:?}");
        let now = self.now;
        self.actions.starts.retain(|(at, _)| now - at < limits.per_ns);
        self.actions.starts.push_back((now, ticket.id));
        let starts = self.actions.starts.len();
        must!(self, I9, starts <= limits.starts as usize, "{starts} in {} ns: {ticket:?}", limits.per_ns);
        let of_ticket = (name, (pid, session));
        let attempts = self.actions.attempts.iter().filter(|(action, of, _)| (*action, *of) == of_ticket);
        let before = attempts.count();
        must!(self, I9, before < self.actions.tries as usize, "after {before} attempts: {ticket:?}");
        self.actions.attempts.push((name, (pid, session), ticket.id));
        if ticket.needs == Needs::Nothing {
            return Ok(());
        }
        if session == 0 {
            let is_missing = self.absent.get(&pid).is_some_and(|absence| absence.missing_at.is_some());
            let is_so = is_missing && !self.told[&pid].is_up;
            must!(self, I9, is_so, "{pid} is not missing: {ticket:?}; {}", self.history(pid));
            return Ok(());
        }
        let told = &self.told[&pid];
        let is_own = self.sessions.get(&session) == Some(&(pid, told.exits));
        must!(self, I9, told.is_up && is_own, "{pid} is gone: {ticket:?}; {}", self.history(pid));
        let is_so = ticket.needs != Needs::Stalled || told.is_stalled();
        must!(self, I9, is_so, "{pid} resumed: {ticket:?}; {}", self.history(pid));
        let is_so = ticket.needs != Needs::Frozen || told.is_frozen();
        must!(self, I9, is_so, "{pid} is thawed: {ticket:?}; {}", self.history(pid));
        Ok(())
    }

    /// It is not started, and counts as no attempt.
    pub fn is_not_started(&mut self, id: u64) {
        self.actions.open.remove(&id);
        self.actions.starts.retain(|(_, of)| *of != id);
        if let Some(last) = self.actions.attempts.iter().rposition(|(.., of)| *of == id) {
            self.actions.attempts.remove(last);
        }
    }

    /// It is started. `is_for_process`: it needs the process as it was reported.
    pub fn is_started(&self, ticket: &Ticket, is_for_process: bool) -> Verdict {
        if !is_for_process {
            return Ok(());
        }
        let agent = ticket.subject.agent;
        let (pid, now) = (agent.pid, self.now);
        let Some(life) = self.truth.holder(pid, now) else {
            must!(self, I9, false, "{pid} is gone: {ticket:?}");
            return Ok(());
        };
        let is_same = life.id == truth::id_of(agent.payload) || self.is_offset_unknown();
        let is_same = is_same || self.is_open(pid, self.told[&pid].not_before);
        must!(self, I9, is_same, "{pid} is {} now: {ticket:?}; {}", life.id, self.history(pid));
        if !matches!(ticket.needs, Needs::Stalled | Needs::Frozen) {
            return Ok(());
        }
        let told = &self.told[&pid];
        let since = if ticket.needs == Needs::Frozen {
            told.silence[0].frozen_at
        } else {
            told.silence[0].stalled_at
        };
        let threshold = self.threshold_low(pid, since, now);
        let mut recent = self.sendings_within(pid, (now + ERROR).saturating_sub(threshold), now);
        let beats = |index: &usize| {
            let sending = &self.truth.sendings[*index];
            sending.worth == Worth::Sure && self.fates[*index] == Fate::Read
        };
        let beat = recent.find(beats).map(|index| self.truth.sendings[index].at);
        must!(self, I9, beat.is_none(), "{pid} beat at {beat:?}: {ticket:?}; {}", self.history(pid));
        Ok(())
    }

    /// What was started has ended.
    pub fn child_ended(&mut self, id: u64) {
        self.actions.open.remove(&id);
    }
}

/// What must hold right before a start for this trigger.
const fn needs_of(trigger: Trigger) -> Needs {
    match trigger {
        Trigger::Stall => Needs::Stalled,
        Trigger::Frozen => Needs::Frozen,
        Trigger::Missing => Needs::Alive,
        _ => Needs::Nothing,
    }
}
