//! How often the same is tried: each attempt makes the wait for the next one longer, for the agent and for all of its
//! unit or name that came later.

use std::collections::HashMap;

use super::{Group, Subject};
use crate::config::act::Retry;
use crate::event::ActionName;
use crate::time::MonoNs;

/// Most agents and groups that are remembered; beyond, the one that was tried first is forgotten.
const MEMORY_MAX: usize = 16_384;

/// What attempts belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Of {
    /// The session, and the pid of an agent that has none.
    Agent(u32, u32),
    Group(Group),
}

#[derive(Clone, Copy, Debug)]
struct Attempts {
    number: u16,
    last_at: MonoNs,
    /// The highest session when the first one was made: only later sessions can be a consequence.
    sessions: u32,
}

/// Whether another attempt may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum May {
    /// It may.
    Now,
    /// It may from this instant on.
    From(MonoNs),
    /// All attempts were made.
    Never,
}

/// An attempt that was counted.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// Its number for the process, from 1.
    pub number: u16,
    before: [(ActionName, Of, Option<Attempts>); 2],
}

/// The attempts of all actions.
#[derive(Debug, Default)]
pub struct Backoffs {
    of: HashMap<(ActionName, Of), Attempts>,
}

impl Backoffs {
    /// Whether this action may be tried for this process.
    pub fn may(&self, action: ActionName, retry: &Retry, subject: &Subject, now: MonoNs) -> May {
        let own = self.of.get(&(action, agent(subject)));
        let group = self.of.get(&(action, Of::Group(subject.group())));
        let group = group.filter(|attempts| subject.agent.session > attempts.sessions);
        let mut may = May::Now;
        if planted!(ForgetsAttempts) {
            return may;
        }
        for attempts in own.into_iter().chain(group) {
            if now.since(attempts.last_at) >= retry.reset_after_ns {
                continue;
            }
            if attempts.number >= retry.tries {
                return May::Never;
            }
            let from = attempts.last_at + wait_ns(retry, attempts.number);
            may = match may {
                _ if from <= now => may,
                May::From(other) => May::From(from.max(other)),
                _ => May::From(from),
            };
        }
        may
    }

    /// Counts an attempt. `sessions`: the highest session so far.
    pub fn count(
        &mut self,
        action: ActionName,
        retry: &Retry,
        subject: &Subject,
        sessions: u32,
        now: MonoNs,
    ) -> Counted {
        let group = Of::Group(subject.group());
        // An agent that lived before the first attempt for its group does not continue the row.
        let is_later = |attempts: &Attempts| subject.agent.session > attempts.sessions;
        let own = self.add(action, agent(subject), retry, sessions, now, |_| true);
        let of_group = self.add(action, group, retry, sessions, now, is_later);
        let number = self.of.get(&(action, agent(subject))).map_or(1, |attempts| attempts.number);
        Counted { number, before: [(action, agent(subject), own), (action, group, of_group)] }
    }

    fn add(
        &mut self,
        action: ActionName,
        of: Of,
        retry: &Retry,
        sessions: u32,
        now: MonoNs,
        is_next: impl Fn(&Attempts) -> bool,
    ) -> Option<Attempts> {
        self.make_room();
        let before = self.of.get(&(action, of)).copied();
        let attempts = match before.filter(|attempts| now.since(attempts.last_at) < retry.reset_after_ns) {
            Some(row) => {
                let number = row.number.saturating_add(is_next(&row).into());
                Attempts { number, last_at: now, ..row }
            }
            None => Attempts { number: 1, last_at: now, sessions },
        };
        self.of.insert((action, of), attempts);
        before
    }

    /// What was counted was no attempt.
    pub fn uncount(&mut self, counted: Counted) {
        for (action, of, before) in counted.before {
            match before {
                Some(before) => self.of.insert((action, of), before),
                None => self.of.remove(&(action, of)),
            };
        }
    }

    fn make_room(&mut self) {
        if self.of.len() < MEMORY_MAX {
            return;
        }
        let first = self.of.iter().min_by_key(|(_, attempts)| attempts.last_at).map(|(of, _)| *of);
        first.map(|first| self.of.remove(&first));
    }

    /// Forgets the attempts of other actions than these.
    pub fn retain(&mut self, is_kept: impl Fn(ActionName) -> bool) {
        self.of.retain(|(action, _), _| is_kept(*action));
    }
}

const fn agent(subject: &Subject) -> Of {
    let pid = if subject.agent.session == 0 { subject.agent.pid } else { 0 };
    Of::Agent(subject.agent.session, pid)
}

/// The wait after so many attempts.
fn wait_ns(retry: &Retry, attempts: u16) -> u64 {
    let mut wait = u128::from(retry.first_ns);
    for _ in 1..attempts {
        wait = (wait * u128::from(retry.factor_percent) / 100).min(u128::from(retry.max_ns));
        if wait == u128::from(retry.max_ns) {
            break;
        }
    }
    u64::try_from(wait).unwrap_or(u64::MAX).min(retry.max_ns.max(retry.first_ns))
}
