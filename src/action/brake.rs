//! When so many agents stall at once that the cause is not theirs: then nothing is started.
//!
//! The stalls of one user brake only the actions for that user, those of one unit only those for that unit; all are held
//! only if the share is exceeded also without the user that has most stalls.

use std::collections::{HashMap, HashSet, VecDeque};

use super::Subject;
use crate::config::act::Brake;
use crate::event::BrakeScope;
use crate::label::Label;
use crate::time::MonoNs;

/// What a brake holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every action.
    Fleet,
    /// Those for one user.
    Uid(u32),
    /// Those for one unit.
    Unit(Label),
}

impl Scope {
    /// In the words of events: what it is, and the user or the unit.
    pub const fn parts(self) -> (BrakeScope, Option<u32>, Option<Label>) {
        match self {
            Self::Fleet => (BrakeScope::Fleet, None, None),
            Self::Uid(uid) => (BrakeScope::Uid, Some(uid), None),
            Self::Unit(unit) => (BrakeScope::Unit, None, Some(unit)),
        }
    }
}

/// How many agents there are.
pub trait Census {
    /// Agents of this scope that beat or are stalled.
    fn agents(&self, scope: Scope) -> u32;
}

/// A brake that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Engaged {
    /// Since when.
    pub since: MonoNs,
    /// Agents of the scope that stalled since it was about to engage.
    pub stalls: u32,
    /// Agents of the scope.
    pub agents: u32,
    /// An operator did it, and only an operator releases it.
    pub by_hand: bool,
    last_stall: MonoNs,
}

/// A brake that begins or ceases to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    /// Which.
    pub scope: Scope,
    /// What it is, or was.
    pub engaged: Engaged,
    /// It holds.
    pub is_engaged: bool,
    /// An operator did it.
    pub by_hand: bool,
}

/// All brakes.
#[derive(Debug, Default)]
pub struct Brakes {
    /// Stalls of different sessions within the time of the plan, oldest first.
    recent: VecDeque<(MonoNs, u32, u32, Option<Label>)>,
    sessions: HashSet<u32>,
    of_uid: HashMap<u32, u32>,
    of_unit: HashMap<Label, u32>,
    engaged: HashMap<Scope, Engaged>,
}

impl Brakes {
    /// Takes a certain stall. Returns the brakes that it engages.
    pub fn stalled(
        &mut self,
        plan: &Brake,
        subject: &Subject,
        census: &impl Census,
        now: MonoNs,
    ) -> Vec<News> {
        self.forget(plan, now);
        let (uid, unit, session) = (subject.uid(), subject.agent.about.unit, subject.agent.session);
        let scopes = [Some(Scope::Fleet), Some(Scope::Uid(uid)), unit.map(Scope::Unit)];
        let is_new = self.sessions.insert(session);
        if is_new {
            self.recent.push_back((now, session, uid, unit));
            *self.of_uid.entry(uid).or_default() += 1;
            if let Some(unit) = unit {
                *self.of_unit.entry(unit).or_default() += 1;
            }
        }
        let mut news = Vec::new();
        for scope in scopes.into_iter().flatten() {
            if let Some(engaged) = self.engaged.get_mut(&scope) {
                engaged.last_stall = now;
                engaged.stalls += u32::from(is_new);
                continue;
            }
            let stalls = self.stalls(scope);
            if stalls < plan.at_least {
                continue;
            }
            // Those that stalled may be gone from the count since.
            let agents = census.agents(scope).max(stalls);
            if exceeds(plan, stalls, agents)
                && (scope != Scope::Fleet || self.are_others_stalled(plan, stalls, agents, census))
            {
                let engaged = Engaged { since: now, stalls, agents, by_hand: false, last_stall: now };
                self.engaged.insert(scope, engaged);
                news.push(News { scope, engaged, is_engaged: true, by_hand: false });
            }
        }
        news
    }

    /// Whether the fleet has an incident also without the user that has most stalls: alone, no user holds the actions for
    /// others.
    fn are_others_stalled(&self, plan: &Brake, stalls: u32, agents: u32, census: &impl Census) -> bool {
        let Some((uid, most)) = self.of_uid.iter().max_by_key(|(_, stalls)| **stalls) else { return false };
        let (others, of_others) = (stalls - most, agents.saturating_sub(census.agents(Scope::Uid(*uid))));
        exceeds(plan, others, of_others.max(others))
    }

    fn stalls(&self, scope: Scope) -> u32 {
        match scope {
            Scope::Fleet => u32::try_from(self.recent.len()).unwrap_or(u32::MAX),
            Scope::Uid(uid) => self.of_uid.get(&uid).copied().unwrap_or(0),
            Scope::Unit(unit) => self.of_unit.get(&unit).copied().unwrap_or(0),
        }
    }

    fn forget(&mut self, plan: &Brake, now: MonoNs) {
        while let Some((at, session, uid, unit)) = self.recent.front().copied() {
            if now.since(at) <= plan.within_ns {
                return;
            }
            self.recent.pop_front();
            self.sessions.remove(&session);
            less(&mut self.of_uid, uid);
            if let Some(unit) = unit {
                less(&mut self.of_unit, unit);
            }
        }
    }

    /// Releases the brakes of scopes that were quiet for long enough.
    pub fn release(&mut self, plan: &Brake, now: MonoNs) -> Vec<News> {
        self.forget(plan, now);
        let Some(quiet_ns) = plan.release_ns else { return Vec::new() };
        let is_over = |engaged: &Engaged| !engaged.by_hand && now.since(engaged.last_stall) >= quiet_ns;
        let over: Vec<Scope> =
            self.engaged.iter().filter(|(_, engaged)| is_over(engaged)).map(|(scope, _)| *scope).collect();
        over.into_iter().filter_map(|scope| self.let_go(scope, false)).collect()
    }

    /// When a brake may be released next, without another stall.
    pub fn next_release(&self, plan: &Brake) -> Option<MonoNs> {
        let quiet_ns = plan.release_ns?;
        self.engaged
            .values()
            .filter(|engaged| !engaged.by_hand)
            .map(|engaged| engaged.last_stall + quiet_ns)
            .min()
    }

    /// An operator holds everything. `None`: it is held by hand already.
    pub fn engage_by_hand(&mut self, agents: u32, now: MonoNs) -> Option<News> {
        let before = self.engaged.get(&Scope::Fleet).copied();
        if before.is_some_and(|engaged| engaged.by_hand) {
            return None;
        }
        let stalls = before.map_or(0, |engaged| engaged.stalls);
        let engaged = Engaged { since: now, stalls, agents, by_hand: true, last_stall: now };
        self.engaged.insert(Scope::Fleet, engaged);
        Some(News { scope: Scope::Fleet, engaged, is_engaged: true, by_hand: true })
    }

    /// An operator releases every brake. Stalls before do not engage them again.
    pub fn release_by_hand(&mut self) -> Vec<News> {
        self.recent.clear();
        self.sessions.clear();
        self.of_uid.clear();
        self.of_unit.clear();
        let all: Vec<Scope> = self.engaged.keys().copied().collect();
        all.into_iter().filter_map(|scope| self.let_go(scope, true)).collect()
    }

    fn let_go(&mut self, scope: Scope, by_hand: bool) -> Option<News> {
        let engaged = self.engaged.remove(&scope)?;
        Some(News { scope, engaged, is_engaged: false, by_hand })
    }

    /// Whether actions for this process are held.
    pub fn holds(&self, subject: &Subject) -> bool {
        if self.engaged.is_empty() {
            return false;
        }
        let unit = subject.agent.about.unit.map(Scope::Unit);
        let scopes = [Some(Scope::Fleet), Some(Scope::Uid(subject.uid())), unit];
        scopes.into_iter().flatten().any(|scope| self.engaged.contains_key(&scope))
    }

    /// Whether all actions for this user are held.
    pub fn holds_user(&self, uid: u32) -> bool {
        self.engaged.contains_key(&Scope::Uid(uid))
    }

    /// Whether everything is held.
    pub fn holds_all(&self) -> bool {
        self.engaged.contains_key(&Scope::Fleet)
    }

    /// The brakes that hold.
    pub fn engaged(&self) -> impl Iterator<Item = (Scope, Engaged)> {
        self.engaged.iter().map(|(scope, engaged)| (*scope, *engaged))
    }
}

fn exceeds(plan: &Brake, stalls: u32, agents: u32) -> bool {
    u64::from(stalls) * 100 > u64::from(agents) * u64::from(plan.percent)
}

fn less<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, u32>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}
