//! The thread that acts: hears the events, lets the [`Desk`] decide, verifies whom a start is for, and orders it from the
//! spawner.
//!
//! In: events, requests of operators, reports of the spawner. Out: orders, events of actions by way of the aggregator,
//! lines of the audit file, counts. Thread: act. Blocks: in its wait, the audit file, and 0.1 s for an answer of the
//! aggregator. Nobody waits for it but an operator's request.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Subject;
use super::audit::{Acted, Audit, Before, Line, silent_since};
use super::brake::{Engaged, News, Scope};
use super::census::Counted;
use super::counts::Counts;
use super::desk::{Desk, Output, Step, Ticket};
use super::orders::{Ordered, Orders};
use super::request::{Answer, Asker, LISTED_MAX, Listing, Request, Whose};
use super::template::arguments;
use super::verify::{Protected, verify};
use crate::aggregator;
use crate::aggregator::present::Present;
use crate::config::act::{ActPlan, Deed};
use crate::event::{ActionName, ActionPhase, ActionWhy, BrakePhase, Event, EventKind, ExitHow};
use crate::label::Label;
use crate::lane::kick::Kick;
use crate::lane::{Doorbell, Port};
use crate::message::{Reason, Shown};
use crate::process::names::Names;
use crate::spawner::client::{How, Spawner};
use crate::spawner::protocol::{self, Order, Report};
use crate::sys::clock::SystemClock;
use crate::time::{Clock, MonoNs, WallNs};
use crate::view::health::{ActTroubles, Lifeline, Vitals};

/// How long the aggregator may take to answer about one agent; it answers between two turns.
const ANSWER_WITHIN: Duration = Duration::from_millis(100);
/// After a restart, how long and how often to look for stalls of before.
const RESUME_NS: u64 = 30_000_000_000;
const RESUME_EVERY_NS: u64 = 250_000_000;
/// How often the spawner is looked after, at least.
const LOOK_AFTER_NS: u64 = 1_000_000_000;
/// How long there may be no spawner until that is a problem: one is started anew a second after it ended.
const NO_SPAWNER_NS: u64 = 3_000_000_000;
/// Most brakes that are told with the state of the fleet.
const BRAKES_TOLD: usize = 100;

/// What surrounds the thread.
#[derive(Debug)]
pub struct Surroundings {
    /// To the aggregator, and its bell.
    pub aggregator: (Sender<aggregator::Request>, Arc<Doorbell>),
    /// The slots.
    pub ports: Arc<[Arc<Port>]>,
    /// Who the processes are.
    pub names: Arc<Names>,
    /// The run of the observer.
    pub run: u64,
    /// Where the orders of operators are kept.
    pub orders: Orders,
}

impl Surroundings {
    fn ask(&self, request: aggregator::Request) {
        let (requests, doorbell) = &self.aggregator;
        let _ = requests.send(request);
        doorbell.ring();
    }

    /// The agent with this pid, if there is one.
    ///
    /// # Errors
    /// No answer in time: the aggregator is busy, or parked while another observer may take over.
    fn present(&self, pid: u32) -> Result<Option<Present>, Late> {
        asked(ANSWER_WITHIN, |to| self.ask(aggregator::Request::Present(pid, to))).ok_or(Late)
    }

    /// Every agent whose stall was reported and lasts.
    ///
    /// # Errors
    /// No answer in time.
    fn stalled(&self) -> Result<Vec<Present>, Late> {
        asked(ANSWER_WITHIN, |to| self.ask(aggregator::Request::Stalled(to))).ok_or(Late)
    }
}

/// The running thread, for those who ask it.
#[derive(Clone, Debug)]
pub struct Act {
    requests: Sender<Request>,
    bell: Arc<Kick>,
    counts: Arc<Mutex<Counts>>,
    evidence_dir: Arc<Mutex<PathBuf>>,
}

impl Act {
    /// Starts the thread. It ends when the sender of the events is gone, and drops its lifeline. Ring `bell` after
    /// each event.
    ///
    /// # Errors
    /// The kernel's: no thread, or the audit file cannot be opened.
    pub fn spawn(
        plan: ActPlan,
        surroundings: Surroundings,
        events: Receiver<Event>,
        bell: Arc<Kick>,
        lifeline: Lifeline,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let audit = plan.audit.clone().map(|path| Audit::open(path, plan.audit_sync)).transpose()?;
        let (audit, before) = audit.unzip();
        let (requests, asked) = unbounded();
        let counts = Arc::new(Mutex::new(Counts::of(&plan)));
        let evidence_dir = Arc::new(Mutex::new(plan.evidence_dir.clone()));
        let act = Self {
            requests,
            bell: Arc::clone(&bell),
            counts: Arc::clone(&counts),
            evidence_dir: Arc::clone(&evidence_dir),
        };
        let how = how_of(&plan);
        let census = Counted::new(Arc::clone(&surroundings.ports), Arc::clone(&surroundings.names));
        let worker = Worker {
            desk: Desk::new(plan.actions.clone(), plan.brake),
            plan,
            spawner: Spawner::new(how),
            surroundings,
            census,
            audit,
            acted: HashSet::new(),
            resuming: None,
            begun: HashMap::new(),
            counts,
            last_evidence: 0,
            vitals: Arc::clone(lifeline.vitals()),
            gone_since: None,
            evidence_dir,
        };
        let body = move || {
            let _lifeline = lifeline;
            worker.run(&events, &asked, &bell, before.unwrap_or_default());
        };
        let thread = thread::Builder::new().name("varta-act".into()).spawn(body)?;
        Ok((act, thread))
    }

    /// Sends a request. Never blocks.
    pub fn ask(&self, request: Request) {
        let _ = self.requests.send(request);
        self.bell.kick();
    }

    /// The counts.
    pub fn counts(&self) -> Counts {
        self.counts.lock().clone()
    }

    /// The file of evidence with this number.
    pub fn evidence_file(&self, number: u32) -> PathBuf {
        evidence_path(&self.evidence_dir.lock(), number)
    }

    /// The most important brakes that hold.
    pub fn engaged(&self) -> Vec<(Scope, Engaged)> {
        self.counts.lock().engaged.clone()
    }
}

fn how_of(plan: &ActPlan) -> How {
    plan.spawner.clone().map_or(How::Own, How::Socket)
}

struct Worker {
    desk: Desk,
    plan: ActPlan,
    spawner: Spawner,
    surroundings: Surroundings,
    census: Counted,
    audit: Option<Audit>,
    /// Stalls that something was started for before this observer began.
    acted: HashSet<Acted>,
    /// Until when to look for stalls of before that nothing was done about.
    resuming: Option<MonoNs>,
    /// Starts that have not ended, by case.
    begun: HashMap<u64, Begun>,
    counts: Arc<Mutex<Counts>>,
    last_evidence: u32,
    vitals: Arc<Vitals>,
    /// Since when there has been no spawner.
    gone_since: Option<MonoNs>,
    /// Where files of evidence are, for those who ask.
    evidence_dir: Arc<Mutex<PathBuf>>,
}

#[derive(Clone, Copy, Debug)]
struct Begun {
    at: MonoNs,
    evidence: u32,
    action: ActionName,
    subject: Subject,
}

/// The aggregator gave no answer in time.
#[derive(Debug)]
struct Late;

/// Why nothing is ordered.
enum NotOrdered {
    /// It is not to be started.
    Never(ActionPhase, ActionWhy),
    /// That is not known yet.
    NotYet,
}

impl Worker {
    fn run(mut self, events: &Receiver<Event>, asked: &Receiver<Request>, bell: &Kick, before: Before) {
        if before.cut > 0 {
            let text = format!("a half-written line of {} bytes was removed", before.cut);
            self.record(Line { text: Some(&text), ..self.line("repaired") });
        }
        self.acted = before.acted;
        self.recall(SystemClock.mono());
        loop {
            bell.consume();
            let now = SystemClock.mono();
            let is_over = self.hear(events, now);
            while let Ok(request) = asked.try_recv() {
                self.answer(request, now);
            }
            self.resume(now);
            self.look_after(now);
            let next = self.work(now);
            self.publish(now);
            if is_over {
                return;
            }
            let at_most = if self.resuming.is_some() { RESUME_EVERY_NS } else { LOOK_AFTER_NS };
            let next = next.unwrap_or(MonoNs(u64::MAX)).min(now + at_most);
            self.wait(bell, next.since(SystemClock.mono()));
        }
    }

    /// Takes up stalls that an observer before this one reported and did nothing about. Who the agents are is looked up
    /// anew after a restart, so those that nothing is known of are looked at again.
    fn resume(&mut self, now: MonoNs) {
        let Some(until) = self.resuming else { return };
        let Ok(stalled) = self.surroundings.stalled() else { return };
        let mut is_all = true;
        for present in stalled {
            let stall = (self.surroundings.run, present.agent.session, present.last_arrival.0);
            if self.acted.contains(&stall) {
                continue;
            }
            if present.agent.about.comm.is_empty() && now < until {
                is_all = false;
                continue;
            }
            self.acted.insert(stall);
            let silent_ns = now.since(present.last_arrival);
            let kind = EventKind::Stall {
                silent_ns,
                last_nonce: present.agent.nonce,
                certain: present.is_certain,
                blind_ns: 0,
                process: None,
                used_cpu: None,
                phase: None,
                coalesced: 1,
            };
            let (shard, agent) = (Some(present.shard), Some(present.agent));
            let event = Event { seq: 0, again: true, wall: WallNs(0), mono: now, shard, agent, kind };
            self.desk.event(&event, &self.census, now);
        }
        if is_all {
            self.resuming = None;
        }
    }

    /// Takes all events that wait. True: there will be no more.
    fn hear(&mut self, events: &Receiver<Event>, now: MonoNs) -> bool {
        loop {
            match events.try_recv() {
                Ok(event) if self.is_acted(&event) => {}
                // Without the record of what was started, a stall of before may have been acted upon.
                Ok(Event { kind: EventKind::Restart { .. }, .. }) if self.audit.is_some() => {
                    self.resuming = Some(now + RESUME_NS);
                }
                Ok(event) => {
                    self.heard_now(&event);
                    self.desk.event(&event, &self.census, now);
                }
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => {
                    self.desk.stop();
                    return true;
                }
            }
        }
    }

    /// A stall that is heard and whose process is known is not taken up once more.
    fn heard_now(&mut self, event: &Event) {
        let Some(subject) = Subject::of(event).filter(|_| self.resuming.is_some()) else { return };
        if matches!(event.kind, EventKind::Stall { .. }) && !subject.agent.about.comm.is_empty() {
            self.acted.insert((self.surroundings.run, subject.agent.session, silent_since(&subject)));
        }
    }

    /// Whether it is a stall that is reported again, and something was started for it before.
    fn is_acted(&self, event: &Event) -> bool {
        let Some(subject) = Subject::of(event).filter(|_| event.again) else { return false };
        let stall = (self.surroundings.run, subject.agent.session, silent_since(&subject));
        matches!(event.kind, EventKind::Stall { .. }) && self.acted.contains(&stall)
    }

    /// Keeps a spawner, and hears it.
    fn look_after(&mut self, now: MonoNs) {
        self.spawner.keep(now);
        while let Some(report) = self.spawner.take() {
            match report {
                Ok(report) => self.reported(report, now),
                Err(_) => {
                    self.begun.clear();
                    self.desk.lost(now);
                }
            }
        }
        self.desk.set_spawner(self.spawner.is_there());
    }

    fn reported(&mut self, report: Report, now: MonoNs) {
        match report {
            Report::Hello { .. } => {}
            Report::Evidence { id, is_written, .. } => {
                self.counts.lock().evidence[usize::from(!is_written)] += 1;
                if let Some(begun) = self.begun.get_mut(&id).filter(|_| !is_written) {
                    begun.evidence = 0;
                }
            }
            Report::Started { id, child } => self.desk.started(id, child.unwrap_or(0)),
            Report::NotStarted { id, errno, why } => {
                self.record_of(id, Line { text: Some(&why), ..self.line("not-started") });
                self.begun.remove(&id);
                self.desk.failed(id, errno, now);
            }
            Report::Ended { id, code, signal, timed_out, output, output_bytes } => {
                if output_bytes > 0 {
                    let line = self.line("output");
                    let output = Some(&*output);
                    self.record_of(id, Line { output, output_bytes: Some(output_bytes), ..line });
                }
                if let Some(begun) = self.begun.remove(&id) {
                    self.counts.lock().took_ns.saturating_record(now.since(begun.at));
                }
                let how = code.map(ExitHow::Code).or(signal.map(ExitHow::Signal));
                self.desk.ended(id, how, timed_out, now);
            }
        }
    }

    /// Does what the desk wants, until it wants nothing more.
    fn work(&mut self, now: MonoNs) -> Option<MonoNs> {
        loop {
            let (outputs, next) = self.desk.step(now);
            if outputs.is_empty() {
                return next;
            }
            for output in outputs {
                match output {
                    Output::Report(step) => self.report(&step),
                    Output::Brake(news) => self.report_brake(&news),
                    Output::Start(ticket) => self.start(&ticket, now),
                }
            }
        }
    }

    fn start(&mut self, ticket: &Ticket, now: MonoNs) {
        match self.order(ticket) {
            Ok((action, order, pidfd, evidence)) => {
                // Before the order: after a crash in between, nothing is started twice.
                self.record_start(ticket, action, &order);
                match self.spawner.order(&order, pidfd.as_ref().map(AsFd::as_fd)) {
                    Ok(()) => {
                        let begun = Begun { at: now, evidence, action, subject: ticket.subject };
                        self.begun.insert(ticket.id, begun);
                    }
                    Err(_) => {
                        self.record(Line {
                            action: Some(action.as_str()),
                            ..self.line("not-taken").of(&ticket.subject)
                        });
                        self.desk.not_taken(ticket.id);
                    }
                }
            }
            Err(NotOrdered::Never(phase, why)) => self.desk.not_started(ticket.id, phase, why),
            Err(NotOrdered::NotYet) => self.desk.put_back(ticket.id),
        }
    }

    fn order(&mut self, ticket: &Ticket) -> Result<(ActionName, Order, Option<OwnedFd>, u32), NotOrdered> {
        let Some(action) = self.plan.actions.get(ticket.action).cloned() else {
            return Err(NotOrdered::Never(ActionPhase::Cancelled, ActionWhy::Removed));
        };
        let subject = &ticket.subject;
        let refused = |why| NotOrdered::Never(ActionPhase::Refused, why);
        let deed = match &action.deed {
            Deed::Run(templates) => {
                protocol::Deed::Run(arguments(templates, action.name, subject).map_err(refused)?)
            }
            Deed::Signal(signal) => protocol::Deed::Signal(*signal),
            Deed::Systemd(verb) => {
                let unit = action.matcher.unit.clone().ok_or(refused(ActionWhy::Unit))?;
                protocol::Deed::Systemd { verb: verb.as_str().to_owned(), unit }
            }
        };
        let is_process_needed = !matches!(deed, protocol::Deed::Run(_));
        let present = self.surroundings.present(subject.agent.pid).map_err(|Late| NotOrdered::NotYet)?;
        let pidfd = verify(ticket, present.as_ref(), &Protected::here(), is_process_needed)
            .map_err(|(phase, why)| NotOrdered::Never(phase, why))?;
        let evidence = if action.evidence && pidfd.is_some() { self.next_evidence() } else { 0 };
        let order = Order::Start {
            id: ticket.id,
            pid: subject.agent.pid,
            deed,
            timeout_ns: action.timeout_ns,
            user: action.user,
            env: action.env,
            evidence: (evidence > 0)
                .then(|| evidence_path(&self.plan.evidence_dir, evidence).to_string_lossy().into_owned()),
        };
        Ok((action.name, order, pidfd, evidence))
    }

    /// The number of the next file of evidence: seconds since 1970, or the next free number.
    fn next_evidence(&mut self) -> u32 {
        let seconds = u32::try_from(SystemClock.wall().0 / 1_000_000_000).unwrap_or(0);
        self.last_evidence = seconds.max(self.last_evidence + 1);
        self.last_evidence
    }

    fn record_start(&mut self, ticket: &Ticket, action: ActionName, order: &Order) {
        let Order::Start { deed, .. } = order else { return };
        let arguments = match deed {
            protocol::Deed::Run(arguments) => arguments.clone(),
            protocol::Deed::Signal(signal) => vec![format!("signal {signal}")],
            protocol::Deed::Systemd { verb, unit } => vec![format!("systemd {verb} {unit}")],
        };
        let line = Line {
            action: Some(action.as_str()),
            attempt: Some(ticket.attempt),
            arguments: Some(&arguments),
            ..self.line("starting").of(&ticket.subject)
        };
        self.record(line);
    }

    fn report(&mut self, step: &Step) {
        let Step { id, subject, action, phase, why, attempt, child, how, errno } = *step;
        let evidence =
            self.begun.get(&id).filter(|_| phase == ActionPhase::Started).map_or(0, |begun| begun.evidence);
        let kind = EventKind::Action { action, phase, why, attempt, child, how, errno, evidence };
        self.surroundings.ask(aggregator::Request::Report(Some(subject.shard), Some(subject.agent), kind));
        *self.counts.lock().steps.entry((action, phase)).or_default() += 1;
        let line = Line {
            action: Some(action.as_str()),
            why: why.map(ActionWhy::as_str),
            attempt: Some(attempt).filter(|attempt| *attempt > 0),
            child: Some(child).filter(|child| *child > 0),
            code: how.and_then(ExitHow::code),
            signal: how.and_then(ExitHow::signal),
            ..self.line(phase.as_str()).of(&subject)
        };
        self.record(line);
    }

    fn report_brake(&mut self, news: &News) {
        let (scope, uid, unit) = news.scope.parts();
        let phase = if news.is_engaged { BrakePhase::Engaged } else { BrakePhase::Released };
        let (stalls, agents) = (news.engaged.stalls, news.engaged.agents);
        let kind = EventKind::Brake { phase, scope, uid, unit, stalls, agents, by_hand: news.by_hand };
        self.surroundings.ask(aggregator::Request::Report(None, None, kind));
        let text = format!("{} {}: {stalls} of {agents} agents stalled", scope.as_str(), phase.as_str());
        let line = Line {
            uid,
            unit: unit.and_then(Label::text).map(String::from),
            text: Some(&text),
            ..self.line("brake")
        };
        self.record(line);
    }

    fn line<'a>(&self, phase: &'a str) -> Line<'a> {
        Line::new(self.surroundings.run, phase)
    }

    /// A line about what was started for a case.
    fn record_of(&mut self, id: u64, line: Line<'_>) {
        let Some(Begun { action, subject, .. }) = self.begun.get(&id).copied() else {
            return self.record(line);
        };
        self.record(Line { action: Some(action.as_str()), ..line.of(&subject) });
    }

    fn record(&mut self, line: Line<'_>) {
        let Some(audit) = &mut self.audit else { return };
        let trouble = audit.write(&line).err().map(|error| Reason(&error).to_string());
        let mut counts = self.counts.lock();
        (counts.audit_lost, counts.audit_trouble) = (audit.lost, trouble.unwrap_or_default());
    }

    fn answer(&mut self, request: Request, now: MonoNs) {
        match request {
            Request::Replace(plan) => self.replace(*plan),
            Request::Reopen => self.audit.iter_mut().for_each(Audit::reopen),
            Request::List(to) => to(self.list()),
            Request::Of(Whose { pid, unit, comm }, to) => {
                let holds = self.desk.holds().iter();
                let holds = holds.filter(|hold| hold.of.is_for(pid, unit.as_deref(), &comm)).cloned();
                to((self.desk.list_of(pid).collect(), holds.collect()));
            }
            Request::Hold(of, for_ns, text, by, to) => {
                self.record_request("hold", &format!("{of}: {text}"), by);
                let held = self.desk.hold_by_hand(of, now + for_ns, text);
                let kept = self.keep_orders();
                to(held.map(|id| format!("held, as number {id}{kept}")).map_err(str::to_owned));
            }
            Request::Unhold(of, by, to) => {
                self.record_request("unhold", &of.to_string(), by);
                let ended = self.desk.unhold(|hold| hold.of == of);
                let kept = self.keep_orders();
                to(match ended {
                    0 => Err("there is no such hold".to_owned()),
                    ended => Ok(format!("{ended} ended{kept}")),
                });
            }
            Request::Brake(is_engaged, by, to) => {
                let word = if is_engaged { "engage" } else { "release" };
                self.record_request("brake", word, by);
                let has_changed = self.desk.brake_by_hand(is_engaged, &self.census, now);
                let said = match (is_engaged, has_changed) {
                    (true, true) => "the brake is engaged: nothing is started until it is released by hand",
                    (true, false) => "the brake was engaged by hand already",
                    (false, true) => "the brake is released: what is still so is acted upon",
                    (false, false) => "no brake was engaged",
                };
                let kept = self.keep_orders();
                to(Ok(format!("{said}{kept}")));
            }
            Request::Now(pid, name, by, to) => {
                self.record_request("now", &format!("{name} for {pid}"), by);
                to(self.now(pid, &name, now));
            }
        }
    }

    /// Keeps to what operators ordered of an observer before this one. If that cannot be known, nothing is started before
    /// an operator allows it.
    fn recall(&mut self, now: MonoNs) {
        let ordered = self.surroundings.orders.recall(now);
        let is_braked = match ordered {
            Ok(Ordered { is_braked, holds }) => {
                for (of, until, text) in holds {
                    let _ = self.desk.hold_by_hand(of, until, text);
                }
                is_braked
            }
            Err(error) => {
                let text =
                    format!("the orders before cannot be read, so all actions are held: {}", Reason(&error));
                self.record(Line { text: Some(&text), ..self.line("brake") });
                true
            }
        };
        if is_braked {
            self.desk.stay_braked(&self.census, now);
        }
        // What is over by now is not kept.
        self.keep_orders();
    }

    /// Keeps what operators ordered for the next observer. What to add to the answer: empty, or why it is not kept.
    fn keep_orders(&self) -> String {
        let is_braked = self.desk.brakes().engaged().any(|(_, engaged)| engaged.by_hand);
        let now = SystemClock.mono();
        let holds: Vec<_> = self.desk.holds().iter().filter(|hold| hold.until > now).cloned().collect();
        match self.surroundings.orders.keep(is_braked, &holds) {
            Ok(()) => String::new(),
            Err(error) => format!(
                "; the next observer will not know of it: cannot write to {}: {}",
                Shown(self.surroundings.orders.dir.display()),
                Reason(&error)
            ),
        }
    }

    fn now(&mut self, pid: u32, name: &str, now: MonoNs) -> Answer {
        let present =
            self.surroundings.present(pid).map_err(|Late| "the aggregator is busy: ask again".to_owned())?;
        let Some(present) = present else {
            return Err(format!("no agent has pid {pid}; `varta-fleet agents` lists them"));
        };
        let silent_ns = now.since(present.last_arrival);
        let subject = Subject { shard: present.shard, agent: present.agent, silent_ns, since: now };
        self.desk.by_hand(name, subject, now).map_err(str::to_owned)?;
        Ok(format!("{name} is due for {pid}; `varta-fleet act list` shows what becomes of it"))
    }

    fn record_request(&mut self, phase: &str, text: &str, by: Asker) {
        let line = Line { by: Some(by), text: Some(text), ..self.line(phase) };
        self.record(line);
    }

    fn replace(&mut self, plan: ActPlan) {
        self.desk.replace(plan.actions.clone(), plan.brake);
        self.counts.lock().know(&plan);
        self.evidence_dir.lock().clone_from(&plan.evidence_dir);
        self.plan = plan;
    }

    fn list(&self) -> Listing {
        Listing {
            actions: self.plan.actions.iter().map(|action| action.name).collect(),
            cases: self.desk.list().take(LISTED_MAX).collect(),
            total: self.desk.list().count(),
            holds: self.desk.holds().to_vec(),
            brakes: self.engaged(),
            has_spawner: self.spawner.is_there(),
            is_dry_run: self.plan.brake.dry_run,
        }
    }

    /// Brakes that hold, the most important first.
    fn engaged(&self) -> Vec<(Scope, Engaged)> {
        let mut engaged: Vec<(Scope, Engaged)> = self.desk.brakes().engaged().collect();
        engaged.sort_by_key(|(scope, brake)| (*scope != Scope::Fleet, Reverse(brake.stalls), brake.since));
        engaged
    }

    fn publish(&mut self, now: MonoNs) {
        let has_spawner = self.spawner.is_there();
        self.gone_since = if has_spawner { None } else { self.gone_since.or(Some(now)) };
        let is_gone = self.gone_since.is_some_and(|since| now.since(since) > NO_SPAWNER_NS);
        let mut engaged = self.engaged();
        let mut counts = self.counts.lock();
        counts.waiting = self.desk.waiting() as u64;
        counts.running = self.desk.running().into();
        counts.held_agents = self.desk.held_agents() as u64;
        counts.spawner_restarts = self.spawner.restarts();
        counts.has_spawner = has_spawner;
        counts.brakes = [0; 3];
        for (scope, _) in &engaged {
            counts.brakes[scope.parts().0 as usize] += 1;
        }
        engaged.truncate(BRAKES_TOLD);
        counts.engaged = engaged;
        *self.vitals.act.lock() = ActTroubles {
            has_no_spawner: is_gone && !self.plan.actions.is_empty(),
            audit: counts.audit_trouble.clone(),
        };
    }

    fn wait(&self, bell: &Kick, for_ns: u64) {
        let mut fds = vec![PollFd::new(bell, PollFlags::IN)];
        let spawner = self.spawner.fd();
        fds.extend(spawner.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let timeout = Timespec {
            tv_sec: i64::try_from(for_ns / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: (for_ns % 1_000_000_000) as _,
        };
        let _ = poll(&mut fds, Some(&timeout));
    }
}

fn evidence_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("evidence-{number}.json"))
}

/// Asks, and waits for the answer for at most this long.
pub fn asked<T>(within: Duration, ask: impl FnOnce(Sender<T>)) -> Option<T> {
    let (to, answer) = bounded(1);
    ask(to);
    answer.recv_timeout(within).ok()
}
