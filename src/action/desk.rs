//! Decides what is started, when and for whom. Time is an argument.
//!
//! Each agent has at most one *case* of an action: it waits until its trigger has lasted long enough, is due, runs, and
//! is closed when the trigger is over or all attempts were made. What holds a due case: a brake, an operator, a blind
//! shard, the limits of running children and of starts, an earlier attempt. Cost: a few map operations an event; a step
//! looks at due cases until one may start.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::Subject;
use super::backoff::{Backoffs, May};
use super::brake::{Brakes, Census, News, Scope};
use super::case::{Case, Matter, Needs, State};
use super::hold::{Hold, HoldOf};
use super::policy::{Groups, action_for};
use super::queue::Queue;
use crate::config::act::{Action, Brake, Retry};
use crate::event::{ActionName, ActionPhase, ActionWhy, BlindPhase, Event, EventKind, ExitHow, FrozenPhase};
use crate::time::MonoNs;

/// Most cases that are open; beyond, new ones are refused.
pub const CASES_MAX: usize = 65_536;
/// Most holds of operators.
pub const HOLDS_MAX: usize = 1000;
/// Nothing starts earlier than a quarter of its silence after its trigger, within these bounds: agents that fall silent
/// together had beaten at different instants, so their stalls come one after another, and the brake must see them first.
pub const SETTLE_NS: std::ops::RangeInclusive<u64> = 250_000_000..=800_000_000;
/// Between two starts, for the same reason.
pub const SPACING_NS: u64 = 500_000_000;
/// How often due cases are looked at without news.
const LOOK_NS: u64 = 250_000_000;

/// What the desk wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Report a step of an action.
    Report(Step),
    /// Report a brake.
    Brake(News),
    /// Verify the process, then start this. It counts as running until the desk is told otherwise.
    Start(Ticket),
}

/// A step of an action.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The case.
    pub id: u64,
    /// The process it is for.
    pub subject: Subject,
    /// The action.
    pub action: ActionName,
    /// How far it is.
    pub phase: ActionPhase,
    /// Why.
    pub why: Option<ActionWhy>,
    /// Which attempt; 0: none was made.
    pub attempt: u16,
    /// The process that was started; 0: none.
    pub child: u32,
    /// How that ended.
    pub how: Option<ExitHow>,
    /// Why it could not be started; 0: nothing.
    pub errno: i32,
}

/// A start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ticket {
    /// The case.
    pub id: u64,
    /// Index of the action.
    pub action: usize,
    /// The process it is for.
    pub subject: Subject,
    /// The trigger, which must still hold.
    pub needs: Needs,
    /// Which attempt.
    pub attempt: u16,
}

/// An open case, as it is listed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Listed {
    /// The process.
    pub subject: Subject,
    /// The action.
    pub action: ActionName,
    /// How far it is.
    pub phase: ActionPhase,
    /// Why it is held.
    pub why: Option<ActionWhy>,
    /// Which attempt is next, or runs.
    pub attempt: u16,
    /// When its time comes, if that is not yet.
    pub due_at: Option<MonoNs>,
}

/// The desk.
#[derive(Debug)]
pub struct Desk {
    actions: Vec<Action>,
    brake: Brake,
    cases: BTreeMap<u64, Case>,
    by_pid: HashMap<u32, Vec<u64>>,
    /// Cases that wait for an instant.
    waiting: BTreeSet<(MonoNs, u64)>,
    queue: Queue,
    running: u32,
    /// Instants of the starts within the period of the plan.
    starts: VecDeque<MonoNs>,
    last_start: Option<MonoNs>,
    brakes: Brakes,
    backoffs: Backoffs,
    holds: Vec<Hold>,
    /// Shards that cannot see.
    blind: BTreeSet<u16>,
    has_spawner: bool,
    last_id: u64,
    /// The highest session so far.
    sessions: u32,
    out: Vec<Output>,
}

impl Desk {
    /// A desk for these actions.
    pub fn new(actions: Vec<Action>, brake: Brake) -> Self {
        Self {
            actions,
            brake,
            cases: BTreeMap::new(),
            by_pid: HashMap::new(),
            waiting: BTreeSet::new(),
            queue: Queue::default(),
            running: 0,
            starts: VecDeque::new(),
            last_start: None,
            brakes: Brakes::default(),
            backoffs: Backoffs::default(),
            holds: Vec::new(),
            blind: BTreeSet::new(),
            has_spawner: false,
            last_id: 0,
            sessions: 0,
            out: Vec::new(),
        }
    }

    /// Other actions and limits hold from now on. Open cases of actions that are not among them, or are for other
    /// triggers, are closed; children that run are left to end.
    pub fn replace(&mut self, actions: Vec<Action>, brake: Brake) {
        let before = std::mem::replace(&mut self.actions, actions);
        if !planted!(KeepsTheOldBrake) {
            self.brake = brake;
        }
        let is_kept = |name| before.iter().any(|old| old.name == name && self.actions.contains(old));
        self.backoffs.retain(is_kept);
        for id in self.cases.keys().copied().collect::<Vec<_>>() {
            let Some(case) = self.cases.get_mut(&id) else { continue };
            let old = case.action.and_then(|action| before.get(action));
            if !planted!(KeepsRemovedActions) {
                case.action = old.and_then(|old| self.actions.iter().position(|new| new == old));
            }
            // A dry run may be over.
            case.told = None;
            let is_forever = case.state == State::Again(MonoNs(u64::MAX));
            if case.action.is_none() {
                self.end(id, ActionWhy::Removed);
            } else if is_forever {
                case.state = State::Again(MonoNs(0));
                self.waiting.remove(&(MonoNs(u64::MAX), id));
                self.waiting.insert((MonoNs(0), id));
            }
        }
    }

    /// Whether there is a spawner.
    pub fn set_spawner(&mut self, is_there: bool) {
        self.has_spawner = is_there;
    }

    /// Takes an event, in the order of their numbers.
    pub fn event(&mut self, event: &Event, census: &(impl Census + Groups), now: MonoNs) {
        if let Some(agent) = event.agent {
            self.sessions = self.sessions.max(agent.session);
        }
        match event.kind {
            EventKind::Blind { phase, .. } => {
                let shard = event.shard.unwrap_or(0);
                match phase {
                    BlindPhase::Begin => self.blind.insert(shard),
                    BlindPhase::End { .. } => self.blind.remove(&shard),
                };
                return;
            }
            EventKind::Stop => return self.stop(),
            // The end of a blind window may be among what was missed; each start is verified all the same.
            EventKind::Lost { .. } => return self.blind.clear(),
            _ => {}
        }
        let Some(subject) = Subject::of(event) else { return };
        let pid = subject.agent.pid;
        match event.kind {
            EventKind::Resume { .. } => {
                self.over(
                    pid,
                    &[Matter::Stall, Matter::Frozen, Matter::Hand, Matter::Missing],
                    ActionWhy::Resumed,
                );
            }
            EventKind::Advance { .. } => self.over(pid, &[Matter::Standstill], ActionWhy::Resumed),
            EventKind::Frozen { phase: FrozenPhase::End } if planted!(ActsUponTheThawed) => {}
            EventKind::Frozen { phase: FrozenPhase::End } => {
                self.over(pid, &[Matter::Frozen], ActionWhy::Resumed);
            }
            EventKind::Up if planted!(ActsUponWhoCameBack) => {}
            EventKind::Up => self.over(pid, &[Matter::Missing], ActionWhy::Resumed),
            EventKind::Stall { certain, .. } | EventKind::Standstill { certain, .. } => {
                if matches!(event.kind, EventKind::Stall { .. }) {
                    self.over(pid, &[Matter::Resume, Matter::Frozen], ActionWhy::Resumed);
                }
                // Uncertain stalls come in crowds when the observer could not see. They count where they start anything.
                if certain || self.actions.iter().any(|action| !action.certain) {
                    let news = self.brakes.stalled(&self.brake, &subject, census, now);
                    self.out.extend(news.into_iter().map(Output::Brake));
                }
            }
            EventKind::Exit { .. } => {
                let of_the_living = [
                    Matter::Stall,
                    Matter::Frozen,
                    Matter::Standstill,
                    Matter::Hand,
                    Matter::Missing,
                    Matter::Resume,
                ];
                if !planted!(ActsUponTheHeir) {
                    self.over(pid, &of_the_living, ActionWhy::Gone);
                }
            }
            EventKind::Session { .. } => self.over_of_others(&subject),
            EventKind::Moved { .. } => self.moved(&subject),
            _ => {}
        }
        let matter = match event.kind {
            EventKind::Stall { .. } => Matter::Stall,
            EventKind::Exit { .. } => Matter::Exit,
            EventKind::Terminal { .. } => Matter::Terminal,
            EventKind::Frozen { phase: FrozenPhase::Begin } => Matter::Frozen,
            EventKind::Standstill { .. } => Matter::Standstill,
            EventKind::Missing { .. } => Matter::Missing,
            EventKind::Resume { .. } => Matter::Resume,
            _ => return,
        };
        if let Some((action, plan)) = action_for(&self.actions, event, &subject, census) {
            let settle_ns = (subject.silent_ns / 4).clamp(*SETTLE_NS.start(), *SETTLE_NS.end());
            let due_at = event.mono + plan.after_ns.max(settle_ns);
            self.open(subject, action, matter, due_at);
        }
    }

    /// An operator wants this action for this process. Limits, brakes and holds apply; what it is for does not.
    ///
    /// # Errors
    /// There is no such action, or one is open for the process.
    pub fn by_hand(&mut self, name: &str, subject: Subject, now: MonoNs) -> Result<(), &'static str> {
        let Some(action) = self.actions.iter().position(|action| action.name.as_str() == name) else {
            return Err("there is no such action");
        };
        let open = self.by_pid.get(&subject.agent.pid).into_iter().flatten();
        if open.clone().any(|id| self.cases.get(id).is_some_and(|case| case.action == Some(action))) {
            return Err("it is open for this process already");
        }
        self.open(subject, action, Matter::Hand, now);
        Ok(())
    }

    fn open(&mut self, subject: Subject, action: usize, matter: Matter, due_at: MonoNs) {
        let pid = subject.agent.pid;
        let open = self.by_pid.get(&pid).cloned().unwrap_or_default();
        for id in open {
            let Some(case) = self.cases.get_mut(&id) else { continue };
            let is_same = case.subject.agent.session == subject.agent.session;
            if case.action != Some(action) || case.matter != matter || !is_same {
                continue;
            }
            // The same again: it goes on for this one, if a child of before runs.
            if case.state == State::Running {
                (case.subject, case.is_over) = (subject, None);
                return;
            }
            self.close(id, ActionPhase::Cancelled, ActionWhy::Resumed);
        }
        let Some(name) = self.actions.get(action).map(|action| action.name) else { return };
        self.last_id += 1;
        let id = self.last_id;
        let state = State::Waiting(due_at);
        let case = Case {
            subject,
            name,
            action: Some(action),
            matter,
            state,
            is_told_due: false,
            told: None,
            attempt: 0,
            counted: None,
            child: 0,
            has_succeeded: false,
            is_over: None,
        };
        if self.cases.len() >= CASES_MAX {
            self.report(id, &case, ActionPhase::Refused, Some(ActionWhy::Queue));
            return;
        }
        self.cases.insert(id, case);
        self.by_pid.entry(pid).or_default().push(id);
        self.waiting.insert((due_at, id));
    }

    /// The triggers of this process are over.
    fn over(&mut self, pid: u32, matters: &[Matter], why: ActionWhy) {
        for id in self.by_pid.get(&pid).cloned().unwrap_or_default() {
            let Some(case) = self.cases.get(&id) else { continue };
            if matters.contains(&case.matter) {
                self.end(id, why);
            }
        }
    }

    /// The pid has another session: what was for the one before is over.
    fn over_of_others(&mut self, subject: &Subject) {
        for id in self.by_pid.get(&subject.agent.pid).cloned().unwrap_or_default() {
            let Some(case) = self.cases.get(&id) else { continue };
            if case.subject.agent.session != subject.agent.session && case.matter != Matter::Exit {
                self.end(id, ActionWhy::Gone);
            }
        }
    }

    fn moved(&mut self, subject: &Subject) {
        for id in self.by_pid.get(&subject.agent.pid).into_iter().flatten() {
            if let Some(case) = self.cases.get_mut(id) {
                case.subject.shard = subject.shard;
            }
        }
    }

    fn end(&mut self, id: u64, why: ActionWhy) {
        match self.cases.get(&id).map(|case| case.state) {
            Some(State::Running) => self.end_later(id, why),
            Some(_) => self.close(id, ActionPhase::Cancelled, why),
            None => {}
        }
    }

    fn end_later(&mut self, id: u64, why: ActionWhy) {
        if let Some(case) = self.cases.get_mut(&id) {
            case.is_over = Some(why);
        }
    }

    /// The observer stops: nothing more is started.
    pub fn stop(&mut self) {
        for id in self.cases.keys().copied().collect::<Vec<_>>() {
            self.end(id, ActionWhy::Stopped);
        }
    }

    /// Closes a case, and says so if anything was said of it.
    fn close(&mut self, id: u64, phase: ActionPhase, why: ActionWhy) {
        let Some(case) = self.forget(id) else { return };
        let is_worth_it = (case.is_told_due || case.attempt > 0) && !case.has_succeeded;
        if is_worth_it || phase != ActionPhase::Cancelled {
            self.report(id, &case, phase, Some(why));
        }
    }

    fn forget(&mut self, id: u64) -> Option<Case> {
        let case = self.cases.remove(&id)?;
        match case.state {
            State::Waiting(at) | State::Again(at) => drop(self.waiting.remove(&(at, id))),
            State::Due => self.queue.remove(case.subject.uid(), id),
            State::Running => self.running -= 1,
        }
        let pid = case.subject.agent.pid;
        if let Some(open) = self.by_pid.get_mut(&pid) {
            open.retain(|other| *other != id);
            if open.is_empty() {
                self.by_pid.remove(&pid);
            }
        }
        Some(case)
    }

    fn report(&mut self, id: u64, case: &Case, phase: ActionPhase, why: Option<ActionWhy>) {
        self.out.push(Output::Report(step(id, case, phase, why)));
    }

    /// Takes the steps whose time has come. Returns what to do, and when to call it again at the latest.
    pub fn step(&mut self, now: MonoNs) -> (Vec<Output>, Option<MonoNs>) {
        let released = self.brakes.release(&self.brake, now);
        self.out.extend(released.into_iter().map(Output::Brake));
        self.holds.retain(|hold| hold.until > now);
        while let Some((at, id)) = self.waiting.first().copied().filter(|(at, _)| *at <= now) {
            self.waiting.remove(&(at, id));
            if let Some(case) = self.cases.get_mut(&id) {
                case.state = State::Due;
                self.queue.push(case.subject.uid(), id);
            }
        }
        while self.start_one(now) {}
        (std::mem::take(&mut self.out), self.next(now))
    }

    /// Why nothing at all may start.
    fn all_held(&mut self, now: MonoNs) -> Option<ActionWhy> {
        while self.starts.front().is_some_and(|at| now.since(*at) >= self.brake.per_ns) {
            self.starts.pop_front();
        }
        match () {
            () if self.brakes.holds_all() => Some(ActionWhy::Brake),
            () if !self.blind.is_empty() => Some(ActionWhy::Blind),
            () if self.brake.dry_run => None,
            () if !self.has_spawner => Some(ActionWhy::Spawner),
            () if self.running >= self.brake.running => Some(ActionWhy::Running),
            () if self.starts.len() >= self.brake.starts as usize => Some(ActionWhy::Starts),
            () => None,
        }
    }

    /// Starts the next case that may. False: none may.
    fn start_one(&mut self, now: MonoNs) -> bool {
        if self.queue.len() == 0 {
            return false;
        }
        let all_held = self.all_held(now);
        let is_too_soon = self.last_start.is_some_and(|last| now.since(last) < SPACING_NS);
        if all_held == Some(ActionWhy::Brake) || is_too_soon {
            return false;
        }
        let mut held = Vec::new();
        let mut queue = std::mem::take(&mut self.queue);
        let is_user_free = |uid| !self.brakes.holds_user(uid) || planted!(StartsUnderABrake);
        let next = queue.take(is_user_free, |id| {
            let Some(case) = self.cases.get(&id) else { return false };
            match self.held(case, now) {
                None => true,
                Some(why) => {
                    held.push((id, why));
                    false
                }
            }
        });
        self.queue = queue;
        for (id, why) in held {
            match why {
                Held::Never => self.close(id, ActionPhase::Refused, ActionWhy::Tries),
                Held::Because(why) => self.hold(id, why),
            }
        }
        let Some(id) = next else { return false };
        let Some(case) = self.cases.get(&id).copied() else { return true };
        if let Some(why) = all_held {
            // Only of the one that would be next, so that a long queue is not reported line by line.
            self.queue.push_front(case.subject.uid(), id);
            self.hold(id, why);
            return false;
        }
        if self.brake.dry_run && !planted!(StartsInADryRun) {
            self.hold(id, ActionWhy::DryRun);
            // It is what would be started: it is not looked at again.
            if let Some(case) = self.cases.get_mut(&id) {
                case.state = State::Again(MonoNs(u64::MAX));
                self.waiting.insert((MonoNs(u64::MAX), id));
            }
            return true;
        }
        self.tell_due(id);
        let Some((action, retry)) = self.plan_of(&case) else { return true };
        let counted = self.backoffs.count(case.name, &retry, &case.subject, self.sessions, now);
        let Some(case) = self.cases.get_mut(&id) else { return true };
        let attempt = counted.number;
        (case.state, case.attempt, case.told, case.child) = (State::Running, attempt, None, 0);
        case.counted = Some(counted);
        let ticket = Ticket { id, action, subject: case.subject, needs: case.matter.needs(), attempt };
        self.running += 1;
        self.starts.push_back(now);
        self.last_start = Some(now);
        self.out.push(Output::Start(ticket));
        true
    }

    /// Why this case may not start now.
    fn held(&self, case: &Case, now: MonoNs) -> Option<Held> {
        let subject = &case.subject;
        let (_, retry) = self.plan_of(case)?;
        let is_other_running = self
            .by_pid
            .get(&subject.agent.pid)
            .into_iter()
            .flatten()
            .any(|other| self.cases.get(other).is_some_and(|other| other.state == State::Running));
        let because = |why| Some(Held::Because(why));
        if self.brakes.holds(subject) && !planted!(StartsUnderABrake) {
            return because(ActionWhy::Brake);
        }
        if self.holds.iter().any(|hold| hold.of.holds(subject)) {
            return because(ActionWhy::Hand);
        }
        if is_other_running && !planted!(StartsASecondChild) {
            return because(ActionWhy::Running);
        }
        match self.backoffs.may(case.name, &retry, subject, now) {
            May::Now => None,
            May::From(_) => because(ActionWhy::Backoff),
            May::Never => Some(Held::Never),
        }
    }

    /// The action of a case, and how it is repeated. `None`: it was removed.
    fn plan_of(&self, case: &Case) -> Option<(usize, Retry)> {
        let action = case.action?;
        Some((action, self.actions.get(action)?.retry))
    }

    fn tell_due(&mut self, id: u64) {
        let Some(case) = self.cases.get_mut(&id) else { return };
        if !std::mem::replace(&mut case.is_told_due, true) {
            let case = *case;
            self.report(id, &case, ActionPhase::Due, None);
        }
    }

    fn hold(&mut self, id: u64, why: ActionWhy) {
        let Some(case) = self.cases.get_mut(&id) else { return };
        if case.told.replace(why) == Some(why) {
            return;
        }
        // A brake says once what it holds.
        if why == ActionWhy::Brake {
            return;
        }
        self.tell_due(id);
        if let Some(case) = self.cases.get(&id).copied() {
            self.report(id, &case, ActionPhase::Held, Some(why));
        }
    }

    /// When something may change without an event.
    fn next(&self, now: MonoNs) -> Option<MonoNs> {
        let waiting = self.waiting.first().map(|(at, _)| *at).filter(|at| *at < MonoNs(u64::MAX));
        let release = self.brakes.next_release(&self.brake);
        // A due case waits for a limit, an attempt or a hold to pass.
        let due = (self.queue.len() > 0).then_some(now + LOOK_NS);
        [waiting, release, due].into_iter().flatten().min()
    }

    /// The process of a start is not what it was: nothing was started.
    pub fn not_started(&mut self, id: u64, phase: ActionPhase, why: ActionWhy) {
        self.undo(id);
        self.close(id, phase, why);
    }

    /// The start of a case was none.
    fn undo(&mut self, id: u64) {
        self.starts.pop_back();
        let counted = self.cases.get_mut(&id).and_then(|case| case.counted.take());
        if let Some(counted) = counted {
            self.backoffs.uncount(counted);
        }
    }

    /// No spawner took the order: it is due again.
    pub fn not_taken(&mut self, id: u64) {
        self.has_spawner = false;
        self.put_back(id);
    }

    /// Nobody said in time what the process is now: it is due again.
    pub fn put_back(&mut self, id: u64) {
        self.undo(id);
        let Some(case) = self.cases.get_mut(&id).filter(|case| case.state == State::Running) else { return };
        (case.state, case.attempt) = (State::Due, case.attempt.saturating_sub(1));
        let uid = case.subject.uid();
        self.running -= 1;
        self.queue.push(uid, id);
    }

    /// The spawner started it; 0: without a process of its own.
    pub fn started(&mut self, id: u64, child: u32) {
        let Some(case) = self.cases.get_mut(&id).filter(|case| case.state == State::Running) else { return };
        case.child = child;
        let case = *case;
        self.report(id, &case, ActionPhase::Started, None);
    }

    /// The spawner could not start it.
    pub fn failed(&mut self, id: u64, errno: i32, now: MonoNs) {
        self.finish(id, ActionPhase::Failed, Some(ActionWhy::Start), None, errno, now);
    }

    /// It ended.
    pub fn ended(&mut self, id: u64, how: Option<ExitHow>, timed_out: bool, now: MonoNs) {
        let (phase, why) = match how {
            _ if timed_out => (ActionPhase::Failed, Some(ActionWhy::Timeout)),
            Some(ExitHow::Code(0)) | None => (ActionPhase::Ended, None),
            Some(_) => (ActionPhase::Failed, Some(ActionWhy::Status)),
        };
        self.finish(id, phase, why, how, 0, now);
    }

    /// The spawner ended: what it had started is not watched any more.
    pub fn lost(&mut self, now: MonoNs) {
        self.has_spawner = false;
        let is_running = |case: &Case| case.state == State::Running;
        let lost: Vec<u64> =
            self.cases.iter().filter(|(_, case)| is_running(case)).map(|(id, _)| *id).collect();
        for id in lost {
            self.finish(id, ActionPhase::Failed, Some(ActionWhy::Lost), None, 0, now);
        }
    }

    fn finish(
        &mut self,
        id: u64,
        phase: ActionPhase,
        why: Option<ActionWhy>,
        how: Option<ExitHow>,
        errno: i32,
        now: MonoNs,
    ) {
        let Some(case) = self.cases.get(&id).copied().filter(|case| case.state == State::Running) else {
            return;
        };
        self.out.push(Output::Report(Step { how, errno, ..step(id, &case, phase, why) }));
        let is_done = phase == ActionPhase::Ended && !case.matter.lasts();
        if case.is_over.is_some() || is_done || case.matter == Matter::Hand {
            self.forget(id);
            return;
        }
        // Still so: again after a while.
        let plan = self.plan_of(&case);
        let at = match plan.map(|(_, retry)| self.backoffs.may(case.name, &retry, &case.subject, now)) {
            Some(May::From(at)) => at,
            Some(May::Now) => now,
            Some(May::Never) | None => return self.close(id, ActionPhase::Refused, ActionWhy::Tries),
        };
        self.running -= 1;
        if let Some(case) = self.cases.get_mut(&id) {
            (case.state, case.child) = (State::Again(at), 0);
            case.has_succeeded = phase == ActionPhase::Ended;
            self.waiting.insert((at, id));
        }
    }

    /// Holds actions for some. Returns the number of the hold.
    ///
    /// # Errors
    /// There are [`HOLDS_MAX`] already.
    pub fn hold_by_hand(&mut self, of: HoldOf, until: MonoNs, text: String) -> Result<u64, &'static str> {
        if self.holds.len() >= HOLDS_MAX {
            return Err("there are 1000 holds already");
        }
        self.last_id += 1;
        self.holds.push(Hold { id: self.last_id, of, until, text });
        Ok(self.last_id)
    }

    /// Ends holds, and returns how many.
    pub fn unhold(&mut self, is_meant: impl Fn(&Hold) -> bool) -> usize {
        let before = self.holds.len();
        self.holds.retain(|hold| !is_meant(hold));
        before - self.holds.len()
    }

    /// The holds of operators.
    pub fn holds(&self) -> &[Hold] {
        &self.holds
    }

    /// Holds all actions, as an operator ordered of an observer before this one, which reported it.
    pub fn stay_braked(&mut self, census: &impl Census, now: MonoNs) {
        self.brakes.engage_by_hand(census.agents(Scope::Fleet), now);
    }

    /// The brakes, to be engaged and released by hand; what comes of it is in the next step.
    pub fn brake_by_hand(&mut self, is_engaged: bool, census: &impl Census, now: MonoNs) -> bool {
        let news: Vec<News> = if is_engaged {
            self.brakes.engage_by_hand(census.agents(Scope::Fleet), now).into_iter().collect()
        } else {
            self.brakes.release_by_hand()
        };
        let has_changed = !news.is_empty();
        self.out.extend(news.into_iter().map(Output::Brake));
        has_changed
    }

    /// The brakes.
    pub const fn brakes(&self) -> &Brakes {
        &self.brakes
    }

    /// Children that run.
    pub const fn running(&self) -> u32 {
        self.running
    }

    /// Cases that are due and held.
    pub const fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Agents for which an operator holds actions that are open.
    pub fn held_agents(&self) -> usize {
        if self.holds.is_empty() {
            return 0;
        }
        let is_held = |case: &&Case| self.holds.iter().any(|hold| hold.of.holds(&case.subject));
        self.cases.values().filter(is_held).count()
    }

    /// Every open case, oldest first.
    pub fn list(&self) -> impl Iterator<Item = Listed> {
        self.cases.values().map(|case| self.listed(case))
    }

    /// The open cases for this process, oldest first.
    pub fn list_of(&self, pid: u32) -> impl Iterator<Item = Listed> {
        let ids = self.by_pid.get(&pid).into_iter().flatten();
        ids.filter_map(|id| self.cases.get(id)).map(|case| self.listed(case))
    }

    fn listed(&self, case: &Case) -> Listed {
        let (phase, due_at) = match case.state {
            State::Waiting(at) => (ActionPhase::Due, Some(at)),
            State::Again(at) => (ActionPhase::Held, Some(at)),
            State::Due => (ActionPhase::Held, None),
            State::Running => (ActionPhase::Started, None),
        };
        let is_braked = case.state != State::Running && self.brakes.holds(&case.subject);
        let due_at = due_at.filter(|_| !is_braked);
        let why = match case.state {
            _ if is_braked => Some(ActionWhy::Brake),
            State::Waiting(_) | State::Running => None,
            State::Again(_) if case.told.is_none() => Some(ActionWhy::Backoff),
            _ => case.told,
        };
        let due_at = due_at.filter(|at| *at < MonoNs(u64::MAX));
        let subject = case.subject;
        Listed { subject, action: case.name, phase, why, attempt: case.attempt, due_at }
    }
}

/// Why a case may not start.
#[derive(Clone, Copy, Debug)]
enum Held {
    Because(ActionWhy),
    /// All attempts were made.
    Never,
}

const fn step(id: u64, case: &Case, phase: ActionPhase, why: Option<ActionWhy>) -> Step {
    Step {
        id,
        subject: case.subject,
        action: case.name,
        phase,
        why,
        attempt: case.attempt,
        child: case.child,
        how: None,
        errno: 0,
    }
}
